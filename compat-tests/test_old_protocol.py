"""The protocols before version 5, message by message, where ours is on its own.

What the originals of those protocols answer is in the recordings of test_transcripts.py; here is what they cannot
show: what ours does differently, and what needs several clients.
"""

import pytest

from ledger import skip_where_differs
from oldzeo import VERSIONS, Instance, OldClient, Python2Client
from rawzeo import MAXTID, Z64, Fault, RawClient, p64, record, registered

@pytest.fixture(autouse=True)
def _old_protocols():
    skip_where_differs("protocol-five-only")


@pytest.fixture
def encoding() -> str:
    """Such clients know pickles only."""
    return "pickle"


@pytest.fixture
def old(server):
    opened = []

    def open_client(version: str = "Z4", **options) -> OldClient:
        opened.append(OldClient(server.address, version, **options))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


def begun(client: RawClient, *stores) -> int:
    txn = client.begin()
    for store in stores:
        client.store(txn, *store)
    return txn


@pytest.mark.parametrize("version", VERSIONS)
def test_commit_and_load(server, old, version):
    client, other = old(version), old("Z4")
    assert client.call("lastTransaction") <= other.call("lastTransaction")
    oid = client.new_oid()
    # A tpc_begin with a reply, and the serial of a new object as old clients spell it.
    assert client.call("tpc_begin", 7, b"", b"", {}, None, " ") is None
    client.store(7, oid, None, b"data")
    assert client.call("vote", 7) is None
    (pair,) = client.serialnos()
    tid = client.call("tpc_finish", 7)
    assert pair == (oid, tid)
    version_argument = [""] * client.has_versions
    assert client.call("loadEx", oid, *version_argument) == (b"data", tid, *version_argument)
    assert client.call("loadBefore", oid, MAXTID) == (b"data", tid, None)
    assert other.invalidated(tid) == [oid]
    second = client.commit((oid, tid, b"more"))
    assert client.call("getInvalidations", tid) == (second, [client.mention(oid)])
    with pytest.raises(Fault) as fault:
        client.call("loadEx", p64(1 << 40), *version_argument)
    assert (fault.value.class_name, fault.value.state) == ("ZODB.POSException.POSKeyError", (p64(1 << 40),))


def test_everybody_hears_of_a_commit_in_their_own_words(server, old, raw):
    olds = [old(version) for version in VERSIONS]
    python_2 = Python2Client(server.address, "Z3101")
    five = raw(server)
    packer = RawClient(server.address, answer=b"M5")
    packer.register()
    writer = raw(server)
    oid = writer.new_oid()
    tid = writer.commit((oid, Z64, b"data"))
    for client in olds:
        assert client.wait_call("invalidateTransaction") == (tid, [client.mention(oid)])
    assert python_2.wait_call("invalidateTransaction") == (tid, [oid])
    assert python_2.frame == b"(K\0K\1U\x15invalidateTransaction(U\x08" + tid + b"]U\x08" + oid + b"att."
    assert five.invalidated(tid) == packer.invalidated(tid) == [oid]
    python_2.close()
    packer.close()


def test_python_2_gets_nothing_that_it_cannot_read(server):
    client = Python2Client(server.address, "Z308", register=False)
    # Of a client on Python 3 it would be the same bytes, so it says nothing of the client.
    client.send_frame(b"(J\xff\xff\xff\xffK\0U\x06.replyNt.")
    assert client.call("getAuthProtocol") is None
    assert client.frame == b"(K\1K\0U\x06.replyNt."
    client.call("register", "1", 0)
    tid = client.call("lastTransaction")
    assert client.frame == b"(K\3K\0U\x06.replyU\x08" + tid + b"t."
    with pytest.raises(Fault, match="POSKeyError"):
        client.call("loadEx", p64(1 << 40), "")
    assert client.frame.startswith(b"(K\4K\0U\x06.reply(cZODB.POSException\nPOSKeyError\ncZODB.POSException\n_recon\n(")
    client.close()


