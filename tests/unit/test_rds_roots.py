"""The certificates of Amazon RDS that are shipped."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from keyturn import tls
from keyturn.model import Surroundings
from keyturn.tls import RDS_ROOTS

SHA256 = "322893a459cbbb30a4c82b2ccc86dd69038703fd07d2c66859a115be381b6f78"
"""Changes only together with a look at what changed: see the file's head."""


NAMES = re.compile(
    r"Amazon RDS [a-z0-9-]+ Root CA (RSA2048|RSA4096|ECC384) G1"
    r"|Amazon Root CA [1-4]"
)


def _certificates() -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(RDS_ROOTS.read_bytes())


def test_the_file_is_the_one_that_was_looked_at() -> None:
    assert hashlib.sha256(RDS_ROOTS.read_bytes()).hexdigest() == SHA256


def test_each_is_a_root_of_amazon_and_signed_by_itself() -> None:
    for certificate in _certificates():
        certificate.verify_directly_issued_by(certificate)
        (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert NAMES.fullmatch(str(name.value))
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_none_expires_within_five_years() -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=5 * 365)

    assert [c.subject for c in _certificates() if c.not_valid_after_utc < soon] == []


def test_openssl_takes_them_all() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(RDS_ROOTS))

    assert len(context.get_ca_certs()) == len(_certificates()) == 85


@pytest.mark.parametrize(
    "host, is_amazon_alone",
    [
        ("db.abc123.eu-west-1.rds.amazonaws.com", True),
        ("DB.abc123.eu-west-1.RDS.amazonaws.com", True),
        ("db.abc123.rds.cn-north-1.amazonaws.com.cn", False),
        ("rds.amazonaws.com.example.com", False),
        ("db.example.com", False),
        ("127.0.0.1", False),
    ],
)
def test_amazons_hosts_are_vouched_for_by_amazon_alone(
    host: str,
    is_amazon_alone: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    private = tmp_path / "ca.pem"
    private.write_text("private authority")
    shipped = RDS_ROOTS.read_text()

    trusted = tls.authorities(host, Surroundings(lambda: 1.0, ca_file=str(private)))

    assert trusted.startswith(shipped)
    assert trusted.endswith("private authority")
    assert (len(trusted) < len(shipped) + 100) is is_amazon_alone
