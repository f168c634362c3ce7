"""What `unisono.parallel` was given, and its calls."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from unisono.errors import UsageError
from unisono.scripts.pytorch.by_size import BySize
from unisono.scripts.pytorch.by_workers import ByWorkers
from unisono.scripts.pytorch.calls import Calls, check_untransformed
from unisono.scripts.pytorch.devices import devices_of, elsewhere, say_here
from unisono.scripts.pytorch.hashes import heard
from unisono.scripts.pytorch.here import Here
from unisono.scripts.pytorch.parts import Parts
from unisono.scripts.pytorch.refused import check_only_rank, check_own
from unisono.scripts.pytorch.session import session
from unisono.scripts.pytorch.timed import Timed
from unisono.scripts.pytorch.world import Computer, World
from unisono.scripts.pytorch.wrapping import PLAIN, as_written, computes_alone, plain_class, swap
from unisono.scripts.said import say_once
from unisono.scripts.settings import CallSettings, workers_given
from unisono.scripts.turns import TURN, unbroken


class Target:
    """Modules, or a function over modules, whose calls are computed in parallel.

    Args:
        targets: them.
        settings: how.
    """

    def __init__(self, targets: Sequence[Any], settings: CallSettings) -> None:
        self._targets, self._settings = targets, settings
        self._names = [
            plain_class(each).__name__ if isinstance(each, nn.Module) else getattr(each, "__name__", "a function")
            for each in targets
        ]
        self._calls: Calls | None = None
        self._opened_before = False

    def call(self, target: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Compute a call; the first one looks at what there is.

        Args:
            target: which of the targets.
            args, kwargs: with what.
        """
        with TURN, unbroken() if self._settings.workers else nullcontext():
            return self._call(target, args, kwargs)

    def _call(self, target: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self._settings.workers and (devices := elsewhere(_tensors(args, kwargs))):
            say_here(devices)
            self._resize(0)
        check_untransformed(self._names[target])
        if self._calls is None:
            world = World(self._targets, self._opened, heard)
            self._calls = Calls(world, self._names, self._settings.microbatches, self._settings.dim)
        return self._calls(target, args, kwargs)

    def resize(self, workers: int) -> None:
        """Have so many workers compute from the next call on; no bit changes.

        Args:
            workers: how many; 0 = the script itself.
        """
        with TURN:
            self._resize(workers_given(workers))

    def _resize(self, workers: int) -> None:
        before, self._settings = self._settings, self._settings.with_workers(workers)
        if self._calls is None or before == self._settings:
            return
        if workers and before.workers:
            self._calls.world.resize(workers)
        else:
            self._calls.world.reopen(self._opened)

    def _opened(self, parts: Parts, payload: bytes) -> Computer:
        check_only_rank()
        if self._settings.workers and (devices := devices_of(parts)):
            say_here(devices)
            self._settings = self._settings.with_workers(0)
        if self._settings.workers:
            by_workers = ByWorkers(session(), parts, payload, self._settings.workers)
            self._opened_before, is_first = True, not self._opened_before
            workers: Computer = Timed(by_workers) if is_first else by_workers
            return BySize(self._settings.smallest, Here(parts), workers) if self._settings.smallest else workers
        return _here(parts)


def _tensors(*arguments: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor))


def _here(parts: Parts) -> Computer:
    for parameter in parts.parameters:
        if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()  # operations give other bits at other addresses
    return Here(parts)


def parallel(target: Any, settings: CallSettings) -> Any:
    """Have the calls of modules, or of a function, computed in parallel.

    Args:
        target: a module, a list or tuple of modules, or a function.
        settings: how.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(target, nn.Module):
        return _modules([target], settings)[0]
    if isinstance(target, (list, tuple)) and target and all(isinstance(each, nn.Module) for each in target):
        return type(target)(_modules(target, settings))
    if isinstance(target, torch.utils.data.DataLoader):
        raise UsageError("a DataLoader needs no change: a parallel call cuts its batches. Pass the model alone.")
    if isinstance(target, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)):
        raise UsageError(
            f"a {type(target).__name__} needs no change: it works on the model's own parameters. Pass the model."
        )
    if not callable(target) or isinstance(target, type):
        raise UsageError(
            f"unisono.parallel takes a module, a list of modules or a function; received {target!r:.80}. Pass the "
            "model: model = unisono.parallel(model)."
        )
    handle = Target([target], settings)
    _begin(settings, [])

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs) if computes_alone() else as_written(handle.call)(0, args, kwargs)

    setattr(call, PLAIN, target)

    call.resize = handle.resize  # type: ignore[attr-defined]
    return call


def _modules(modules: Sequence[nn.Module], settings: CallSettings) -> list[nn.Module]:
    if len({id(module) for module in modules}) < len(modules):
        raise UsageError("each module is given to unisono.parallel once; received one twice in a list.")
    for module in modules:
        check_own(module)
        if any(nn.parameter.is_lazy(each) for each in module.parameters()):
            raise UsageError(
                f"a parallel module has parameters with shapes; received a {type(module).__name__} with a lazy module "
                "that has not computed yet. Call it once with a batch before unisono.parallel."
            )
    modules = [_uncompiled(module) for module in modules]
    handle = Target(list(modules), settings)
    for place, module in enumerate(modules):
        swap(module, handle, functools.partial(handle.call, place))
    _begin(settings, [parameter for module in modules for parameter in module.parameters()])
    return list(modules)


def _uncompiled(module: nn.Module) -> nn.Module:
    """The module that torch.compile was given."""
    if type(module).__module__ != "torch._dynamo.eval_frame":
        return module
    say_once(
        "parallel calls compute as the model is written: what torch.compile makes of it depends on the shapes that a "
        "process has seen."
    )
    plain: nn.Module = module._orig_mod  # type: ignore[assignment]
    return plain


def _begin(settings: CallSettings, parameters: Sequence[torch.Tensor]) -> None:
    """Have the process that forks workers import PyTorch while the script prepares its first call."""
    if settings.workers and not computes_alone() and not elsewhere(parameters):
        session().prepare(())


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is no optimizer.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(
            f"unisono.parallel takes the model, and its optimizer perhaps; received {type(optimizer).__name__}, which "
            "needs no change (data loaders, schedulers and scalers do not). Several models go in a list."
        )
