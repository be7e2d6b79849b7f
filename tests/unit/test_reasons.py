"""Why a server's certificate is not accepted, and what to do: with real TLS, in memory."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.postgres.reasons import why_unreachable

DSN = "postgresql://someone:sesame@{host}/app?sslmode=verify-full"
DAY = timedelta(days=1)


def write_certificate(path: Path, *, begins: timedelta, ends: timedelta) -> None:
    """For db.example and 192.0.2.1, with its key; signed by itself, so it is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db.example")])
    names = [x509.DNSName("db.example"), x509.IPAddress(ip_address("192.0.2.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def refusal(path: Path, trusted: Path | None, host: str) -> ssl.SSLError:
    """What a client raises that is shown the certificate of `path` and trusts another, or none."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusted is not None:
        client.load_verify_locations(trusted)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(down, up, server_hostname=host)
    answers = server.wrap_bio(up, down, server_side=True)
    for one in (asks, answers):
        with pytest.raises(ssl.SSLWantReadError):
            one.do_handshake()
    with pytest.raises(ssl.SSLError) as refused:
        asks.do_handshake()
    return refused.value


@pytest.mark.parametrize(
    ("begins", "ends", "is_trusted", "host", "said", "cure"),
    [
        (-2 * DAY, -DAY, True, "db.example", "has expired", "renew the server's certificate"),
        (DAY, 2 * DAY, True, "db.example", "not yet valid", "set the clock here"),
        (-DAY, DAY, True, "other.example", "Hostname mismatch", "as the certificate names it"),
        (-DAY, DAY, True, "192.0.2.2", "IP address mismatch", "as the certificate names it"),
        (-DAY, DAY, False, "db.example", "self-signed", "of the CA that signed it with &sslroot"),
    ],
)
def test_a_certificate_that_is_not_accepted(
    tmp_path: Path,
    begins: timedelta,
    ends: timedelta,
    is_trusted: bool,
    host: str,
    said: str,
    cure: str,
) -> None:
    """Each has its own cure; OpenSSL's reason is the same for all of them."""
    path = tmp_path / "server.pem"
    write_certificate(path, begins=begins, ends=ends)
    error = refusal(path, path if is_trusted else None, host)
    reason = why_unreachable(error, DSN.format(host=host))
    assert f"the TLS certificate of {host} is not accepted: " in reason
    assert said in reason
    assert cure in reason.partition(said)[2]


def test_tls_that_fails_before_a_certificate_is_seen() -> None:
    """As with a server that answers in no TLS that is known here."""
    down = ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asks = client.wrap_bio(down, ssl.MemoryBIO(), server_hostname="db.example")
    down.write(b"no such thing")
    with pytest.raises(ssl.SSLError) as refused:
        asks.do_handshake()
    reason = why_unreachable(refused.value, DSN.format(host="db.example"))
    assert "there is no TLS with db.example: WRONG_VERSION_NUMBER" in reason
