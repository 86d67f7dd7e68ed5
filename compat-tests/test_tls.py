"""TLS: clients, the files of `<ssl>`, hostile input. Both servers, wherever Python's can do it.

Whose certificates are accepted is in test_tls_trust.py.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import subprocess
import textwrap
import time

import pytest

import certificates
from certificates import Files, known, make
from clients import RemoteError
from ledger import differs, skip_where_differs
from oldzeo import VERSIONS, OldClient
from rawzeo import MAXTID, ROOT, Z64, Fault, RawClient, p64, record, registered, ruok
from subject import PATIENCE_S, SUBJECT, TOP, filestorage, free_port, runzeo_command, section, wait_until, zeopack_command
from test_read_only import WRITES
from tls_checks import connects, refused

SERVER = known("server")
PASSWORD = "s3cret word"


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def authority():
    return make("authority", ca=True)


# Real clients


def test_real_clients(make_server, clients, files):
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    keys = files.client(mine, SERVER)
    one, two = clients.worker(), clients.worker()
    one.do("tls_scenarios.open_storage", server.address, **keys)
    two.do("tls_scenarios.open_storage", server.address, **keys)
    oid = one.do("call", "new_oid")
    large = b"x" * (3 << 20)
    tid = one.do("commit", (oid, Z64, large))
    wait_until(lambda: two.do("call", "lastTransaction") == tid, "the other client hears of it")
    assert two.do("load", oid)[:2] == (large, tid)


def test_certificates_and_sections_as_the_readme_has_them(make_server, clients, tmp_path, monkeypatch):
    how_to = (TOP / "README.md").read_text().partition("\n## TLS\n")[2].partition("\n## ")[0]
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?m)(?:^    .*\n)+", how_to)]
    commands, of_server, of_client = blocks
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE_S)
    (tmp_path / "clients.pem").write_bytes((tmp_path / "client.pem").read_bytes())

    def ssl_section(text: str) -> str:
        text = re.search(r"(?s)<ssl>.*</ssl>", text).group()
        return re.sub(r"(\w+\.(?:pem|key))", rf"{tmp_path}/\1", text)

    server = make_server(inner=ssl_section(of_server))
    worker = clients.worker()
    address = "server %s:%d\nwait-timeout %d" % (*server.address, PATIENCE_S)
    worker.do("tls_scenarios.open_configured", f"<clientstorage>\n{address}\n{ssl_section(of_client)}\n</clientstorage>")
    assert worker.do("commit", (worker.do("call", "new_oid"), Z64, b"data")) == worker.do("call", "lastTransaction")


def test_tls_over_a_unix_socket(make_server, files, authority):
    """ZEO's own clients never get so far: they do not give the name of the server to `ssl`."""
    server = make_server(unix=True, inner=files.ssl(SERVER, authority.pem))
    assert connects(server, files.client(make("client", authority), SERVER))
    refused(server, files.client(known("stranger"), SERVER), "is signed by no CA there")


@pytest.mark.parametrize("whose", ["stranger", "nobody"])
def test_real_clients_that_are_refused(make_server, clients, files, whose):
    server = make_server(inner=files.ssl(SERVER, known("client").pem))
    server.log.allow("TLS handshake with .* failed" if server.subject == "zeolite" else "SSL|ssl")
    keys = files.client(known("stranger") if whose == "stranger" else None, SERVER)
    worker = clients.worker()
    with pytest.raises(RemoteError) as error:
        worker.do("tls_scenarios.open_storage", server.address, **keys, wait_timeout=2)
    assert error.value.name == "ClientDisconnected"


def test_plain_clients_get_nothing(make_server, files):
    server = make_server(inner=files.ssl(SERVER, known("client").pem))
    server.log.allow("TLS handshake with .* failed" if server.subject == "zeolite" else "SSL|ssl")
    with socket.create_connection(server.address, PATIENCE_S) as plain:
        plain.sendall(b"\0\0\0\2Z5" + b"\0" * 20)
        received = b""
        while chunk := _received(plain):
            received += chunk
    # An alert, at most: content type 21.
    assert received[:1] in (b"", b"\x15")
    assert b"Z5" not in received
    assert server.alive()
    if not differs("tls-refusals-unsaid"):
        wait_until(lambda: "it does not speak TLS" in server.log.text(), "the log says so")


def _received(sock) -> bytes:
    try:
        return sock.recv(1 << 16)
    except ConnectionError:
        return b""


