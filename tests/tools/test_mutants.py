"""Mutation testing: mistakes of every kind are made, tried in a process of their own, and told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tools.mutants import equivalent, targets
from tools.mutants.equivalent import EQUIVALENT
from tools.mutants.plausible import PLAUSIBLE, Mistake
from tools.mutants.sites import mutants

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("line", "found"), [
    ("a <= b", ["a < b"]),
    ("a if b < c else d", ["a if b <= c else d", "a if not (b < c) else d"]),
    ("(a) is not (b)", ["(a) is (b)"]),
    ("a + 1", ["a + 0", "a + 2", "a - 1"]),
    ("a and b and c", ["a and b", "a and b or c", "a and c", "a or b and c", "b and c"]),
    ("f(a, 'text', *b)", []),
    ("f(a, b, strict=True)", ["f(b, a, strict=True)"]),
    ("max(a, b)", ["min(a, b)"]),
    ("a[b:c]", ["a[:c]", "a[b:]"]),
    ("a if not b else -c", ["a if b else -c", "a if not b else c"]),
    ("f'{a + 1} {b}'", []),
])  # fmt: skip
def test_what_is_made_of_a_line(line: str, found: list[str]) -> None:
    changes = [mutant.change[1].removeprefix("it = ") for mutant in mutants("m.py", f"it = {line}\n".encode())]
    assert sorted(set(changes)) == sorted(found)


def test_what_only_helps_a_reader_is_left_alone() -> None:
    source = '"""1 < 2."""\nA = int | str\n@f(1)\ndef g(a: 1):\n    """2."""\n    assert a > 1\n    raise E(1 + 1)\n'
    assert [mutant.change[1] for mutant in mutants("m.py", source.encode())] == ["pass"]  # instead of raising


TRIALS = """
import json
from pathlib import Path
from tools.mutants.sites import mutants
from tools.mutants.trials import Limits, import_heavy, put, trial

def outcome(wall_seconds=600):
    return trial(Path("src").resolve(), "toy", ["test_toy.py"], Limits(wall_seconds, 600), Path("output")).value

import_heavy(())
path = Path("src/toy.py")
outcomes = {"no mistake": outcome(), "no time": outcome(0)}
for number, mutant in enumerate(mutants("toy.py", path.read_bytes())):
    put(path, mutant.mutated, number)
    outcomes[mutant.change[1]] = outcome()
print(json.dumps(outcomes))
"""


def test_mutants_are_noticed_survive_or_take_too_long(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/toy.py").write_text("def late(hour):\n    return hour > 9\n")
    (tmp_path / "test_toy.py").write_text("from toy import late\n\ndef test_it():\n    assert late(10)\n")
    command, path = [sys.executable, "-c", TRIALS], {"PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=path, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) == {
        "no mistake": "survived",
        "no time": "timed out",
        "return not (hour > 9)": "killed",
        "return hour >= 9": "survived",
        "return hour > 10": "killed",
        "return hour > 8": "survived",
    }


def test_each_module_s_tests_are_found() -> None:
    for group in targets.GROUPS:
        assert targets.modules(ROOT / "src/unisono", group), group
    found = [Path(test).name for test in targets.own_tests(ROOT / "tests", "gradients/tree.py")]
    assert found[0] == "test_tree.py"
    assert targets.own_tests(ROOT / "tests", "gradients/norms.py")


def test_mutants_that_are_told_to_do_the_same_are_still_there() -> None:
    told = {module: {change[1:] for change in equivalent.changes() if change[0] == module} for module, *_ in EQUIVALENT}
    for module, changes in told.items():
        found = {mutant.change for mutant in mutants(module, (ROOT / "src/unisono" / module).read_bytes())}
        assert not changes - found, module


@pytest.mark.parametrize("mistake", PLAUSIBLE, ids=lambda mistake: mistake.name)
def test_plausible_mistakes_can_still_be_made(mistake: Mistake) -> None:
    for module, before, after in mistake.edits:
        assert (ROOT / "src/unisono" / module).read_text().count(before) == 1, (module, before)
        assert after != before
    assert all((ROOT / test.partition("::")[0]).exists() for test in mistake.tests)
