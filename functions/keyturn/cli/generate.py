"""`keyturn generate`: make a value, and put it into Secrets Manager or a file: no screen."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Annotated

import typer

from keyturn.errors import Misconfigured
from keyturn.model import SecretRef


def generate(  # noqa: PLR0913  # a command has as many parameters as options
    kind: Annotated[str, typer.Argument(help="What to make; docs/generate.md lists the kinds.")],
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the kind, such as length=20. May be repeated."),
    ] = None,
    secret: Annotated[
        str | None, typer.Option(help="The name of the secret to store it in.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new file to write it to, for its owner's eyes only.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(help="Names the request: the same again makes nothing new.")
    ] = None,
    *,
    overwrite: Annotated[bool, typer.Option(help="Replace the value that the secret has.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Make a value and store it: in Secrets Manager, or in a file. It is never shown."""
    options = dict(_option(each) for each in option or ())
    if (secret is None) == (out is None):
        raise Misconfigured(
            "the value has nowhere to go" if out is None else "the value has two places to go",
            remedy="Name a secret with --secret, or a new file with --out; not both.",
        )
    if out is not None:
        facts = _to_file(kind, options, out)
    else:
        facts = _to_store(
            kind, options, secret or "", request_id or str(uuid.uuid4()), overwrite=overwrite
        )
    typer.echo(json.dumps(facts) if as_json else _lines(facts))


def _option(text: str) -> tuple[str, object]:
    """Read NAME=VALUE. The value is JSON if it is any: a number, a list, a mapping; else text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise Misconfigured(
            "an --option has no `=`", remedy="Write it as NAME=VALUE, such as --option length=20."
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _to_file(kind: str, options: dict[str, object], out: Path) -> dict[str, object]:
    from keyturn.generators import file, kinds
    from keyturn.generators.policy import NOTHING
    from keyturn.shapes import Place

    policy = kinds.read({"kind": kind, **options}, Place("the options"))
    file.write(out, policy.following(NOTHING))
    return {"file": str(out), "entropy_bits": round(policy.entropy_bits, 1)}


def _to_store(
    kind: str, options: dict[str, object], name: str, request_id: str, *, overwrite: bool
) -> dict[str, object]:
    """Do what the function does, with the rights of whoever is at the terminal."""
    from keyturn import boundary, wiring

    boundary.quiet_sdk_loggers()
    if not boundary.is_secret_name(name):
        raise Misconfigured(
            f"{name[:80]!a} is not the name of a secret",
            remedy="Write the name, not the ARN: letters, digits and /_+=.@- only.",
        )
    event = boundary.GenerationEvent(
        SecretRef(name), kind, options, request_id, overwrite=overwrite
    )
    ours = {key: value for key, value in os.environ.items() if key.startswith("KEYTURN_")}
    generation = wiring.generation(event, environment={**ours, "KEYTURN_SECRETS": "*"})
    stored = generation.fulfil()
    return {
        "secret": name,
        "version_id": generation.order.version_id,
        "entropy_bits": round(generation.entropy_bits, 1),
        "fingerprint": stored.fingerprint,
        "outcome": "done" if stored.is_new else "already_done",
    }


def _lines(facts: dict[str, object]) -> str:
    return "\n".join(f"{name:<13} {value}" for name, value in facts.items())
