"""The one thing in which two hosts differ that are to train together, in a person's words; pure.

Each host leaves an account of what it would compute, and of what: `ACCOUNT`. They must agree in their code, their job,
their data and their results. What else is in an account (variables, the processor) only explains why results are
others: equal results are demanded, not equal machines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from unisono.values.text import excerpt, printable
from unisono.values.untrusted import Maybe

ACCOUNT = {
    "code": {str: [str]},
    "job": dict,
    "numerics": {str: str},
    "data host": Maybe(int),
    "data": {str: {"length": int, "samples": {str: str}}},
    "probe": {str: str},
    "arguments": dict,
    "machine": {str: str},
}
"""What a host leaves, as `check` says it."""

MOST_NAMED = 5
"""Files, or flags of a processor, that a message names."""

Account = Mapping[str, Any]


def difference(first: Account, other: Account, names: tuple[str, str]) -> str | None:
    """Why two hosts cannot train together, or None.

    Args:
        first, other: what they left.
        names: theirs.

    >>> one, two = ({"code": {"job.py": [f"/{folder}/job.py", digest]}} for folder, digest in ("x1", "y2"))
    >>> difference(one, two, ("a", "b")).split(". ")[0]
    "hosts must run the same code; job.py differs: host 'b' has 2 (/y/job.py), host 'a' has 1 (/x/job.py)"
    """
    found = next(_differences(first, other, names), None)
    return None if found is None else printable(found)


def account_digest(account: Account) -> str:
    """Equal digests are equal accounts: only where they differ accounts are fetched."""
    return blake2b(json.dumps(account, sort_keys=True).encode(), digest_size=16).hexdigest()


def _differences(first: Account, other: Account, names: tuple[str, str]) -> Iterator[str]:
    """All of them, the most telling ones first; an account may hold less than others do."""
    for text in _code(first["code"], other["code"], names):
        yield f"hosts must run the same code; {text}. Bring the same files to all."
    for where, old, new in leaves("", first["job"], other["job"]):
        yield f"hosts must train the same job; {_both(where, old, new, names)}."
    for _, old, new in leaves("", first.get("data host"), other.get("data host")):
        yield f"hosts must take the data from the same host; {_both('--data-host', old, new, names)}."
    for where, old, new in leaves("", first["numerics"], other["numerics"]):
        yield f"hosts must compute with the same numerics; {_both(where, old, new, names)}."
    for name in {**first["data"], **other["data"]}:
        for text in _data(name, first["data"].get(name), other["data"].get(name), names):
            yield f"hosts must have the same data; {text}."
    for name, digest in first["probe"].items():
        if other["probe"].get(name, digest) != digest:
            yield (
                f"hosts must compute the same; {name} in one microbatch differs between host {names[1]!r} and host "
                f"{names[0]!r}, though all files and data that both have agree: {_why(first, other, names)}. These two "
                "hosts cannot give one result; make them alike, or leave one out."
            )


def _both(what: str, first: Any, other: Any, names: tuple[str, str]) -> str:
    return f"{what}: {_has(names[1], other)}, {_has(names[0], first)}"


def _has(name: str, value: Any) -> str:
    return f"host {name!r} has {value if isinstance(value, str) else excerpt(value)}"


def _code(first: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> Iterator[str]:
    """Only what both have imported is compared: what is imported may depend on the host, what it gives may not."""
    for file, (path, digest) in first.items():
        path_there, digest_there = other.get(file, (path, digest))
        if digest_there != digest:
            yield _both(f"{file} differs", f"{digest} ({path})", f"{digest_there} ({path_there})", names)


def leaves(where: str, first: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """The innermost places in which two values of JSON differ, with what stands there.

    >>> list(leaves("", {"seed": 0, "groups": [{"lr": 0.1}]}, {"seed": 0, "groups": [{"lr": 0.2}]}))
    [('groups 0 lr', 0.1, 0.2)]
    """
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        for name in {**first, **other}:
            yield from leaves(f"{where} {name}".strip(), first.get(name), other.get(name))
    elif isinstance(first, list) and isinstance(other, list) and len(first) == len(other):
        for place, (old, new) in enumerate(zip(first, other, strict=True)):
            yield from leaves(f"{where} {place}".strip(), old, new)
    elif first != other:
        yield where, first, other


def _data(data: str, one: Account | None, two: Account | None, names: tuple[str, str]) -> Iterator[str]:
    """In what two sets differ."""
    if one is None or two is None:
        has, lacks = names if two is None else names[::-1]
        yield f"host {has!r} has {data}, host {lacks!r} has none"
        return
    if one["length"] != two["length"]:
        old, new = (f"{each['length']:,} samples" for each in (one, two))
        yield _both(f"{data} differ", old, new, names)
    looked_at = sorted(one["samples"].keys() & two["samples"].keys(), key=int)
    for index in looked_at:
        if one["samples"][index] != two["samples"][index]:
            yield (
                f"{data} of host {names[1]!r} and of host {names[0]!r} differ: sample {index} is the first that does, "
                f"of {len(looked_at)} that were looked at"
            )


def _why(first: Account, other: Account, names: tuple[str, str]) -> str:
    """What may be the reason."""
    files = first["code"].keys(), other["code"].keys()
    found = [
        f"files that only host {name!r} has ({', '.join(sorted(only)[:MOST_NAMED])})"
        for name, only in zip(names, (files[0] - files[1], files[1] - files[0]), strict=True) if only
    ]  # fmt: skip
    for kind, differences in (
        ("arguments", leaves("", first["arguments"], other["arguments"])),
        ("kernels", _machines(first["machine"], other["machine"])),
    ):
        found += [f"other {kind} ({_both(where, old, new, names)})" for where, old, new in differences]
    return ", ".join(found) or "the code reads something else that differs, or libraries do"


def _machines(first: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Name, value and value of what libraries may choose their kernels by."""
    for name in {**first, **other}:
        old, new = first.get(name, "none"), other.get(name, "none")
        if name == "CPU flags":
            old, new = (_only(one, two) for one, two in ((old, new), (new, old)))
        if old != new:
            yield name, old, new


def _only(one: str, other: str) -> str:
    """Some of the words that only one has.

    >>> _only("avx avx2 fma", "avx"), _only("avx", "avx fma")
    ('avx2 fma', 'fewer')
    """
    return " ".join(sorted(set(one.split()) - set(other.split()))[:MOST_NAMED]) or "fewer"
