"""Disturbs Unisono in every way that this folder knows, and counts how often it does what docs/reliability.md says.

    make campaign SEED=1 N=300
    make campaign TRIAL=damage/1/7

makes so many trials, spread over the kinds; or one again.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from reliability.campaign import KINDS, Score, count_of, names, tried
from reliability.place import Grounds


def main(arguments: list[str]) -> int:
    """Draw, try, tell; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS))
    parser.add_argument("--trial")
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    kinds = options.kinds or list(KINDS)
    chosen = [name for kind in kinds for name in names(kind, seed, count_of(kind, options.count))]
    scores: dict[str, Score] = {}
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as folder:
        grounds = Grounds(Path(folder) / "grounds")
        for name in [options.trial] if options.trial else chosen:
            score = scores.setdefault(name.partition("/")[0], Score())
            print(tried(name, grounds, score), flush=True)
        grounds.close()
    wrong = [text.partition(": ")[0] for score in scores.values() for text in score.wrong]
    print(f"\nwrong: {' '.join(wrong) or 'nothing'}; make campaign TRIAL=… makes one again\n")
    for kind, score in scores.items():
        print(f"{kind:13} {score}")
    print(f"{'all':13} {sum(s.right for s in scores.values())} of {sum(s.tried for s in scores.values())} right")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
