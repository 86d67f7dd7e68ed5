"""The ordering rules under load: real clients that must never see a torn or stale state, and the byte stream itself.

For each connection:
  R1  an invalidation for a transaction comes before any reply that shows it;
  R2  no reply from before a transaction comes after the invalidation for it;
  R3  who commits gets the tid as a reply, no invalidation for it, and that reply before any later invalidation;
  R4  register, lastTransaction and getInvalidations agree with what was announced to that client.
"""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clients import Clients
from ledger import differs, skip_where_differs
from oldzeo import VERSIONS, OldClient
from rawzeo import MAXTID, Z64, Fault, RawClient, p64, record, registered, u64
from subject import Server

LONG = bool(os.environ.get("COMPAT_LONG"))
COMMITS = 1000 if LONG else 40
OIDS = [p64(n) for n in range(1, 7)]
BASE = record("counter")


@pytest.fixture(params=["pickle", "msgpack"])
def server(make_server, request):
    server = make_server(msgpack=request.param == "msgpack")
    server.log.allow("lock: transactions waiting")
    return server


@pytest.mark.timeout(600 if LONG else 60)
def test_real_clients(server, client_processes):
    generations = [Clients(client_processes, generation, server.address) for generation in ("zeo6", "zeo5")]
    writers = [generations[n % 2].database() for n in range(3)]
    readers = [generation.database() for generation in generations]
    total = COMMITS * len(writers)
    writers[0].do("stress_scenarios.prepare", len(writers))
    tid = writers[0].do("app_scenarios.last_transaction")
    for worker in (*writers, *readers):
        while worker.do("app_scenarios.last_transaction") < tid:
            pass
    for reader in readers:
        reader.start("stress_scenarios.read", len(writers), total)
    for n, writer in enumerate(writers):
        writer.start("stress_scenarios.write", n, COMMITS)
    for writer in writers:
        writer.result(500)
    for reader in readers:
        assert reader.result(500) > 1
    # Whatever any client holds as current is what the server has.
    raw = registered(server.address)
    last = raw.call("lastTransaction")
    for worker in (*writers, *readers):
        while worker.do("app_scenarios.last_transaction") < last:
            pass
        for oid, cached in worker.do("stress_scenarios.cached_as_current").items():
            assert cached == raw.call("loadBefore", oid, MAXTID)[:2]
    raw.close()


class Witness:
    """Reads one connection's messages in order and holds them against the rules."""

    def __init__(self, client: RawClient, last: bytes) -> None:
        """`last`: the newest transaction that `client` has been told of."""
        self.client = client
        self.last = last
        self.invalidated = Z64
        self.announced: dict[bytes, bytes] = {}
        self.asked: dict[int, tuple] = {}
        self.own_oids: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, server: Server) -> Witness:
        client = RawClient(server.address)
        return cls(client, client.register())

    def questions(self, choice: random.Random, start: bytes) -> tuple:
        """What to ask next; `start` is the newest transaction at the beginning."""
        kind = choice.random()
        if kind < 0.8:
            return ("loadBefore", choice.choice(OIDS), MAXTID)
        if kind < 0.9:
            return ("lastTransaction",)
        return ("getInvalidations", max(start, self.last))

    def ask(self, *question) -> int:
        msgid = self.client.start(*question)
        self.asked[msgid] = question
        return msgid

    def read_until(self, msgid: int):
        """Processes messages up to the reply to `msgid`, and returns its result."""
        while True:
            message = self.client.receive()
            if message.name == "invalidateTransaction":
                self.invalidation(*message.args)
            elif message.is_reply:
                question = self.asked.pop(message.msgid)
                if message.flags == 0:
                    self.reply(question, message.args)
                if message.msgid == msgid:
                    if message.flags:
                        raise Fault(*message.args)
                    return message.args

    def invalidation(self, tid: bytes, oids) -> None:
        if not differs("replies-overtake-invalidations"):
            assert tid > self.last, "R3/R4: an invalidation for a transaction that a reply has shown"
        assert tid > self.invalidated, "invalidations out of order"
        self.invalidated = tid
        self.last = max(tid, self.last)
        for oid in oids:
            self.announced[oid] = max(tid, self.announced.get(oid, Z64))

    def reply(self, question: tuple, result) -> None:
        method, *args = question
        if method == "loadBefore" and result is not None:
            data, tid, end = result
            if not differs("replies-overtake-invalidations"):
                assert max(tid, end or Z64) <= self.last, "R1: a reply shows a transaction not yet announced"
            assert tid >= self.announced.get(args[0], Z64), "R2: a reply from before what was announced"
            if end is not None:
                assert self.announced.get(args[0], Z64) <= end, "R2: the revision after is not the newest announced"
        elif method == "lastTransaction":
            assert result >= self.last, "R4: older than what was announced"
            if not differs("replies-overtake-invalidations"):
                assert result == self.last, "R1: newer than what was announced"
        elif method == "getInvalidations" and result is not None:
            tid, oids = result
            assert tid >= self.last, "R4: older than what was announced"
            missing = {oid for oid, at in self.announced.items() if at > args[0]} - set(oids)
            assert not missing, "R4: the queue lacks what was announced"
        elif method == "tpc_finish":
            assert result > self.last, "R3: an invalidation of a later transaction came before the reply"
            self.last = result
            for oid in self.own_oids:
                self.announced[oid] = result

    def ask_now(self, *question):
        return self.read_until(self.ask(*question))


