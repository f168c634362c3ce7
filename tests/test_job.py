"""Jobs check themselves: each message gives the rule, what was received and the way out."""

from __future__ import annotations

import ast
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import jobs
import unisono.job
from unisono.errors import UsageError


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": nn.Linear(2, 2)}, "received a Linear instance"),
        ({"loss": 3}, "job.loss must be a function"),
        ({"data": iter([1])}, "integer indexing"),
        ({"data": []}, "empty"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"microbatches": -1}, "microbatches"),
        ({"epochs": 2}, "exactly one of epochs and steps; received epochs=2 and steps=6"),
        ({"steps": None}, "neither"),
        ({"seed": -1}, "seed"),
        ({"order": "random"}, "order"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"precision": "float16"}, "precision"),
        ({"metrics": {"f1": 3}}, r"metrics\['f1'\]"),
        ({"observers": [1]}, "observers"),
        ({"evaluation": iter([1])}, "evaluation"),
        ({"collate": 1}, "collate"),
        ({"stages": []}, r"job.stages must be a list of functions .* received \[\]"),
        ({"stages": [3]}, "job.stages must be a list of functions"),
        ({"split_points": "layers.1"}, "job.split_points must be a list of names"),
        ({"split_points": [1]}, "job.split_points must be a list of names"),
        ({"stages": [max], "split_points": ["layers.1"]}, "received split_points too"),
        ({"stages": [max], "forward": max}, "received forward too"),
    ],
)
def test_a_broken_field_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        jobs.make(**changes)


def test_every_field_is_documented_under_it() -> None:
    tree = ast.parse(Path(unisono.job.__file__).read_text())
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Job")
    documented = [
        ast.unparse(field.target)
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    ]
    assert documented == [field.name for field in fields(unisono.Job)]
