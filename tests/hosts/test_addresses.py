"""Where a machine is found: what is chosen of its addresses, whatever its own name is there."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import UsageError
from unisono.hosts.addresses import Machine, dialled, is_loopback, listening, own_address, resolved
from unisono.hosts.place import Place

LO = ["127.0.0.1", "::1"]
ONE = Machine({"lo": LO, "eth0": ["10.0.0.1", "fd00::1"]})
TWO = Machine({"lo": LO, "eth0": ["10.0.0.1"], "eth1": ["192.168.0.1"]})
ROUTED = Machine(TWO.interfaces, "192.168.0.1")
ALONE = Machine({"lo": LO})


def place(address: str, launcher: str = "torchrun") -> Place:
    return Place(0, 2, address, 29500, True, "", launcher, "a")


@pytest.mark.parametrize(("address", "named", "machine", "interface", "expected"), [
    ("a", ["10.0.0.1"], TWO, None, "10.0.0.1"),
    ("a", ["192.168.0.1", "10.0.0.1"], TWO, None, "192.168.0.1"),
    ("a", ["fd00::1", "10.0.0.1"], ONE, None, "fd00::1"),
    ("a", ["127.0.1.1"], ONE, None, "10.0.0.1"),  # what Debian writes
    ("a", ["127.0.1.1", "10.0.0.1"], ONE, None, "10.0.0.1"),
    ("a", ["127.0.1.1"], ROUTED, None, "192.168.0.1"),
    ("a", ["127.0.1.1"], TWO, "eth1", "192.168.0.1"),
    ("a", ["fd00::1"], ONE, "eth0", "fd00::1"),
    ("a", [], ONE, "eth0", "10.0.0.1"),
    ("a", ["10.9.9.9"], ONE, None, "10.0.0.1"),  # a service's, which leads here
    ("127.0.0.1", ["127.0.0.1"], ONE, None, "127.0.0.1"),
    ("localhost", ["::1", "127.0.0.1"], ONE, None, "::1"),
    ("localhost.localdomain", ["127.0.0.1"], ALONE, None, "127.0.0.1"),
    ("localhost", ["127.0.0.1"], ONE, "eth0", "10.0.0.1"),
])  # fmt: skip
def test_host_0_listens_where_others_look(
    address: str, named: list[str], machine: Machine, interface: str | None, expected: str
) -> None:
    assert listening(place(address), named, machine, interface) == expected


def test_a_first_pod_is_not_alone_though_its_address_is_localhost() -> None:
    assert listening(place("localhost", "Kubernetes"), ["127.0.0.1"], ONE, None) == "10.0.0.1"


@pytest.mark.parametrize("machine", [TWO, ALONE])
def test_what_cannot_be_known_is_refused(machine: Machine) -> None:
    for choose in (listening, dialled):
        with pytest.raises(UsageError, match=r"this one's name gives none.*--interface.*MASTER_ADDR"):
            choose(place("a"), ["127.0.1.1"], machine, None)


@pytest.mark.parametrize(("address", "named", "expected"), [
    ("a", ["10.0.0.9", "fd00::9"], ["10.0.0.9", "fd00::9"]),
    ("a", ["127.0.1.1"], ["10.0.0.1", "127.0.1.1"]),  # a second host of host 0's machine
    ("127.0.0.1", ["127.0.0.1"], ["127.0.0.1"]),
])  # fmt: skip
def test_hosts_look_where_host_0_listens(address: str, named: list[str], expected: list[str]) -> None:
    assert dialled(place(address), named, ONE, None) == expected


def test_an_interface_gives_the_address_of_the_stores_family() -> None:
    assert [own_address(found, ONE, "eth0") for found in ("10.0.0.9", "fd00::9")] == ["10.0.0.1", "fd00::1"]
    assert own_address("127.0.0.1", ONE, None) == "127.0.0.1"


def test_an_interface_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match=r"--interface names one of eth0, eth1, lo; received 'eth7'"):
        TWO.of("eth7")
    with pytest.raises(UsageError, match="'eth0' has none"):
        Machine({"eth0": []}).of("eth0")
    assert not any(address.startswith("fe80") for address in Machine.here().addresses)


def test_a_name_that_cannot_be_one() -> None:
    with pytest.raises(UsageError, match=r"a host's name or an IP address; received 'a\.\.b'"):
        resolved("a..b")
    assert resolved("127.0.0.1") == ["127.0.0.1"]


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
MACHINES = st.dictionaries(st.sampled_from(["eth0", "eth1", "ib0"]), st.lists(ADDRESSES, max_size=2), max_size=3)


@given(MACHINES, st.lists(ADDRESSES, max_size=3), st.data())
def test_others_look_in_vain_at_no_address_that_is_chosen(
    interfaces: dict[str, list[str]], named: list[str], data: st.DataObject
) -> None:
    """Whatever a machine has: an own address that others can look at, or a refusal."""
    every = [address for own in interfaces.values() for address in own]
    leaving = data.draw(st.sampled_from([None, *every]))
    machine = Machine({"lo": LO, **interfaces}, leaving)
    named = [*named, *data.draw(st.permutations(every)), *data.draw(st.permutations(LO))][
        : data.draw(st.integers(0, 5))
    ]
    try:
        found = listening(place("a"), named, machine, None)
    except UsageError:
        assert not any(address in every and not is_loopback(address) for address in named)
        return
    assert found in every
    assert not ipaddress.ip_address(found).is_loopback
    if not set(named) & set(every) and named and all(map(is_loopback, named)):
        assert dialled(place("a"), named, machine, None)[0] == found
