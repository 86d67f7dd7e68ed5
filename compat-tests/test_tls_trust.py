"""TLS: whose certificates are accepted. Both servers: OpenSSL's rules are the measure."""

from __future__ import annotations

import ssl
import subprocess

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import Files, known, make
from ledger import differs, skip_where_differs
from subject import wait_until
from test_tls import broken
from tls_checks import connects, refused

SERVER = known("server")


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def authority():
    return make("authority", ca=True)


# Who is let in


@pytest.mark.parametrize("kind", ["ec", "p384", "rsa", "ed25519"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_listed_certificate_needs_no_authority(make_server, files, kind, version):
    mine = known("client", kind)
    server = make_server(inner=files.ssl(SERVER, known("other").pem, mine.pem))
    assert connects(server, files.client(mine, SERVER), version)


def test_a_listed_authority_may_come_itself(make_server, files, authority):
    """OpenSSL makes self-signed certificates that say CA:TRUE unless told otherwise."""
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    assert connects(server, files.client(authority, SERVER))


def test_an_authority_lets_in_whom_it_has_signed(make_server, files, authority):
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    assert connects(server, files.client(make("client", authority), SERVER))
    between = make("between", authority, ca=True)
    assert connects(server, files.client(make("client", between), SERVER, between))
    refused(server, files.client(make("client", between), SERVER), "is signed by no CA there")


def test_strangers_stay_out(make_server, files, authority):
    listed = known("client")
    server = make_server(inner=files.ssl(SERVER, authority.pem, listed.pem))
    refused(server, files.client(known("stranger"), SERVER), "is signed by no CA there")
    refused(server, files.client(make("authority"), SERVER), "is not signed by the CA that it names")
    refused(server, files.client(None, SERVER), "it presents no certificate")
    assert connects(server, files.client(listed, SERVER))


def test_a_listed_client_makes_no_certificates(make_server, files):
    """The holder of a certificate that is no CA cannot let others in."""
    listed = known("client")
    server = make_server(inner=files.ssl(SERVER, listed.pem))
    refused(server, files.client(make("friend", listed), SERVER, listed), "TLS handshake with")


@pytest.mark.parametrize(("days", "reason"), [((-9, -1), "has expired"), ((1, 9), "is not valid yet")])
@pytest.mark.parametrize("how", ["listed", "signed"])
def test_certificates_have_their_time(make_server, files, authority, how, days, reason):
    mine = make("client", authority if how == "signed" else None, days=days)
    server = make_server(inner=files.ssl(SERVER, authority.pem, *([mine.pem] if how == "listed" else [])))
    refused(server, files.client(mine, SERVER), reason)


def test_an_expired_authority_lets_nobody_in(make_server, files):
    authority = make("old authority", ca=True, days=(-9, -1))
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    refused(server, files.client(make("client", authority), SERVER), "is signed by no CA there")


def test_revoked_certificates(make_server, files, authority):
    good, bad = make("good", authority), make("bad", authority)
    server = make_server(inner=files.ssl(SERVER, authority.pem, authority.revoking(bad)))
    assert connects(server, files.client(good, SERVER))
    refused(server, files.client(bad, SERVER), "its certificate is revoked")


def test_with_a_revocation_list_every_authority_needs_one(make_server, files, authority):
    other = make("other authority", ca=True)
    server = make_server(inner=files.ssl(SERVER, authority.pem, authority.revoking(), other.pem))
    refused(server, files.client(make("client", other), SERVER), "none of the CA of its certificate")


def test_an_expired_revocation_list_lets_nobody_in(make_server, files, authority):
    server = make_server(inner=files.ssl(SERVER, authority.pem, authority.revoking(days=-1)))
    refused(server, files.client(make("client", authority), SERVER), "CRL of the CA of its certificate has expired")


def test_a_directory_is_read(make_server, files, authority):
    directory = files.directory / "trusted"
    directory.mkdir()
    # The name that `openssl rehash` gives it, which Python's server needs.
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(files.write("authority.pem", authority.pem))]
    digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (directory / f"{digest}.0").write_bytes(authority.pem)
    server = make_server(inner=files.ssl(SERVER, b"", authenticate=directory))
    assert connects(server, files.client(make("client", authority), SERVER))
    refused(server, files.client(known("stranger"), SERVER), "is signed by no CA there")


# What has the looks of a certificate that is accepted


@pytest.mark.parametrize("how", ["listed", "signed"])
def test_a_twin_is_somebody_else(make_server, files, authority, how):
    """The same names and number, another key."""
    mine = make("client", authority if how == "signed" else None)
    server = make_server(inner=files.ssl(SERVER, authority.pem, *([mine.pem] if how == "listed" else [])))
    assert connects(server, files.client(mine, SERVER))
    forger = make("authority", ca=True) if how == "signed" else None
    twin = make("client", forger, serial=mine.certificate.serial_number)
    reason = "is not signed by the CA that it names" if forger else "is signed by no CA there"
    refused(server, files.client(twin, SERVER), reason)


@pytest.mark.parametrize("how", ["listed", "signed"])
@pytest.mark.parametrize(
    "says",
    [{"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, {"uses": ("key_encipherment",)}],
    ids=["of a server", "for encryption"],
)
def test_certificates_for_something_else(make_server, files, authority, how, says):
    issuer = authority if how == "signed" else None
    mine = make("client", issuer, **says)
    fit = make("fit", issuer, purpose=ExtendedKeyUsageOID.CLIENT_AUTH, uses=("digital_signature",))
    listed = [mine.pem, fit.pem] if how == "listed" else []
    server = make_server(inner=files.ssl(SERVER, authority.pem, *listed))
    assert connects(server, files.client(fit, SERVER))
    refused(server, files.client(mine, SERVER), "its certificate is not for TLS clients")


def test_authorities_for_something_else(make_server, files):
    authority = make("authority of servers", ca=True, purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    refused(server, files.client(make("client", authority), SERVER), "is signed by no CA there")


def test_an_authority_that_has_none_below(make_server, files):
    authority = make("last authority", ca=True, most_between=0)
    between = make("between", authority, ca=True)
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    assert connects(server, files.client(make("client", authority), SERVER))
    refused(server, files.client(make("client", between), SERVER, between), "one too many")


def test_who_may_not_sign_is_no_authority_in_between(make_server, files):
    authority = make("authority", ca=True)
    fit, unfit = (make(f"between {n}", authority, ca=True, uses=uses) for n, uses in enumerate([(), ("digital_signature",)]))
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    assert connects(server, files.client(make("client", fit), SERVER, fit))
    refused(server, files.client(make("client", unfit), SERVER, unfit), "may not sign others")


def test_a_client_that_is_an_authority_itself(make_server, files):
    """Signed by a CA that is there; and one that is there itself."""
    authority = make("authority", ca=True)
    mine, listed = make("client", authority, ca=True), make("listed", authority, ca=True)
    server = make_server(inner=files.ssl(SERVER, authority.pem, listed.pem))
    assert connects(server, files.client(listed, SERVER))
    if differs("tls-authorities-are-no-clients"):
        server.log.expect("TLS handshake with .* failed: .*of a CA itself")
        assert not connects(server, files.client(mine, SERVER))
    else:
        assert connects(server, files.client(mine, SERVER))


@pytest.mark.parametrize("kind", ["p521", "ed448"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_kinds_of_keys(make_server, files, kind, version):
    mine = known("client", kind)
    server = make_server(inner=files.ssl(SERVER, mine.pem))
    if differs("tls-kinds-of-keys"):
        server.log.expect("TLS handshake with .* failed: it.* key .*of a kind that is (not )?known here")
        assert not connects(server, files.client(mine, SERVER), version)
    else:
        assert connects(server, files.client(mine, SERVER), version)


def test_a_signature_of_a_kind_that_is_not_known(make_server, files):
    """The client's own key would do."""
    authority = make("large authority", ca=True, kind="p521")
    mine = make("client", authority)
    server = make_server(inner=files.ssl(SERVER, authority.pem))
    if differs("tls-kinds-of-keys"):
        refused(server, files.client(mine, SERVER), "a signature of a kind that is not known here")
    else:
        assert connects(server, files.client(mine, SERVER))


# Revocation lists


# A number whose first bit is set is written with a zero in front.
@pytest.mark.parametrize("serial", [0x7F << 64, 0x80 << 64])
def test_a_listed_certificate_may_be_revoked(make_server, files, authority, serial):
    good, bad = make("good", authority), make("bad", authority, serial=serial)
    server = make_server(inner=files.ssl(SERVER, authority.pem, good.pem, bad.pem, authority.revoking(bad)))
    assert connects(server, files.client(good, SERVER))
    refused(server, files.client(bad, SERVER), "its certificate is revoked")


def test_an_expired_revocation_list_is_nothing_to_trust_a_listed_certificate_by(make_server, files, authority):
    mine = make("client", authority)
    server = make_server(inner=files.ssl(SERVER, authority.pem, mine.pem, authority.revoking(days=-1)))
    refused(server, files.client(mine, SERVER), "CRL of the CA of its certificate has expired")


@pytest.mark.parametrize("order", [1, -1])
def test_the_newest_revocation_list_counts(make_server, files, authority, order):
    """Whatever the order of the files: an old one is not seldom left where the new one is."""
    good, bad = make("good", authority), make("bad", authority)
    lists = [authority.revoking(bad, age=2), authority.revoking(age=50), authority.revoking(days=-1)][::order]
    server = make_server(inner=files.ssl(SERVER, authority.pem, *lists))
    assert connects(server, files.client(good, SERVER))
    refused(server, files.client(bad, SERVER), "its certificate is revoked")


def test_a_forged_revocation_list(make_server, files, authority):
    """It revokes nobody and, above all, takes nobody off the list."""
    skip_where_differs("tls-files-read-once")
    good, bad = make("good", authority), make("bad", authority)
    listed = (authority.pem, good.pem, bad.pem)
    server = make_server(inner=files.ssl(SERVER, *listed, authority.revoking(bad)))
    server.log.allow("TLS handshake with .* failed: its certificate is revoked")
    server.log.expect("CRL 1 cannot be used: it is not signed with the key of the CA that it names, CN=authority")
    files.write("trusted.pem", *listed, make("authority", ca=True).revoking(good))
    wait_until(
        lambda: connects(server, files.client(good, SERVER)) and "cannot be used" in server.log.text(), "it is seen"
    )
    assert not connects(server, files.client(bad, SERVER))
    assert connects(server, files.client(good, SERVER))


OPENSSL_CA = """
[ca]
default_ca = here
[here]
database = index.txt
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_crl_days = 30
"""


def test_a_revocation_list_of_version_1(make_server, files, authority, tmp_path):
    """As `openssl ca` makes it where it has no file for the numbers."""
    bad = make("bad", authority)
    serial = f"{bad.certificate.serial_number:X}"
    for name, text in [("ca.pem", authority.pem), ("ca.key", authority.key_pem()), ("openssl.cnf", OPENSSL_CA.encode())]:
        files.write(name, text)
    files.write("index.txt", f"R\t391231000000Z\t200101000000Z\t{serial:0>{len(serial) + len(serial) % 2}}\tunknown\t/CN=bad\n".encode())
    command = ["openssl", "ca", "-config", "openssl.cnf", "-gencrl"]
    revoking = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    text = files.ssl(SERVER, authority.pem, revoking)
    if differs("tls-lists-of-version-1"):
        broken(tmp_path, text, "CRL 1 cannot be used: it is of version 1; for one of version 2 name a file `crlnumber`")
        return
    server = make_server(inner=text)
    assert connects(server, files.client(make("good", authority), SERVER))
    refused(server, files.client(bad, SERVER), "its certificate is revoked")
