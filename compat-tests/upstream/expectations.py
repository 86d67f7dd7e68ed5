"""What each upstream test is expected to do: passing.txt and excluded.toml.

Owns the rules between the two files: every collected test is either on the list of those that must
pass or excluded for one reason out of a closed set. Must never take a name off the passing list.
"""
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
PASSING = HERE / "passing.txt"
EXCLUDED = HERE / "excluded.toml"

# Nothing to find out by running these against a server.
NEVER_RUN = frozenset(
    {
        "tests Python internals",
        "client only, no server involved",
        "fails with Python's own server too (flaky/broken upstream)",
    }
)
# These fail with us for now and pass with Python's server. "Hard" is not a reason.
NOT_YET = frozenset(
    {
        "needs a Python class on the server",
        "needs another storage (demo, fan-out)",
    }
)
REASONS = NEVER_RUN | NOT_YET


class Expectations:
    """The two files, checked against each other and against the collected tests."""

    def __init__(self, collected, passing=PASSING, excluded=EXCLUDED):
        self._passing_path = passing
        self._excluded_path = excluded
        self.passing = passing.read_text().split()
        self._entries = [
            (group["reason"], pattern)
            for group in tomllib.loads(excluded.read_text())["exclude"]
            for pattern in group["tests"]
        ]
        self.reasons, self.problems = self._classify(set(collected))

    def _classify(self, collected):
        """The reason of each excluded test, and all that is wrong with the files."""
        problems = []
        passing = set(self.passing)
        if self.passing != sorted(passing):
            problems.append("passing.txt is not sorted or names a test twice")
        for reason in {reason for reason, _ in self._entries} - REASONS:
            problems.append(f"excluded.toml: {reason!r} is not one of the allowed reasons")
        for name in sorted(passing - collected):
            problems.append(f"passing.txt: no such test: {name}")

        reasons = {}
        used = set()
        for name in collected - passing:
            # The first match in the file's order counts.
            match = next((entry for entry in self._entries if _matches(entry[1], name)), None)
            if match is None:
                problems.append(f"neither in passing.txt nor excluded: {name}")
                continue
            used.add(match)
            reasons[name] = match[0]
        for reason, pattern in self._entries:
            if (reason, pattern) not in used:
                problems.append(f"excluded.toml: {pattern!r} ({reason}) excludes no test")
        return reasons, sorted(problems)

    def add_passes(self, names):
        """Put tests on the passing list, and drop the exclusions that are used up."""
        self.passing = sorted({*self.passing, *names})
        self._passing_path.write_text("".join(f"{name}\n" for name in self.passing))
        for name in names:
            del self.reasons[name]
        left = {
            next(entry for entry in self._entries if _matches(entry[1], name))
            for name in self.reasons
        }
        spent = {pattern for reason, pattern in self._entries if (reason, pattern) not in left}
        text = self._excluded_path.read_text()
        for pattern in spent:
            text = re.sub(rf'^ *"{re.escape(pattern)}",\n', "", text, flags=re.M)
        text = re.sub(r'^\[\[exclude\]\]\nreason = .*\ntests = \[\n\]\n\n?', "", text, flags=re.M)
        self._excluded_path.write_text(text)


def _matches(pattern, name):
    return pattern == name or fnmatchcase(name, pattern)
