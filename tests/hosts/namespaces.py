"""Network namespaces that stand in for hosts: a cable from each to one switch, to be cut, mended, limited and counted.

    with Network(hosts=2) as network:
        process = network.popen(1, ["python3", "-c", "print('on host 1')"])

The switch, a bridge, lies in a namespace of its own, so nothing of this machine's own network changes. It takes root
and the command `ip` (Debian's package iproute2).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from hosts import delay
from waiting import until

INTERFACE = "eth0"
"""What every host calls its end of the cable."""

NOBODY = "02:00:00:00:00:00"
"""A hardware address that no host has."""

CONGESTION_CONTROL = "reno"
# A new namespace takes over this machine's choice, which may be anything. Reno is always allowed, and within a
# millisecond's reach cubic, the usual one, behaves like it.

BURST_SECONDS, LEAST_BURST_BYTES = 1e-4, 128 << 10
# What a limited cable may carry at once: more than a segment of 64 KiB, which would be cut up; little beside a message.
QUEUE_SECONDS = 0.05

JANITOR = """
read -r _
for name in "$@"; do
    while left=$(ip netns pids "$name") && [ -n "$left" ]; do
        kill -9 $left
    done
    ip netns delete "$name"
    rm -rf "/etc/netns/$name"
done
"""
# Waits for a line or for its owner's death, whichever comes first: a crashed test leaves nothing either.


class Unavailable(RuntimeError):
    """Namespaces can't be made here."""


