"""What several test files share."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

import warm
from waiting import limit, until, watch_no_more

pytest_plugins = ["few", "share", "reliability.told"]

os.environ.setdefault("OMP_NUM_THREADS", "1")

# nohup, and a shell's `&`, have a command ignore these, and so would every process that a test starts and signals.
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# The same examples each time, and none refused for being slow; --hypothesis-profile=explore draws others.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("same"), derandomize=False, max_examples=1000)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that hangs outside a wait of its own is ended too: later than any wait."""
    item.add_marker(pytest.mark.timeout(3 * limit()), append=False)
    return (yield)


@pytest.fixture(autouse=True, scope="session")
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests no process and no temporary file of Unisono's is left, whatever was killed."""
    tmp_path_factory.getbasetemp()  # where it always is
    with (
        tempfile.TemporaryDirectory(prefix="u-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        # What JAX has compiled for one test serves the others of this process, and all that they start.
        patch.setenv("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        patch.setattr("unisono.api.held", warm.held)
        patch.setattr("unisono.commands.verify.verify.held", warm.held)
        yield
        warm.close()
        until(lambda: not _unisonos(folder), "all processes of Unisono have ended")
        until(lambda: not list(Path(folder).glob("unisono*")), f"nothing of Unisono is left in {folder}")


def _unisonos(folder: str) -> list[psutil.Process]:
    """The processes that have this folder for their temporary files."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("TMPDIR") == folder and "unisono" in " ".join(process.cmdline())
            found += [process] if ours and process.pid != os.getpid() else []
    return found


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """After each test no process that it started is alive."""
    warm.begin()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    watch_no_more()
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before | warm.kept()]
    _, alive = psutil.wait_procs(left, timeout=limit())
    assert not alive, [child.cmdline() for child in alive]


@pytest.fixture
def memory_group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A memory group of so many bytes."""
    root = Path("/sys/fs/cgroup")
    parent, limit = (root / "memory", "memory.limit_in_bytes") if (root / "memory").exists() else (root, "memory.max")
    path = parent / f"unisono-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / limit).write_text(str(request.param))
    except OSError as error:
        with suppress(OSError):
            path.rmdir()
        pytest.skip(f"memory groups can't be made here: {error}")
    yield path
    path.rmdir()
