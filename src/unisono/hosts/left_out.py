"""Why a host cannot go on with the others of its run, in a person's words."""

from __future__ import annotations

from pathlib import Path

from unisono.errors.failure import Failure
from unisono.hosts.heartbeat import Member
from unisono.hosts.place import Place
from unisono.hosts.shared_folder import how_to_go_on


def why_left_out(member: Member, place: Place, timeout: float, keeper: str | None, folder: Path) -> Failure | None:
    """The reason, if there is one.

    Args:
        member: the host as the others see it.
        place: where hosts meet.
        timeout: seconds after which a silent host is lost.
        keeper: the name of the host that keeps the run folder; None = nobody has to keep it in its place.
        folder: the run folder.
    """
    is_left_out = member.is_left_out  # asked first: whatever has left it out has its reason below by then
    if member.deserted and keeper is not None:
        return Failure(
            f"host {keeper}, which kept the run folder, is lost, and host {place.name} cannot go on in its place: it "
            f"does not see that folder. {how_to_go_on(folder)}"
        )
    if (why := member.is_cut_off()) is not None:
        return Failure(
            f"hosts go on only where they reach {place.address}:{place.port}, where it is decided who belongs to the "
            f"run; host {place.name} has lost it ({why}). {how_to_go_on(folder)}"
        )
    if member.refused is not None:
        return Failure(member.refused, usage=True)
    if member.unreachable is not None:
        others = " and ".join(f"host {name}" for name in member.unreachable)
        return Failure(
            f"every host must reach every other; host {place.name} and {others} do not reach each other, though both "
            f"reach {place.address}:{place.port}, and the run goes on without this host. Mend the network between "
            "them; to have this host again, stop the run and resume it on all."
        )
    if is_left_out:
        return Failure(
            f"host {place.name} was not heard of for {timeout:g} s, and the others went on without it. A longer "
            "--host-timeout bears longer silences."
        )
    return None
