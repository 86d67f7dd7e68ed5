"""The server's log: records since a mark, what a test expects there, and the scan after each test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d (?P<level>[A-Z]+) (?P<logger>\S+) ?(?P<message>.*)$")
_ALARMING = re.compile(r"Traceback \(most recent call last\)|panicked at")
_SERIOUS = {"WARN", "WARNING", "ERROR", "CRITICAL"}

# What both say in the normal course of things.
_NOISE = [
    # An index that covers less than 100 bytes is never used: killed in its first life, or hardly anything written.
    r"Ignoring index for",
]

# What Python's server alone says.
_PYTHON_NOISE = [
    # Its loop waits one second for asyncio to close the listener, and with uvloop and open clients it never does.
    r"Timed out closing asyncio.Server",
    # SIGTERM while a connection is being lost: the handler's SystemExit ends up in a callback.
    r"SystemExit",
    # A client closed with something unread in its socket: every test client may.
    r"Disconnected (ConnectionResetError|BrokenPipeError)",
    # A connection that it closed itself stays registered, and is sent invalidations.
    r"the handler is closed",
]


@dataclass
class Record:
    """One log record with its continuation lines."""

    level: str
    text: str

    @property
    def serious(self) -> bool:
        return self.level in _SERIOUS or _ALARMING.search(self.text) is not None


class ServerLog:
    """The log file of one server over all its starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._noise = [re.compile(p) for p in _NOISE]
        self._scanned = 0
        self._expected: list[re.Pattern[str]] = []
        self._allowed: list[re.Pattern[str]] = []

    def python_writes(self) -> None:
        """From here on Python's server writes here too."""
        self._noise += [re.compile(p) for p in _PYTHON_NOISE]

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def text(self, mark: int = 0) -> str:
        """What was logged since the file had `mark` bytes."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as f:
            f.seek(mark)
            return f.read().decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(self.text().splitlines()[-30:])

    def records(self, mark: int = 0) -> list[Record]:
        """The records since `mark`, in order."""
        records: list[Record] = []
        for line in self.text(mark).splitlines():
            if header := _HEADER.match(line):
                records.append(Record(header["level"], f"{header['logger']} {header['message']}"))
            elif line == "------":
                continue
            elif records:
                records[-1].text += "\n" + line
            else:
                records.append(Record("INFO", line))
        return records

    def serious(self) -> list[Record]:
        """The serious records of this test so far, normal noise left out."""
        return [
            record
            for record in self.records(self._scanned)
            if record.serious and not any(p.search(record.text) for p in self._noise)
        ]

    def expect(self, *patterns: str) -> None:
        """This test makes the server log a serious record that matches, on either subject."""
        self._expected += [re.compile(p, re.I) for p in patterns]

    def allow(self, *patterns: str) -> None:
        """This test may make the server log serious records that match."""
        self._allowed += [re.compile(p, re.I) for p in patterns]

    def scan(self) -> list[str]:
        """Ends a test: what it should not have logged, or should have and did not."""
        serious = self.serious()
        fine = self._expected + self._allowed
        complaints = [
            f"unexpected in the server log: {record.level} {record.text}"
            for record in serious
            if not any(p.search(record.text) for p in fine)
        ]
        complaints += [
            f"expected in the server log, but not there: {pattern.pattern}"
            for pattern in self._expected
            if not any(pattern.search(record.text) for record in serious)
        ]
        self._scanned = self.size()
        self._expected, self._allowed = [], []
        return complaints
