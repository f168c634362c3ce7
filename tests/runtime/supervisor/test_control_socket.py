"""The control socket: who asks may be slow, deaf or hostile, and so may the run; neither holds up the other."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unisono.errors import UsageError
from unisono.observe.run_folder import SOCKET
from unisono.runtime.supervisor import control_socket as control
from unisono.runtime.supervisor.control_socket import DEADLINE_SECONDS, MOST_ASKING, ControlSocket, request
from waiting import limit, until


def echo(asked: dict[str, Any]) -> dict[str, Any]:
    if "stop" in asked:
        raise UsageError("a rule")
    if "fails" in asked:
        raise {"memory": MemoryError, "key": KeyError, "assert": AssertionError}[asked["fails"]]("of the run's own")
    return asked


def listening(
    folder: Path,
    answers: Callable[[dict[str, Any]], dict[str, Any]] = echo,
    clock: Callable[[], float] = lambda: 0.0,
) -> ControlSocket:
    """A run's end over a disk that answers at once."""

    def at_once(function: Callable[[], None]) -> None:
        function()

    return ControlSocket(lambda: folder, answers, at_once, print, clock)


def connected(folder: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.connect(str(folder / SOCKET))
    return end


def served(run: ControlSocket) -> None:
    """One turn of a supervisor's loop."""
    select.select([run], [], [])
    run.serve()


def answer(run: ControlSocket, end: socket.socket) -> Any:
    """What the run answers."""
    while not select.select([end], [], [], 0)[0]:
        served(run)
    return json.loads(end.makefile().readline())


def test_who_asks_slowly_keeps_nobody_else_from_an_answer(tmp_path: Path) -> None:
    run = listening(tmp_path, echo)
    slow, quick = connected(tmp_path), connected(tmp_path)
    slow.sendall(b'{"resize":')
    quick.sendall(b'{"resize": 2}\n')
    assert answer(run, quick) == {"resize": 2}
    slow.sendall(b" 3}\n")
    assert answer(run, slow) == {"resize": 3}
    for end in (slow, quick):
        end.close()
    run.close()
    assert not (tmp_path / SOCKET).exists()


def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    run = ControlSocket(lambda: tmp_path, echo, waiting.append, print)
    run.serve()
    assert not list(tmp_path.iterdir()), "the disk was not asked by this thread"
    waiting.pop()()  # by the other one, once it answers
    end = connected(tmp_path)
    end.sendall(b'{"resize": 2}\n')
    assert answer(run, end) == {"resize": 2}
    run.close()
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionError):
        late.connect(str(tmp_path / SOCKET))
    assert (tmp_path / SOCKET).exists()
    waiting.pop()()
    assert not list(tmp_path.iterdir())
    end.close()


def test_a_disk_that_answers_after_the_run(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    run = ControlSocket(lambda: tmp_path, echo, waiting.append, print)
    run.close()
    for each in waiting:
        each()
    assert not list(tmp_path.iterdir())


def test_only_its_user_can_ask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = listening(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / SOCKET).stat().st_mode & 0o777 == 0o600
    run.close()


def test_a_folder_that_takes_no_socket_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    run = ControlSocket(lambda: tmp_path / "nowhere", echo, lambda function: function(), said.append)
    run.serve()
    run.close()
    assert len(said) == 1
    assert "this run cannot be resized" in said[0]


def test_a_run_folder_that_is_moved_keeps_no_socket(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = listening(tmp_path / "run", echo)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir()
    other = listening(tmp_path / "run", echo)
    run.close()
    assert not list((tmp_path / "moved").iterdir())
    assert (tmp_path / "run" / SOCKET).exists()
    other.close()
    assert not list((tmp_path / "run").iterdir())


def test_an_answer_may_take_long_but_not_longer_than_the_run(tmp_path: Path) -> None:
    run = listening(tmp_path, echo)
    answers: list[Any] = []

    def ask(**fields: Any) -> None:
        try:
            answers.append(request(tmp_path, dict, **fields))
        except UsageError as error:
            answers.append(str(error))

    for fields in ({"resize": 1}, {"stop": True}, {"fails": "memory"}):
        asking = threading.Thread(target=ask, kwargs=fields)
        asking.start()
        while asking.is_alive():
            run.serve()
    asking = threading.Thread(target=ask, kwargs={"resize": 2})
    asking.start()
    select.select([run], [], [])  # it has asked
    run.close()  # and the run ends
    asking.join()
    assert answers[:3] == [{"resize": 1}, "a rule", "the run could not do it: MemoryError: of the run's own"]
    assert "does not answer" in answers[3]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlSocket, Path]]:
    folder = tmp_path_factory.mktemp("run")
    run = listening(folder, echo)
    yield run, folder
    run.close()


