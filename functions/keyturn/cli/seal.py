"""`keyturn seal` and `keyturn open`: sealed copies on this machine, as destinations hold them.

`seal` seals with a KMS key, or prints the manifest of a SealedSecret, to be committed.

Both work with the rights of whoever is at the terminal. A value goes from the store or standard
input into a sealed copy, and from that into a file for its owner's eyes, or a pipe: no screen.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.errors import Misconfigured
from keyturn.model import RotationId, SecretRef, Sensitive

if TYPE_CHECKING:
    from keyturn.destinations.sealing import Label

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TRIES = 2, 5, 3
"""Per call to AWS."""


def seal(  # noqa: PLR0913  # a command has as many parameters as options
    source: Annotated[
        str,
        typer.Argument(help="A secret's name or ARN; or - for standard input.", metavar="SECRET|-"),
    ],
    *,
    kms_key: Annotated[
        str | None, typer.Option(help="Id, ARN or alias of the KMS key to seal with.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write the sealed copy to.")] = None,
    secret: Annotated[
        str | None, typer.Option(help="With -: the name of the secret to bind the copy to.")
    ] = None,
    version_id: Annotated[
        str | None, typer.Option(help="With -: the id of the version to bind it to.")
    ] = None,
    sealed_secret: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE/NAME",
            help="Instead of --kms-key: the Kubernetes SealedSecret whose manifest to print.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="The controller's: what `kubeseal --fetch-cert` shows.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="strict, namespace-wide or cluster-wide.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="The one key that holds the value; else there is one for each member."),
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="The Secret's type, if it is not Opaque.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Seal the current value of a secret, or what comes in: with a KMS key, or for a cluster."""
    from keyturn.boundary import quiet_sdk_loggers

    quiet_sdk_loggers()
    settings = {"scope": scope, "key": key, "type": type_}
    if (kms_key is None) is (sealed_secret is None):
        raise Misconfigured(
            "it is not said what to seal with",
            remedy="Say either --kms-key, or --sealed-secret and --certificate.",
        )
    if sealed_secret is None:
        _require_none({"certificate": certificate, **settings})
        _seal_with_kms(source, str(kms_key), out, (secret, version_id), as_json=as_json)
        return
    whose = _Object(sealed_secret, certificate, settings)
    _print_manifest(whose, _labelled(source, secret, version_id), out, as_json=as_json)


