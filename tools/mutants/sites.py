"""Every small mistake that a module can hold: an edit of its source a mutant."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

COMPARED = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
COMPUTED = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.BitOr: ("|", "&"), ast.BitAnd: ("&", "|"), ast.BitXor: ("^", "&"), ast.MatMult: ("@", "*"),
}  # fmt: skip
RENAMED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
SYMMETRIC = {"min", "max", "isinstance"}
"""Functions whose arguments may be swapped, or where that is no mistake anybody makes."""
UNTOUCHED = {"strict", "repr"}
"""Keyword arguments that say what must hold, or how something is shown."""


@dataclass(frozen=True)
class Mutant:
    """Bytes start…stop of a module's source replaced by others.

    Attributes:
        module: its path.
        source: its whole source.
        function: where in it the mutant is.
        start, stop: what is replaced.
        text: by what.
    """

    module: str
    source: bytes
    function: str
    start: int
    stop: int
    text: bytes

    @property
    def mutated(self) -> bytes:
        """The source with the mistake."""
        return self.source[: self.start] + self.text + self.source[self.stop :]

    @property
    def line(self) -> int:
        """Where it is, counted from 1."""
        return self.source.count(b"\n", 0, self.start) + 1

    @property
    def change(self) -> tuple[str, str]:
        """The lines in question before and after, in one line each: what a mutant is known by when lines have moved."""
        first = self.source.rfind(b"\n", 0, self.start) + 1
        end = self.source.find(b"\n", self.stop)
        last = len(self.source) if end < 0 else end
        before = self.source[first:last]
        after = self.source[first : self.start] + self.text + self.source[self.stop : last]
        return " ".join(before.decode().split()), " ".join(after.decode().split())


def mutants(module: str, source: bytes) -> list[Mutant]:
    """All mutants of a module that are still Python and not the same program.

    >>> [mutant.change[1] for mutant in mutants("m.py", b"def f(a):\\n    return a < 1\\n")]
    ['return not (a < 1)', 'return a <= 1', 'return a < 2', 'return a < 0']
    """
    found = (Mutant(module, source, *edit) for edit in dict.fromkeys(_Sites(source).of(ast.parse(source), "")))
    return [mutant for mutant in found if mutant.mutated != source and _is_python(mutant.mutated)]


def _is_python(source: bytes) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


Edit = tuple[str, int, int, bytes]
"""Function, first byte, the one after the last, new bytes."""


class _Sites:
    """Edits of one source. Messages, annotations, decorators and assertions are left as they are."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0, *(match.end() for match in re.finditer(b"\n", source))]

    def of(self, node: ast.AST, function: str) -> Iterator[Edit]:
        """The edits of a node and of those below it."""
        if isinstance(node, ast.Raise):
            yield function, *self._span(node), b"pass"
            return
        if isinstance(node, ast.FunctionDef) and node.name != "__repr__":
            function = f"{function}.{node.name}".lstrip(".")
            below = [*node.args.defaults, *(d for d in node.args.kw_defaults if d), *_without_docstring(node.body)]
        elif isinstance(node, ast.ClassDef):
            function, below = node.name, _without_docstring(node.body)
        elif isinstance(node, ast.AnnAssign):
            below = [node.value] if node.value else []
        elif isinstance(node, ast.FunctionDef | ast.Assert | ast.JoinedStr) or _is_alias(node, function):
            return
        else:
            below = _without_docstring(list(ast.iter_child_nodes(node)))
        for start, stop, text in self._own(node):
            yield function, start, stop, text
        for child in below:
            if not (isinstance(child, ast.keyword) and child.arg in UNTOUCHED):
                yield from self.of(child, function)

    def _own(self, node: ast.AST) -> Iterator[tuple[int, int, bytes]]:
        match node:
            case ast.Compare(left=left, ops=operators, comparators=others):
                operands = [left, *others]
                for index, operator in enumerate(operators):
                    yield from self._between(operands[index], operands[index + 1], *COMPARED[type(operator)])
            case ast.BinOp(left=left, op=operator, right=right):
                yield from self._between(left, right, *COMPUTED[type(operator)])
            case ast.BoolOp(op=operator, values=values):
                signs = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
                for left, right in pairwise(values):
                    yield from self._between(left, right, *signs)
                    yield self._stop(left), self._stop(right), b""
                yield self._start(values[0]), self._start(values[1]), b""
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield self._start(node), self._start(operand), b""
            case ast.Constant(value=bool(value)):
                yield *self._span(node), str(not value).encode()
            case ast.Constant(value=int(value)):
                yield *self._span(node), str(value + 1).encode()
                yield *self._span(node), str(value - 1).encode()
            case ast.Constant(value=float(value)):
                yield *self._span(node), str(2 * value or 1.0).encode()
            case ast.If(test=test) | ast.IfExp(test=test):
                yield from self._negated(test)
            case ast.comprehension(ifs=tests):
                for test in tests:
                    yield from self._negated(test)
            case ast.Return(value=ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()) as value):
                yield from self._negated(value)
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield *self._span(value), b"None"
            case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Continue():
                yield *self._span(node), b"pass"
            case ast.Break():
                yield *self._span(node), b"continue"
            case ast.AugAssign(target=target, op=operator, value=value):
                sign, other = COMPUTED[type(operator)]
                yield *self._span(node), b"pass"
                yield from self._between(target, value, f"{sign}=", f"{other}=")
                yield from self._between(target, value, f"{sign}=", "=")
            case ast.Slice(lower=lower, upper=upper):
                yield from ((*self._span(bound), b"") for bound in (lower, upper) if bound is not None)
            case ast.Call(func=ast.Name(id=name) as called) if name in RENAMED and not node.keywords:
                yield *self._span(called), RENAMED[name].encode()
            case ast.Call(func=ast.Name(id=name)) if name in SYMMETRIC:
                pass
            case ast.Call(args=arguments) if not any(isinstance(argument, ast.Starred) for argument in arguments):
                for first, second in pairwise(arguments):
                    between = self._source[self._stop(first) : self._start(second)]
                    yield self._start(first), self._stop(second), self._text(second) + between + self._text(first)

    def _negated(self, test: ast.expr) -> Iterator[tuple[int, int, bytes]]:
        """The opposite, unless another mutant is just that."""
        match test:
            case ast.Compare(ops=[ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE()]):
                again = False
            case _:
                again = isinstance(test, ast.UnaryOp) or (isinstance(test, ast.Compare) and len(test.ops) == 1)
        if not again:
            yield *self._span(test), b"not (" + self._text(test) + b")"

    def _between(self, left: ast.expr, right: ast.expr, sign: str, other: str) -> Iterator[tuple[int, int, bytes]]:
        """An operator's sign replaced, with whatever parentheses are around it."""
        start, stop = self._stop(left), self._start(right)
        at = self._source.find(sign.encode(), start, stop)
        if at >= 0:
            yield at, at + len(sign), other.encode()

    def _start(self, node: ast.AST) -> int:
        return self._lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined, no-any-return]

    def _stop(self, node: ast.AST) -> int:
        return self._lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined, no-any-return]

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return self._start(node), self._stop(node)

    def _text(self, node: ast.AST) -> bytes:
        return self._source[slice(*self._span(node))]


def _without_docstring(body: Iterable[ast.AST]) -> list[ast.AST]:
    return [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]


def _is_alias(node: ast.AST, function: str) -> bool:
    """Whether this is a module's name for types, `A | B`."""
    match node:
        case ast.Assign(value=ast.BinOp(op=ast.BitOr())):
            return not function
        case _:
            return False
