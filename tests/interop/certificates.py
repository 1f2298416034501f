"""A certificate authority that lives as long as a test run, and one certificate for whoever serves on this machine."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

LIFETIME = dt.timedelta(days=1)


class Certificates(NamedTuple):
    """Files in PEM."""

    authority: Path
    certificate: Path
    private_key: Path

    def client_context(self) -> ssl.SSLContext:
        """Return what a client needs: it trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.authority)

    def server_context(self) -> ssl.SSLContext:
        """Return what a server needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.private_key)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make an authority and its one certificate, which is for ``localhost`` and 127.0.0.1."""
    # Comes with Synapse; the fixtures decide what happens if it is missing.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    now = dt.datetime.now(dt.UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("interop tests", "localhost")
    )

    def certificate(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, is_authority: bool
    ) -> x509.Certificate:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder(authority_name, subject, public_key, x509.random_serial_number())
            .not_valid_before(now - LIFETIME)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if not is_authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    files = Certificates(directory / "authority.pem", directory / "certificate.pem", directory / "private_key.pem")
    files.authority.write_bytes(
        certificate(authority_name, authority_key.public_key(), is_authority=True).public_bytes(pem)
    )
    files.certificate.write_bytes(certificate(name, key.public_key(), is_authority=False).public_bytes(pem))
    files.private_key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
