"""What a library has noted outside a model as it was made: a copy that has travelled was not made there."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import nn


def note(modules: Sequence[nn.Module]) -> None:
    """Have Transformers know of a copy what its models can give beside their outputs (hidden states, attentions, router
    logits): without that a model that is asked for them gives None.

    Args:
        modules: the copy's.
    """
    library = sys.modules.get("transformers.modeling_utils")
    known = getattr(library, "_CAN_RECORD_REGISTRY", None)
    if isinstance(known, dict):
        for module in modules:
            if hasattr(module, "_can_record_outputs"):
                dict.__setitem__(known, str(type(module)), module._can_record_outputs)
