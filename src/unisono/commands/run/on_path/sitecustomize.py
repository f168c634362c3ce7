"""What Python imports first in every process of a script that `unisono run` has started, children included."""

from __future__ import annotations

import os
import random
import sys
from contextlib import suppress
from pathlib import Path


def _prepare() -> None:
    from unisono.scripts.after_import import after_import

    after_import("torch", _prepare_torch)
    if "UNISONO_HASHES" in os.environ:  # runs are compared: what the script does not seed begins alike
        random.seed(0)
        after_import("numpy", lambda: sys.modules["numpy"].random.seed(0))
        after_import("torch", lambda: sys.modules["torch"].manual_seed(0))


def _prepare_torch() -> None:
    from unisono.scripts.pytorch.one_rank.install import install

    install()


def _import_the_hidden_one() -> None:
    """The `sitecustomize` that this one hides, if there is one."""
    here, path = str(Path(__file__).parent), sys.path[:]
    sys.path[:] = [folder for folder in path if folder != here]
    own = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found] # noqa: F401
    except ModuleNotFoundError:
        sys.modules["sitecustomize"] = own
    finally:
        sys.path[:] = path


with suppress(ModuleNotFoundError):  # another Python, which the script has started
    _prepare()
_import_the_hidden_one()
