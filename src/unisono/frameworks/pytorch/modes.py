"""Which of a model's modules train: those that `model()` left in training mode, whatever has been evaluated between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree

NEEDS_GRAPH = "does not require grad"
"""How torch says that something is differentiated that has no graph."""


class Modes:
    """The modes of one model's modules.

    A module trains if `model()` left it in training mode, and if `train()` leaves it there where a class has a `train`
    of its own. A model that is in evaluation mode as a whole, as ready-made ones are, trains as after `train()`.

    Args:
        model: what `job.model()` returned.

    >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    >>> _ = model[1].eval()
    >>> modes = Modes(model)
    >>> modes.evaluate(), modes.train(), model[0].training, model[1].training
    (None, None, True, False)
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._modules = model, list(model.modules())
        self._has_own = any(type(module).train is not torch.nn.Module.train for module in self._modules)
        left = self._now() if model.training else [True] * len(self._modules)
        if self._has_own:
            model.train()
            left = [before and after for before, after in zip(left, self._now(), strict=True)]
        self._trained = left
        self.train()

    def _now(self) -> list[bool]:
        return [module.training for module in self._modules]

    def train(self) -> None:
        """Put each module into the mode in which it trains."""
        if self._now() == self._trained:
            return
        if self._has_own:
            self._model.train()
        for module, training in zip(self._modules, self._trained, strict=True):
            if module.training != training:
                module.training = training

    def evaluate(self) -> None:
        """Put all modules into evaluation mode."""
        if any(self._now()):
            self._model.eval()


def without_gradients(compute: Callable[[], Any], again: Callable[[], None]) -> Any:
    """Compute without graphs; once more with them where the model differentiates (forces are gradients of energies).

    Args:
        compute: what to compute.
        again: called before it is computed once more.

    Returns:
        What it gives, its tensors without graphs.
    """
    try:
        with torch.no_grad():
            return compute()
    except RuntimeError as error:
        if NEEDS_GRAPH not in str(error):
            raise
    again()
    return _pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, compute())
