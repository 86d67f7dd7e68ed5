"""Several listeners of one server: where they are, who may come, what is allowed there."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile

import pytest

import certificates
from certificates import Files, known
from clients import RemoteError
from ledger import skip_where_differs
from rawzeo import MAXTID, Z64, Closed, Fault, RawClient, p64, record, registered
from subject import PATIENCE_S, filestorage, free_port, runzeo_command, section, wait_until


@pytest.fixture
def socket_path():
    """A path that is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="zc-") as directory:
        yield f"{directory}/s"


def ipv6(port: int) -> str:
    return f"[::1]:{port}"


def closed_at_once(address) -> bool:
    with socket.create_connection(address, PATIENCE_S) as sock:
        try:
            return sock.recv(1) == b""
        except ConnectionError:
            return True


def test_all_of_them_at_once(make_server, clients, tmp_path, socket_path):
    """A commit on one is seen by the clients of all others."""
    skip_where_differs("several-listeners")
    files, mine = Files(tmp_path), known("client")
    v6, packed, secure = free_port(), free_port(), free_port()
    inner = "\n".join(
        [
            f"address {ipv6(v6)}",
            f"address {socket_path}",
            section("listener", address=f"127.0.0.1:{packed}", msgpack=True),
            section("listener", "tls", address=f"127.0.0.1:{secure}", inner=files.ssl(known("server"), mine.pem)),
        ]
    )
    server = make_server(inner=inner)
    assert server.log.text().count("listening on") == 5
    keys = files.client(mine, known("server"))
    plain = [registered(address) for address in (server.address, ("::1", v6), socket_path, ("127.0.0.1", packed))]
    assert [client.greeting for client in plain] == [b"Z5", b"Z5", b"Z5", b"M5"]
    tls = RawClient(("127.0.0.1", secure), tls=certificates.context(**keys))
    tls.register()
    everybody = [*plain, tls]
    worker = clients.worker()
    worker.do("tls_scenarios.open_storage", ("127.0.0.1", secure), **keys)
    for number, client in enumerate(everybody, 1):
        oid = p64(number)
        tid = client.commit((oid, Z64, b"data"))
        for other in everybody:
            if other is not client:
                assert other.invalidated(tid) == [oid]
            assert other.call("loadBefore", oid, MAXTID) == (b"data", tid, None)
        wait_until(lambda tid=tid: worker.do("call", "lastTransaction") == tid, "the real client hears of it")
    for client in everybody:
        client.close()
    server.stop()
    assert not os.path.exists(socket_path)


def test_a_listener_instead_of_an_address(tmp_path):
    skip_where_differs("several-listeners")
    done = _check(tmp_path, section("listener", address="127.0.0.1:8100"))
    assert done.stdout.splitlines()[0] == "address: ('127.0.0.1', 8100)"
    done = _check(tmp_path, "")
    assert done.returncode == 2
    assert "no values for 'address'; 1 required" in done.stderr
    done = _check(tmp_path, section("listener"))
    assert done.returncode == 2
    assert "no values for 'address'; 1 required\n(line 3 in file://" in done.stderr


def _check(tmp_path, zeo: str, *switches: str) -> subprocess.CompletedProcess[str]:
    conf = tmp_path / "zeo.conf"
    conf.write_text(f"<zeo>\n{zeo}\n</zeo>\n<mappingstorage/>\n")
    command = [*runzeo_command(), "-C", str(conf), *(switches or ("--check-config",))]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_the_summary_names_all(tmp_path):
    skip_where_differs("several-listeners")
    zeo = "address 1\naddress /run/zeo/sock\nmsgpack yes\n" + section(
        "listener", address="[::1]:2", read_only=True, allow="10.0.0.0/8 ::ffff:192.0.2.1"
    )
    assert _check(tmp_path, zeo).stdout.splitlines()[:3] == [
        "address: ('', 1), msgpack",
        "address: '/run/zeo/sock', msgpack",
        "address: ('::1', 2), msgpack, read-only, for 10.0.0.0/8 192.0.2.1/32",
    ]
    # -a replaces those of <zeo> itself.
    assert [line for line in _check(tmp_path, zeo, "-a", "3", "--check-config").stdout.splitlines() if "address" in line] == [
        "address: ('', 3), msgpack",
        "address: ('::1', 2), msgpack, read-only, for 10.0.0.0/8 192.0.2.1/32",
    ]


