"""What other hosts leave where they meet: of the wanted kinds, or said and not believed."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hosts.host_processes import free_port
from unisono.errors import JobError
from unisono.frameworks.registry import framework
from unisono.hosts.coordinator import Coordinator
from unisono.hosts.heartbeat import Member
from unisono.hosts.meeting import Meeting
from unisono.hosts.place import Place
from unisono.hosts.sample_store import DataHost, SampleServer
from unisono.hosts.store import Store, StoreAddress
from unisono.hosts.terms import Term, exchange, latest_term
from unisono.settings import Settings
from unisono.values.untrusted import Malformed
from waiting import limit, until

HashStore = pytest.importorskip("torch.distributed").HashStore
HOSTILE = (b"[" * 10**5, b"\xff", b'{"host": 3}', b"[[]]", b'"\\u001b[2J"')
PLACE = Place(1, 2, "127.0.0.1", 1, False, "", "tests", "b")


@pytest.fixture
def store() -> Store:
    """One in this process."""
    made = Store.__new__(Store)
    made.raw = HashStore()
    return made


def begun(store: Store) -> Term:
    """A run's first term."""
    return exchange(store, None, Term(1, 1, "a", limit()))


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_of_another_kind_is_named_with_its_key(store: Store, value: bytes) -> None:
    store.raw.set("1/hello", value)
    for find in (lambda: store.find("1/hello"), lambda: store.find_all(["1/hello"])):
        with pytest.raises(Malformed, match="'1/hello', where hosts meet, is not what Unisono leaves there"):
            find()
    assert store.find("2/hello") is None


@pytest.mark.parametrize("key", ["call", "failure", "1/unreachable", "world/0"])
def test_a_host_that_hears_nonsense_says_so(store: Store, key: str) -> None:
    poked = threading.Event()
    hello = {"host": 1, "order": 0, "name": "b", "address": "127.0.0.1"}
    member = Member(store, begun(store), "b", hello, limit(), poked.set, lambda term: term, lambda: False)
    store.raw.set(f"1/{key}", b'{"host": 3}')
    store.within("1").count("news", 1)
    until(member.is_cut_off, "it says so")
    assert f"'{key}', where hosts meet" in str(member.is_cut_off())


def test_who_comes_later_is_not_left_out_by_a_generation_of_before(store: Store) -> None:
    term, within = begun(store), store.within("1")
    report = {"name": "a", "workers": 1, "rounds": 3, "digest": "", "account": "", "serves_data": False, "memory": {}}
    others = [{"number": 7, "latest": None, **report}]
    within.put("known/1", [7])
    within.put("world/1", others)
    within.announce("call", 1)
    hello = {"host": 1, "order": 1, "name": "b", "address": "127.0.0.1"}
    member = Member(store, term, "b", hello, limit(), lambda: None, lambda term: term, lambda: False)
    until(lambda: within.find(f"{member.number}/answer") == 1, "it has heard of the others")
    assert not member.is_left_out
    within.put("known/2", [7, member.number])
    within.put("world/2", others)
    within.announce("call", 2)
    until(lambda: member.is_left_out, "it is left out of one to which it had come")
    member.leave()


def test_who_decides_is_ended_by_no_host(store: Store) -> None:
    """One that names hosts which never came changes nothing; one that leaves nonsense ends the deciding."""
    term = begun(store)
    within = store.within("1")
    within.count("arrivals", 1)
    within.put("1/beat", 0)
    within.put("1/hello", {"host": 0, "order": 0, "name": "a", "address": "127.0.0.1"})
    within.put("broken/0/1", {"hosts": [1, 99], "by_new": False})
    coordinator = Coordinator(store, term, 2, limit())
    until(lambda: within.find("call"), "it decides")
    within.announce("1/answer", "nonsense")
    until(lambda: not coordinator._thread.is_alive(), "it ends in order")


