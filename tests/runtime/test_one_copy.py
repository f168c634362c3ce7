"""Parameters and optimizer state lie once in a host's shared memory, and all its workers compute on them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

import jobs
from faults import run


def place(address: int) -> tuple[str, int]:
    """The file that is mapped at an address of this process, and the place in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, inode, *name = line.split()
        start, stop = (int(number, 16) for number in span.split("-"))
        if start <= address < stop:
            return f"{inode} {' '.join(name)}", address - start + int(offset, 16)
    raise AssertionError(address)


@dataclass
class Telling:
    """A forward pass that writes down where this process's model has its parameters and got its inputs."""

    folder: Path

    def __call__(self, model: nn.Module, inputs: Tensor) -> Tensor:
        lines = [f"{at} {file}" for file, at in (place(p.data_ptr()) for p in model.parameters())]
        (self.folder / str(os.getpid())).write_text("\n".join([str(inputs.data_ptr()), *lines]))
        out: Tensor = model(inputs)
        return out


def test_workers_compute_on_one_copy(tmp_path: Path) -> None:
    outcome, _, _ = run(jobs.make(jobs.Mlp, optimizer=jobs.adamw, forward=Telling(tmp_path), batch_size=64), 2)
    assert outcome.failure is None, outcome.failure
    told = {path.name: path.read_text().split("\n") for path in tmp_path.iterdir()}
    assert len(told) >= 2, "each worker, and the process that forks them"
    (lines,) = {tuple(lines) for _, *lines in told.values()}
    assert len(lines) == 4
    assert all("/memfd:unisono" in line and int(line.split()[0]) % 64 == 0 for line in lines)
    assert all(int(inputs) % 64 == 0 for inputs, *_ in told.values())


def test_optimizer_state_lies_there_once() -> None:
    outcome, _, _ = run(jobs.make(jobs.Mlp, optimizer=jobs.adamw))
    areas = outcome.state.segment.layout.areas
    held = {name.rpartition("/")[2] for name in areas if name.startswith("state/")}
    assert held == {"exp_avg", "exp_avg_sq"}
    assert sum(name.startswith(("state/", "parameters/")) for name in areas) == 3, "whatever the number of workers"
