"""Whether workers are worth what they cost: a rule on times that were measured."""

from __future__ import annotations

_SMALL_SECONDS = 0.05
"""A call that takes longer is not too small, whatever else keeps the machine busy."""


def too_small(calls: int, shared: float, alone: float, larger: int) -> str:
    """What to say of a model whose calls take longer by workers than in the script; empty where they do not.

    Args:
        calls: how many were measured.
        shared: seconds that the script has waited for them and for their backward passes.
        alone: seconds for which workers have computed them, all together: as long as one process takes.
        larger: a number of samples that none of these calls had.

    >>> too_small(10, 0.09, 0.05, 33)
    'this model is too small to share: 5.0 ms alone, 9.0 shared; smallest=33 or workers=0: the script computes itself.'
    >>> too_small(10, 0.05, 0.09, 33), too_small(10, 9.0, 5.0, 33)
    ('', '')
    """
    if alone >= shared or shared > calls * _SMALL_SECONDS:
        return ""
    return (
        f"this model is too small to share: {1e3 * alone / calls:.1f} ms alone, {1e3 * shared / calls:.1f} shared; "
        f"smallest={larger} or workers=0: the script computes itself."
    )
