"""Whose state the hosts of a generation go on from, and why they do not."""

from __future__ import annotations

from typing import Any

from unisono.hosts.generation import Generation


def host(name: str, rounds: int, digest: str = "", serves_data: bool = False) -> dict[str, Any]:
    return {"name": name, "rounds": rounds, "digest": digest, "serves_data": serves_data}


def generation(*hosts: dict[str, Any]) -> Generation:
    return Generation((1, 1), hosts, 0)


def test_who_is_behind_or_has_another_state_gets_the_first_furthest_host_s() -> None:
    found = generation(host("a", 3, "x"), host("b", 4, "y"), host("c", 4, "y"), host("d", -1))
    assert (found.source, found.receivers) == (1, (0, 3))
    begun = generation(host("a", 0, "x"), host("b", 0, "y"))
    assert (begun.source, begun.receivers) == (0, (1,)), "first values are host 0's"


def test_why_they_do_not_go_on() -> None:
    def why(most: int, data_host: int | None, *hosts: dict[str, Any]) -> tuple[str, bool]:
        reason = generation(*hosts).misfit(most, data_host)
        assert reason is not None
        return reason.message.partition(";")[0].partition(",")[0], reason.usage

    assert generation(host("a", 0), host("b", 0)).misfit(2, None) is None
    assert why(9, None, host("a", 3, "x"), host("b", 3, "y"))[1], "the bits differ"
    assert why(9, 2, host("a", 0), host("b", 0)) == ("the data lie on host 2", False)
    assert generation(host("a", 0), host("b", 0, serves_data=True)).misfit(2, 1) is None
    assert why(1, None, host("a", 0), host("b", 0)) == ("every host needs a microbatch", True)
    assert why(9, None, host("a", -1), host("b", -1))[0].startswith("no host has a whole state")
