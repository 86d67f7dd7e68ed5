"""Runs inside a client environment: real ZEO and ZODB, remote-controlled through stdin and stdout.

Requests are pickles of (function, arguments, keywords), replies of (True, result) or (False, error). The
functions are those of scenarios.py and its siblings, called with the one `Client` of this process.
"""

import importlib
import logging
import os
import pickle
import sys


class Client:
    """What the scenarios of one test share: storages, databases, connections, by names they choose."""

    def __init__(self):
        self.storage = None
        self.db = None
        self.objects = {}

    def close(self):
        import transaction

        transaction.abort()
        if self.db is not None:
            self.db.close()
        elif self.storage is not None:
            self.storage.close()
        self.__init__()


def plain(value):
    """A value that the test process can unpickle."""
    if isinstance(value, (bytes, str, int, float, bool, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(plain(v) for v in value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    return repr(value)


def describe(error):
    """An exception: class name, text, arguments, attributes."""
    class_name = f"{type(error).__module__}.{type(error).__name__}"
    try:
        text = str(error)
    except Exception as second:
        # MultipleUndoErrors that came by msgpack cannot be formatted.
        text = f"str() failed: {second!r}"
    return class_name, text, plain(error.args), plain(vars(error))


def main():
    requests = sys.stdin.buffer
    # Whatever else prints goes to stderr: stdout carries the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    client = Client()
    while True:
        try:
            target, args, kwargs = pickle.load(requests)
        except EOFError:
            return
        try:
            module, name = target.rsplit(".", 1)
            reply = True, getattr(importlib.import_module(module), name)(client, *args, **kwargs)
        except Exception as error:
            logging.exception("%s failed", target)
            reply = False, describe(error)
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    main()
