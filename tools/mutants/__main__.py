"""Puts mistakes into the core, one at a time, and counts how many the tests notice.

    make mutants SEED=1 N=100

draws so many small ones from all that can be made, and tries those besides that somebody could make in earnest.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.mutants.equivalent import changes
from tools.mutants.plausible import PLAUSIBLE, Mistake
from tools.mutants.sites import Mutant, mutants
from tools.mutants.targets import END_TO_END, GROUPS, dotted, modules, own_tests
from tools.mutants.trials import Limits, Outcome, import_heavy, measured, put, trial

WANTED = 0.95
"""The least share of the small mistakes to be noticed; of the others all."""

PACKAGE, TESTS = Path("src/unisono"), Path("tests")


@dataclass(frozen=True)
class Case:
    """A mistake to try.

    Attributes:
        group: what it counts for.
        name: where it is.
        difference: what it changes, as people read it.
        sources: module → its source with the mistake.
        tests: what it must pass to survive, one after another.
    """

    group: str
    name: str
    difference: str
    sources: Mapping[str, bytes]
    tests: Sequence[Sequence[str]]


def case_of(group: str, mutant: Mutant) -> Case:
    """A small mistake: it is tried by its own tests, then by whole runs."""
    before, after = mutant.change
    name, tests = f"src/unisono/{mutant.module}:{mutant.line} {mutant.function}", own_tests(TESTS, mutant.module)
    return Case(group, name, f"- {before}\n+ {after}", {mutant.module: mutant.mutated}, [tests, END_TO_END[group]])


def plausible_case(mistake: Mistake) -> Case:
    """One that somebody could make in earnest."""
    sources: dict[str, str] = {}
    for module, before, after in mistake.edits:
        source = sources.get(module) or (PACKAGE / module).read_text()
        if source.count(before) != 1:
            raise SystemExit(f"{mistake.name}: {module} must hold {before!r} once. Bring plausible.py up to date.")
        sources[module] = source.replace(before, after)
    difference = "\n".join(f"{module}\n- {before}\n+ {after}" for module, before, after in mistake.edits)
    encoded = {module: source.encode() for module, source in sources.items()}
    return Case("plausible", mistake.name, difference, encoded, [mistake.tests])


def drawn(groups: Sequence[str], seed: int, count: int) -> tuple[list[Case], int]:
    """So many of all small mistakes, and how many of them do the same as the source."""
    every = [
        (group, mutant)
        for group in groups
        for module in modules(PACKAGE, group)
        for mutant in mutants(module, (PACKAGE / module).read_bytes())
    ]
    chosen = random.Random(seed).sample(every, min(count, len(every)))
    same = set(changes())
    cases = [case_of(group, mutant) for group, mutant in chosen if (mutant.module, *mutant.change) not in same]
    return cases, len(chosen) - len(cases)


def outcome_of(folder: Path, number: int, case: Case) -> Outcome:
    """Try a case in a copy of src/, which afterwards is as it was."""
    first, paths = dotted(next(iter(case.sources))), {module: folder / PACKAGE / module for module in case.sources}
    before = {module: path.read_bytes() for module, path in paths.items()}
    outcome = Outcome.SURVIVED
    for tests in case.tests:
        limits = limits_of(folder, first, tuple(tests))
        try:
            for module, source in case.sources.items():
                put(paths[module], source, number)
            outcome = trial(folder / "src", first, tests, limits, folder / "output")
        finally:
            for module, source in before.items():
                paths[module].write_bytes(source)
        if outcome is not Outcome.SURVIVED:
            break
    return outcome


@cache
def limits_of(folder: Path, module: str, tests: tuple[str, ...]) -> Limits:
    """Limits for some tests; they are measured once."""
    return measured(folder / "src", module, tests, folder / "output")


def main(arguments: Sequence[str]) -> int:
    """Draw, try, tell; 1 if too few are noticed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS, "plausible"], default=[*GROUPS, "plausible"])
    options = parser.parse_args(arguments)
    cases, same = drawn([group for group in options.groups if group != "plausible"], options.seed, options.count)
    cases += [plausible_case(mistake) for mistake in PLAUSIBLE if "plausible" in options.groups]
    found: list[tuple[Case, Outcome]] = []
    import_heavy()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the copy goes then too
    with tempfile.TemporaryDirectory(prefix="unisono-mutants-") as folder:
        shutil.copytree("src", f"{folder}/src", ignore=shutil.ignore_patterns("__pycache__"))
        for number, case in enumerate(cases, 1):
            found.append((case, outcome_of(Path(folder), number, case)))
            print(f"{number:4} of {len(cases)} {found[-1][1].value:9} {case.name}", flush=True)
            if found[-1][1] is Outcome.SURVIVED:
                print(case.difference, flush=True)
    return told(found, same)


def told(found: Sequence[tuple[Case, Outcome]], same: int) -> int:
    """Print survivors and score; 1 if it is too low."""
    survivors = [case for case, outcome in found if outcome is Outcome.SURVIVED]
    print("\nSurvivors:", *([f"{case.name}\n{case.difference}" for case in survivors] or ["none"]), sep="\n")
    print(f"\n{same} of the drawn do the same as the source and were not tried")
    every, missed = Counter(case.group for case, _ in found), Counter(case.group for case in survivors)
    late = Counter(case.group for case, outcome in found if outcome is Outcome.TIMED_OUT)
    for group, count in every.items():
        noticed = count - missed[group]
        print(f"{group:12}{noticed:5} of {count:4} noticed, {noticed / count:6.1%} ({late[group]} by time)")
    small = every.total() - every["plausible"]
    noticed = small - missed.total() + missed["plausible"]
    print(f"{'small ones':12}{noticed:5} of {small:4} noticed, {noticed / max(small, 1):6.1%}")
    return int(noticed < WANTED * small or missed["plausible"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
