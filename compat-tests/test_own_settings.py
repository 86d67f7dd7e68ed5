"""What settings of ours do, which Python's server reads past. How they are written is in config_cases/own.toml."""

from __future__ import annotations

import json
import time

import pytest

from ledger import differs, skip_where_differs
from rawzeo import MAXTID, Z64, Fault, RawClient, p64, record, ruok
from subject import filestorage, wait_until


def is_there(client: RawClient, oid: bytes) -> bool:
    try:
        return client.call("loadBefore", oid, MAXTID) is not None
    except Fault as fault:
        assert fault.class_name == "ZODB.POSException.POSKeyError"
        return False


def test_extra_roots_survive_a_pack(make_server, tmp_path, raw):
    """What nothing refers to goes, but for what the configuration names, for one storage or for all."""
    everywhere, in_main = p64(0x1234), p64(0x5678)
    storages = [filestorage(tmp_path / f"{name}.fs", name) for name in ("main", "other")]
    server = make_server(["%define zeolite_pack_extra_roots 0x1234 main:0x5678", *storages])
    left = {}
    for name in ("main", "other"):
        client = raw(server, storage=name)
        oids = [everywhere, in_main, p64(0x9999)]
        client.commit(*((oid, Z64, record(name)) for oid in (Z64, *oids)))
        client.call("pack", time.time() + 1)
        left[name] = [oid for oid in oids if is_there(client, oid)]
    if differs("own-settings"):
        assert left == {"main": [], "other": []}
    else:
        assert left == {"main": [everywhere, in_main], "other": [everywhere]}


def test_a_pack_keeps_to_its_rate(make_server, tmp_path, raw):
    """At one kilobyte in a second it is not done with megabytes before the test is; and a stop ends it at once."""
    skip_where_differs("own-settings")
    server = make_server(["%define zeolite_pack_rate 1kb", filestorage(tmp_path / "Data.fs")])
    server.log.allow("pack")
    client, packer = raw(server), raw(server)
    large = record("x" * (4 << 20))
    newest = client.commit((Z64, client.commit((Z64, Z64, large)), large))
    packer.start("pack", time.time() + 1)
    wait_until(lambda: json.loads(ruok(server.address))["1"].get("packing", {}).get("done"), "the pack has begun")
    with pytest.raises(Fault, match="Already packing"):
        client.call("pack", time.time() + 1)
    assert client.call("loadBefore", Z64, MAXTID) == (large, newest, None)
    assert server.stop() == 0
