"""Where the two subjects are known to differ: ledger.toml, one entry per difference, each with its reason."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from subject import SUBJECT

_FILE = Path(__file__).with_name("ledger.toml")
ENTRIES: dict[str, dict[str, str]] = tomllib.loads(_FILE.read_text())


def differs(key: str) -> bool:
    """Whether the subject under test is the one that deviates as entry `key` says."""
    if key not in ENTRIES:
        raise KeyError(f"{key!r} is not in {_FILE.name}")
    return ENTRIES[key]["subject"] in (SUBJECT, "both")


def skip_where_differs(key: str) -> None:
    """Skips the rest of a test that has nothing to ask of a subject that deviates."""
    if differs(key):
        pytest.skip(f"ledger: {key}")