def test_all_or_none(tmp_path, socket_path):
    """When one cannot be had, none is served, and the message names it."""
    skip_where_differs("several-listeners")
    port = free_port()
    done = _check(tmp_path, f"address {socket_path}\naddress 127.0.0.1:{port}\naddress {tmp_path}/nope/s", "--test")
    assert done.returncode == 1
    assert f"Error: cannot listen on {tmp_path}/nope/s" in done.stderr
    assert "listening on" not in done.stderr
    assert not os.path.exists(socket_path)


def test_one_in_use(make_server, tmp_path):
    skip_where_differs("several-listeners")
    server = make_server()
    done = _check(tmp_path, f"address 127.0.0.1:0\n{section('listener', address='%s:%d' % server.address)}", "--test")
    assert done.returncode == 2
    assert f"address {server.address} already in use" in done.stderr


def test_several_unix_sockets_are_removed(make_server, socket_path):
    skip_where_differs("several-listeners")
    paths = [socket_path, socket_path + "2"]
    server = make_server(inner=f"address {paths[0]}\n{section('listener', address=paths[1])}")
    assert all(stat.S_ISSOCK(os.stat(path).st_mode) for path in paths)
    server.stop()
    assert [os.path.exists(path) for path in paths] == [False, False]


# Read-only listeners


def test_a_read_only_listener(make_server, clients):
    """Its clients meet a read-only server; those of the other listener write."""
    skip_where_differs("several-listeners")
    reading = ("127.0.0.1", free_port())
    server = make_server(inner=section("listener", address="%s:%d" % reading, read_only=True))
    server.log.allow("raised exception")
    tid = registered(server.address).commit((p64(1), Z64, b"data"))
    raw = RawClient(reading)
    with pytest.raises(Fault) as fault:
        raw.register()
    assert fault.value.class_name == "ZODB.POSException.ReadOnlyError"
    assert raw.register("1", True) == tid
    for method, args in [("new_oids", (1,)), ("pack", (0, True))]:
        with pytest.raises(Fault) as fault:
            raw.call(method, *args)
        assert fault.value.class_name == "ZODB.POSException.ReadOnlyError", method
    raw.close()
    worker = clients.storage(reading, read_only_fallback=True)
    assert worker.do("call", "isReadOnly")
    assert worker.do("load", p64(1))[0] == b"data"
    with pytest.raises(RemoteError) as error:
        worker.do("begin", "txn")
    assert error.value.name == "ReadOnlyError"


def test_a_read_only_server_is_so_on_all(make_server):
    skip_where_differs("several-listeners")
    other = ("127.0.0.1", free_port())
    server = make_server([section("mappingstorage", "1")], read_only=True, inner=section("listener", address="%s:%d" % other))
    server.log.allow("raised exception")
    with pytest.raises(Fault):
        registered(other)


# Who may come


def test_peers_that_are_not_allowed(make_server, socket_path):
    """They are closed at once, and said once a minute; a Unix socket has its own permissions."""
    skip_where_differs("several-listeners")
    open_to_all = ("127.0.0.1", free_port())
    inner = f"address {socket_path}\n{section('listener', address='%s:%d' % open_to_all)}"
    server = make_server(inner=inner, allow="192.0.2.0/24 2001:db8::/32")
    server.log.expect(r"refused 127.0.0.1:\d+: its address is not in `allow` of \('127.0.0.1', \d+\)")
    for _ in range(50):
        assert closed_at_once(server.address)
    assert len(server.log.serious()) == 1
    for address in (socket_path, open_to_all):
        registered(address).close()


