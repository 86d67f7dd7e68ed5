"""Whether a server lets a client in that has these certificates."""

from __future__ import annotations

import ssl

import certificates
from ledger import differs
from rawzeo import Closed, RawClient
from subject import wait_until

# What connecting may end in when the server does not want us.
REFUSED = (Closed, ConnectionError, ssl.SSLError)


def connects(server, client: dict, version=None) -> bool:
    try:
        raw = RawClient(server.address, tls=certificates.context(**client, version=version))
    except REFUSED:
        return False
    try:
        return raw.register() is not None
    except REFUSED:
        return False
    finally:
        raw.close()


def refused(server, client: dict, reason: str) -> None:
    """The server lets nobody in like this; ours says why."""
    mark = server.log.size()
    if server.subject == "zeolite":
        server.log.allow("TLS handshake with .* failed")
    else:
        server.log.allow("SSL", "ssl")
    assert not connects(server, client)
    if not differs("tls-refusals-unsaid"):
        wait_until(lambda: reason in server.log.text(mark), f"{reason!r} in the log:\n{server.log.tail()}")
