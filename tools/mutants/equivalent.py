"""Mutants that no test can notice, because they do the same."""

from __future__ import annotations

from collections.abc import Iterator

SPEED = "only speed: any spans give the same sums"
SPINNING = "only speed: how long one looks before one sleeps"

EQUIVALENT: list[tuple[str, str, list[str], str]] = [
    ("partition/stages.py", "found = {0: [_Split(0, 0, (0,))]}", ["(0, → (1,", "(0, → (-1,"], "all begin with it"),
    (
        "partition/hosts.py", "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16",
        ["1 << 20 → 2 << 20", "20 → 21", "20 → 19", "1 << 16 → 2 << 16", "16 → 17", "16 → 15"], SPEED,
    ),
    (
        "gradients/regions.py", "elements, before = 0, (0, 0) # of those held; place, region",
        ["(0, → (1,", "(0, → (-1,", "0) → 1)", "0) → -1)"], "it is not looked at before it is set",
    ),
    ("checkpoint/parameters.py", "COPIERS = 2", ["2 → 3", "2 → 1"], "only speed"),
    ("checkpoint/parameters.py", "PIECE_BYTES = 4 << 20", ["4 → 5", "4 → 3", "20 → 21", "20 → 19"], "only speed"),
    (
        "checkpoint/parameters.py", 'text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()',
        ["False → True"], "JSON says the same",
    ),
    (
        "checkpoint/keeper.py", "self._standing = Standing(0, False, 1)",
        ["0, → 1,", "0, → -1,", "False → True", "1) → 2)", "1) → 0)", "0, False → False, 0", "False, 1 → 1, False"],
        "its best value and the evaluations since are all that is used of it",
    ),
    (
        "runtime/reach.py", 'self._words, self._control = Words(state.segment, "reached", 0.0), state.control',
        ["0.0 → 1.0"], SPINNING,
    ),
    ("runtime/records.py", 'self._committed = Words(state.segment, "committed", 0.0)', ["0.0 → 1.0"], SPINNING),
    ("runtime/records.py", 'self._control = Words(state.segment, "control", 0.0)', ["0.0 → 1.0"], SPINNING),
    ("cluster/complete.py", 'self._summed = Words(state.segment, "summed", 0.0)', ["0.0 → 1.0"], SPINNING),
    ("memory/words.py", "while time.perf_counter() < deadline:", ["< → <="], "an instant"),
]  # fmt: skip
"""(module, line, what of it → what instead, why)."""


def changes() -> Iterator[tuple[str, str, str]]:
    """Module, line before and line after, as `Mutant.change` has them."""
    for module, line, edits, _ in EQUIVALENT:
        for edit in edits:
            before, _, after = edit.partition(" → ")
            yield module, line, line.replace(before, after, 1)