@pytest.mark.parametrize("allow", ["127.0.0.1", "10.0.0.0/8 127.0.0.0/8", "::ffff:127.0.0.0/104"])
def test_peers_that_are_allowed(make_server, allow):
    skip_where_differs("several-listeners")
    server = make_server(allow=allow)
    registered(server.address).close()


def test_families_are_told_apart(make_server):
    skip_where_differs("several-listeners")
    port = free_port()
    server = make_server(inner=f"address {ipv6(port)}\nallow ::1/128", allow="192.0.2.7")
    server.log.expect("its address is not in `allow`")
    registered(("::1", port)).close()
    assert closed_at_once(server.address)


@pytest.mark.parametrize(
    ("allow", "text"),
    [
        ("192.0.2", "not an address or network: '192.0.2'"),
        ("192.0.2.0/33", "not an address or network: '192.0.2.0/33'"),
        ("192.0.2.7/24", "'192.0.2.7/24' has bits behind its prefix; the network would be 192.0.2.0/24"),
        ("example.org", "not an address or network: 'example.org'"),
        ("", "allow cannot be empty"),
    ],
)
def test_typing_mistakes(tmp_path, allow, text):
    skip_where_differs("several-listeners")
    for zeo, line in [(f"address 1\nallow {allow}", 3), (f"address 1\n<listener>\naddress 2\nallow {allow}\n</listener>", 5)]:
        done = _check(tmp_path, zeo)
        assert done.returncode == 2
        assert text in done.stderr
        assert f"(line {line}, in file://" in done.stderr


def test_an_address_is_named_once(tmp_path):
    """With two of one path, the rights of the one would take the place of the other's."""
    skip_where_differs("several-listeners")
    for address in ("127.0.0.1:8100", f"{tmp_path}/s"):
        for more in (f"address {address}", f"<listener>\naddress {address}\nread-only true\n</listener>"):
            done = _check(tmp_path, f"address {address}\n{more}")
            assert done.returncode == 2
            assert "is named twice" in done.stderr


def test_a_path_is_bound_once_however_it_is_spelled(tmp_path, socket_path):
    skip_where_differs("several-listeners")
    directory, name = os.path.split(socket_path)
    other = f"{directory}/../{os.path.basename(directory)}/{name}"
    done = _check(tmp_path, f"address {socket_path}\n<listener>\naddress {other}\nread-only true\n</listener>", "-t", "10")
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert not os.path.exists(socket_path)


def test_networks_mean_nothing_for_a_path(tmp_path):
    skip_where_differs("several-listeners")
    done = _check(tmp_path, f"address 1\n<listener>\naddress {tmp_path}/s\nallow 127.0.0.1\n</listener>")
    assert done.returncode == 2
    assert "allow 127.0.0.1/32 means nothing for" in done.stderr
    assert _check(tmp_path, f"address 127.0.0.1:1\naddress {tmp_path}/s\nallow 127.0.0.1").returncode == 0


def test_nobody_packs_who_may_only_read(make_server):
    """With Python's server whoever may read may pack; that is so where everybody may only read."""
    skip_where_differs("several-listeners")
    port = free_port()
    server = make_server(inner=section("listener", address=f"127.0.0.1:{port}", read_only=True))
    writer = registered(server.address)
    first = writer.commit((Z64, Z64, record(1)))
    writer.commit((Z64, first, record(2)))
    reader = registered(("127.0.0.1", port), read_only=True)
    server.log.expect("`pack` raised exception: ReadOnlyError")
    with pytest.raises(Fault, match="ReadOnlyError"):
        reader.call("pack", 4102444800.0, True)
    assert len(reader.call("history", Z64, 10)) == 2
    # Where nobody may write, who came by another way may still pack, and this one not.
    server.zeo["read_only"] = True
    server.restart()
    reader = registered(("127.0.0.1", port), read_only=True)
    with pytest.raises(Fault, match="ReadOnlyError"):
        reader.call("pack", 4102444800.0, True)
    registered(server.address, read_only=True).call("pack", 4102444800.0, True)
    assert len(reader.call("history", Z64, 10)) == 1