def test_only_some_calls_come_before_register(server, old):
    server.log.expect("Invalid method")
    client = old(register=False)
    assert client.call("getAuthProtocol") is None
    client.start("lastTransaction")
    client.wait_closed()


@pytest.mark.parametrize("version", ["Z201", "Z303"])
def test_zodb_3_7_looks_back_before_it_is_told_of_more(server, old, version):
    """It takes an invalidation that comes before for the newest that it has to know, and misses what was before that."""
    writer = old("Z4")
    oid = writer.new_oid()
    first = writer.commit((oid, None, b"one"))
    client = old(version, register=False)
    client.call("register", "1", 0)
    second = writer.commit((oid, first, b"two"))
    assert client.call("lastTransaction") == second
    third = writer.commit((oid, second, b"three"))
    assert client.call("getInvalidations", first) == (third, [(oid, "")])
    fourth = writer.commit((oid, third, b"four"))
    writer.sync()
    assert all(message.is_reply for message in client.received)
    client.call("get_info")
    # What it has asked for is not said again.
    assert client.calls("invalidateTransaction") == [(fourth, [(oid, "")])]
    fifth = writer.commit((oid, fourth, b"five"))
    assert client.invalidated(fifth) == [(oid, "")]


@pytest.mark.parametrize("version", ["Z201", "Z303"])
def test_zodb_3_7_is_told_of_what_comes_while_it_verifies_all(server, old, version):
    writer = old("Z4")
    one, two = writer.new_oid(), writer.new_oid()
    first = writer.commit((one, None, b"one"), (two, None, b"one"))
    client = old(version, register=False)
    client.call("register", "1", 0)
    client.call("lastTransaction")
    second = writer.commit((one, first, b"two"))
    client.async_("verify", one, "", first)
    client.async_("verify", two, "", first)
    client.call("lastTransaction")
    third = writer.commit((two, first, b"three"))
    writer.sync()
    client.async_("endZeoVerify")
    client.call("get_info")
    said = [(message.name, message.args) for message in client.received if not message.is_reply]
    assert said == [("invalidateVerify", ((one, ""),)), ("invalidateTransaction", (third, [(two, "")])), ("endVerify", ())]
    assert second < third


@pytest.mark.parametrize("version", ["Z201", "Z303"])
def test_zodb_3_7_is_cut_off_if_it_looks_back_for_too_long(make_server, version):
    server = make_server(invalidation_queue_size=2)
    server.log.expect("missed more than the invalidation queue holds")
    writer, client = OldClient(server.address, "Z4"), OldClient(server.address, version, register=False)
    client.call("register", "1", 0)
    client.call("lastTransaction")
    # Where there is nothing yet, nothing can be missed.
    other = OldClient(server.address, version, register=False)
    other.call("register", "1", 0)
    assert other.call("lastTransaction") == Z64
    other.call("get_info")
    other.close()
    oid, tid = writer.new_oid(), None
    for _ in range(4):
        tid = writer.commit((oid, tid, b"data"))
    client.start("get_info")
    client.wait_closed()
    writer.close()


def test_register_twice(server, old):
    server.log.expect("duplicate register")
    client = old()
    with pytest.raises(Fault) as fault:
        client.call("register", "1", 0)
    assert (fault.value.class_name, fault.value.state) == ("builtins.ValueError", ("duplicate register() call",))
    client.sync()


def test_unknown_storage(server, old):
    server.log.allow("unknown storage")
    client = old(register=False)
    with pytest.raises(Fault) as fault:
        client.call("register", "nope", 0)
    assert (fault.value.class_name, fault.value.state) == ("builtins.ValueError", ("unknown storage: nope",))
    assert client.call("register", "1", 0) is None