def test_under_a_driver_host_0_decides_nothing() -> None:
    """Of two that decide in one term each takes the other's sign for a successor's, and stops."""
    driver = replace(PLACE, host=0, name="driver", port=free_port(), driven=True)
    served = Store(driver, driver.address, True, limit())
    term = exchange(served, None, Term(1, 1, "driver", limit()))
    coordinator = Coordinator(Store(driver, driver.address, False, limit()), term, 2, limit())
    meeting = Meeting(replace(driver, name="a"), Settings())
    try:
        meeting.come(lambda text: None)
        signs = latest_term(served)
        assert signs is not None
        until(lambda: (now := latest_term(served)) is not None and now.signs > signs.signs + 3, "the driver decides")
        assert coordinator._thread.is_alive()
    finally:
        assert coordinator.close(limit())


def test_a_run_folder_that_is_no_text(store: Store) -> None:
    meeting = Meeting(PLACE, Settings())
    meeting.store, meeting.term = store, Term(1, 1, "a", limit())
    store.put("1/beginning", {"folder": ["out"], "begun": "then"})
    with pytest.raises(JobError, match=r"host 0 says which run it is;.*must be a text"):
        meeting.beginning()


# -- samples -----------------------------------------------------------------------------------------------


@pytest.fixture
def data_host(store: Store, monkeypatch: pytest.MonkeyPatch) -> DataHost:
    monkeypatch.setattr(StoreAddress, "client", lambda address: store)
    return DataHost(StoreAddress(PLACE, "127.0.0.1", limit()), 1)


def answers(store: Store, *pieces: bytes) -> threading.Thread:
    """Answers one request for samples so."""

    def answer() -> None:
        until(lambda: store.raw.queue_len("data/wanted"), "it is asked")
        own = json.loads(store.raw.queue_pop("data/wanted"))["id"]
        for piece in pieces:
            store.raw.queue_push(f"data/given/{own}", piece)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


ABOUT = {"family": "pytorch", "training": 9, "evaluation": {}}


@pytest.mark.parametrize(("pieces", "text"), [
    *(((value,), "what came from there is not what was asked for") for value in HOSTILE[:3]),
    ((b'{"pieces": "2"}',), "must be a whole number"),
    ((b'{"pieces": 1}', b"nonsense"), "no length of what describes them"),
    ((b'{"pieces": 1}', b"\x0c\0\0\0\0\0\0\0" + b'["plain", 1]'), "not 1 samples"),
])  # fmt: skip
def test_what_comes_for_a_sample_is_checked(store: Store, data_host: DataHost, pieces: Any, text: str) -> None:
    store.put("data", ABOUT)
    data = data_host.training()
    assert len(data) == 9
    thread = answers(store, *pieces)
    with pytest.raises(JobError, match=f"the data lie on host 1; .*{text}"):
        data[0]
    thread.join()


@pytest.mark.parametrize("about", [[], {**ABOUT, "training": "9"}, {**ABOUT, "family": "os"}])
def test_what_there_is_of_data_is_checked(store: Store, data_host: DataHost, about: Any) -> None:
    store.put("data", about)
    with pytest.raises(JobError, match="the data lie on host 1; what came from there"):
        data_host.training()


def test_who_gives_samples_is_ended_by_no_request(store: Store, data_host: DataHost) -> None:
    datasets: Any = SimpleNamespace(training=[1.0, 2.0], evaluation={})
    server = SampleServer(store, 1, datasets, framework("pytorch"))
    requests = (*HOSTILE, b'{"id": "x", "data": ["other"], "indices": [0], "keys": null}',
                b'{"id": "y", "data": ["training"], "indices": [1], "keys": [1, 2]}')  # fmt: skip
    for wanted in requests:
        store.raw.queue_push("data/wanted", wanted)
    thread = threading.Thread(target=lambda: [server.answer_next() for _ in range(len(requests) + 2)])
    thread.start()
    assert data_host.training()[1] == 2.0
    with pytest.raises(JobError, match="sample -1 of 2 was asked for"):
        data_host.training().samples([-1], None)
    thread.join()
    for asked in "xy":
        assert "message" in json.loads(store.raw.queue_pop(f"data/given/{asked}"))
