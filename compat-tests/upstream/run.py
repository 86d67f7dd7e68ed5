"""ZEO's own tests against an external storage server, judged by what is expected to pass.

    run.py                the tests in passing.txt must pass, with both encodings
    run.py --encoding pickle    half of that, for a quick answer
    run.py --all          run the excluded tests that use a server as well
    run.py --ratchet      --all, and an excluded test that passes fails the run
    run.py --update       --all, and move what passes to passing.txt

The server is the program ZEOLITE_BIN (target/release/runzeo unless set). SUBJECT=runzeo tests
Python's own server instead, started the same way: there the excluded tests have to pass as well,
which proves this runner rather than any server.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import external
from expectations import NOT_YET, Expectations

WORKER = Path(__file__).resolve().parent / "worker.py"
RESULTS = external.ROOT / "target/upstream"
ENCODINGS = {"pickle": "", "msgpack": "1"}
DETAILS_CHARS = 8000


def main():
    options = parse_arguments()
    name = os.environ.get("SUBJECT", "zeolite")
    server = external.binary(name)
    if not os.access(server, os.X_OK):
        sys.exit(f"no server at {server}: build it (cargo build --release) or set ZEOLITE_BIN")
    collected = {encoding: list_tests(encoding) for encoding in ENCODINGS}
    if collected["pickle"] != collected["msgpack"]:
        sys.exit("the two encodings have different tests; the lists assume they have the same")
    expectations = Expectations(collected["pickle"])
    if expectations.problems:
        sys.exit("\n".join(expectations.problems))

    chosen = choose(expectations, options)
    print(f"{name}: {server}")
    runs = {
        encoding: run(name, encoding, chosen, options)
        for encoding in (ENCODINGS if options.encoding == "both" else [options.encoding])
    }
    sys.exit(judge(name, runs, expectations, options))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoding", choices=[*ENCODINGS, "both"], default="both")
    parser.add_argument("--jobs", "-j", type=int, default=2)
    parser.add_argument("--time-limit-s", type=float, default=120, help="for each test")
    parser.add_argument("-k", dest="only", metavar="PATTERN", help="only tests that match")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--ratchet", action="store_true")
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    options.all |= options.ratchet or options.update
    if options.update and (
        options.encoding != "both" or os.environ.get("SUBJECT", "zeolite") != "zeolite"
    ):
        parser.error("--update needs both encodings and our own server")
    return options


def list_tests(encoding):
    listing = subprocess.run(
        [sys.executable, WORKER, "--list"],
        env=environment(encoding),
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(listing.stdout)


def choose(expectations, options):
    """The tests to run, sorted by name."""
    chosen = set(expectations.passing)
    if options.all:
        chosen |= {name for name, why in expectations.reasons.items() if why in NOT_YET}
    if options.only:
        chosen = {name for name in chosen if fnmatchcase(name, f"*{options.only}*")}
    return sorted(chosen)


def run(name, encoding, chosen, options):
    """Run the tests with one encoding; the report of each by its name."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = RESULTS / f"{name}-{encoding}.jsonl"
    started = time.monotonic()
    limits = ["--jobs", str(options.jobs), "--time-limit-s", str(options.time_limit_s)]
    with subprocess.Popen(
        [sys.executable, WORKER, *limits],
        env=environment(encoding),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker, open(results, "w", buffering=1, encoding="utf-8") as log:
        worker.stdin.write(json.dumps(chosen))
        worker.stdin.close()
        reports = {}
        for line in worker.stdout:
            log.write(line)
            report = json.loads(line)
            reports[report["id"]] = report
    for missing in set(chosen) - set(reports):
        reports[missing] = {"id": missing, "outcome": "failed", "details": "never reported"}
    took = time.monotonic() - started
    print(f"{encoding}: {len(reports)} tests in {took:.0f} s, results in {results}", flush=True)
    return reports


def judge(name, runs, expectations, options):
    """Print what matters; the exit status."""
    must_pass = set(expectations.passing)
    if name == "runzeo":
        must_pass |= set(expectations.reasons)
    totals = Counter()
    for encoding, reports in runs.items():
        for test, report in sorted(reports.items()):
            # A test that must pass and skips itself has stopped testing.
            if report["outcome"] == "passed":
                totals["passed"] += test in must_pass
            elif test in must_pass:
                totals["failed"] += 1
                print(f"\nFAILED {encoding} {test}\n{report['details'][:DETAILS_CHARS]}")
        totals["skipped"] += len(set(expectations.reasons) - (set(reports) & must_pass))

    print()
    for reason, count in sorted(Counter(expectations.reasons.values()).items()):
        print(f"excluded: {count:4} {reason}")
    surplus = passed_in_all(runs) - must_pass
    for test in sorted(surplus):
        print(f"passes although excluded ({expectations.reasons[test]}): {test}")
    if surplus and options.update:
        expectations.add_passes(surplus)
        print(f"{len(surplus)} tests moved to passing.txt")
    elif options.ratchet:
        totals["failed"] += len(surplus)
    print("{passed} passed, {failed} failed, {skipped} skipped".format_map(totals))
    return 1 if totals["failed"] or not totals["passed"] else 0


def passed_in_all(runs):
    """The tests that passed with every encoding that ran."""
    return set.intersection(
        *(
            {test for test, report in reports.items() if report["outcome"] == "passed"}
            for reports in runs.values()
        )
    )


def environment(encoding):
    return {**os.environ, "ZEO_MSGPACK": ENCODINGS[encoding]}


if __name__ == "__main__":
    main()
