"""Certificates for tests, valid for an hour: self-signed for loopback, and those of nodes by an authority of theirs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.config import ChannelTls, Tls

HOUR = timedelta(hours=1)


def write(folder: Path, name: str = "gateway", password: bytes = b"", valid: timedelta = HOUR) -> Tls:
    """A new pair as `certificate.pem` and `key.pem` of the folder, each replaced at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    certificate = _signed(key, name, valid).public_bytes(serialization.Encoding.PEM)
    for file, content in (("key.pem", pem), ("certificate.pem", certificate)):
        (folder / f"{file}.new").write_bytes(content)
        (folder / f"{file}.new").rename(folder / file)
    return Tls(certificate=str(folder / "certificate.pem"), key=str(folder / "key.pem"))


def of_nodes(folder: Path) -> ChannelTls:
    """A certificate that is its own authority, as the nodes of a small cluster may share one."""
    folder.mkdir()
    own = write(folder, "nodes")
    return ChannelTls(certificate=own.certificate, key=own.key, ca=own.certificate)


def _signed(key: ec.EllipticCurvePrivateKey, name: str, valid: timedelta) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    unsigned = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + valid)
        .add_extension(hosts, critical=False)
    )
    return unsigned.sign(key, hashes.SHA256())
