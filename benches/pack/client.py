"""Clients of a server that is packed. Run in an environment that has ZEO.

    client.py loads ADDRESS     one load after the other, until stdin ends
    client.py commits ADDRESS   one small commit after the other, until stdin ends
    client.py pack ADDRESS T    packs to the time T, and waits for the end
    client.py look FILE T       opens a file: its objects, and a digest of what was packed to the time T

The first two pause in between: they are to feel the pack, not to slow it down. They print a line when they are warm,
and at their end one with when each operation began and how long it took, in seconds of the monotonic clock.
"""

from __future__ import annotations

import hashlib
import json
import random
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "compat-tests"))

from rawzeo import MAXTID, ROOT, RawClient, registered, tid_of
from ZEO.ClientStorage import ClientStorage
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf

LOADED_OBJECTS = 5000
WARM_AFTER = 50
DIGEST_BLOCK = 1 << 20


def measure(operation: Callable[[], None], pause_s: float) -> None:
    times = []
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        begin = time.monotonic()
        operation()
        times.append((begin, time.monotonic() - begin))
        if len(times) == WARM_AFTER:
            print("warm", flush=True)
    print(json.dumps(times))


def loads(client: RawClient) -> Callable[[], None]:
    # Reachable ones: they survive the pack.
    oids, known = [ROOT], {ROOT}
    for oid in oids:
        if len(oids) < LOADED_OBJECTS:
            found = set(referencesf(client.call("loadBefore", oid, MAXTID)[0])) - known
            known |= found
            oids += sorted(found)
    rng = random.Random(1)

    def load() -> None:
        client.received.clear()
        data, _, end = client.call("loadBefore", rng.choice(oids), MAXTID)
        assert data and end is None

    return load


def commits(client: RawClient) -> Callable[[], None]:
    data, serial, _ = client.call("loadBefore", ROOT, MAXTID)

    def commit() -> None:
        nonlocal serial
        client.received.clear()
        serial = client.commit((ROOT, serial, data))

    return commit


def pack(address: tuple[str, int], at: float) -> None:
    storage = ClientStorage(address, wait_timeout=60)
    print("warm", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    storage.pack(at, wait=True)
    print(json.dumps([begin, time.monotonic()]))
    storage.close()


def look(path: str, at: float) -> None:
    storage = FileStorage(path, read_only=True)
    # Where the first transaction of the clients above begins.
    later = next(iter(storage.iterator(tid_of(at))), None)
    end = later._tpos if later else storage.getSize()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for begin in range(0, end, DIGEST_BLOCK):
            digest.update(file.read(min(DIGEST_BLOCK, end - begin)))
    print(json.dumps({"objects": len(storage), "bytes": end, "sha256": digest.hexdigest()}))


def main() -> None:
    what, where, *rest = sys.argv[1:]
    if what == "look":
        return look(where, float(rest[0]))
    host, port = where.rsplit(":", 1)
    address = host, int(port)
    if what == "pack":
        return pack(address, float(rest[0]))
    client = registered(address)
    measure(loads(client), 0.005) if what == "loads" else measure(commits(client), 0.05)


if __name__ == "__main__":
    main()