HOSTILE = st.binary() | st.recursive(
    st.none() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(json.dumps).map(str.encode)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(HOSTILE)
def test_any_bytes_get_an_answer(running: tuple[ControlSocket, Path], line: bytes) -> None:
    run, folder = running
    with connected(folder) as end:
        end.sendall(line + b"\n")
        assert isinstance(answer(run, end), dict)


@pytest.mark.parametrize(("line", "text"), [
    (b"x" * 5000, "not JSON"), (b"[1]\n", "must be an object"), (b"\n", "not JSON"), (b"[" * 4090 + b"\n", "nested"),
    (b"\xff\xfe\n", "not JSON"), (b'{"fails": "key"}\n', "KeyError"), (b'{"fails": "assert"}\n', "AssertionError"),
    (b"9" * 4090 + b"\n", "must be an object"), (b'{"fails": "other"}\n', "KeyError"),
])  # fmt: skip
def test_what_is_no_request_is_answered_too(running: tuple[ControlSocket, Path], line: bytes, text: str) -> None:
    run, folder = running
    with connected(folder) as end:
        end.sendall(line)
        assert text in answer(run, end)["error"]
    connected(folder).close()
    served(run)


def test_an_answer_that_nobody_takes_holds_up_nobody(tmp_path: Path) -> None:
    now = 0.0
    run = listening(tmp_path, lambda asked: {"much": "x" * 10**7}, lambda: now)
    deaf, silent = connected(tmp_path), connected(tmp_path)
    deaf.sendall(b"{}\n")
    while not select.select([deaf], [], [], 0)[0]:
        served(run)
    for _ in range(3):  # what is ready is written, and nothing is waited for
        run.serve()
    now = DEADLINE_SECONDS + 1
    run.let_go_of_late()
    assert silent.recv(1) == b""
    received = 0
    while more := deaf.recv(1 << 20):
        received += len(more)
    assert received < 10**7, "the rest was dropped"
    quick = connected(tmp_path)
    quick.sendall(b"{}\n")
    while not select.select([quick], [], [], 0)[0]:
        served(run)
    for end in (deaf, silent, quick):
        end.close()
    run.close()


def test_who_sends_a_byte_now_and_then_has_one_deadline(tmp_path: Path) -> None:
    now = 0.0
    run = listening(tmp_path, echo, lambda: now)
    slow = connected(tmp_path)
    served(run)
    for _ in range(4):
        slow.sendall(b" ")
        served(run)
        now += DEADLINE_SECONDS / 3
        run.let_go_of_late()
        if now > DEADLINE_SECONDS:
            break
    assert slow.recv(1) == b""
    slow.close()
    run.close()


def test_of_too_many_the_first_goes(tmp_path: Path) -> None:
    run = listening(tmp_path, echo)
    ends = []
    for _ in range(MOST_ASKING + 1):
        ends.append(connected(tmp_path))
        served(run)
    assert ends[0].recv(1) == b""
    ends[-1].sendall(b'{"resize": 1}\n')
    assert answer(run, ends[-1]) == {"resize": 1}
    for end in ends:
        end.close()
    run.close()


def test_without_descriptors_nobody_is_heard_and_nothing_spins(tmp_path: Path) -> None:
    now = 0.0
    run = listening(tmp_path, echo, lambda: now)
    end = connected(tmp_path)
    end.sendall(b'{"resize": 1}\n')
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        run.serve()
        run.serve()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not select.select([run], [], [], 0)[0], "the loop would turn for nothing"
    now += 10
    run.let_go_of_late()
    assert answer(run, end) == {"resize": 1}
    end.close()
    run.close()


ANSWERS: list[tuple[Callable[[socket.socket], None], str]] = [
    (lambda end: end.sendall(b"[1]\n"), "must be an object"),
    (lambda end: end.sendall(b'{"workers": "3"}\n'), "'workers' must be a whole number"),
    (lambda end: end.sendall(b"[" * 10**4 + b"\n"), "nested more than"),
    (lambda end: end.sendall(b"\xff\n"), "not JSON"),
    (lambda end: end.sendall(b"x" * 50_000), "says more than a run would"),
    (lambda end: end.sendall(b'{"error": "\\u001b[2J"}\n'), r"^\\x1b\[2J$"),
]


@pytest.mark.parametrize(("says", "text"), ANSWERS)
def test_what_answers_and_is_no_run_is_named(tmp_path: Path, says: Callable[[socket.socket], None], text: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()

        def answers() -> None:
            with listener.accept()[0] as end:
                end.recv(100)
                says(end)

        thread = threading.Thread(target=answers)
        thread.start()
        with pytest.raises(UsageError, match=text):
            control.resize(tmp_path, 2)
        thread.join()


def test_who_asks_somebody_who_never_answers_may_leave_with_a_word(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()
        asking = subprocess.Popen(
            [sys.executable, "-m", "unisono", "resize", str(tmp_path), "2"], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        with listener.accept()[0] as end:
            until(lambda: end.recv(100), "it has asked")
            asking.send_signal(2)
            _, said = asking.communicate(timeout=limit())
    assert asking.returncode == 130
    assert "has not answered yet" in said
