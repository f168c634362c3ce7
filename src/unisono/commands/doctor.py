"""What a run would find here: the machine, the packages, the environment, and whoever launched it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unisono.errors import UsageError
from unisono.frameworks.registry import families
from unisono.hosts.launchers import place
from unisono.machine.checks import check_devices, check_machine, check_system
from unisono.machine.environment import check_environment
from unisono.machine.finding import Finding
from unisono.machine.gpu_checks import VISIBLE, check_gpus
from unisono.machine.gpus import build, gpus, links
from unisono.machine.packages import check_packages, gather_packages
from unisono.machine.platform_check import require_linux
from unisono.runtime.processes.start import POOLS

_STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def examine() -> list[Finding]:
    """Look at everything, importing no framework."""
    found = check_packages(gather_packages(), [family.extra for family in families() if family.extra], ["ray"])
    found.append(check_system(platform.system(), platform.release()))
    if found[-1].state == "wrong":
        return found
    from unisono.machine.facts import gather

    found += check_machine(gather())
    found += check_environment(os.environ, (*POOLS, VISIBLE))
    return [*found, check_launcher(os.environ, platform.node())]


def devices() -> list[Finding]:
    """What the machine has: a part of `examine`, and its GPUs with the software for them.

    Raises:
        UsageError: it does not run Linux.
    """
    require_linux()
    from unisono.machine.facts import gather

    return [*check_devices(gather()), *check_gpus(gpus(), links(), build(), os.environ.get(VISIBLE))]


def check_launcher(environment: Mapping[str, str], hostname: str) -> Finding:
    """Whether a launcher has started this process as one of several, and whether what it tells makes sense.

    >>> check_launcher({"RANK": "1"}, "b").state
    'wrong'
    """
    try:
        stands = place(environment, hostname)
    except UsageError as error:
        return Finding("launcher", "wrong", "its variables make no place among hosts", str(error))
    if stands is None:
        return Finding("launcher", "ok", "none: a run has this host alone")
    found = f"{stands.launcher}: host {stands.host} of {stands.hosts}, which meet at {stands.address}:{stands.port}"
    return Finding("launcher", "ok", found)


def rendered(findings: Sequence[Finding]) -> str:
    """The findings as a table, which fits a terminal and is one line a finding elsewhere.

    >>> print(rendered([Finding("cores", "ok", "2"), Finding("load", "warning", "3", "Wait.")]))
    ok       cores  2
    warning  load   3
                    -> Wait.
    """
    console = Console() if sys.stdout.isatty() else Console(width=10_000, color_system=None)
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(Text(finding.state, _STYLES[finding.state]), Text(finding.name), Text(finding.found))
        if finding.mend:
            table.add_row("", "", Text(f"-> {finding.mend}"))
    with console.capture() as captured:
        console.print(table)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def summary(findings: Sequence[Finding]) -> str:
    """Whether a run would start.

    >>> summary([Finding("load", "warning", "3", "Wait.")])
    'A run would start, with 1 warning.'
    """
    wrong, warnings = (sum(each.state == state for each in findings) for state in ("wrong", "warning"))
    if wrong:
        return f"A run would not start: {wrong} wrong."
    return "A run would start" + (f", with {warnings} warning{'s' * (warnings > 1)}." if warnings else ".")
