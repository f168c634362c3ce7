"""Devices that workers do not share with the script: calls on them are computed in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from unisono.errors import UsageError
from unisono.scripts.pytorch.parts import Parts
from unisono.scripts.said import say_once

_SHARED = "cpu"
"""Whose memory every process can have."""

_GENERATORS: dict[str, Callable[[torch.device], torch.Generator]] = {
    "cpu": lambda device: torch.default_generator,
    "cuda": lambda device: torch.cuda.default_generators[device.index or 0],
    "mps": lambda device: torch.mps._get_default_mps_generator(),
}


def elsewhere(tensors: Iterable[torch.Tensor | None]) -> list[torch.device]:
    """The devices of tensors that no worker could have, each once.

    Args:
        tensors: them; None is none.

    >>> elsewhere([torch.ones(1), None, torch.ones(1, device="meta")])
    [device(type='meta')]
    """
    found = dict.fromkeys(tensor.device for tensor in tensors if tensor is not None)
    return [device for device in found if device.type != _SHARED]


def devices_of(parts: Parts) -> list[torch.device]:
    """Those of parameters and buffers."""
    return elsewhere([*parts.parameters, *(module._buffers[name] for module, name in parts.buffers)])


def check_known(device: torch.device) -> None:
    """Refuse a device whose random numbers nobody can give keys.

    Args:
        device: of a tensor of a call.

    Raises:
        UsageError: it is one.

    >>> check_known(torch.device("cuda:1"))
    """
    if device.type not in _GENERATORS:
        raise UsageError(
            f"parallel calls compute on the CPU, and in the script itself on CUDA and MPS; received a tensor on "
            f"{device}. Move it there, or leave out unisono.parallel."
        )


def say_here(devices: Sequence[torch.device]) -> None:
    """Say once that the script computes its calls itself.

    Args:
        devices: whose tensors they have.
    """
    say_once(
        f"calls with tensors on {devices[0]} are computed in the script itself (workers=0); workers compute what is on "
        "the CPU."
    )


class Keyed:
    """Random numbers of devices that depend on a microbatch's key, and are the script's own again after a call.

    Args:
        devices: them.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._generators = [_GENERATORS[device.type](device) for device in devices]

    def seed(self, number: int) -> None:
        """Begin anew from a number."""
        for generator in self._generators:
            generator.manual_seed(number)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A block after which the generators are as they were."""
        states = [generator.get_state() for generator in self._generators]
        try:
            yield
        finally:
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)
