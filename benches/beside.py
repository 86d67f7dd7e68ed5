"""What the measurements in scripts/ share: the servers that are compared, the machine, the table."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from subject import TOP, Server, environment_python

OURS = TOP / "target/release/runzeo"


@dataclass(frozen=True)
class Subject:
    """One of the two servers that are compared."""

    label: str
    binary: Path | None  # None: Python's

    def start(self, directory: Path) -> Server:
        directory.mkdir(exist_ok=True)
        if self.binary is not None:
            os.environ["ZEOLITE_BIN"] = str(self.binary)
        return Server(directory, subject="runzeo" if self.binary is None else "zeolite").start()

    def version(self) -> str:
        if self.binary is not None:
            return str(self.binary)
        names = "ZEO", "ZODB", "uvloop"
        code = f"import importlib.metadata as m; print(*(n + ' ' + m.version(n) for n in {names}), sep=', ')"
        # As ZEO's server chooses its loop: without uvloop it would quietly take the slower one.
        code = f"import uvloop; {code}"
        python = environment_python("zeo6")
        versions = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        number = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.strip()
        return f"{number}, {versions}"


def pair(ours: Path, against: Path | None) -> list[Subject]:
    """Our server and the other one, Python's unless `against` names another build of ours."""
    for binary in filter(None, (ours, against)):
        if not os.access(binary, os.X_OK):
            raise SystemExit(f"{binary} is no program: cargo build --release, or name another")
    other = Subject("against", against.resolve()) if against else Subject("runzeo", None)
    return [Subject("zeolite", ours.resolve()), other]


def memory_mib(server: Server, key: str) -> float:
    """`VmRSS` now, or `VmHWM`, the most there was."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB", status, re.M)[1]) / 1024


def medians(rounds: Iterable[dict[str, float]]) -> dict[str, float]:
    rounds = list(rounds)
    return {key: median(figures[key] for figures in rounds) for key in rounds[0]}


def file_system(directory: Path) -> str:
    """The type of the file system and its device."""
    found = ("", "unknown", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        if directory.is_relative_to(mount) and len(mount) >= len(found[0]):
            found = mount, kind, device
    return f"{found[1]} on {found[2]}"


def machine(directory: Path) -> dict[str, object]:
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(directory),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def about_machine(report: dict) -> str:
    return "{cpu}, {cores} cores, {kernel}, {file_system}; load average {load_average_at_start} at the start.".format(
        **report["machine"]
    )


def about_subjects(report: dict) -> str:
    return "; ".join(f"{label}: {version}" for label, version in report["subjects"].items())


def table(head: list[str], rows: list[list[str]], markdown: bool) -> str:
    """The first column is text, the others are numbers."""
    if markdown:
        return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))] for row in [head, *rows]]
    return "\n".join("  ".join(line) for line in lines)
