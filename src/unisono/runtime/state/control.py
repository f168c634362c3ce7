"""The words by which processes of a host speak to each other, besides those of `runtime/rules/plan.py`."""

from __future__ import annotations

HANDED = ("forwarded", "returned")
"""Words of how many microbatches a stage has handed to the next one and to the one before."""


class Control:
    """Words by which the supervisor speaks to the workers."""

    STOP = 0  # not 0: the next plan says stop; with several hosts why (see `Shutdown.word`)
    DRAINED = 1  # rounds whose records were read
    COPIED = 2  # rounds whose copy was made
    ASKED = 3  # copies asked for so far
    DEATHS = 4  # heirs named so far
    END = 5  # rounds − 1 … : the run ends at the copy of this round minus one
    SEATS = 6  # how many seats there are
    EXCHANGED = 7  # rounds whose sums over all hosts are here
    WHOLE = 8  # 1: sums may not be sent to other hosts before they are whole
    ENDED = 9  # the last generation of replicas that was ended
    GENERATION = 10  # the present one
    SERVED = 11  # how many of the copies asked for were made of replicas
    COUNT = 12
