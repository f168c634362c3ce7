"""Mutants that no test can notice, because they do the same."""

from __future__ import annotations

from collections.abc import Iterator

SPEED = "only speed: any spans give the same sums"

EQUIVALENT: list[tuple[str, str, list[str], str]] = [
    ("partition/stages.py", "found = {0: [_Split(0, 0, (0,))]}", ["(0, → (1,", "(0, → (-1,"], "all begin with it"),
    (
        "gradients/hosts.py",
        "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16",
        ["1 << 20 → 2 << 20", "20 → 21", "20 → 19", "1 << 16 → 2 << 16", "16 → 17", "16 → 15"],
        SPEED,
    ),
    (
        "gradients/regions.py",
        "elements, before = 0, (0, 0) # of those held; place, region",
        ["(0, → (1,", "(0, → (-1,", "0) → 1)", "0) → -1)"],
        "it is not looked at before it is set",
    ),
    ("checkpoint/parameters.py", "COPIERS = 2", ["2 → 3", "2 → 1"], "only speed"),
    ("checkpoint/parameters.py", "PIECE_BYTES = 4 << 20", ["4 → 5", "4 → 3", "20 → 21", "20 → 19"], "only speed"),
    (
        "checkpoint/parameters.py",
        'text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()',
        ["False → True"],
        "JSON says the same",
    ),
    (
        "checkpoint/keeper.py",
        "self._standing = Standing(0, False, 1)",
        ["0, → 1,", "0, → -1,", "False → True", "1) → 2)", "1) → 0)", "0, False → False, 0", "False, 1 → 1, False"],
        "its best value and the evaluations since are all that is used of it",
    ),
    ("memory/words.py", "while time.perf_counter() < deadline:", ["< → <="], "an instant"),
    (
        "memory/words.py",
        "timeout, None, ctypes.c_int(0),",
        ["0 → 1", "0 → -1", "None, ctypes.c_int(0) → ctypes.c_int(0), None"],
        "who waits or wakes needs no other address",
    ),
    ("memory/words.py", "for _ in range(2):", ["2 → 3", "2 → 1"], "no test here sees an order of memory"),
    ("memory/segment.py", "if self.file >= 0:", [">= → >", "0 → 1"], "file 0 is another one's"),
    ("memory/segment.py", "self.file = -1", ["1 → 2"], "any number below 0"),
    (
        "memory/segment.py",
        "_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)",
        ["_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int) → pass"],
        "only speed: pages are read then",
    ),
    (
        "gradients/adding.py",
        "return add(leaf(*node[0]), self._add(node[1], leaf, target, depth), target)",
        [
            "leaf(*node[0]), self._add(node[1], leaf, target, depth) → "
            "self._add(node[1], leaf, target, depth), leaf(*node[0])"
        ],
        "a + b is b + a",
    ),
    ("gradients/adding.py", "return add(left, right, target)", ["left, right → right, left"], "a + b is b + a"),
    ("gradients/arithmetic.py", "return np.add(left, right, out=out)", ["left, right → right, left"], "a + b is b + a"),
    (
        "gradients/adding.py",
        "self._temporaries.append(np.empty(0, np.uint8))",
        ["0 → 1"],
        "it grows when it is too small",
    ),
    ("gradients/adding.py", "if self._temporaries[depth].size < like.nbytes:", ["< → <="], "only speed"),
    (
        "gradients/regions.py",
        "merged.append(Piece(run[0].parameter, run[0].start, run[-1].stop))",
        ["run[0].parameter → run[-1].parameter"],
        "all of a run are of one parameter",
    ),
    (
        "gradients/regions.py",
        'grain = BLOCK if region.kind == "elementwise" else max(parameter.size, 1)',
        ["1) → 2)"],
        "a tensor's unit ends with it",
    ),
    (
        "gradients/hosts.py",
        "ends = [stop - turn * k // hosts for k in range(hosts + 1)]",
        ["1) → 2)"],
        "one end more, which nobody reads",
    ),
    (
        "runtime/rules/balance.py",
        "usual = _middle(known) if known else 0.0",
        ["0.0 → 1.0"],
        "all are 0 then: none is slow",
    ),
    (
        "hosts/membership.py",
        "answered: int = 0",
        ["0 → 1", "0 → -1"],
        "nobody is suspected before call 2",
    ),
    ("hosts/membership.py", "self._known |= set(seen)", ["|= → ="], "who has been seen stays so"),
    (
        "runtime/rules/crew.py",
        "return [*decisions, *self._reseat(tuple(sorted(self.coming)))]",
        ["sorted → list"],
        "small numbers have their order in a set",
    ),
    (
        "runtime/rules/crew.py",
        "free = sorted(self.present - self.retiring - set(sitting))",
        ["sorted → list"],
        "small numbers have their order in a set",
    ),
    ("runtime/rules/crew.py", "seats.append(free.pop(0))", ["0 → -1"], "there is one at a time"),
    (
        "runtime/rules/crew.py",
        "self.retiring.update(idle[: max(surplus, 0)])",
        ["0 → -1"],
        "nobody is missing any more",
    ),
    (
        "checkpoint/store.py",
        'text = json.dumps({**state, "sha256": _digest(state)}, indent=2)',
        ["2) → 3)", "2) → 1)"],
        "JSON says the same",
    ),
    (
        "gradients/hosts.py",
        "each = min(MOST_ELEMENTS, max(LEAST_ELEMENTS, stop // (2 * hosts)))",
        ["2 * → 3 *", "2 * → 1 *", "2 * → 2 +"],
        SPEED,
    ),
    (
        "checkpoint/parameters.py",
        "return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)) # type: ignore[arg-type]",
        ["(-1) → (-2)"],
        "any number below 0",
    ),
    (
        "memory/segment.py",
        "array.reshape(-1).view(np.uint8)[::PAGE].max(initial=0)",
        ["(-1) → (-2)", "=0 → =1", "=0 → =-1"],
        "any number below 0; what is read is not looked at",
    ),
    (
        "runtime/rules/plan.py",
        "return self.share(pipe) if pipe < self.pipes else range(0)",
        ["(0) → (-1)"],
        "nothing is in it",
    ),
    (
        "partition/stages.py",
        "if end == last or stage < self._stages - 1:",
        ["stage < → stage <="],
        SPEED,
    ),
]
"""(module, line, what of it → what instead, why)."""


def changes() -> Iterator[tuple[str, str, str]]:
    """Module, line before and line after, as `Mutant.change` has them."""
    for module, line, edits, _ in EQUIVALENT:
        for edit in edits:
            before, _, after = edit.partition(" → ")
            yield module, line, line.replace(before, after, 1)