def _require_none(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise Misconfigured(
                f"--{name} goes with --sealed-secret only", remedy="Leave it out, or say that."
            )


def _labelled(source: str, secret: str | None, version_id: str | None) -> tuple[Label, Sensitive]:
    label, value = _given(secret, version_id) if source == "-" else _stored(source)
    if source != "-" and (secret is not None or version_id is not None):
        raise Misconfigured(
            "the store says which secret and version it is",
            remedy="Leave out --secret and --version-id, or seal standard input, with -.",
        )
    return label, value


def _seal_with_kms(
    source: str,
    kms_key: str,
    out: Path | None,
    which: tuple[str | None, str | None],
    *,
    as_json: bool,
) -> None:
    from keyturn.destinations import sealing

    if out is None:
        raise Misconfigured("--out is not said", remedy="Name the file to write the copy to.")
    label, value = _labelled(source, *which)
    sealed = sealing.seal(_client("kms"), kms_key, label, value)
    _write(out, sealed.body)
    facts = {
        "file": str(out),
        "secret": label.secret,
        "version_id": label.version_id,
        "format": sealed.format.value,
        "bytes": len(sealed.body),
    }
    typer.echo(json.dumps(facts) if as_json else _lines(facts))


@dataclass(frozen=True, slots=True)
class _Object:
    """The SealedSecret that is asked for, as it is said."""

    place: str
    certificate: Path | None
    settings: dict[str, str | None]


def _print_manifest(
    asked: _Object, given: tuple[Label, Sensitive], out: Path | None, *, as_json: bool
) -> None:
    import yaml

    made = _manifest(asked, *given)
    # Base64 is long, and stays on its line.
    text = json.dumps(made) if as_json else yaml.safe_dump(made, sort_keys=False, width=10**6)
    if out is None:
        typer.echo(text.rstrip("\n"))
    else:
        _write(out, text.encode())


def _manifest(asked: _Object, label: Label, value: Sensitive) -> dict[str, Any]:
    from datetime import UTC, datetime

    from keyturn.destinations import sealed_secret, sealed_value, secret_data
    from keyturn.shapes import Place, shaped

    namespace, _, name = asked.place.partition("/")
    said = {key: text for key, text in asked.settings.items() if text is not None}
    entry = {"namespace": namespace, "name": name, **said}
    where = f"--sealed-secret {asked.place[:80]!a}"
    shape = sealed_secret.SealedSecretShape
    settings = shaped(entry, shape, Place(where), sealed_secret.FIXES)
    if asked.certificate is None:
        raise Misconfigured(
            f"{where}: --certificate is not said",
            remedy="Name the file that has what `kubeseal --fetch-cert` shows.",
        )
    pem = _read(str(asked.certificate)).decode("ascii", "replace")
    certificate = sealed_value.certificate(pem, datetime.now(UTC), where)
    type_ = asked.settings["type"] or secret_data.OPAQUE
    found = secret_data.data(value, asked.settings["key"], type_, str(label))
    whose = settings.whose(label.secret, label.version_id)
    return sealed_secret.manifest(whose, certificate, found, type_)


def open_(  # noqa: PLR0913  # a command has as many parameters as options
    file: Annotated[
        str,
        typer.Argument(
            help="The sealed copy: a file, s3://BUCKET/KEY, or - for standard input.",
            metavar="FILE|-",
        ),
    ],
    secret: Annotated[str, typer.Option(help="The name of the secret that it has to be of.")],
    version_id: Annotated[str, typer.Option(help="The id of the version that it has to be.")],
    kms_key: Annotated[
        str | None, typer.Option(help="The KMS key that it has to be sealed with.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new file to write the value to, for its owner's eyes.")
    ] = None,
    *,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Show the value, if standard output is a terminal.")
    ] = False,
) -> None:
    """Open a sealed copy, into a new file or a pipe. What it has to be is demanded of it."""
    from keyturn.boundary import quiet_sdk_loggers
    from keyturn.destinations import sealing
    from keyturn.generators import file as files

    quiet_sdk_loggers()
    if out is None and not terminal and sys.stdout.isatty():
        raise Misconfigured(
            "the value would be shown: standard output is a terminal",
            remedy="Write it to a new file with --out, or to a pipe; --terminal shows it.",
        )
    label = sealing.Label(secret, RotationId(version_id))
    where = "standard input" if file == "-" else file
    value = sealing.unseal(_client("kms"), label, _body(file, label), where, kms_key)
    if out is not None:
        files.write(out, value)
    else:
        sealing.write(sys.stdout.buffer, value)


def _given(secret: str | None, version_id: str | None) -> tuple[Label, Sensitive]:
    from keyturn.destinations import sealing

    if secret is None or version_id is None:
        raise Misconfigured(
            "standard input does not say which secret and version it is",
            remedy="Say so with --secret and --version-id.",
        )
    label = sealing.Label(secret, RotationId(version_id))
    return label, sealing.read(sys.stdin.buffer)


def _stored(name: str) -> tuple[Label, Sensitive]:
    from keyturn.boundary import secret_name
    from keyturn.destinations.sealing import Label
    from keyturn.document import Whole
    from keyturn.stores.secrets_manager import SecretsManager

    store = SecretsManager(_client("secretsmanager"), members_of=Whole())
    ref = store.full_name(SecretRef(name))
    current = store.current(ref)
    return Label(secret_name(ref), current.rotation_id), current.credential.secret


def _client(service: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    make: Any = boto3.client  # whose types know services by their literal names
    return make(service, config=config)


def _body(name: str, label: Label) -> bytes:
    from keyturn.destinations.s3_blob import fetch

    if name == "-":
        return sys.stdin.buffer.read()
    if name.startswith("s3://"):
        bucket, _, key = name.removeprefix("s3://").partition("/")
        if not (bucket and key):
            raise Misconfigured(f"{name} names no object", remedy="Write s3://BUCKET/KEY.")
        return fetch(_client("s3"), bucket, key, label)
    return _read(name)


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        fact = error.strerror
    raise Misconfigured(f"{name}: {fact}", remedy="Name a file that can be read.")


def _write(path: Path, body: bytes) -> None:
    try:
        path.write_bytes(body)
    except OSError as error:
        fact = error.strerror
    else:
        return
    raise Misconfigured(f"{path}: {fact}", remedy="Name a file that can be written.")


def _lines(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name:<13} {value}" for name, value in facts.items())
