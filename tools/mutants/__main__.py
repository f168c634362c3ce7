"""Puts mistakes into the core, one at a time, and counts how many the tests notice.

make mutants SEED=1 N=100
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mutants.equivalent import EQUIVALENT
from mutants.sites import Mutant, mutants
from mutants.targets import END_TO_END, GROUPS, dotted, modules, own_tests
from mutants.trials import Limits, Outcome, import_heavy, measured, put, trial

WANTED = 0.95
"""The least share of the mutants to be noticed."""


@dataclass(frozen=True)
class Copy:
    """A copy of src/ that holds at most one mistake."""

    folder: Path

    def outcome(self, number: int, mutant: Mutant, group: str) -> Outcome:
        """What a mutant's own tests and, if it survives them, whole runs say."""
        for tests in (own_tests(Path("tests"), mutant.module), END_TO_END[group]):
            outcome = self._tried(number, mutant, tuple(tests))
            if outcome is not Outcome.SURVIVED:
                break
        return outcome

    def _tried(self, number: int, mutant: Mutant, tests: tuple[str, ...]) -> Outcome:
        path, module = self.folder / "src/unisono" / mutant.module, dotted(mutant.module)
        limits = _measured(self.folder, module, tests)
        put(path, mutant.mutated, number)
        try:
            return trial(self.folder / "src", module, tests, limits, self.folder / "output")
        finally:
            path.write_bytes(mutant.source)


@cache
def _measured(folder: Path, module: str, tests: tuple[str, ...]) -> Limits:
    return measured(folder / "src", module, tests, folder / "output")


def drawn(source: Path, groups: Iterable[str], seed: int, count: int) -> list[tuple[str, Mutant]]:
    """So many mutants of all, with the group that each is of."""
    every = [
        (group, mutant)
        for group in groups
        for module in modules(source, group)
        for mutant in mutants(module, (source / "unisono" / module).read_bytes())
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def main(arguments: Sequence[str]) -> int:
    """Draw, try, tell; 1 if too few are noticed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    options = parser.parse_args(arguments)
    reasons = {(module, before, after): why for module, before, after, why in EQUIVALENT}
    found: dict[str, list[Outcome]] = {group: [] for group in options.groups}
    survivors, equivalent = [], 0
    import_heavy()
    with tempfile.TemporaryDirectory(prefix="unisono-mutants-") as folder:
        shutil.copytree("src", f"{folder}/src", ignore=shutil.ignore_patterns("__pycache__"))
        copy = Copy(Path(folder))
        for number, (group, mutant) in enumerate(drawn(Path("src"), options.groups, options.seed, options.count), 1):
            if (mutant.module, *mutant.change) in reasons:
                equivalent += 1
                continue
            outcome = copy.outcome(number, mutant, group)
            found[group].append(outcome)
            place = f"src/unisono/{mutant.module}:{mutant.line} {mutant.function}"
            print(f"{number:4} {outcome.value:9} {place}", flush=True)
            if outcome is Outcome.SURVIVED:
                survivors.append(f"{place}\n- {mutant.change[0]}\n+ {mutant.change[1]}")
                print(survivors[-1], flush=True)
    return told(found, survivors, equivalent)


def told(found: dict[str, list[Outcome]], survivors: Sequence[str], equivalent: int) -> int:
    """Print the score; 1 if it is too low."""
    print("\nSurvivors:", *survivors or ["none"], sep="\n")
    every = [outcome for outcomes in found.values() for outcome in outcomes]
    print(f"\nseed's mutants that do the same as the source: {equivalent}")
    for name, outcomes in [*found.items(), ("all", every)]:
        noticed = sum(outcome is not Outcome.SURVIVED for outcome in outcomes)
        ended = sum(outcome is Outcome.TIMED_OUT for outcome in outcomes)
        if outcomes:
            print(
                f"{name:12}{noticed:5} of {len(outcomes):4} noticed, {noticed / len(outcomes):6.1%} ({ended} by time)"
            )
    return int(len(every) - len(survivors) < WANTED * len(every))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
