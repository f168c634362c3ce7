"""The control socket: who asks may be slow, and so may the run."""

from __future__ import annotations

import json
import select
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from unisono.errors import UsageError
from unisono.runtime.control import SOCKET, ControlSocket, request


def echo(asked: dict[str, Any]) -> dict[str, Any]:
    if "stop" in asked:
        raise UsageError("a rule")
    return asked


def connected(folder: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.connect(str(folder / SOCKET))
    return end


def served(control: ControlSocket) -> None:
    """One turn of a supervisor's loop."""
    select.select([control], [], [])
    control.serve()


def test_who_asks_slowly_keeps_nobody_else_from_an_answer(tmp_path: Path) -> None:
    control = ControlSocket(tmp_path, echo)
    slow, quick = connected(tmp_path), connected(tmp_path)
    slow.sendall(b'{"resize":')
    quick.sendall(b'{"resize": 2}\n')
    while not select.select([quick], [], [], 0)[0]:
        served(control)
    assert json.loads(quick.makefile().readline()) == {"resize": 2}
    slow.sendall(b" 3}\n")
    while not select.select([slow], [], [], 0)[0]:
        served(control)
    assert json.loads(slow.makefile().readline()) == {"resize": 3}
    for end in (slow, quick):
        end.close()
    control.close()
    assert not (tmp_path / SOCKET).exists()


def test_an_answer_may_take_long_but_not_longer_than_the_run(tmp_path: Path) -> None:
    control = ControlSocket(tmp_path, echo)
    answers: list[Any] = []

    def ask(**fields: Any) -> None:
        try:
            answers.append(request(tmp_path, **fields))
        except UsageError as error:
            answers.append(str(error))

    for fields in ({"resize": 1}, {"stop": True}):
        asking = threading.Thread(target=ask, kwargs=fields)
        asking.start()
        while asking.is_alive():
            control.serve()
    asking = threading.Thread(target=ask, kwargs={"resize": 2})
    asking.start()
    select.select([control], [], [])  # it has asked
    control.close()  # and the run ends
    asking.join()
    assert answers[:2] == [{"resize": 1}, "a rule"]
    assert "does not answer" in answers[2]


def test_what_is_no_request_is_answered_too(tmp_path: Path) -> None:
    control = ControlSocket(tmp_path, echo)
    for line in (b"x" * 5000, b"[1]\n", b"\n"):
        end = connected(tmp_path)
        end.sendall(line)
        while not select.select([end], [], [], 0)[0]:
            served(control)
        assert "error" in json.loads(end.makefile().readline())
        end.close()
    connected(tmp_path).close()
    control.close()
    with pytest.raises(UsageError, match="does not answer"):
        request(tmp_path, resize=1)
