"""The server under test: its command, its configuration, its life as a process.

`SUBJECT` says which one: `zeolite` (ours, `ZEOLITE_BIN` or target/release/runzeo) or `runzeo` (Python's,
from the zeo6 environment). Nothing here knows how they differ, see ledger.py for that.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from serverlog import ServerLog

TOP = Path(__file__).resolve().parent.parent
SUBJECT = os.environ.get("SUBJECT", "zeolite")
if SUBJECT not in ("zeolite", "runzeo"):
    raise SystemExit(f"SUBJECT is {SUBJECT!r}: it must be zeolite or runzeo")

# How long anything may take before it counts as hung. Generous: the machine may be busy.
PATIENCE_S = 20.0


def environment_python(generation: str) -> Path:
    """The interpreter of a client generation's environment."""
    return TOP / "target" / "python" / generation / "bin" / "python"


def runzeo_command(subject: str = SUBJECT, environment: str = "zeo6") -> list[str]:
    """The argv that starts the subject, without its switches; Python's from one of its environments."""
    if subject == "runzeo":
        return [str(environment_python(environment)), "-m", "ZEO.runzeo"]
    binary = os.environ.get("ZEOLITE_BIN", str(TOP / "target" / "release" / "runzeo"))
    if not Path(binary).exists():
        raise FileNotFoundError(f"{binary} is missing: cargo build --release, or set ZEOLITE_BIN")
    return [binary]


def zeopack_command() -> list[str]:
    """The argv that starts the `zeopack` of the subject, which stands beside its server."""
    if SUBJECT == "runzeo":
        return [str(environment_python("zeo6").with_name("zeopack"))]
    return [str(Path(runzeo_command("zeolite")[0]).with_name("zeopack"))]


def wait_until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> object:
    """Polls until `condition` returns something true, and returns that."""
    deadline = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A port nobody listens on.

    Not from the kernel's ephemeral range: a client that keeps trying a port of that range while its server
    is down may be given that very port as its own, and is then connected to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


Address = tuple[str, int] | str


def filestorage(path: Path | str, name: str = "1", **keys: object) -> str:
    """A `<filestorage>` section."""
    return section("filestorage", name, path=path, **keys)


def section(kind: str, name: str = "", /, inner: str = "", **keys: object) -> str:
    """Any ZConfig section; underscores in key names become dashes. `inner` is a section within."""
    lines = [f"<{kind} {name}>" if name else f"<{kind}>"]
    for key, value in keys.items():
        text = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
        lines.append(f"  {key.replace('_', '-')} {text}")
    return "\n".join([*lines, *inner.splitlines(), f"</{kind}>"])


def blobstorage(inner: str, name: str = "1", blob_dir: Path | str = "blobs") -> str:
    """A `<blobstorage>` section around the section of another storage."""
    return section("blobstorage", name, inner=inner, blob_dir=blob_dir)


