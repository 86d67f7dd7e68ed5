"""Fixtures: servers, raw clients, real clients.

- `server`: a server with one FileStorage, shared by the tests of a module as long as they leave it well.
  For tests that keep to objects of their own. A module may have arguments for it in `SERVER`.
- `make_server`: servers of one's own, configured at will; restarted, killed.
- `encoding`: pickle or msgpack, a parameter of every test that talks to `server`.
- `raw`: opens raw clients. `clients`: opens real clients, by default on `server`; a parameter over generations.
- `generation_under_test`: one of all the generations since ZODB 3.7, on a server that can serve it; its outcome goes into the table of
  docs/COMPAT.md under the name that the test's mark `feature` gives.
- `blob_clients`: opens real clients with a blob directory, that of the server or one of their own: a parameter, too.

After each test the log of every server it had is scanned. COMPAT_LONG=1 runs the long forms too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blobs import SHARINGS, BlobClients
from clients import ALL_GENERATIONS, GENERATIONS, Clients, Pool
from generations import Generation, record
from rawzeo import RawClient
from subject import SUBJECT, Server, runzeo_command

ENCODINGS = ("pickle", "msgpack")
QUICK_PAIRS = {("zeo6", "pickle"), ("zeo5", "msgpack")}


def pytest_report_header() -> str:
    return f"subject: {SUBJECT} ({' '.join(runzeo_command())})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    if report.skipped:
        item.stash[_SKIPPED] = True
    return report


_FAILED = pytest.StashKey[bool]()
_SKIPPED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that start servers of their own are slow: every generation and encoding, but not every pair."""
    if os.environ.get("COMPAT_LONG"):
        return

    def kept(item: pytest.Item) -> bool:
        params = getattr(item, "callspec", None) and item.callspec.params
        if not params or "make_server" not in item.fixturenames or not {"generation", "encoding"} <= set(params):
            return True
        return (params["generation"], params["encoding"]) in QUICK_PAIRS

    config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
    items[:] = [item for item in items if kept(item)]


class SharedServers:
    """The running servers of one module, by encoding."""

    def __init__(self, factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
        self._factory = factory
        self._options = options
        self._servers: dict[str, Server] = {}

    def get(self, encoding: str) -> Server:
        if encoding not in self._servers:
            directory = self._factory.mktemp(f"server-{encoding}")
            self._servers[encoding] = Server(directory, msgpack=encoding == "msgpack", **self._options).start()
        return self._servers[encoding]

    def drop(self, encoding: str) -> None:
        self._servers.pop(encoding).close()

    def close(self) -> None:
        for encoding in list(self._servers):
            self.drop(encoding)


@pytest.fixture(scope="module")
def shared_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServers]:
    servers = SharedServers(tmp_path_factory, getattr(request.module, "SERVER", {}))
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def client_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("clients"))
    yield pool
    pool.close()


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(request: pytest.FixtureRequest, encoding: str, shared_servers: SharedServers) -> Iterator[Server]:
    server = shared_servers.get(encoding)
    yield server
    alive = server.alive()
    complaints = server.log.scan()
    if request.node.stash.get(_FAILED, False) or complaints or not alive:
        shared_servers.drop(encoding)
    assert alive, f"the server died:\n{server.output()}"
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*args, directory: str = "", **kwargs) -> Server:
        path = tmp_path / (directory or f"server-{len(made)}")
        path.mkdir(exist_ok=True)
        made.append(Server(path, *args, **kwargs))
        return made[-1].start()

    yield make
    for server in made:
        server.close()
    complaints = [complaint for server in made for complaint in server.log.scan()]
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def raw() -> Iterator[Callable[..., RawClient]]:
    """Opens registered raw clients."""
    opened: list[RawClient] = []

    def open_client(
        server: Server, *, storage: str = "1", read_only: bool = False, register: bool = True
    ) -> RawClient:
        client = RawClient(server.address)
        opened.append(client)
        if register:
            client.register(storage, read_only)
        return client

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client_processes(client_pool: Pool, request: pytest.FixtureRequest) -> Iterator[Pool]:
    """The pool, emptied before the servers of the test stop."""
    for name in ("server", "make_server"):
        if name in request.fixturenames:
            request.getfixturevalue(name)
    yield client_pool
    client_pool.end_test()


@pytest.fixture
def clients(client_processes: Pool, generation: str, request: pytest.FixtureRequest) -> Clients:
    """Opens real clients of one generation, by default on `server`."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None
    return Clients(client_processes, generation, server.address if server else None)


@pytest.fixture(params=SHARINGS)
def blob_clients(clients: Clients, request: pytest.FixtureRequest, tmp_path: Path) -> BlobClients:
    """Opens real clients with a blob directory."""
    return BlobClients(clients, request.param, tmp_path)


@pytest.fixture(params=ALL_GENERATIONS)
def generation_under_test(
    client_pool: Pool, make_server: Callable[..., Server], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Generation]:
    """One generation of real clients, with the servers it can talk to."""
    feature = request.node.get_closest_marker("feature").args[0]
    generation = Generation(request.param, client_pool, make_server, tmp_path)
    yield generation
    client_pool.end_test()
    if request.node.stash.get(_SKIPPED, False):
        return
    if request.node.stash.get(_FAILED, False):
        generation.outcome = "no"
    record(feature, request.param, request.node.name, generation.outcome)
