"""Certificates, keys and lists of revoked certificates, made as the tests need them."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from subject import section

_DAY = datetime.timedelta(days=1)


_KINDS = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}
_USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


@dataclass
class Certificate:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: object

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """As `openssl x509 -fingerprint -sha256` writes it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def key_pem(self, password: bytes | None = None, traditional: bool = False) -> bytes:
        formats = serialization.PrivateFormat
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            formats.TraditionalOpenSSL if traditional else formats.PKCS8,
            serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
        )

    def revoking(self, *revoked: Certificate, days: int = 30, age: int = 60) -> bytes:
        """A list of revoked certificates of this CA, made `age` days ago and good for `days` from now."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - age * _DAY).next_update(now + days * _DAY)
        builder = builder.add_extension(x509.CRLNumber(1), False)
        builder = builder.add_extension(_authority(self.key), False)
        for victim in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(victim.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - _DAY).build())
        return builder.sign(self.key, _digest(self.key)).public_bytes(serialization.Encoding.PEM)


def make(
    name: str,
    issuer: Certificate | None = None,
    *,
    more_names: tuple[str, ...] = (),
    ca: bool = False,
    kind: str = "ec",
    days: tuple[int, int] = (-1, 30),
    serial: int | None = None,
    most_between: int | None = None,
    uses: tuple[str, ...] = (),
    purpose: x509.ObjectIdentifier | None = None,
) -> Certificate:
    """A certificate of `name`, signed by `issuer` or by itself, valid from and to these days from now.

    `most_between`: how many CAs a CA may have between itself and others. `uses` of the key, and the one `purpose`
    of the certificate: without them it does not say.
    """
    key = _KINDS[kind]()
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in (name, *more_names)])
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
        .add_extension(x509.BasicConstraints(ca, most_between), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(_authority(signer), False)
    )
    if ca:
        uses = uses or ("digital_signature", "key_cert_sign", "crl_sign")
    if uses:
        builder = builder.add_extension(x509.KeyUsage(**{use: use in uses for use in _USES}), critical=True)
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
    return Certificate(builder.sign(signer, _digest(signer)), key)


def _authority(key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _digest(key):
    return None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()


@cache
def known(name: str, kind: str = "ec") -> Certificate:
    """A certificate signed by itself: the same for the same name."""
    return make(name, kind=kind)


class Files:
    """Certificates as files, and contexts and sections that name them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, *parts: bytes) -> Path:
        """Replaces the file as a whole, so that nobody sees half of it."""
        path = self.directory / name
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(b"".join(parts))
        return fresh.replace(path)

    def ssl(self, server: Certificate, *trusted: bytes, inner: str = "", **keys: object) -> str:
        """An `<ssl>` section: the certificate with its key in one file, and whom to trust."""
        certificate = self.write("server.pem", server.pem, server.key_pem())
        return section(
            "ssl", inner=inner, **{"certificate": certificate, "authenticate": self.write("trusted.pem", *trusted)} | keys
        )

    def client(self, certificate: Certificate | None, server: Certificate, *chain: Certificate) -> dict[str, str | None]:
        """What `context` and the scenarios need of a client: a certificate of its own, and the one it expects."""
        own = None
        if certificate is not None:
            name = f"client-{certificate.certificate.serial_number}.pem"
            own = str(self.write(name, certificate.pem, *(c.pem for c in chain), certificate.key_pem()))
        serial = server.certificate.serial_number
        return {"certificate": own, "authenticate": str(self.write(f"server-{serial}.pem", server.pem))}


def context(certificate: str | None, authenticate: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """As ZEO makes it for its clients, without the look at host names."""
    made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=authenticate)
    if certificate is not None:
        made.load_cert_chain(certificate)
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made
