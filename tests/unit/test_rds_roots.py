"""The certificates of Amazon RDS that are shipped."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import ssl

from cryptography import x509

from keyturn.targets.tls import RDS_ROOTS

SHA256 = "b9e8bd2daf58f8fe2e43b6a260226bcb9fe1865ce0b64ebfc04846513df6228d"
"""Changes only together with a look at what changed: see the file's head."""


def _certificates() -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(RDS_ROOTS.read_bytes())


def test_the_file_is_the_one_that_was_looked_at() -> None:
    assert hashlib.sha256(RDS_ROOTS.read_bytes()).hexdigest() == SHA256


def test_each_is_a_root_of_amazon_rds_and_signed_by_itself() -> None:
    for certificate in _certificates():
        certificate.verify_directly_issued_by(certificate)
        (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert re.fullmatch(
            r"Amazon RDS [a-z0-9-]+ Root CA (RSA2048|RSA4096|ECC384) G1", str(name.value)
        )
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_none_expires_within_five_years() -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=5 * 365)

    assert [c.subject for c in _certificates() if c.not_valid_after_utc < soon] == []


def test_openssl_takes_them_all() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(RDS_ROOTS))

    assert len(context.get_ca_certs()) == len(_certificates()) == 81
