"""Packs again and again, while clients commit, undo and read; and servers that are killed in the middle of it."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest

import pack_scenarios
from clients import Clients, Worker
from file_checks import python_accepts
from ledger import differs
from rawzeo import MAXTID, Z64, Fault, record, registered
from subject import PATIENCE_S, Server, wait_until

LONG = bool(os.environ.get("COMPAT_LONG"))
OBJECTS = 20_000 if LONG else 1_500
COMMITS = 500 if LONG else 25
PACKS = 60 if LONG else 6
KILLS = 30 if LONG else 3
WRITERS = ["w0", "w1", "w2"]
pytestmark = pytest.mark.timeout(1800 if LONG else 120)


class Race:
    """Real clients of both generations on one server: writers, readers, one that takes oids, and one that packs."""

    def __init__(self, server: Server, pool, directory: Path) -> None:
        self.server = server
        self.directory = directory
        directory.mkdir()
        generations = [Clients(pool, generation, server.address) for generation in ("zeo6", "zeo5")]
        self.writers = {name: generations[n % 2].database() for n, name in enumerate(WRITERS)}
        self.readers = {f"r{n}": generation.database() for n, generation in enumerate(generations)}
        self.taker = generations[1].storage()
        self.packer = generations[0].storage()
        first = self.writers["w0"]
        first.do("pack_scenarios.fill", OBJECTS)
        first.do("pack_scenarios.prepare", WRITERS)
        self.settle(first.do("app_scenarios.last_transaction"))

    @property
    def workers(self) -> list[Worker]:
        return [*self.writers.values(), *self.readers.values(), self.taker, self.packer]

    def settle(self, tid: bytes) -> None:
        """Waits until everybody is connected and knows that transaction."""
        for worker in self.workers:
            wait_until(lambda worker=worker: worker.do("is_connected"), "the client is connected")
            wait_until(lambda worker=worker: worker.do("call", "lastTransaction") >= tid, "the client is up to date")

    def start(self) -> None:
        for path in self.directory.iterdir():
            path.unlink()
        for name, worker in self.writers.items():
            worker.start("pack_scenarios.write", name, str(self.directory))
        for name, worker in self.readers.items():
            worker.start("pack_scenarios.read", name, WRITERS, str(self.directory))
        self.taker.start("pack_scenarios.take_oids", str(self.directory))
        # A pack that knows nobody's state yet would take away what they read.
        names = [*self.writers, *self.readers]
        wait_until(lambda: all((self.directory / f"{name}.state").exists() for name in names), "everybody began")
        self.packer.start("pack_scenarios.pack", str(self.directory))

    def packs(self) -> int:
        return self._count(pack_scenarios.PACKS)

    def commits(self) -> int:
        """How many the slowest writer made."""
        return min(self._count(f"{name}.done") for name in self.writers)

    def _count(self, name: str) -> int:
        path = self.directory / name
        return int(path.read_text() or 0) if path.exists() else 0

    def stop(self) -> None:
        (self.directory / pack_scenarios.STOP).touch()

    def results(self) -> list[tuple]:
        """How each of the clients ended, the packer as well."""
        return [worker.result(4 * PATIENCE_S) for worker in self.workers]

    def check(self) -> int:
        """Everything that was acknowledged is there; how much that is."""
        return sum(worker.do("pack_scenarios.check", name) for name, worker in self.writers.items())


def commit_something(server: Server) -> bytes:
    """A transaction that everybody hears of; its tid."""
    raw = registered(server.address)
    tid = raw.commit((raw.new_oid(), Z64, record("garbage")))
    raw.close()
    return tid


@pytest.fixture
def race(make_server, client_processes, tmp_path):
    server = make_server()
    server.log.allow("lock: transactions waiting", "UndoError", "ConflictError")
    return Race(server, client_processes, tmp_path / "race")


def test_readers_and_writers_see_nothing_of_it(race):
    race.start()
    patience_s = 40 * PATIENCE_S if LONG else 4 * PATIENCE_S
    wait_until(lambda: race.packs() >= PACKS and race.commits() >= COMMITS, "there were some packs", patience_s)
    race.stop()
    *others, packer = race.results()
    assert packer == "stopped"
    for ended, count, *_ in others:
        assert ended == "stopped"
        assert count > 2
    assert [conflicts for *_, conflicts in others[: len(WRITERS)]] == [0] * len(WRITERS)
    if not differs("no-undo-log-while-packing"):
        assert sum(undone for _, _, undone, _ in others[: len(WRITERS)]) > 0
    kept = race.check()
    assert kept > 10
    server = race.server
    raw = registered(server.address)
    last = raw.call("lastTransaction")
    for worker in race.writers.values():
        for oid, cached in worker.do("stress_scenarios.cached_as_current").items():
            # Nobody is told of garbage that a pack removed.
            with suppress(Fault):
                assert cached == raw.call("loadBefore", oid, MAXTID)[:2]
    raw.close()
    assert not server.data_fs.with_name("Data.fs.pack").exists()
    server.restart()
    race.settle(last)
    assert race.check() == kept
    for worker in race.workers:
        worker.do("close_storage")
    server.stop()
    python_accepts(server.data_fs)


def test_killed_in_the_middle(race):
    """What was acknowledged is there, whatever the pack was doing. Nothing half-done is left."""
    server = race.server
    # Packed records have no past: where an undo needs an older one as well, a scan wonders about that.
    server.log.allow("truncat", "Ignoring index", "incorrect previous pointer", "a pack was interrupted in its last step")
    partial = server.data_fs.with_name("Data.fs.pack")
    seed = time.time_ns()
    print(f"moments of kills: random.Random({seed})")
    choice = random.Random(seed)
    for _ in range(KILLS):
        race.start()
        enough = choice.randrange(4)
        wait_until(lambda enough=enough: race.packs() >= enough, "there were some packs", 4 * PATIENCE_S)
        # Not a pause, but how far the server gets is left to chance.
        for _ in range(choice.choice([1, 1, 1, 20, 200, 2000])):
            if partial.exists() and choice.random() < 0.1:
                break
        server.kill()
        for _, _, *more in race.results()[: len(WRITERS)]:
            assert more[1:] == [0] or differs("oids-reused")
        if not server.data_fs.exists():
            # Between two renames.
            assert differs("pack-renames-in-two-steps")
            partial.rename(server.data_fs)
        server.start()
        assert not partial.exists() or differs("pack-leaves-partial-file")
        race.settle(commit_something(server))
        race.check()
    for worker in race.workers:
        worker.do("close_storage")
    server.stop()
    python_accepts(server.data_fs)
    wrong = [each for each in server.log.records() if each.level == "ERROR" and "previous pointer" in each.text]
    assert not wrong