def test_tls_clients_fail_on_a_plain_server(make_server, files):
    server = make_server()
    server.log.allow(".")
    assert not connects(server, files.client(known("client"), SERVER))
    assert json.loads(ruok(server.address))["1"]["active_txns"] == 0


def test_ruok_inside_tls(make_server, files):
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    status = json.loads(ruok(server.address, tls=certificates.context(**files.client(mine, SERVER))))
    assert set(status) == {"1"}


def test_clients_that_just_go_are_no_failure(make_server, files):
    """They do not say goodbye in TLS."""
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    raw = RawClient(server.address, tls=certificates.context(**files.client(mine, SERVER)))
    raw.register()
    raw.close()
    wait_until(lambda: re.search(r"\(127.0.0.1:\d+\) disconnected|Disconnected", server.log.text()), "it has gone")
    server.stop()
    assert "close_notify" not in server.log.text()


def test_many_large_replies_arrive(make_server, files):
    """What TLS keeps back is sent without waiting for more."""
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    raw = RawClient(server.address, tls=certificates.context(**files.client(mine, SERVER)))
    raw.register()
    data = bytes(range(256)) * 1000
    tid = raw.commit(*((p64(n), Z64, data) for n in range(1, 40)))
    started = [raw.start("loadBefore", p64(n), MAXTID) for n in range(1, 40)]
    assert [raw.reply(msgid) for msgid in started] == [(data, tid, None)] * 39
    raw.close()


# Files that are of no use


def starts(tmp_path, ssl_section: str, *switches: str) -> subprocess.CompletedProcess[str]:
    conf = tmp_path / "zeo.conf"
    conf.write_text(f"<zeo>\naddress 127.0.0.1:0\n{ssl_section}\n</zeo>\n<mappingstorage/>\n")
    command = [*runzeo_command(), "-C", str(conf), *(switches or ["--test"])]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def broken(tmp_path, ssl_section: str, *texts: str) -> None:
    done = starts(tmp_path, ssl_section)
    assert done.returncode == 1
    assert "testing exit immediately" not in done.stdout
    if differs("tls-mistakes-are-tracebacks"):
        assert "Traceback" in done.stderr
        return
    # With --check-config, too.
    for done in (done, starts(tmp_path, ssl_section, "--check-config")):
        assert done.returncode == 1
        assert PASSWORD not in done.stdout + done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        for text in texts:
            assert text in line


def test_missing_files(tmp_path, files):
    for key in ("certificate", "key"):
        missing = tmp_path / "missing.pem"
        broken(tmp_path, files.ssl(SERVER, SERVER.pem, **{key: missing}), f"cannot read {missing}", f"the {key} of <ssl>")
    text = files.ssl(SERVER, SERVER.pem, authenticate=tmp_path / "missing.pem")
    broken(tmp_path, text, "missing.pem, the authenticate of <ssl>")


def test_a_key_of_another_certificate(tmp_path, files):
    key = files.write("key.pem", known("client").key_pem())
    broken(tmp_path, files.ssl(SERVER, SERVER.pem, key=key), str(key), "is not that of the first certificate in")


