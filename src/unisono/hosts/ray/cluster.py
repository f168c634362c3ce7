"""Training on a Ray cluster: how much of it, and the way to it. Nothing but these files knows Ray."""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from unisono.errors import UsageError, way_to_install
from unisono.hosts.addresses import Machine
from unisono.hosts.place import Place
from unisono.settings import Ray, Settings

BUSY_SECONDS = 5.0
"""After so long a wait for resources a person is told."""

HEEDS_LABELS = (2, 50)
"""The first Ray that puts a bundle on the node that its label names; older ones take the label and may not."""


def imported() -> Any:
    """The package ray.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "training on a Ray cluster needs the package ray, which is not installed here. "
            f"Install it: {way_to_install('ray')}."
        ) from error
    return ray


def sized(cpus: Sequence[float], hosts: int | None, workers: int | None, threads: int) -> tuple[int, int]:
    """How many hosts, and how many workers on each. Where both are asked for, nodes may still be on their way.

    Args:
        cpus: of each node of the cluster.
        hosts, workers: what was asked for, or None.
        threads: of each worker.

    Raises:
        UsageError: the cluster has not got so much.

    >>> sized([8, 4, 4, 0], None, None, 1), sized([8, 4, 4], 1, None, 2), sized([8], None, 6, 1), sized([], 3, 4, 1)
    ((3, 4), (1, 4), (1, 6), (3, 4))
    """
    if hosts is not None and workers is not None:
        return hosts, workers
    have = sorted((int(count) for count in cpus if count >= 1), reverse=True)
    nodes = _listed(cpus)
    if hosts is not None and hosts > len(have):
        raise UsageError(
            f"a run has one host on each node with CPUs; received --hosts {hosts}, and the cluster has {len(have)} "
            f"such nodes (CPUs: {nodes}). Ask for fewer hosts, or add nodes: ray start --address=…"
        )
    least = (workers or 1) * threads
    able = [count for count in have if count >= least]
    wanted = hosts or len(able)
    if not able or wanted > len(able):
        raise UsageError(
            f"each host needs a node with {least} CPUs for {workers or 1} workers of {threads} threads; received "
            f"{wanted or 1} hosts, and {len(able)} nodes have so many (CPUs: {nodes}). Ask for fewer with "
            "--workers-per-host, --threads or --hosts."
        )
    return wanted, workers or able[wanted - 1] // threads


@contextmanager
def connected(settings: Ray) -> Iterator[Any]:
    """Ray, initialised; ended afterwards unless it was running before.

    Args:
        settings: which cluster.

    Raises:
        UsageError: there is no such cluster.
    """
    ray = imported()
    if ray.is_initialized():
        if settings.ship is not None or settings.address is not None:
            raise UsageError(
                f"this process is connected to Ray already, so received address={settings.address!r} and "
                f"ship={settings.ship!r} come too late. Give them to ray.init (working_dir of its runtime_env)."
            )
        yield ray
        return
    more: dict[str, Any] = {"log_to_driver": False}  # what hosts print comes by our own way, with their names
    if settings.ship is not None:
        more["runtime_env"] = {"working_dir": str(Path(settings.ship).resolve())}
    try:
        ray.init(address=settings.address, logging_level=logging.WARNING, **more)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"a Ray cluster must be reached; received {settings.address!r}: {str(error).splitlines()[0]} Start one "
            "with ray start --head, or name another with --address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _listed(cpus: Sequence[float]) -> str:
    return ", ".join(f"{count:g}" for count in sorted(cpus, reverse=True)) or "none"


def cpus_of(ray: Any) -> list[float]:
    """The CPUs of each living node."""
    return [float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def driver_node(ray: Any, cpus: int) -> str:
    """The node that the driver runs on, to be a host: it has the data.

    Args:
        ray: the package, connected.
        cpus: that a host needs.

    Raises:
        UsageError: it has not got them, or this Ray cannot promise the node.
    """
    if tuple(map(int, ray.__version__.split(".")[:2])) < HEEDS_LABELS:
        raise UsageError(
            "data_host on Ray takes Ray >= 2.50, which puts that host on the driver's node; received Ray "
            f"{ray.__version__}. Upgrade Ray on every node, or leave data_host away: then each host reads the data."
        )
    own = str(ray.get_runtime_context().get_node_id())
    has = next((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == own), 0)
    if has < cpus:
        raise UsageError(
            f"on Ray the data host is the node that the driver runs on; it has {has:g} CPUs, and each host needs {cpus}"
            ". Start the driver on a node with so many, or ask for fewer with --workers-per-host."
        )
    return own


@contextmanager
def reserved(
    name: str, hosts: int, cpus: int, nodes: Mapping[int, str], message: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> Iterator[Any | None]:  # fmt: skip
    """A placement group with a bundle on a node of its own for each host; None where the wait was interrupted.

    Args:
        name: of the group, as Ray's dashboard shows it.
        hosts: bundles.
        cpus: of each.
        nodes: host → the node that it must be on.
        message: says what a person should know.
        interrupted: looked at while waiting.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    named = [{"ray.io/node-id": nodes[host]} if host in nodes else {} for host in range(hosts)]
    labels = {"bundle_label_selector": named} if nodes else {}
    group = placement_group([{"CPU": cpus}] * hosts, strategy="STRICT_SPREAD", name=name, **labels)
    try:
        waited = 0
        while not (is_there := group.wait(timeout_seconds=1)) and not interrupted():
            waited += 1
            if waited == BUSY_SECONDS:
                message(
                    f"Ray has not got {hosts} nodes with {cpus} free CPUs each yet; waiting for them "
                    f"(CPUs of its nodes: {_listed(cpus_of(imported()))})"
                )
        yield group if is_there else None
    finally:
        remove_placement_group(group)


def meeting_place(ray: Any, run: str, hosts: int, settings: Settings) -> Place:
    """Where the hosts of a new run meet: at this process.

    Args:
        ray: the package, connected.
        run: what people call the run.
        hosts: how many.
        settings: of the run.

    Raises:
        UsageError: none of them is free.
    """
    address = str(ray.util.get_node_ip_address())
    prefix = f"unisono/{run}-{uuid.uuid4().hex[:12]}"
    place = Place(0, hosts, address, 0, False, prefix, "Ray", "driver", driven=True)
    if settings.interface is not None:
        address = Machine.here().of(settings.interface)[0]
    for port in settings.open_ports or [0]:
        with (
            suppress(OSError),
            socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as free,
        ):
            return replace(place, address=address, port=free.getsockname()[1])
    raise UsageError(f"hosts meet at a port of {address}, and none of --ports is free there. Give others.")
