"""The blob directory on disk: layouts, names, permissions, and the configuration that leads to it."""

import stat

import pytest

from blobs import LOCK, blob_file, bushy, content, files, hex_name, lawn, tree
from clients import RemoteError
from ledger import differs
from rawzeo import Fault, Z64, p64
from subject import blobstorage, filestorage, section

TID = p64(0x040D_255D_DD7F_7C55)
OIDS = [p64(1), p64(0x0A00), p64(0x0123_4567_89AB_CDEF)]


def store_one(server, blob_clients, oid=OIDS[0]) -> bytes:
    client = blob_clients.storage(server)
    return client.do("blob_scenarios.commit", (oid, Z64, b"content"))


def test_a_new_directory(make_server):
    server = make_server(blobs=True, umask=0o022)
    assert tree(server.blob_dir) == {".layout": ("-rw-r--r--", b"bushy"), "tmp": ("drwxr-xr-x", None)}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o007], ids=oct)
def test_names_and_modes(make_server, raw, umask):
    """Everything follows the umask; content can be read by those who can read its directory, and written by nobody."""
    server = make_server(blobs=True, umask=umask)
    upload(raw(server), [(oid, hex_name(oid).encode()) for oid in OIDS], tid=TID)
    server.stop()
    directory, file = (stat.filemode(mode) for mode in (0o40777 & ~umask, 0o100444 & ~umask))
    expected = {".layout": (stat.filemode(0o100666 & ~umask), b"bushy"), "tmp": (directory, None)}
    for oid in OIDS:
        parts = bushy(oid).split("/")
        expected.update({"/".join(parts[: n + 1]): (directory, None) for n in range(8)})
        expected[bushy(oid) + "/0x040d255ddd7f7c55.blob"] = (file, hex_name(oid).encode())
    assert tree(server.blob_dir) == expected
    assert stat.S_IMODE(server.blob_dir.stat().st_mode) == 0o777 & ~umask


def upload(client, blobs, **begin) -> bytes:
    """One transaction with blobs, uploaded by hand."""
    record = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
    txn = client.begin(**begin)
    for oid, data in blobs:
        client.store(txn, oid, Z64, record)
        client.async_("storeBlobStart")
        client.async_("storeBlobChunk", data)
        client.async_("storeBlobEnd", oid, Z64, record, txn)
    return client.vote_finish(txn)


@pytest.fixture
def old_directory(tmp_path):
    """The blob directory of an empty database: files on disk before the server starts."""
    directory = tmp_path / "server" / "blobs"
    directory.mkdir(parents=True)
    (tmp_path / "server" / "Data.fs").write_bytes(b"FS30")
    return directory


@pytest.mark.parametrize(("marker", "layout"), [("bushy", bushy), ("lawn", lawn), ("lawn\n", lawn)])
def test_the_marker_decides(make_server, blob_clients, old_directory, marker, layout):
    (old_directory / ".layout").write_text(marker)
    server = make_server(directory="server", blobs=True)
    server.log.allow("lawn")
    for oid in OIDS:
        tid = store_one(server, blob_clients, oid)
        assert blob_file(old_directory, oid, tid, layout).read_bytes() == b"content"
        assert blob_clients.storage(server).do("blob_scenarios.load", oid, tid) == b"content"
    assert (old_directory / ".layout").read_text() == marker


@pytest.mark.parametrize(
    ("entries", "layout"),
    [([], "bushy"), ([".hidden"], "bushy"), (["0x01"], "lawn"), (["tmp"], "lawn"), (["lost+found"], "lawn")],
    ids=str,
)
def test_without_a_marker(make_server, old_directory, entries, layout):
    """Anything that is not hidden, even an empty `tmp`, makes an unmarked directory an old one, with layout lawn."""
    for name in entries:
        (old_directory / name).mkdir()
    server = make_server(directory="server", blobs=True)
    if layout == "lawn":
        server.log.expect("lawn")
    assert (old_directory / ".layout").read_text() == layout
    assert {path.name for path in old_directory.iterdir()} - {LOCK} == {".layout", "tmp", *entries}


def test_a_new_directory_stays_bushy(make_server, blob_clients):
    server = make_server(blobs=True)
    server.restart(kill=True)
    tid = store_one(server, blob_clients)
    server.restart()
    assert blob_file(server.blob_dir, OIDS[0], tid).exists()
    assert (server.blob_dir / ".layout").read_text() == "bushy"


@pytest.mark.parametrize("marker", ["zeocache", "wood", ""])
def test_an_unknown_layout(make_server, marker):
    """A cache of a client, or something else that is not for a server."""
    server = make_server(blobs=True)
    server.stop()
    (server.blob_dir / ".layout").write_text(marker)
    before = tree(server.blob_dir)
    server.log.allow("layout", "cache of a ZEO client")
    with pytest.raises(RuntimeError) as error:
        server.start()
    named = repr(marker) if differs("start-errors-without-path") else str(server.blob_dir)
    assert named in str(error.value)
    assert tree(server.blob_dir) == before


