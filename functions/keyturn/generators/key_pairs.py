"""Key pairs and certificate signing requests. The keys are made by `cryptography`.

That is 5 MB, which most functions do not carry: it is imported when a key is made or read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec

from keyturn.errors import Unsupported
from keyturn.generators.policy import MembersPolicy, Problem, texts

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


class Algorithm(StrEnum):
    """What a key pair is for, and how long it is."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


class KeyFormat(StrEnum):
    """How the keys are written."""

    PKCS8 = "pkcs8"
    OPENSSH = "openssh"


STRENGTH_BITS: Mapping[Algorithm, float] = {
    Algorithm.ED25519: 128,
    Algorithm.ECDSA_P256: 128,
    Algorithm.ECDSA_P384: 192,
    Algorithm.RSA_3072: 128,
    Algorithm.RSA_4096: 152,
}
"""What the best attack known costs, in bits: NIST SP 800-57 part 1, table 2, and for RSA-4096 the
formula of FIPS 140 IG D.B. How many bits a private key was drawn from says less about it.
"""

AnyAlgorithm = Annotated[Algorithm, msgspec.Meta(description="What key, of which length.")]


class KeyPair(MembersPolicy, frozen=True, kw_only=True, tag="key-pair"):
    """A key pair: `private_key` and `public_key`."""

    algorithm: AnyAlgorithm = Algorithm.ED25519
    format: Annotated[
        KeyFormat,
        msgspec.Meta(description="PEM (PKCS#8, SubjectPublicKeyInfo), or as OpenSSH has them."),
    ] = KeyFormat.PKCS8
    comment: Annotated[
        str, msgspec.Meta(description="What stands behind the public key of OpenSSH.")
    ] = ""

    @property
    def entropy_bits(self) -> float:
        """See `STRENGTH_BITS`."""
        return STRENGTH_BITS[self.algorithm]

    def problems(self) -> Iterator[Problem]:
        """Refuse a comment that could not be written, or that nobody would read."""
        if not self.comment.isprintable():
            yield "`comment` is more than one line of text", "Write one line."
        if self.comment and self.format is not KeyFormat.OPENSSH:
            yield "`comment` is for OpenSSH only", "Write `format: openssh`, or no `comment`."

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Make a pair."""
        del before
        key = new_key(self.algorithm)
        return {
            "private_key": _private_text(key, self.format),
            "public_key": _public_text(key, self.format, self.comment),
        }

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether the two belong together."""
        found = texts(members, "private_key", "public_key")
        if found is None:
            return False
        try:
            key = read_key(found[0])
        except ValueError:
            return False
        return found[1].startswith(_public_text(key, self.format, ""))


class Csr(MembersPolicy, frozen=True, kw_only=True, tag="csr"):
    """A key pair and a request for its certificate: `private_key` and `csr`."""

    common_name: Annotated[str, msgspec.Meta(description="Who the certificate is for.")]
    dns_names: Annotated[
        tuple[str, ...], msgspec.Meta(description="The host names that it is to be valid for.")
    ] = ()
    algorithm: AnyAlgorithm = Algorithm.ECDSA_P256

    @property
    def entropy_bits(self) -> float:
        """See `STRENGTH_BITS`."""
        return STRENGTH_BITS[self.algorithm]

    def problems(self) -> Iterator[Problem]:
        """Refuse names that no authority would take."""
        if not 1 <= len(self.common_name) <= _COMMON_NAME or not self.common_name.isprintable():
            yield (
                f"`common_name` is not 1 to {_COMMON_NAME} printable characters",
                "Shorten it; put host names under `dns_names`.",
            )
        if not all(name.isascii() and name.isprintable() and name for name in self.dns_names):
            yield "`dns_names` has one that is not ASCII", "Write it as xn--... (RFC 5890)."

    def members(self, before: Mapping[str, object]) -> Mapping[str, object]:
        """Make a pair and sign the request with it."""
        del before
        key = new_key(self.algorithm)
        return {
            "private_key": _private_text(key, KeyFormat.PKCS8),
            "csr": _request(key, self.common_name, self.dns_names),
        }

    def is_one_of(self, members: Mapping[str, object]) -> bool:
        """Tell whether the request is signed, by this key."""
        found = texts(members, "private_key", "csr")
        return found is not None and _is_request_of(*found)


_COMMON_NAME = 64
"""Characters of a common name at the most (RFC 5280, appendix A: ub-common-name)."""


def new_key(algorithm: Algorithm) -> PrivateKey:
    """Make a private key.

    Raises:
        Unsupported: `cryptography` is not installed, or was not packed.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match algorithm:
        case Algorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case Algorithm.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case Algorithm.ECDSA_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case Algorithm.RSA_3072 | Algorithm.RSA_4096:
            size_bits = int(algorithm.removeprefix("rsa-"))
            return rsa.generate_private_key(public_exponent=65537, key_size=size_bits)


def require_cryptography() -> None:
    """Refuse where keys cannot be made."""
    if importlib.util.find_spec("cryptography") is None:
        raise Unsupported(
            "this installation cannot make keys: it has no `cryptography`",
            remedy="Install keyturn[generate], or deploy the function that generates.",
        )


def read_key(text: str) -> PrivateKey:
    """Read a private key in either format. ValueError if it is none of ours."""
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    is_openssh = "OPENSSH PRIVATE KEY" in text
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    ours = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)
    if not isinstance(key, ours):
        raise ValueError("no such key")  # noqa: TRY004  # a text is wrong, not a type
    return key


def _private_text(key: PrivateKey, form: KeyFormat) -> str:
    from cryptography.hazmat.primitives import serialization

    forms = {
        KeyFormat.PKCS8: serialization.PrivateFormat.PKCS8,
        KeyFormat.OPENSSH: serialization.PrivateFormat.OpenSSH,
    }
    return key.private_bytes(
        serialization.Encoding.PEM, forms[form], serialization.NoEncryption()
    ).decode()


def _public_text(key: PrivateKey, form: KeyFormat, comment: str) -> str:
    from cryptography.hazmat.primitives import serialization

    encoding, public = {
        KeyFormat.PKCS8: (
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        ),
        KeyFormat.OPENSSH: (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
    }[form]
    return f"{key.public_key().public_bytes(encoding, public).decode()} {comment}".rstrip(" ")


def _request(key: PrivateKey, common_name: str, dns_names: tuple[str, ...]) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        builder = builder.add_extension(names, critical=False)
    # Ed25519 hashes by itself.
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def _is_request_of(private: str, request: str) -> bool:
    try:
        key, read = read_key(private), _read_request(request)
    except ValueError:
        return False
    return read.is_signature_valid and read.public_key() == key.public_key()


def _read_request(text: str) -> x509.CertificateSigningRequest:
    from cryptography import x509

    return x509.load_pem_x509_csr(text.encode())