def test_files_without_what_they_are_for(tmp_path, files):
    only_key = files.write("only-key.pem", SERVER.key_pem())
    only_certificate = files.write("only-certificate.pem", SERVER.pem)
    empty = files.write("empty.pem")
    broken(tmp_path, files.ssl(SERVER, SERVER.pem, certificate=only_key), "there is no certificate in it")
    broken(tmp_path, files.ssl(SERVER, SERVER.pem, certificate=only_certificate), "there is no private key in it", "`key`")
    broken(tmp_path, files.ssl(SERVER, SERVER.pem, authenticate=empty), "there is no certificate to trust")
    garbage = files.write("garbage.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    broken(tmp_path, files.ssl(SERVER, SERVER.pem, authenticate=garbage), "certificate 1 is damaged")


def test_a_key_of_a_kind_that_is_not_known(tmp_path, files):
    server = known("server", "p521")
    text = files.ssl(server, SERVER.pem)
    if differs("tls-kinds-of-keys"):
        broken(tmp_path, text, "server.pem", "a key is RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519")
    else:
        done = starts(tmp_path, text)
        assert (done.returncode, "testing exit immediately" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("missing", "extra", "text"),
    [
        ("authenticate", {}, "no values for 'authenticate'; 1 required"),
        ("certificate", {}, "no values for 'certificate'; 1 required"),
        (None, {"check_hostname": True}, "'check-hostname' is not a known key name"),
        (None, {"server_hostname": "zeo"}, "'server-hostname' is not a known key name"),
    ],
)
def test_keys_of_the_section(tmp_path, files, missing, extra, text):
    """Two of them are for clients, in `<ssl>` of a `<clientstorage>`."""
    lines = files.ssl(SERVER, SERVER.pem, **extra).splitlines()
    kept = "\n".join(line for line in lines if not line.split()[:1] == [missing])
    done = starts(tmp_path, kept)
    assert done.returncode == 2
    assert text in done.stderr
    # Of a key that it does not know Python's server says no line.
    if missing or SUBJECT == "zeolite":
        assert re.search(r"\(line \d+,? in file://.*zeo.conf\)", done.stderr)


def test_code_is_not_run_and_nobody_is_no_trust(tmp_path, files):
    skip_where_differs("tls-keys-of-ours")
    done = starts(tmp_path, files.ssl(SERVER, SERVER.pem, password_function="os.getcwd"))
    assert done.returncode == 2
    assert "password-function in <ssl> is not supported" in done.stderr
    assert "use password-file" in done.stderr
    assert "(line 6 in file://" in done.stderr
    done = starts(tmp_path, files.ssl(SERVER, SERVER.pem, authenticate="DYNAMIC"))
    assert done.returncode == 2
    assert "authenticate cannot be DYNAMIC" in done.stderr


# What only we have


def test_encrypted_keys(make_server, tmp_path, files):
    skip_where_differs("tls-keys-of-ours")
    mine = known("client")
    key = files.write("key.pem", SERVER.key_pem(PASSWORD.encode()))
    good, bad = files.write("good", f"{PASSWORD}\n".encode()), files.write("bad", f"{PASSWORD}s\n".encode())
    broken(tmp_path, files.ssl(SERVER, mine.pem, key=key), "its key is encrypted", "password-file")
    broken(tmp_path, files.ssl(SERVER, mine.pem, key=key, password_file=bad), "cannot be decrypted", str(bad))
    old = files.write("old.pem", known("old", "rsa").key_pem(b"x", traditional=True))
    broken(tmp_path, files.ssl(SERVER, mine.pem, key=old, password_file=good), "openssl pkcs8 -topk8")
    server = make_server(inner=files.ssl(SERVER, mine.pem, key=key, password_file=good))
    assert connects(server, files.client(mine, SERVER))
    server.log.expect("cannot be used; those of before stay: .*its key cannot be decrypted with the password in")
    files.write("good", f"{PASSWORD}s\n".encode())
    wait_until(
        lambda: connects(server, files.client(mine, SERVER)) and "cannot be decrypted" in server.log.text(),
        "the wrong password is seen",
    )
    assert PASSWORD not in server.log.text()


def test_changed_files_are_read_again(make_server, files):
    skip_where_differs("tls-files-read-once")
    first, second = known("first"), known("second")
    server = make_server(inner=files.ssl(SERVER, first.pem))
    server.log.allow("TLS handshake with .* failed")
    stays = RawClient(server.address, tls=certificates.context(**files.client(first, SERVER)))
    stays.register()
    assert not connects(server, files.client(second, SERVER))

    files.write("trusted.pem", second.pem)
    wait_until(lambda: connects(server, files.client(second, SERVER)), "the new certificate is trusted")
    assert not connects(server, files.client(first, SERVER))
    assert "certificates have changed and are read again" in server.log.text()
    stays.sync()
    stays.close()

    renewed = make("renewed server")
    files.write("server.pem", renewed.pem, renewed.key_pem())
    wait_until(lambda: connects(server, files.client(second, renewed)), "the server has its new certificate")


def test_broken_files_change_nothing(make_server, files):
    skip_where_differs("tls-files-read-once")
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    server.log.expect("certificates have changed and cannot be used; those of before stay: .*trusted.pem")
    files.write("trusted.pem", b"nothing")
    wait_until(
        lambda: connects(server, files.client(mine, SERVER)) and "cannot be used" in server.log.text(),
        "the broken file is seen",
    )
    assert connects(server, files.client(mine, SERVER))
    assert server.log.text().count("cannot be used") == 1
    files.write("trusted.pem", mine.pem, known("other").pem)
    server.log.allow("TLS handshake with .* failed")
    wait_until(lambda: connects(server, files.client(known("other"), SERVER)), "the mended file is read")


def test_a_new_revocation_list_is_read(make_server, files, authority):
    skip_where_differs("tls-files-read-once")
    mine = make("client", authority)
    server = make_server(inner=files.ssl(SERVER, authority.pem, authority.revoking()))
    server.log.expect("its certificate is revoked")
    assert connects(server, files.client(mine, SERVER))
    files.write("trusted.pem", authority.pem, authority.revoking(mine))
    wait_until(lambda: not connects(server, files.client(mine, SERVER)), "it is revoked")


def test_certificates_open_doors(make_server, files, tmp_path, authority):
    """`<client>`: which storages, and whether to write there."""
    skip_where_differs("tls-keys-of-ours")
    writer, reader, unknown = make("writer", authority), known("reader"), make("unknown", authority)
    sections = "\n".join(
        [
            section("client", "site", common_name="writer", storages="Main"),
            section("client", "backup", fingerprint=reader.fingerprint, read_only=True),
        ]
    )
    storages = [filestorage(tmp_path / "main.fs", "main"), filestorage(tmp_path / "other.fs", "other")]
    server = make_server(storages, inner=files.ssl(SERVER, authority.pem, reader.pem, inner=sections))

    def client(certificate):
        return RawClient(server.address, tls=certificates.context(**files.client(certificate, SERVER)))

    server.log.expect("may not open storage other")
    server.log.allow("raised exception")
    raw = client(writer)
    with pytest.raises(Fault) as fault:
        raw.register("other")
    assert "other" in str(fault.value.state)
    raw.register("main")
    raw.commit((p64(1), Z64, b"data"))
    assert "site 127.0.0.1:" in server.log.text()
    raw.close()
    raw = client(reader)
    with pytest.raises(Fault) as fault:
        raw.register("main")
    assert fault.value.class_name == "ZODB.POSException.ReadOnlyError"
    raw.register("other", True)
    raw.close()
    context = certificates.context(**files.client(writer, SERVER))
    assert set(json.loads(ruok(server.address, tls=context))) == {"main"}
    server.log.expect("no <client> is for its certificate, common name .unknown., SHA-256 fingerprint")
    assert not connects(server, files.client(unknown, SERVER))


@pytest.mark.parametrize("names", [("writer", "other"), ("other", "writer"), ("Writer",), ("",)])
def test_who_is_not_named_exactly(make_server, files, authority, names):
    skip_where_differs("tls-keys-of-ours")
    mine = make(names[0], authority, more_names=names[1:]) if names[0] else make("writer ", authority)
    sections = section("client", "site", common_name="writer")
    server = make_server(inner=files.ssl(SERVER, authority.pem, inner=sections))
    assert connects(server, files.client(make("writer", authority), SERVER))
    refused(server, files.client(mine, SERVER), "no <client> is for its certificate")


@pytest.mark.parametrize("version", ["Z5", *VERSIONS])
def test_who_may_only_read_changes_nothing(make_server, files, version):
    """Neither by a pack, which takes away what others may want: the whole server is not read-only."""
    skip_where_differs("tls-keys-of-ours")
    writer, reader = known("writer"), known("reader")
    sections = "\n".join(
        [section("client", "site", common_name="writer"), section("client", "backup", common_name="reader", read_only=True)]
    )
    server = make_server(inner=files.ssl(SERVER, writer.pem, reader.pem, inner=sections))
    server.log.allow("raised exception")

    def tls(certificate):
        return certificates.context(**files.client(certificate, SERVER))

    def refuses(method, *args):
        with pytest.raises(Fault) as fault:
            raw.call(method, *args)
        assert fault.value.class_name == "ZODB.POSException.ReadOnlyError", method

    other = RawClient(server.address, tls=tls(writer))
    other.register()
    other.commit((ROOT, Z64, record(1)))
    tid = other.commit((ROOT, other.call("lastTransaction"), record(2)))
    if version == "Z5":
        raw = RawClient(server.address, tls=tls(reader))
        has_versions = False
    else:
        raw = OldClient(server.address, version, register=False, tls=tls(reader))
        has_versions = raw.has_versions
    refuses("register", "1", False)
    raw.call("register", "1", True)
    calls = dict(WRITES) | {"pack": (time.time(), True), "storeBlobShared": (ROOT, tid, record(3), "x.tmp", 1)}
    if version != "Z5":
        calls["undo"] = (base64.encodebytes(tid).rstrip(), 1)
    for method, args in calls.items():
        # Up to ZODB 3.8 the name of a version comes before the transaction.
        refuses(method, *args[:-1], *[""] * (has_versions and method in ("storea", "storeBlobShared")), args[-1])
    assert len(other.call("history", ROOT, 9)) == 2
    raw.close()
    other.call("pack", time.time(), True)
    assert len(other.call("history", ROOT, 9)) == 1
    other.close()


def test_a_client_section_names_a_storage(tmp_path, files):
    skip_where_differs("tls-keys-of-ours")
    for inner, text in [
        (section("client", "site", common_name="x", storages="nope"), "may open 'nope', and no storage has this name"),
        (section("client", "site"), "<client> needs either a common-name or a fingerprint"),
        (section("client", "site", fingerprint="ab:cd"), "not a SHA-256 fingerprint: 'ab:cd'"),
    ]:
        done = starts(tmp_path, files.ssl(SERVER, SERVER.pem, inner=inner))
        assert done.returncode == 2
        assert text in done.stderr


# Hostile input


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\0" * 17_000,
        b"\x80\x2e\x01\x00\x02" + b"\0" * 100,
        b"\0" * 100_000,
    ],
)
def test_garbage(make_server, files, garbage):
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    server.log.allow("TLS handshake with .* failed" if server.subject == "zeolite" else ".")
    for _ in range(20):
        with socket.create_connection(server.address, PATIENCE_S) as sock:
            try:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                while _received(sock):
                    pass
            except OSError:
                pass
    assert connects(server, files.client(mine, SERVER))
    if not differs("hostile-input-fills-the-log"):
        assert len(server.log.serious()) <= 1
    assert server.memory_kib() < 256 << 10