@pytest.mark.parametrize(
    "storages",
    [
        [filestorage("Data.fs", blob_dir="blobs")],
        [blobstorage(filestorage("Data.fs", ""))],
        [blobstorage(section("mappingstorage"))],
    ],
    ids=["filestorage", "blobstorage", "mappingstorage"],
)
def test_ways_to_configure(make_server, blob_clients, storages):
    """Relative paths count from where the server was started."""
    server = make_server(storages)
    oid, serial = OIDS[0], Z64
    for n in range(3):
        data = content(1000, n)
        serial = blob_clients.storage(server).do("blob_scenarios.commit", (oid, serial, data))
        assert blob_file(server.blob_dir, oid, serial).read_bytes() == data
        assert blob_clients.storage(server).do("blob_scenarios.load", oid, serial) == data
    assert len(files(server.blob_dir)) == 3


def test_blobs_around_blobs(make_server):
    server = make_server()
    server.stop()
    server.storages = [blobstorage(filestorage("Data.fs", "", blob_dir="inner"))]
    server.log.allow("cannot hold the blobs of")
    with pytest.raises(RuntimeError):
        server.start()


def test_storages_side_by_side(make_server, raw):
    """Each has its own directory."""
    server = make_server(
        [filestorage("a.fs", "a", blob_dir="a"), filestorage("b.fs", "b", blob_dir="b"), filestorage("c.fs", "c")]
    )
    tids = {name: upload(raw(server, storage=name), [(OIDS[0], name.encode())]) for name in "ab"}
    for name, tid in tids.items():
        assert blob_file(server.directory / name, OIDS[0], tid).read_bytes() == name.encode()
        assert len(files(server.directory / name)) == 1


def test_a_missing_data_file(make_server, old_directory):
    """Blobs restored before their records, or a wrong path: no reason to remove anything."""
    (old_directory.parent / "Data.fs").unlink()
    (old_directory / ".layout").write_text("bushy")
    path = blob_file(old_directory, OIDS[0], TID)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    make_server(directory="server", blobs=True)
    assert path.exists() is not differs("blobs-wiped-without-data-file")


def test_create_empties_the_directory(make_server, blob_clients):
    server = make_server(blobs=True)
    store_one(server, blob_clients)
    server.stop()
    server.storages = [filestorage("Data.fs", blob_dir="blobs", create=True)]
    server.start()
    assert tree(server.blob_dir).keys() == {".layout", "tmp"}


@pytest.mark.parametrize("where", ["server", "storage", "client"])
def test_read_only(make_server, blob_clients, where):
    server = make_server(blobs=True)
    server.log.allow("raised exception")
    tid = store_one(server, blob_clients)
    server.stop()
    if where == "server":
        server.zeo["read_only"] = True
    elif where == "storage":
        server.storages = [filestorage("Data.fs", blob_dir="blobs", read_only=True)]
    before = tree(server.blob_dir)
    server.start()
    client = blob_clients.storage(server, read_only=True)
    assert client.do("blob_scenarios.load", OIDS[0], tid) == b"content"
    with pytest.raises(RemoteError) as error:
        client.do("blob_scenarios.commit", (OIDS[0], tid, b"more"))
    assert error.value.name == "ReadOnlyError"
    assert tree(server.blob_dir) == before


def test_a_file_of_somebody_else_is_left_alone(make_server, blob_clients):
    """Names that are no revisions, and revisions that no record knows."""
    server = make_server(blobs=True)
    tid = store_one(server, blob_clients)
    place = blob_file(server.blob_dir, OIDS[0], tid)
    strange = [place.with_name("notes.txt"), place.with_suffix(".bak"), server.blob_dir / "README"]
    for path in strange:
        path.write_text("mine")
    server.restart()
    assert blob_clients.storage(server).do("blob_scenarios.load", OIDS[0], tid) == b"content"
    assert all(path.read_text() == "mine" for path in strange)


@pytest.mark.parametrize("depth", [1, 8])
def test_directories_that_are_links(make_server, raw, depth):
    """As sites have spread blobs over disks."""
    server = make_server(blobs=True)
    tid = upload(raw(server), [(OIDS[0], b"content")])
    server.stop()
    link = server.blob_dir.joinpath(*bushy(OIDS[0]).split("/")[:depth])
    elsewhere = link.rename(server.blob_dir.with_name("elsewhere"))
    link.symlink_to(elsewhere)
    if not differs("blob-links-followed"):
        server.log.expect(f"{link} is a link")
        server.log.allow("raised exception")
    server.start()
    assert differs("blob-links-followed") or f"{link} is a link" in server.log.text()
    client = raw(server)
    if differs("blob-links-followed"):
        client.call("sendBlob", OIDS[0], tid)
    else:
        with pytest.raises(Fault) as caught:
            client.call("sendBlob", OIDS[0], tid)
        assert f"{link} is a link" in str(caught.value)
    server.stop()
    assert next(elsewhere.rglob("*.blob")).read_bytes() == b"content"
