"""Scripts in small: each case is a loop or some calls, and says what it gives. Run with a number of workers."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import unisono
from unisono.scripts.pytorch.crew import Crew

CASES: dict[str, tuple[Callable[[], Any], bool]] = {}
WORKERS: int | None = 0


def case(like_plain: bool = True) -> Callable[[Any], Any]:
    """A case; `like_plain`: gives what it gives without `parallel`, to rounding."""

    def add(function: Any) -> Any:
        CASES[function.__name__] = function, like_plain
        return function

    return add


def share(target: Any, **settings: Any) -> Any:
    """`unisono.parallel`, or nothing where the plain script is run."""
    if WORKERS is None:
        return target
    return unisono.parallel(target, **{"workers": WORKERS, "microbatches": 4, **settings})


def mlp(*, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(12)] if norm else []
    return nn.Sequential(nn.Linear(6, 12), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def batch(samples: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.Generator().manual_seed(2)
    return torch.randn(samples, 6, generator=own), torch.randint(0, 3, (samples,), generator=own)


def grads(*modules: nn.Module) -> list[torch.Tensor | None]:
    return [parameter.grad for module in modules for parameter in module.parameters()]


def given(function: Callable[[], Any]) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    found = [None if value is None else value.detach().clone() for value in function()]
    gc.collect()  # its workers
    return found


def told(function: Callable[[], Any], like_plain: bool) -> str:
    """The hash of what a case gives, or what refuses it."""
    global WORKERS
    try:
        found = given(function)
    except unisono.UnisonoError as error:
        return str(error)
    if like_plain and WORKERS == 0:
        WORKERS = None
        name = function.__name__
        torch.testing.assert_close(found, given(function), rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")
        WORKERS = 0
    values = [b"none" if v is None else v.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for v in found]
    return hashlib.sha256(b"".join(values)).hexdigest()[:16]


def with_deaths() -> None:
    """Kill a worker that has just been asked for something, every few acts."""
    hand_out, acts = Crew._hand_out, [0]

    def then_kill(self: Any, *arguments: Any) -> None:
        hand_out(self, *arguments)
        acts[0] += 1
        if acts[0] % 5 == 0:
            os.kill(next(iter(self.members.values())).process.number, signal.SIGKILL)

    Crew._hand_out = then_kill  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.modules["run"] = sys.modules["__main__"]
    WORKERS = int(sys.argv[1])
    if "deaths" in sys.argv[2:]:
        with_deaths()
    for file in sys.argv[2:]:
        if file != "deaths":
            spec = importlib.util.spec_from_file_location(Path(file).stem, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[Path(file).stem] = module
            spec.loader.exec_module(module)
    print(json.dumps({name: told(*each) for name, each in CASES.items()}))
