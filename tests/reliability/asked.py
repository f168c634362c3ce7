"""What Python code asks a run: `asked status FOLDER`, `asked model FOLDER best`; errors end as the command's do."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

from unisono.errors import UnisonoError


def main() -> None:
    """Print the answer."""
    try:
        print(_answer(*sys.argv[1:]))
    except UnisonoError as error:
        print(f"unisono: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def _answer(what: str, folder: str, which: str = "final") -> str:
    import unisono
    from reliability import work

    if what == "decoded":
        from unisono.frameworks.pytorch.data import Data
        from unisono.hosts.sample_bytes import decoded
        from unisono.values.untrusted import Malformed

        try:
            return repr(decoded(Path(folder).read_bytes(), Data()))
        except Malformed as error:
            return f"refused: {error}"
    run = unisono.open(folder, work.job())
    if what == "status":
        return run.status
    state = run.model(which).state_dict()
    return sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