def test_half_a_handshake_holds_nothing(make_server, files):
    """Connections that never go on are ended, and others are served meanwhile."""
    skip_where_differs("tls-handshakes-wait-a-minute")
    mine = known("client")
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    server.log.expect("TLS handshake with .* failed: it is not done after 15 seconds")
    before = server.memory_kib()
    started = time.monotonic()
    idle = [socket.create_connection(server.address, PATIENCE_S) for _ in range(200)]
    for sock in idle:
        sock.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
    assert connects(server, files.client(mine, SERVER))
    assert server.memory_kib() - before < 64 << 10
    idle[0].settimeout(2 * PATIENCE_S)
    for sock in idle:
        while _received(sock):
            pass
        sock.close()
    assert time.monotonic() - started > 10, "slow clients have their time"
    assert len(server.log.serious()) == 1


def test_handshakes_of_strangers_do_not_fill_the_server(make_server, files):
    """However many do not go on, the other listeners have room for theirs."""
    skip_where_differs("several-listeners")
    mine = known("client")
    plain = ("127.0.0.1", free_port())
    server = make_server(inner=files.ssl(SERVER, mine.pem) + "\n" + section("listener", address="%s:%d" % plain))
    server.log.allow("TLS handshake with .* failed")
    idle = []
    wait_until(
        lambda: idle.append(socket.create_connection(server.address, PATIENCE_S))
        or "failed: 1000 others are under way at ('127.0.0.1', " in server.log.text(),
        "one is too many",
    )
    assert len(idle) > 1000
    assert _received(idle[-1]) == b""
    registered(plain).close()
    for sock in idle:
        sock.close()
    wait_until(lambda: connects(server, files.client(mine, SERVER)), "those that have gone leave room")


def test_networks_come_before_handshakes(make_server, files):
    skip_where_differs("several-listeners")
    server = make_server(inner=files.ssl(SERVER, known("client").pem), allow="192.0.2.0/24")
    server.log.expect("its address is not in `allow`")
    assert not connects(server, files.client(known("client"), SERVER))
    assert "TLS" not in server.log.text()


def test_zeopack_says_what_is_wrong(make_server, files):
    server = make_server(inner=files.ssl(SERVER, known("client").pem))
    server.log.allow("TLS handshake with .* failed" if server.subject == "zeolite" else "SSL|ssl")
    skip_where_differs("zeopack-gives-no-reason")
    process = subprocess.Popen([*zeopack_command(), "%s:%d" % server.address], stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=2 * PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "TLS" in errors