class Network:
    """Hosts 0, 1, … on one switch.

    Args:
        hosts: how many.

    Raises:
        Unavailable: not root, no `ip`, or the kernel refuses.
    """

    def __init__(self, hosts: int = 2) -> None:
        if os.geteuid():
            raise Unavailable("network namespaces take root")
        if not (shutil.which("ip") and shutil.which("tc")):
            raise Unavailable("network namespaces take the commands ip and tc (Debian's package iproute2)")
        self.hosts = hosts
        stem = f"unisono-{os.getpid()}-{secrets.token_hex(3)}"
        self._switch = f"{stem}-switch"
        self._names = [f"{stem}-{host}" for host in range(hosts)]
        self._limited = False
        self._started: list[subprocess.Popen[Any]] = []
        self._janitor: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["sh", "-c", JANITOR, "janitor", self._switch, *self._names],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self._lay_cables()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, host: int) -> str:
        """A host's IP address; every network has the same ones, as no two meet."""
        return f"10.77.0.{host + 1}"

    def command(self, host: int, argv: Sequence[object]) -> list[str]:
        """The command that runs `argv` on a host; it becomes that program, so its process id is the program's."""
        return ["ip", "netns", "exec", self._names[host], *map(str, argv)]

    def popen(self, host: int, argv: Sequence[object], **options: Any) -> subprocess.Popen[Any]:
        """Start a program on a host, with `subprocess.Popen`'s options; it ends with the network at the latest."""
        process = subprocess.Popen(self.command(host, argv), **options)
        self._started.append(process)
        # Else the janitor might not find it.
        until(lambda: process.poll() is not None or self._holds(host, process.pid), f"{argv} begins on host {host}")
        return process

    def _holds(self, host: int, process: int) -> bool:
        with suppress(OSError):  # it has ended
            return Path(f"/proc/{process}/ns/net").samefile(f"/run/netns/{self._names[host]}")
        return False

    def names(self, host: int, **addresses: str) -> None:
        """What a host's /etc/hosts says, for programs that are started there and those that run: name=address."""
        folder = Path("/etc/netns") / self._names[host]
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **addresses}.items()]
        (folder / "hosts").write_text("".join(lines))  # in its place: it is mounted

    def second_interface(self) -> None:
        """Give every host one more, eth1."""
        for host, name in enumerate(self._names):
            self._ip(self._switch, f"link add second{host} type veth peer name eth1 netns {name}",
                     f"link set second{host} master bridge up")  # fmt: skip
            self._ip(name, f"address add {self.second_address(host)}/24 dev eth1", "link set eth1 up")

    def second_address(self, host: int) -> str:
        """A host's address on its second interface."""
        return f"192.168.77.{host + 1}"

    def ipv6(self, only: bool = False) -> None:
        """Give every host an IPv6 address besides its other one, or instead of it."""
        for host, name in enumerate(self._names):
            self._ip(name, f"address add {self.ipv6_address(host)}/64 dev {INTERFACE} nodad")
            if only:
                self._ip(name, f"address delete {self.address(host)}/24 dev {INTERFACE}")

    def ipv6_address(self, host: int) -> str:
        """A host's IPv6 address, once it has one."""
        return f"fd77::{host + 1}"

    def cut(self, host: int) -> None:
        """From now on a host's packets vanish, both ways; nobody is told."""
        # The port leaves the bridge for a namespace that has no address. Its link stays up, as behind a broken switch.
        self._ip(self._switch, f"link set {_port(host)} nomaster")

    def mend(self, host: int) -> None:
        """Undo `cut`."""
        self._ip(self._switch, f"link set {_port(host)} master bridge up")

    def tear(self, one: int, other: int) -> None:
        """From now on what two hosts send to each other vanishes; they reach all others still, and nobody is told."""
        for here, there in ((one, other), (other, one)):
            astray = f"neighbour replace {self.address(there)} lladdr {NOBODY} dev {INTERFACE} nud permanent"
            self._ip(self._names[here], astray)

    def limit(self, bits_per_second: float | None) -> None:
        """Limit every cable to so many bits a second in each direction; None: as fast as the processor copies."""
        for host, name in enumerate(self._names):
            for where, interface in ((name, INTERFACE), (self._switch, _port(host))):
                root = ["tc", "-n", where, "qdisc", "replace", "dev", interface, "root"]
                if bits_per_second is not None:
                    burst = max(LEAST_BURST_BYTES, int(bits_per_second / 8 * BURST_SECONDS))
                    latency = f"{1e3 * QUEUE_SECONDS:.0f}ms"
                    rate = f"{bits_per_second:.0f}bit"
                    _run([*root, "tbf", "rate", rate, "burst", str(burst), "latency", latency])
                elif self._limited:
                    _run([*root, "noqueue"])
        self._limited = bits_per_second is not None

    def delay(self, seconds: float) -> None:
        """Have every packet between hosts take so much longer; a host can be cut no more."""
        for host in range(self.hosts):
            self.cut(host)  # they are on another switch now
        argv = [sys.executable, delay.__file__, str(seconds), *map(_port, range(self.hosts))]
        process = subprocess.Popen(["ip", "netns", "exec", self._switch, *argv], stdout=subprocess.PIPE)
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

    def round_trips(self, host: int) -> list[float]:
        """The shortest of each connection that a host has to another, in milliseconds, as its kernel has measured."""
        shown = _run(self.command(host, ["ss", "-Htin", "src", f"{self.address(host)}/32"]))
        return [float(each) for each in re.findall(r"\bminrtt:([\d.]+)", shown)]

    def sent(self, host: int) -> int:
        """Bytes that have left a host: its interface's counter, so with headers, though one for several packets."""
        return self._counter(host, "tx")

    def received(self, host: int) -> int:
        """Bytes that have reached a host."""
        return self._counter(host, "rx")

    def processes(self, host: int) -> list[int]:
        """The processes that run on a host."""
        return [int(pid) for pid in _run(["ip", "netns", "pids", self._names[host]]).split()]

    def kill(self, host: int) -> None:
        """SIGKILL to every process on a host, until there are none; its cable and address remain."""

        def emptied() -> bool:
            left = self.processes(host)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        until(emptied, f"host {host} is empty")

    def close(self) -> None:
        """Kill everything on every host and take the network down; a second time does nothing."""
        janitor, self._janitor = self._janitor, None
        if janitor is None:
            return
        janitor.communicate(b"\n")
        for process in self._started:
            with process:
                process.kill()

    def _lay_cables(self) -> None:
        for name in (self._switch, *self._names):
            _run(["ip", "netns", "add", name])
            self._ip(name, "link set lo up")
        self._ip(self._switch, "link add bridge type bridge", "link set bridge up")
        for host, name in enumerate(self._names):
            cable = f"link add {_port(host)} type veth peer name {INTERFACE} address {_hardware(host)} netns {name}"
            self._ip(self._switch, cable)
            # Neighbours are known for good: else a cut would soon be noticed, as nobody answers who has an address.
            known = [
                f"neighbour add {self.address(other)} lladdr {_hardware(other)} dev {INTERFACE} nud permanent"
                for other in range(self.hosts) if other != host
            ]  # fmt: skip
            self._ip(name, f"address add {self.address(host)}/24 dev {INTERFACE}", f"link set {INTERFACE} up", *known)
            self.mend(host)
            setting = "/proc/sys/net/ipv4/tcp_congestion_control"
            _run(self.command(host, ["sh", "-c", f"echo {CONGESTION_CONTROL} > {setting}"]))

    def _ip(self, name: str, *commands: str) -> None:
        _run(["ip", "-n", name, "-batch", "-"], "\n".join(commands) + "\n")

    def _counter(self, host: int, way: str) -> int:
        shown = _run(["ip", "-n", self._names[host], "-json", "-stats", "link", "show", INTERFACE])
        return int(json.loads(shown)[0]["stats64"][way]["bytes"])


def leftovers(owner: int | None = None) -> list[str]:
    """Namespaces that a process, this one unless told, has made and that are still there."""
    return [path.name for path in Path("/run/netns").glob(f"unisono-{owner or os.getpid()}-*")]


def _port(host: int) -> str:
    return f"port{host}"


def _hardware(host: int) -> str:
    return f"02:00:00:00:00:{host + 1:02x}"


def _run(argv: Sequence[str], text: str = "") -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} failed: {done.stderr.strip() or done.stdout.strip()}\n{text}".rstrip())
    return done.stdout
