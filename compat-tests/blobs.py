"""Blob directories as tests see them: what lies in them, and clients that have one."""

from __future__ import annotations

import random
import stat
from pathlib import Path
from typing import Any

from clients import Clients, Worker
from subject import Server

# "shared": the client works in the server's blob directory. "cached": in one of its own, and asks the server for content.
SHARINGS = ("shared", "cached")


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that nothing else has."""
    return random.Random(seed).randbytes(size)


def bushy(oid: bytes) -> str:
    return "/".join(f"0x{byte:02x}" for byte in oid)


def lawn(oid: bytes) -> str:
    return hex_name(oid)


def hex_name(number: bytes) -> str:
    """An oid or tid in names of files: leading zero bytes left out, but for one."""
    return "0x" + (number.lstrip(b"\0") or b"\0").hex()


def blob_file(directory: Path, oid: bytes, tid: bytes, layout=bushy) -> Path:
    """Where the content of one revision is."""
    return directory / layout(oid) / f"{hex_name(tid)}.blob"


# Ours, without meaning for the layout or for Python.
LOCK = ".zeolite-lock"


def tree(directory: Path) -> dict[str, tuple[str, bytes | None]]:
    """Everything below: name -> (type and permissions as `ls` shows them, content of files). Without our lock."""
    return {
        str(path.relative_to(directory)): (
            stat.filemode(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(directory.rglob("*"))
        if path.name != LOCK
    }


def files(directory: Path) -> set[str]:
    """The files below that hold content of blobs or are on the way to.

    Not the empty ones with which zeolite marks a transaction until just after the reply to its tpc_finish.
    """
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return {name for name in found - {".layout", LOCK} if not name.startswith("tmp/zeolite-pending-")}


class BlobClients:
    """Opens clients of one generation that have a blob directory."""

    def __init__(self, clients: Clients, sharing: str, directory: Path) -> None:
        self._clients = clients
        self.sharing = sharing
        self._directory = directory
        self._count = 0

    @property
    def shared(self) -> bool:
        return self.sharing == "shared"

    def _options(self, server: Server) -> dict[str, Any]:
        if self.shared:
            return {"blob_dir": str(server.blob_dir), "shared_blob_dir": True}
        self._count += 1
        return {"blob_dir": str(self._directory / f"blob-cache-{self._count}")}

    def worker(self) -> Worker:
        return self._clients.worker()

    def storage(self, server: Server, **options: Any) -> Worker:
        return self._clients.storage(server.address, **self._options(server), **options)

    def database(self, server: Server, **options: Any) -> Worker:
        return self._clients.database(server.address, **self._options(server), **options)
