"""A job as `unisono train --debug` runs it: in a process of its own, which reads the job itself."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from unisono.commands.verify.worlds import World, first_steps, traced
from unisono.errors import JobError
from unisono.errors.failure import Failure, failure
from unisono.frameworks.registry import hold_threads
from unisono.partition.layout import Layout
from unisono.runs.execution import Execution
from unisono.runs.jobfile import JobFile
from unisono.runtime.processes.channel import Channel, joined, started
from unisono.runtime.processes.source import Source


def alone(source: Source, steps: int, threads: str) -> World:
    """The job in one fresh process.

    Args:
        source: where the job comes from.
        steps: how many steps.
        threads: OMP_NUM_THREADS in its environment, which must not matter.

    Raises:
        UnisonoError: it failed.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": threads}
    process, channel = started(__name__, env=variables)
    try:
        channel.send((source, list(sys.path), steps), source.files)
        answer, _ = channel.receive()
    except (EOFError, ConnectionError) as error:
        raise JobError(f"the process that ran the job as --debug does ended with {process.wait()}.") from error
    finally:
        channel.close()
        process.kill()
        process.wait()
    if isinstance(answer, Failure):
        raise answer.error()
    world: World = answer
    return replace(world, name=f"--debug, OMP_NUM_THREADS={threads}")


def main(channel: Channel) -> None:
    """Answer with what the job gave."""
    (source, path, steps), files = channel.receive()
    sys.path[:] = path
    source = source.received(files)
    try:
        hold_threads(source.imports, 1)
        job = source.loaded(threads=1).job if isinstance(source, JobFile) else source.read().make()
        answer: World | Failure = World.of("", *traced(Execution(job), first_steps(Layout(data=1), steps)))
    except Exception as error:
        answer = failure(error, "in one process (--debug)")
    channel.send(answer)


if __name__ == "__main__":
    main(joined())
