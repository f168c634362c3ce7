"""`unisono.parallel`: one line in a script that keeps its own loop."""

from __future__ import annotations

import functools
import os
import platform
import sys
from importlib import import_module
from typing import Any

from unisono.errors import UsageError
from unisono.scripts.ranks import launched, refuse_ranks
from unisono.scripts.settings import settings_of


def parallel(
    target: Any = None,
    optimizer: Any = None,
    *,
    microbatches: int | None = None,
    workers: int | None = None,
    dim: int = 0,
    smallest: int = 0,
) -> Any:
    """Compute the calls of a module in microbatches, in this script or by workers: the same bits for any number.

    A call is cut along `dim`, its microbatches are computed one by one, outputs are joined, and `backward()` sums the
    gradients of the microbatches along one fixed tree into `.grad`. Everything between calls stays the script's own.

        model = unisono.parallel(Net())                                       # then as before
        model, optimizer = unisono.parallel(model, optimizer, microbatches=4)

        @unisono.parallel
        def loss_of(x, y):                                                    # a function over modules
            return F.cross_entropy(model(x), y)

    Args:
        target: a module, a list of modules, or a function over modules; None gives a decorator.
        optimizer: handed back beside the target; any of PyTorch's works, also one that is not given.
        microbatches: pieces of a call, a part of the result; default: 8, or what `unisono run` says.
        workers: processes that compute, no part of the result; 0 = this script itself.
        dim: the dimension along which samples lie.
        smallest: samples of the smallest call that workers compute, no part of the result: smaller ones, an agent's
            single observations say, take the script less time than to wake workers.

    Returns:
        The same module or modules, or a function; with an optimizer also that.

    Raises:
        UsageError: something breaks a rule; calls raise it too.
    """
    if target is None:
        if optimizer is not None:
            raise UsageError(
                "an optimizer is given beside its model; received none. Write unisono.parallel(model, optimizer)."
            )
        return functools.partial(parallel, microbatches=microbatches, workers=workers, dim=dim, smallest=smallest)
    if "torch" not in sys.modules:
        raise UsageError(
            f"unisono.parallel computes with PyTorch; received {target!r:.80}, and torch is not imported. Models of "
            "other frameworks are trained by a Job (docs/using.md)."
        )
    adapter = import_module("unisono.scripts.pytorch.target")
    refuse_ranks(launched(os.environ, platform.node()))
    settings = settings_of(microbatches, workers, dim, smallest)
    if optimizer is None:
        return adapter.parallel(target, settings)
    adapter.check_optimizer(optimizer)
    return adapter.parallel(target, settings), optimizer


def is_parallel(module: Any) -> bool:
    """Whether somebody else computes a module's calls.

    Args:
        module: anything.
    """
    return "torch" in sys.modules and import_module("unisono.scripts.pytorch.wrapping").handle_of(module) is not None
