"""What numeric libraries choose their kernels by: it explains why two hosts give other bits."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from unisono.machine.devices import cpu_flags, cpu_name
from unisono.machine.environment import ARITHMETIC


def chosen_by(environment: Mapping[str, str]) -> dict[str, str]:
    """Name → value: the processor, its flags, Python and the C library, variables that are set.

    Args:
        environment: of a process that computes.

    >>> "CPU" in chosen_by({}), chosen_by({"XLA_FLAGS": "--a", "HOME": "/"})["XLA_FLAGS"]
    (True, '--a')
    """
    set_here = {name: environment[name] for name in ARITHMETIC if environment.get(name)}
    return {
        "CPU": cpu_name(),
        "CPU flags": " ".join(sorted(cpu_flags())),
        "Python": platform.python_version(),
        "C library": " ".join(platform.libc_ver()),
        **set_here,
    }
