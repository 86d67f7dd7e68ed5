"""What Python's own tools say of the files that a server left."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from unittest import mock

from ZODB.FileStorage import FileStorage

from subject import environment_python

# The package has a class of the same name as this module.
_MODULE = importlib.import_module("ZODB.FileStorage.FileStorage")


def run_tool(name: str, path: Path) -> None:
    """A script of ZODB that prints only what is wrong."""
    command = [str(environment_python("zeo6")), "-m", f"ZODB.scripts.{name}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), name


def open_counting(path: Path) -> tuple[FileStorage, int]:
    """Opens read-only, and says where Python began to scan: at the end, if it took the index as it is."""
    with mock.patch.object(_MODULE, "read_index", wraps=_MODULE.read_index) as scan:
        storage = FileStorage(str(path), read_only=True)
    starts = [call.kwargs.get("start", call.args[6] if len(call.args) > 6 else 4) for call in scan.call_args_list]
    assert len(starts) == 1
    return storage, starts[0]


def python_accepts(data_fs: Path, *, index: bool = True) -> None:
    """Python's FileStorage, iterator and tools find nothing wrong, and use the index without a scan."""
    run_tool("fstest", data_fs)
    run_tool("fsrefs", data_fs)
    storage, start = open_counting(data_fs)
    try:
        if index:
            assert start == data_fs.stat().st_size, "Python scanned the file"
        served = dict(storage._index.items())
        tids = [txn.tid for txn in storage.iterator() if [record.oid for record in txn] is not None]
        assert tids == sorted(set(tids))
        assert storage.lastTransaction() == tids[-1]
    finally:
        storage.close()
    alone = data_fs.with_name("alone.fs")
    shutil.copy(data_fs, alone)
    storage, start = open_counting(alone)
    try:
        assert start == 4
        assert dict(storage._index.items()) == served, "the index differs from what a scan finds"
    finally:
        storage.close()
