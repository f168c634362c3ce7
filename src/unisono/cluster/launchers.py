"""Placeholder until the launchers' branch is merged."""

from __future__ import annotations

from collections.abc import Mapping

from unisono.cluster.place import Place


def place(environment: Mapping[str, str], hostname: str) -> Place | None:
    """What the environment of torchrun says."""
    e = environment
    if "RANK" not in e or e.get("WORLD_SIZE", "1") == "1":
        return None
    agent = e.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = int(e.get("TORCHELASTIC_RESTART_COUNT", "0"))
    rank = int(e["RANK"])
    return Place(
        rank, int(e["WORLD_SIZE"]), e["MASTER_ADDR"], int(e["MASTER_PORT"]), rank == 0 and not agent,
        f"unisono/{attempt}", "torchrun", attempt, e.get("NAME", f"{hostname}-{rank}"),
    )  # fmt: skip
