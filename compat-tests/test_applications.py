"""Applications on real databases: persistent mappings, BTrees, conflicts, snapshots, savepoints."""

import pytest

from clients import Clients, RemoteError
from ledger import differs
from subject import wait_until


@pytest.fixture
def server(make_server, encoding):
    """Databases fill the root: one server for each test."""
    return make_server(msgpack=encoding == "msgpack")


def app(worker, name, *args, **kwargs):
    return worker.do(f"app_scenarios.{name}", *args, **kwargs)


def seen(worker, writer):
    """Waits until `worker` has heard of everything `writer` committed."""
    tid = app(writer, "last_transaction")
    wait_until(lambda: app(worker, "last_transaction") >= tid, "the invalidation arrived")


def test_root_creation(server, clients):
    first, second = clients.database(), clients.database()
    app(first, "put", greeting="hello", number=1)
    seen(second, first)
    assert app(second, "get", "greeting") == "hello"
    assert app(second, "get", "nothing") is None


def test_generations_share_a_database(server, client_processes):
    new = Clients(client_processes, "zeo6", server.address).database()
    old = Clients(client_processes, "zeo5", server.address).database()
    for n, (writer, reader) in enumerate([(new, old), (old, new)] * 3):
        app(writer, "put_mapping", "shared", {"n": n, "text": "\u00e4" * n})
        seen(reader, writer)
        assert app(reader, "get_mapping", "shared") == {"n": n, "text": "\u00e4" * n}


def test_trees(server, clients):
    writer, reader = clients.database(), clients.database()
    app(writer, "make_trees", 2000)
    seen(reader, writer)
    assert app(reader, "read_trees") == (2000, 2000)
    app(reader, "delete_from_trees", 500, 1500)
    seen(writer, reader)
    assert app(writer, "read_trees") == (1000, 1000)


def test_conflict_between_connections(server, clients):
    client = clients.database()
    app(client, "put_mapping", "m", {"a": 1})
    for name in ("first", "second"):
        app(client, "open_connection", name)
        app(client, "change", name, "m", "a", name)
    app(client, "commit", "first")
    with pytest.raises(RemoteError) as error:
        app(client, "commit", "second")
    assert error.value.name == "ConflictError"
    app(client, "abort", "second")
    assert app(client, "read", "second", "m", "a") == "first"
    app(client, "change", "second", "m", "a", "again")
    app(client, "commit", "second")
    assert app(client, "get_mapping", "m") == {"a": "again"}


def test_conflict_between_processes(server, clients):
    first, second = clients.database(), clients.database()
    app(first, "put_mapping", "m", {"a": 1})
    seen(second, first)
    for worker in (first, second):
        app(worker, "open_connection", "c")
        assert app(worker, "read", "c", "m", "a") == 1
        app(worker, "change", "c", "m", "a", 2)
    app(second, "commit", "c")
    with pytest.raises(RemoteError) as error:
        app(first, "commit", "c")
    assert error.value.name == "ConflictError"
    assert error.value.attributes["class_name"] == "persistent.mapping.PersistentMapping"


def test_disjoint_changes_do_not_conflict(server, clients):
    first, second = clients.database(), clients.database()
    app(first, "put_mapping", "m", {"a": 1})
    app(first, "put_mapping", "n", {"a": 1})
    seen(second, first)
    for worker, mapping in ((first, "m"), (second, "n")):
        app(worker, "open_connection", "c")
        app(worker, "change", "c", mapping, "a", 2)
    for worker in (first, second):
        app(worker, "commit", "c")


def test_write_skew_is_refused(server, clients):
    """Each writes what the other relied on."""
    first, second = clients.database(), clients.database()
    app(first, "put_mapping", "m", {"a": 1})
    app(first, "put_mapping", "n", {"a": 1})
    seen(second, first)
    for worker, reads, writes in ((first, "m", "n"), (second, "n", "m")):
        app(worker, "open_connection", "c")
        app(worker, "read_current", "c", reads)
        app(worker, "change", "c", writes, "a", 2)
    app(first, "commit", "c")
    with pytest.raises(RemoteError) as error:
        app(second, "commit", "c")
    assert error.value.name == "ReadConflictError"


def test_snapshot_reads(server, clients):
    """What a connection sees is of one moment, whatever is committed meanwhile."""
    reader, writer = clients.database(), clients.database()
    app(writer, "put_mapping", "a", {"v": 1})
    app(writer, "put_mapping", "b", {"v": 1})
    seen(reader, writer)
    app(reader, "open_connection", "c")
    assert app(reader, "read", "c", "a", "v") == 1
    app(writer, "open_connection", "w")
    for mapping in ("a", "b"):
        app(writer, "change", "w", mapping, "v", 2)
    app(writer, "commit", "w")
    seen(reader, writer)
    # Not loaded before: the server must give the revision that was current then.
    assert app(reader, "read", "c", "b", "v") == 1
    app(reader, "begin", "c")
    assert app(reader, "read", "c", "a", "v") == 2
    assert app(reader, "read", "c", "b", "v") == 2


def test_counter_conflicts_are_resolved(server, clients):
    first, second = clients.database(), clients.database()
    app(first, "make_trees", 10)
    seen(second, first)
    for worker in (first, second):
        app(worker, "open_connection", "c")
        app(worker, "change_length", "c", 5)
    app(first, "commit", "c")
    if differs("no-conflict-resolution"):
        with pytest.raises(RemoteError) as error:
            app(second, "commit", "c")
        assert error.value.name == "ConflictError"
    else:
        app(second, "commit", "c")
        app(second, "begin", "c")
        assert app(second, "length", "c") == 20


def test_savepoints(server, clients):
    client = clients.database()
    assert app(client, "savepoints") == {"a": 1, "b": 4}


def test_undo(server, clients):
    client, reader = clients.database(), clients.database()
    app(client, "put_mapping", "m", {"a": 1})
    app(client, "open_connection", "c")
    app(client, "change", "c", "m", "a", 2)
    app(client, "commit", "c")
    app(client, "undo_last")
    seen(reader, client)
    assert app(reader, "get_mapping", "m") == {"a": 1}


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_application_goes_on_after_a_restart(server, clients, kill):
    client, other = clients.database(), clients.database()
    app(client, "put_mapping", "m", {"a": 1})
    app(client, "make_trees", 100)
    server.restart(kill=kill)
    for worker in (client, other):
        wait_until(lambda: worker.do("is_connected"), "the client is connected again")
    assert app(client, "get_mapping", "m") == {"a": 1}
    app(client, "put_mapping", "m", {"a": 2})
    seen(other, client)
    assert app(other, "get_mapping", "m") == {"a": 2}
    assert app(other, "read_trees") == (100, 100)
