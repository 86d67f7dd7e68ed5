"""`main` becomes the server under test, keeping the process id the test sends signals to."""
import os
import sys


def main(args=None):
    server = os.environ["UPSTREAM_SERVER"]
    sys.stdout.flush()
    os.execv(server, [server, *(sys.argv[1:] if args is None else args)])
