"""A small history with everything a FileStorage can hold, played over the wire with tids given.

The same calls on two servers must leave the same bytes.
"""

from __future__ import annotations

import base64

from rawzeo import Z64, RawClient, p64, record

FIRST_TID = 0x03D0_0000_0000_0000


def nth_tid(n: int) -> bytes:
    return p64(FIRST_TID + n * 2**32)


def play(client: RawClient) -> list[bytes]:
    """Plays the history; the tids."""
    tids: list[bytes] = []

    def transaction(*operations: tuple, **begin) -> None:
        txn = client.begin(tid=nth_tid(len(tids)), **begin)
        for method, *args in operations:
            client.async_(method, *args, txn)
        tids.append(client.vote_finish(txn))

    a, b, c, far = p64(0), p64(1), p64(2), p64(0x1_0203_0405_0607)
    transaction(("storea", a, Z64, record("a1")), ("storea", b, Z64, record("b1")), user=b"user", description=b"made")
    transaction(("storea", a, tids[0], record("a2")), extension={"key": "value", "n": 5, "list": [1, "two", None]})
    transaction(("storea", c, None, b"c" * 100_000), ("storea", far, Z64, record("far")))
    transaction(("storea", b, tids[0], record("b2")), ("storea", b, tids[0], record("b3")))
    transaction(("undoa", base64.b64encode(tids[1])), description=b"undo")
    transaction(("undoa", base64.b64encode(tids[4])), description=b"redo")
    transaction(("deleteObject", c, tids[2]))
    transaction(description=b"nothing")
    transaction(("undoa", base64.b64encode(tids[6])), description=b"undelete")
    restored = p64(3)
    for status, data, prev in (("p", record("r1"), None), (" ", record("r2"), None), (" ", record("r1"), nth_tid(9))):
        transaction(("restorea", restored, nth_tid(len(tids)), data, prev), status=status)
    transaction(("restorea", restored, nth_tid(len(tids)), None, None))
    transaction(("checkCurrentSerialInTransaction", far, tids[2]), ("storea", p64(4), Z64, record("last")))
    return tids
