"""Reading through real clients and raw ones."""

from rawzeo import MAXTID, Z64


def test_load_before(server, clients):
    client = clients.storage()
    oid = client.do("call", "new_oid")
    first = client.do("commit", (oid, Z64, b"one"))
    second = client.do("commit", (oid, first, b"two"))
    assert client.do("call", "loadBefore", oid, MAXTID) == (b"two", second, None)
    assert client.do("call", "loadBefore", oid, second) == (b"one", first, second)
    assert client.do("call", "loadBefore", oid, first) is None
