"""Storages over TLS. Runs in the client's environment, which cannot make certificates: it is given files."""

import ssl

import scenarios


def context(certificate, authenticate):
    made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=authenticate)
    if certificate is not None:
        made.load_cert_chain(certificate)
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


def open_storage(client, address, /, certificate, authenticate, **options):
    options.setdefault("ssl_server_hostname", "localhost")
    scenarios.open_storage(client, address, ssl=context(certificate, authenticate), **options)


def open_database(client, address, /, certificate, authenticate, **options):
    import ZODB

    open_storage(client, address, certificate, authenticate, **options)
    client.db = ZODB.DB(client.storage)


def open_configured(client, text):
    """A storage as a site has it in its configuration."""
    import ZODB.config

    client.storage = ZODB.config.storageFromString("%import ZEO\n" + text)
    client.transactions = {}
