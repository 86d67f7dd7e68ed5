"""Runs upstream tests, each in a process of its own, and reports one JSON line per test.

Reads the names to run from standard input (a JSON list); `--list` prints all names instead.
Knows nothing about which result was expected. ZEO decides on the encoding when its tests are
imported, so one worker serves one encoding, given by ZEO_MSGPACK in the environment.
"""
import argparse
import contextlib
import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import external

OUTPUT_TAIL_CHARS = 6000
# A panic in one connection's task leaves a Rust server running and the test none the wiser.
PANIC = "panicked at"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--time-limit-s", type=float, default=120)
    options = parser.parse_args()

    # The reports own standard output; whatever the tests' modules print goes to standard error.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # So that an ended run takes its tests and their servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    external.install()
    from collect import collect

    tests = collect()
    if options.list:
        json.dump(sorted(tests), reports)
        return
    chosen = [tests[name] for name in json.load(sys.stdin)]
    for report in run_all(chosen, options.jobs, options.time_limit_s):
        print(json.dumps(report), file=reports)


def run_all(chosen, jobs, time_limit_s):
    """Run the tests, `jobs` at a time; yields a report as each ends."""
    waiting = list(reversed(chosen))
    selector = selectors.DefaultSelector()
    running = set()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                child = Child(waiting.pop(), time_limit_s)
                selector.register(child.pidfd, selectors.EVENT_READ, child)
                running.add(child)
            next_deadline = min(child.deadline for child in running)
            patience_s = max(0, next_deadline - time.monotonic())
            ended = {key.data for key, _ in selector.select(patience_s)}
            late = {child for child in running - ended if child.deadline <= time.monotonic()}
            for child in ended | late:
                selector.unregister(child.pidfd)
                running.remove(child)
                yield child.finish(timed_out=child in late)
    finally:
        for child in running:
            child.finish(timed_out=True)


class Child:
    """One test in its own session, so that all it started can be ended with it."""

    def __init__(self, item, time_limit_s):
        self.item = item
        self.directory = Path(tempfile.mkdtemp(prefix="upstream-"))
        self.started = time.monotonic()
        self.deadline = self.started + time_limit_s
        self.pid = os.fork()
        if self.pid == 0:
            _run_in_child(item, self.directory)
        self.pidfd = os.pidfd_open(self.pid)

    def finish(self, timed_out):
        """End the test's whole session and say how the test went."""
        if timed_out:
            os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # Not reaped yet, so the group's number cannot belong to anybody else.
        with contextlib.suppress(ProcessLookupError):  # killed before it had its own group
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        report = {"id": self.item.id, "seconds": round(time.monotonic() - self.started, 2)}
        try:
            report.update(json.loads((self.directory / "outcome").read_text()))
        except FileNotFoundError:
            why = "time limit reached" if timed_out else "test process died"
            report.update(outcome="failed", details=why)
        if report["outcome"] == "passed" and PANIC in self._outputs():
            report.update(outcome="failed", details="the test passed, but the server panicked")
        if report["outcome"] == "failed":
            report["details"] += self._outputs()
        shutil.rmtree(self.directory, ignore_errors=True)
        return report

    def _outputs(self):
        text = ""
        for path in sorted(self.directory.glob("*.out")):
            tail = path.read_text(errors="replace")[-OUTPUT_TAIL_CHARS:]
            text += f"\n--- {path.name}\n{tail}"
        return text


def _run_in_child(item, directory):
    """Never returns: the test's threads must not outlive it."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(directory / "test.out", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["UPSTREAM_TEST_DIR"] = str(directory)
        work = directory / "work"
        work.mkdir()
        os.chdir(work)
        tempfile.tempdir = os.environ["TMPDIR"] = str(work)
        outcome = _run_test(item)
        (directory / "outcome.new").write_text(json.dumps(outcome))
        os.rename(directory / "outcome.new", directory / "outcome")
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_test(item):
    result = unittest.TestResult()
    hooks = ("setUp", "testSetUp"), ("testTearDown", "tearDown")
    for hook in hooks[0]:
        getattr(item.layer, hook, lambda: None)()
    unittest.TestSuite([item.test]).run(result)
    for hook in hooks[1]:
        getattr(item.layer, hook, lambda: None)()
    problems = [text for _, text in result.failures + result.errors]
    problems += [f"unexpected success: {test}" for test in result.unexpectedSuccesses]
    if problems:
        return {"outcome": "failed", "details": "\n".join(problems)}
    if result.skipped:
        return {"outcome": "skipped", "details": result.skipped[0][1]}
    return {"outcome": "passed"}


if __name__ == "__main__":
    main()
