"""Runs inside any client environment, Python 2.7 to 3: real ZODB and ZEO, remote-controlled through stdin and stdout.

One JSON value a line: requests are [function, arguments, keywords], replies [true, result] or [false, error], in the shapes of
`remote_json.py`. The functions are those of legacy_scenarios.py and its siblings, called with the one `Client` of this process.
"""

from __future__ import absolute_import

import importlib
import logging
import os
import sys
import tempfile

import remote_json


class Client(object):
    """What the scenarios of one test share."""

    def __init__(self):
        self.storage = None
        self.db = None
        self.connection = None
        self.transactions = {}
        self.directory = tempfile.mkdtemp(prefix="legacy-")

    def close(self):
        import shutil

        import transaction

        transaction.abort()
        if self.connection is not None:
            self.connection.close()
        if self.db is not None:
            self.db.close()
        elif self.storage is not None:
            self.storage.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.__init__()


def describe(error):
    """An exception: class name and text."""
    try:
        text = remote_json.text(str(error))
    except Exception as second:
        text = remote_json.text("str() failed: %r" % (second,))
    return ["%s.%s" % (type(error).__module__, type(error).__name__), text, [], {}]


def serve(requests, replies):
    client = Client()
    while True:
        line = requests.readline()
        if not line:
            return
        target, args, kwargs = remote_json.loads(line)
        try:
            module, name = target.rsplit(".", 1)
            kwargs = dict((str(key), value) for key, value in kwargs.items())
            reply = [True, getattr(importlib.import_module(module), name)(client, *args, **kwargs)]
        except Exception as error:
            logging.exception("%s failed", target)
            reply = [False, describe(error)]
        replies.write(remote_json.dumps(reply))
        replies.flush()


def main():
    # Whatever else prints goes to stderr: stdout carries the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(getattr(sys.stdin, "buffer", sys.stdin), replies)
    # The network threads of the clients before ZEO 5 outlive the main one: a normal exit may hang.
    os._exit(0)


if __name__ == "__main__":
    main()