@pytest.mark.parametrize("broken", ["store", "version", "unknown"])
def test_a_call_without_a_reply_that_fails_fails_the_vote(server, old, broken):
    """ZEO 4 logs it and commits the rest: the client believes that all is saved."""
    server.log.expect("async `storea` raised exception")
    server.log.allow("`vote` raised exception")
    client = old("Z308" if broken == "version" else "Z4")
    oid = client.new_oid()
    txn = begun(client, (oid, Z64, b"data"))
    match broken:
        case "store":
            client.async_("storea", b"short", Z64, b"data", txn)
        case "version":
            client.store(txn, oid, Z64, b"data", version="v")
        case "unknown":
            client.async_("storea", oid, Z64, 17, txn)
    with pytest.raises(Fault, match="Unsupported" if broken == "version" else "TypeError"):
        client.call("vote", txn)
    assert client.call("tpc_abort", txn) is None
    with pytest.raises(Fault, match="POSKeyError"):
        client.call("getTid", oid)


def test_a_failed_vote_holds_nobody_up(server, old):
    """ZEO 4 holds the commit lock until the client aborts."""
    client, other = old(), old("Z309")
    oid = client.new_oid()
    serial = client.commit((oid, None, record(0)))
    newer = client.commit((oid, serial, record(1)))
    first = client.new_oid()
    txn = begun(client, (first, Z64, b"first"), (oid, serial, record(2)))
    assert client.call("vote", txn) is None
    (before, (failed, conflict)) = client.serialnos()
    assert before[0] == first and len(before[1]) == 8
    assert failed == oid and isinstance(conflict, Instance)
    assert conflict.fault().class_name == "ZODB.POSException.ConflictError"
    assert conflict.state["serials"] == (newer, serial)
    assert conflict.state["args"] == ()
    tid = other.commit((oid, newer, record(3)))
    assert client.call("tpc_abort", txn) is None
    assert client.call("getTid", oid) == tid
    with pytest.raises(Fault, match="POSKeyError"):
        client.call("getTid", first)


@pytest.mark.parametrize("version", ["Z303", "Z308", "Z309"])
def test_undo_with_a_reply(server, old, version):
    """It is tried out, and done at the vote: others may commit in between."""
    client, other = old(version), old()
    oid = client.new_oid()
    first = client.commit((oid, None, record(1)))
    second = client.commit((oid, first, record(2)))
    undo_id = client.call("undoLog", 0, 1)[0]["id"]
    txn = client.begin()
    tid, oids = client.call("undo", undo_id, txn)
    assert oids == [oid] and tid > second
    elsewhere = other.new_oid()
    between = other.commit((elsewhere, None, b"data"))
    assert client.call("vote", txn) is None
    assert client.serialnos() == [(oid, b"rs")]
    undone = client.call("tpc_finish", txn)
    assert undone > between
    assert client.call("loadBefore", oid, MAXTID)[:2] == (record(1), undone)
    # What cannot be undone is said at once.
    server.log.expect("`undo` raised exception")
    txn = client.begin()
    with pytest.raises(Fault, match="UndoError"):
        client.call("undo", undo_id, txn)
    client.call("tpc_abort", txn)


@pytest.mark.parametrize("version", ["Z303", "Z309", "Z4"])
def test_verification_object_by_object(server, old, version):
    client = old(version)
    oids = [client.new_oid() for _ in range(3)]
    first = client.commit(*((oid, None, b"one") for oid in oids[:2]))
    client.commit((oids[1], first, b"two"))
    before = len(client.received)
    empty = [""] * client.has_versions
    for oid in oids:
        client.async_("verify", oid, *empty, first)
    client.async_("zeoVerify", oids[1], first, *[None] * client.has_versions)
    client.async_("endZeoVerify")
    client.sync()
    told = [(message.name, message.args) for message in client.received[before:] if not message.is_reply]
    # The first is as it was, the third is not there.
    changed, missing = ((client.mention(oid),) for oid in oids[1:])
    assert told == [
        ("invalidateVerify", changed),
        ("invalidateVerify", missing),
        ("invalidateVerify", changed),
        ("endVerify", ()),
    ]
    assert client.received[-1].is_reply


def fails_at_vote(client, txn, match):
    with pytest.raises(Fault, match=match):
        client.call("vote", txn)
    client.call("tpc_abort", txn)