class OldWitness(Witness):
    """The same for a client before ZEO 5, which asks for what is current in other ways."""

    client: OldClient

    @classmethod
    def with_version(cls, server: Server, version: str) -> OldWitness:
        client = OldClient(server.address, version)
        return cls(client, client.call("lastTransaction"))

    def questions(self, choice: random.Random, start: bytes) -> tuple:
        kind, oid = choice.random(), choice.choice(OIDS)
        if kind < 0.5:
            return ("loadEx", oid, *[""] * self.client.has_versions)
        if kind < 0.6:
            return ("getTid", oid)
        return super().questions(choice, start)

    def invalidation(self, tid: bytes, oids) -> None:
        super().invalidation(tid, self._unmentioned(oids))

    def reply(self, question: tuple, result) -> None:
        match question[0]:
            case "loadEx":
                super().reply(("loadBefore", question[1], MAXTID), (result[0], result[1], None))
            case "getTid":
                super().reply(("loadBefore", question[1], MAXTID), (b"", result, None))
            case "getInvalidations" if result is not None:
                super().reply(question, (result[0], self._unmentioned(result[1])))
            case _:
                super().reply(question, result)

    def _unmentioned(self, mentioned) -> list[bytes]:
        return [oid for oid, _version in mentioned] if self.client.has_versions else list(mentioned)


def value(data: bytes) -> int:
    return u64(data[len(BASE) :])


def write(server: Server, seed: int, count: int) -> int:
    """`count` transactions that add one to two objects each."""
    choice = random.Random(seed)
    witness = Witness.of(server)
    done = 0
    while done < count:
        oids = choice.sample(OIDS, 2)
        loads = [witness.ask_now("loadBefore", oid, MAXTID) for oid in oids]
        txn = witness.client.begin()
        for oid, (data, serial, _) in zip(oids, loads, strict=True):
            witness.client.store(txn, oid, serial, BASE + p64(value(data) + 1))
        try:
            witness.ask_now("vote", txn)
        except Fault as fault:
            assert fault.class_name == "ZODB.POSException.ConflictError"
            continue
        witness.own_oids = tuple(oids)
        witness.ask_now("tpc_finish", txn)
        done += 1
    witness.client.close()
    return done


def watch(witness: Witness, seed: int, stop: threading.Event) -> int:
    """Asks without waiting for answers, many questions at a time; how many were answered."""
    choice = random.Random(seed)
    start = witness.last
    asked = 0
    while not stop.is_set():
        for _ in range(20):
            msgid = witness.ask(*witness.questions(choice, start))
            asked += 1
        witness.read_until(msgid)
    witness.client.close()
    return asked


def hold_against_the_rules(server: Server, open_witnesses) -> None:
    """Writers of protocol 5, and meanwhile those who watch."""
    client = registered(server.address)
    client.commit(*[(oid, Z64, BASE + p64(0)) for oid in OIDS])
    witnesses = open_witnesses()
    stop = threading.Event()
    with ThreadPoolExecutor(len(witnesses) + 3) as pool:
        watchers = [pool.submit(watch, witness, n, stop) for n, witness in enumerate(witnesses)]
        writers = [pool.submit(write, server, n, COMMITS) for n in range(3)]
        try:
            done = sum(writer.result() for writer in writers)
        finally:
            stop.set()
        assert all(watcher.result() for watcher in watchers)
    assert sum(value(client.call("loadBefore", oid, MAXTID)[0]) for oid in OIDS) == 2 * done
    client.close()


@pytest.mark.timeout(600 if LONG else 60)
def test_byte_streams(server):
    hold_against_the_rules(server, lambda: [Witness.of(server) for _ in range(3)])


@pytest.mark.timeout(600 if LONG else 120)
def test_byte_streams_of_old_clients(make_server):
    skip_where_differs("protocol-five-only")
    server = make_server()
    server.log.allow("lock: transactions waiting")
    hold_against_the_rules(server, lambda: [OldWitness.with_version(server, version) for version in VERSIONS])


def test_the_rules_can_fail():
    """The witness objects to each kind of disorder."""
    early, late = p64(5), p64(9)

    def witness() -> Witness:
        each = Witness(None, early)
        each.invalidated = early
        each.announced = {OIDS[0]: early}
        return each

    for question, result in [
        (("loadBefore", OIDS[0], MAXTID), (b"", p64(4), None)),
        (("loadBefore", OIDS[0], MAXTID), (b"", p64(3), p64(4))),
        (("lastTransaction",), p64(4)),
        (("getInvalidations", p64(1)), (early, [])),
        (("tpc_finish", 1), early),
    ]:
        with pytest.raises(AssertionError):
            witness().reply(question, result)
    with pytest.raises(AssertionError):
        witness().invalidation(early, [])
    if not differs("replies-overtake-invalidations"):
        with pytest.raises(AssertionError):
            witness().reply(("lastTransaction",), late)
        with pytest.raises(AssertionError):
            witness().reply(("loadBefore", OIDS[0], MAXTID), (b"", late, None))