class Server:
    """A server process on a directory of its own, restartable on the same files and address."""

    def __init__(
        self,
        directory: Path,
        storages: list[str] | None = None,
        *,
        msgpack: bool = False,
        unix: bool = False,
        subject: str = SUBJECT,
        loglevel: str = "info",
        blobs: bool = False,
        umask: int = -1,
        inner: str = "",
        original: str = "zeo6",
        **zeo: object,
    ) -> None:
        self.directory = directory
        self.subject = subject
        self.msgpack = msgpack
        self.data_fs = directory / "Data.fs"
        self.blob_dir = directory / "blobs"
        keys = {"blob_dir": self.blob_dir} if blobs else {}
        self.storages = storages if storages is not None else [filestorage(self.data_fs, **keys)]
        self.umask = umask
        # The environment whose server Python's is; ours is always the same one.
        self.original = original
        self.zeo = zeo
        # More lines within <zeo>: sections, or keys that come again.
        self.inner = inner
        self.loglevel = loglevel
        # Paths of Unix sockets are limited to about 100 bytes: pytest's own directories are too deep.
        self._socket_dir = tempfile.TemporaryDirectory(prefix="zc-") if unix else None
        self.address: Address = f"{self._socket_dir.name}/s" if self._socket_dir else ("127.0.0.1", free_port())
        self.log = ServerLog(directory / "zeo.log")
        self.process: subprocess.Popen | None = None

    @property
    def encoding(self) -> str:
        return "msgpack" if self.msgpack else "pickle"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is not running"
        return self.process.pid

    def conf(self) -> str:
        """The text of zeo.conf."""
        address = self.address if isinstance(self.address, str) else "%s:%d" % self.address
        keys = {"msgpack": True} if self.msgpack else {}
        zeo = section("zeo", inner=self.inner, address=address, **keys, **self.zeo)
        log = f"<eventlog>\n  level {self.loglevel}\n  <logfile>\n    path {self.log.path}\n  </logfile>\n</eventlog>"
        return "\n\n".join([zeo, *self.storages, log]) + "\n"

    def start(self) -> Server:
        """Starts the process and returns when it accepts connections."""
        assert self.process is None, "already running"
        if self.subject == "runzeo":
            self.log.python_writes()
        conf = self.directory / "zeo.conf"
        for _ in range(5):
            conf.write_text(self.conf())
            mark = self.log.size()
            self.process = subprocess.Popen(
                [*runzeo_command(self.subject, self.original), "-C", str(conf)],
                stdin=subprocess.DEVNULL,
                stdout=(self.directory / "stdout").open("ab"),
                stderr=(self.directory / "stderr").open("ab"),
                cwd=self.directory,
                umask=self.umask,
            )
            if self._listens(mark):
                return self
            self.process = None
            if not re.search("already in use", self.output(), re.I) or isinstance(self.address, str):
                break
            self.address = ("127.0.0.1", free_port())
        raise RuntimeError(f"the server did not start:\n{self.output()}\n{self.log.tail()}")

    def _listens(self, mark: int) -> bool:
        process = self.process
        assert process is not None

        def ready() -> str | None:
            if process.poll() is not None:
                return "dead"
            return "up" if "listening on" in self.log.text(mark) else None

        return wait_until(ready, f"the server listens; log:\n{self.log.tail()}") == "up"

    def output(self) -> str:
        """What the process wrote to stdout and stderr so far."""
        return "".join((self.directory / name).read_text(errors="replace") for name in ("stdout", "stderr"))

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL: the process gets no chance to write anything more."""
        return self._end(signal.SIGKILL)

    def _end(self, sig: signal.Signals) -> int:
        process, self.process = self.process, None
        assert process is not None, "not running"
        mark = self.log.size()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            # Python's handler raises SystemExit wherever its loop is, and inside a callback uvloop swallows it.
            # Once it closes its storages another signal would break that off.
            if self.subject == "zeolite" or "closing storage" not in self.log.text(mark):
                process.send_signal(sig)
            try:
                return process.wait(0.4 if self.subject == "runzeo" else PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
        process.kill()
        process.wait()
        raise TimeoutError(f"the server ignored {sig.name}; log:\n{self.log.tail()}")

    def restart(self, *, kill: bool = False) -> Server:
        """Ends the process and starts it again on the same files and address."""
        self.kill() if kill else self.stop()
        return self.start()

    def limit_memory(self, mib: int) -> None:
        """Bounds the address space of the process: a server that can be made to eat memory fails, not the machine."""
        resource.prlimit(self.pid, resource.RLIMIT_AS, (mib << 20, mib << 20))

    def memory_kib(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1])

    def close(self) -> None:
        """Ends the process if it still runs; called by the fixtures."""
        try:
            if self.alive():
                # Python's takes seconds to stop while clients are connected; ours is held to stopping cleanly.
                self.kill() if self.subject == "runzeo" else self.stop()
        finally:
            if self._socket_dir is not None:
                self._socket_dir.cleanup()
