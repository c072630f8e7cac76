"""Makes a value when somebody asks, and stores it. Never hands it out.

    no such secret                      it is made
    one without a value                 gets its first
    one with a value                    is refused, unless the request says to overwrite it
    one that is rotated                 is refused: a target, or verifiers, know what is current
    the same request id, again          the version that it made the first time

What is overwritten is read first: a kind that keeps a previous value finds it there, and other
members stay as they are. `aws/generate.py` and `keyturn generate --secret` call this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from keyturn.errors import Busy, Misconfigured
from keyturn.model import RotationId, SecretRef, Sensitive
from keyturn.ports import Found, Kind, ValueStore

NOTHING = Sensitive("{}")
"""What a first value follows."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made.

    Attributes:
        ref: The name of the secret.
        version_id: Of the version to be made; the same for the same request.
        overwrite: Whether a value that is there may be replaced.
    """

    ref: SecretRef
    version_id: RotationId
    overwrite: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """What was made.

    Attributes:
        fingerprint: Compares the value with itself; see `generators.fingerprint`.
        is_new: False if an earlier try had stored it.
    """

    fingerprint: str
    is_new: bool


def version_id(ref: SecretRef, request_id: str) -> RotationId:
    """Name the version that a request makes: the same for the same request, of the same secret."""
    return RotationId(hashlib.sha256(f"{ref}\0{request_id}".encode()).hexdigest())


Fingerprint = Callable[[str, Sensitive], str]


def fulfil(order: Order, kind: Kind, store: ValueStore, fingerprint: Fingerprint) -> Stored:
    """Make a value and store it. Repeatable.

    Raises:
        Misconfigured: The secret has a value and may not be overwritten, or it is rotated.
        Busy: Somebody else has written to it meanwhile.
    """
    found = store.find(order.ref)
    value = store.read(order.ref, order.version_id) if _may_be_there(order, found) else None
    if value is not None:
        return Stored(fingerprint(order.ref, value), is_new=False)
    _require_permitted(order, found)
    value = kind.following(_before(order, found, store))
    put = store.create if found is None else store.put
    if put(order.ref, order.version_id, value):
        return Stored(fingerprint(order.ref, value), is_new=True)
    # Another run of the same request was faster; or, of another one, and it has made the secret.
    value = store.read(order.ref, order.version_id)
    if value is None:
        raise Busy(f"{order.ref}: somebody else has made it meanwhile", remedy="Look at it first.")
    return Stored(fingerprint(order.ref, value), is_new=False)


def _may_be_there(order: Order, found: Found | None) -> bool:
    """Tell whether an earlier try may have stored its version: it may be in no slot any more."""
    return found is not None and (order.overwrite or order.version_id in found.kept)


def _require_permitted(order: Order, found: Found | None) -> None:
    if found is None:
        return
    if found.is_rotated:
        raise Misconfigured(
            f"{order.ref} is rotated, or a rotation of it has not ended",
            remedy="Rotate it instead: `keyturn rotate` with its name.",
        )
    if found.current is not None and not order.overwrite:
        raise Misconfigured(
            f"{order.ref} has a value already",
            remedy="Choose another name; or ask to overwrite it, if nobody needs the value.",
        )


def _before(order: Order, found: Found | None, store: ValueStore) -> Sensitive:
    if found is None or found.current is None:
        return NOTHING
    return store.read(order.ref, found.current) or NOTHING