def test_what_failed_unanswered_is_said_at_the_vote(server, old):
    """Of the transaction that it was for, the first failure, and once in the log, however many follow."""
    server.log.expect("(async `storea`|`vote`) raised exception: .*TypeError")
    before = len(server.log.text())
    client = old()
    oid = client.new_oid()
    txn = client.begin()
    for _ in range(50):
        client.store(txn, oid, None, 7)
    client.store(txn, oid, None, b"data")
    fails_at_vote(client, txn, "TypeError")
    assert client.call("tpc_finish", txn) is None
    assert server.log.text()[before:].count("async `storea`") == 1
    # The next one is another matter.
    client.commit((oid, None, b"data"))


def test_a_beginning_that_failed_unanswered_is_said_at_the_vote(server, old):
    server.log.expect("(async `tpc_begin`|`vote`) raised exception")
    before = len(server.log.text())
    client = old()
    client.async_("tpc_begin", 7, b"", b"", {}, p64(5), "c")
    for number in range(1, 50):
        client.store(7, p64(number), None, b"data")
    fails_at_vote(client, 7, "TypeError")
    assert server.log.text()[before:].count("async `") == 1


def test_the_failures_of_others_do_not_matter(server, old):
    server.log.expect("async `(storea|tpc_begin|iterator_gc|getTid)` raised exception")
    client = old()
    oid = client.new_oid()
    txn = client.begin()
    client.store(txn, oid, None, b"data")
    client.store(txn + 1, oid, None, b"of another transaction")
    client.async_("tpc_begin", txn + 2, b"", b"", {}, None, " ")
    client.async_("iterator_gc", "no number")
    client.async_("getTid", p64(1 << 50))
    assert client.call("vote", txn) is None
    assert client.serialnos()
    tid = client.call("tpc_finish", txn)
    assert client.call("loadBefore", oid, MAXTID) == (b"data", tid, None)


def test_the_failures_of_others_hide_nothing(server, old):
    server.log.expect("(async `storea`|`vote`) raised exception")
    client = old()
    one, two = client.new_oid(), client.new_oid()
    txn = client.begin()
    client.store(txn, one, None, b"data")
    client.store(txn, two, None, 7)
    client.store(txn + 1, one, None, b"of another transaction")
    fails_at_vote(client, txn, "TypeError")


def test_nothing_is_added_after_the_vote(server, old):
    server.log.expect("(async `storea`|`tpc_finish`) raised exception: .*Already voting")
    client, other = old(), old()
    oid = client.new_oid()
    txn = begun(client, (oid, None, b"data"))
    client.call("vote", txn)
    client.store(txn, p64(77), None, b"late")
    with pytest.raises(Fault, match="Already voting"):
        client.call("tpc_finish", txn)
    other.commit((other.new_oid(), None, b"the lock is free"))
    with pytest.raises(Fault, match="POSKeyError"):
        client.call("loadBefore", oid, MAXTID)


def test_what_is_left_of_versions(server, old):
    client = old("Z303")
    assert client.call("versions") == ()
    assert client.call("versionEmpty", "v") is True
    assert client.call("modifiedInVersion", Z64) == ""
    oid = client.new_oid()
    tid = client.commit((oid, None, b"data"))
    assert client.call("getSerial", oid) == tid
    assert client.call("zeoLoad", oid) == (b"data", tid, "", None, None)
    assert client.call("history", oid, "", 1)[0]["tid"] == tid
    server.log.expect("Versions aren't supported")
    with pytest.raises(Fault, match="Unsupported"):
        client.call("loadEx", oid, "v")
    with pytest.raises(Fault, match="Unsupported"):
        client.call("commitVersion", "v", "", 1)


def test_clients_of_version_five_have_none_of_this(server, raw):
    server.log.expect("Invalid method")
    client = registered(server.address)
    client.start("loadEx", Z64)
    client.wait_closed()
    assert raw(server).call("lastTransaction")
