"""The ledger itself: well-formed, and nothing in it that no test uses."""

import re
from pathlib import Path

from ledger import ENTRIES


def test_entries_say_who_and_why():
    for key, entry in ENTRIES.items():
        assert set(entry) == {"subject", "reason"}, key
        assert entry["subject"] in ("runzeo", "zeolite", "both"), key
        assert len(entry["reason"]) > 20, key


def test_every_entry_is_used():
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    used = set(re.findall(r'differs\(\s*"([^"]+)"', tests))
    assert used == set(ENTRIES)


def test_every_entry_is_explained_to_people():
    page = (Path(__file__).parent.parent / "docs" / "COMPAT.md").read_text()
    assert [key for key in ENTRIES if f"`{key}`" not in page] == []
