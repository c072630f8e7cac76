"""Which authorities a target's certificate may come from, and why a handshake failed.

Used by the targets that speak TLS through a C library or a Python driver alike. There is no way to
switch verification off: `allows_plaintext` says where TLS may be left out altogether.
"""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyturn.errors import KeyturnError, Misconfigured
from keyturn.model import Surroundings

RDS_ROOTS = Path(__file__).parent / "rds-roots.pem"
"""Amazon RDS signs with authorities of its own, which no system ships."""


def wants_tls(value: object, host: str, surroundings: Surroundings) -> bool:
    """Read a secret's `ssl` member.

    Raises:
        Misconfigured: It is not a boolean, or asks for plain text where that is not allowed.
    """
    match value:
        case None | True | "true":
            return True
        case False | "false":
            if allows_plaintext(host, surroundings):
                return False
            raise Misconfigured(
                f"the secret says ssl is off, but {host} is not a host for plain text",
                remedy="Remove `ssl` from the secret, or list the host in KEYTURN_PLAINTEXT_HOSTS.",
            )
        case _:
            raise Misconfigured(
                "the secret's `ssl` is neither true nor false",
                remedy="Set `ssl` to true or false, or remove it: TLS is the default.",
            )


def allows_plaintext(host: str, surroundings: Surroundings) -> bool:
    """Tell whether *host* may be reached without TLS: a socket, loopback, or a listed host."""
    if host.startswith("/") or host in {"localhost", *surroundings.plaintext_hosts}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def authorities(host: str, surroundings: Surroundings) -> str:
    """Return every authority that may vouch for *host*, as PEM.

    Amazon's own for its managed databases, the system's besides for any other host, and in both
    cases the deployment's. A login parses them all: 150 fewer save 5 ms of CPU.
    """
    is_rds = host.lower().endswith(_RDS_HOSTS)
    others = _of_deployment(surroundings) if is_rds else public_authorities(surroundings)
    return f"{_text(RDS_ROOTS)}\n{others}"


def public_authorities(surroundings: Surroundings) -> str:
    """Return the system's authorities and the deployment's, as PEM."""
    paths = ssl.get_default_verify_paths()
    system = _text(Path(paths.cafile or paths.openssl_cafile))
    return f"{system}\n{_of_deployment(surroundings)}"


_RDS_HOSTS = ".rds.amazonaws.com"
"""Where every certificate is by an authority in `RDS_ROOTS`. China's hosts end otherwise."""


@contextmanager
def authorities_file(host: str, surroundings: Surroundings) -> Iterator[str]:
    """Write `authorities` to a file for libraries that want a path; remove it afterwards."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(authorities(host, surroundings))
        file.flush()
        yield file.name


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _of_deployment(surroundings: Surroundings) -> str:
    if not surroundings.ca_file:
        return ""
    file = Path(surroundings.ca_file)
    try:
        return file.read_text()
    except (OSError, ValueError):
        problem = f"KEYTURN_CA_FILE names {file}, which cannot be read"
    raise Misconfigured(problem, remedy="Package the PEM file with the function.")


_EXPLANATIONS = {
    10: "has expired",
    9: "is not valid yet",
    18: "is self-signed",
    19: "comes from an authority that is not trusted",
    20: "comes from an authority that is not trusted",
    21: "comes from an authority that is not trusted",
    62: "is for another host name",
    64: "is for another address",
}
"""X509_V_ERR_* of OpenSSL (x509_vfy.h) that people meet."""


def certificate_refused(host: str, error: ssl.SSLCertVerificationError) -> KeyturnError:
    """Say why the certificate of *host* is refused, by OpenSSL's code."""
    why = _EXPLANATIONS.get(error.verify_code, f"is not valid (code {error.verify_code})")
    return Misconfigured(
        f"{host}: the server's certificate {why}; no password was sent",
        remedy="Mend the certificate, connect by the name it is for, or set KEYTURN_CA_FILE.",
    )
