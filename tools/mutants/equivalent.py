"""Mutants that no test can notice, because they do the same: (module, line before, line after, why)."""

EQUIVALENT: list[tuple[str, str, str, str]] = []
