"""Whoever takes an HTTP request: it is told that a version is current, and asked how far it is.

    POST  {"type": "secret.current", "data": {"secret": .., "version": .., "after": ..}}
    GET   ?secret=..&version=..   ->   {"version": .., "state": .., "waits_for": .., "told": ..}

Both are signed as Standard Webhooks 1.0 says: `webhook-id`, `webhook-timestamp`, and in
`webhook-signature` the HMAC-SHA256 of id, time and body, with points between them. A GET has no
body: its query is signed in the body's place, so that an answer is to the question that was signed.

The id of a POST is the same for the same secret and version: who has seen it drops what comes
again. `after` is what the receiver said that it was told of last, and makes the POST conditional:
a receiver that has been told of something else since answers 409, and a worker that stalled does
no harm. It follows when its answer says so *of this version*; what it says of another says nothing.

With `verify: none` it is not asked. Nothing remembers then that it was told: so it is told at each
look, of one version under one id, until `TOLD_FOR` after the version became current.

What it never does: send a value, follow a redirect, or show what it was answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated
from urllib.parse import urlencode, urlsplit

import msgspec

from keyturn import http_exchange
from keyturn.boundary import scrub
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured
from keyturn.followers import ConsumerShape, Given, NonEmpty
from keyturn.http_api import Request
from keyturn.model import RotationId, Version
from keyturn.ports import Consumer, Pickup, Sight

PERMISSIONS = ("secretsmanager:GetSecretValue",)
"""On the secret that signs."""

TOLD_FOR = timedelta(minutes=15)
"""How long one that is not asked is told: three looks, of which two may be lost. Who does not drop
what comes twice by its id is restarted as often, and no oftener."""

WAITS_FOR_MAX = 200
"""Characters of what a receiver says it waits for."""


class WebhookShape(ConsumerShape, frozen=True, kw_only=True):
    """A `webhook` of a plan."""

    url: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+(/[!\"$-z|~]*)?(?!\n)$",
            description="Where it is told and asked. Nothing secret may be in it.",
        ),
    ]
    signing_secret: Annotated[
        NonEmpty,
        msgspec.Meta(description="Name of the secret of the store whose value is the signing key."),
    ]

    def place(self) -> tuple[str, ...]:
        """See `ConsumerShape.place`."""
        return (self.url,)


SHAPES: Mapping[str, type[ConsumerShape]] = {"webhook": WebhookShape}
FIXES = {
    "webhook": "Write a mapping, such as `webhook: {url: .., signing_secret: ..}`.",
    "url": "Write an https:// URL, without a user, a password or a fragment.",
    "signing_secret": "Write the name of a secret whose value is whsec_ and 32 bytes in Base64.",
    "verify": "Write `full` or `none`.",
}


def _now() -> datetime:
    return datetime.now(UTC)


def make(kind: str, settings: ConsumerShape, given: Given) -> Consumer:
    """See `ConsumerModule.make`."""
    del kind
    assert isinstance(settings, WebhookShape)  # noqa: S101  # by SHAPES
    name, is_asked = settings.signing_secret, settings.verify == "full"
    return Webhook(settings.url, given, signing_secret=name, is_asked=is_asked)


class Webhook:
    """A `Consumer`.

    Args:
        url: Where it is told and asked.
        given: What a consumer is given.
        signing_secret: The name of the secret that signs.
        is_asked: Whether it can say how far it is.
        now: Returns the time.

    Raises:
        Misconfigured: That is no URL, or where clouds hand out credentials.
    """

    def __init__(
        self,
        url: str,
        given: Given,
        *,
        signing_secret: str,
        is_asked: bool,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._request = _request(url)
        self._secret = given.secret
        self._key = partial(given.signing_secret, signing_secret)
        self._exchange = http_exchange.Exchange({self._request.host}, given.surroundings)
        self._promoted_at = given.promoted_at
        self._is_asked = is_asked
        self._now = now

    def name(self) -> str:
        """See `Consumer.name`."""
        return f"webhook:{str(self._request).partition(' ')[2]}"

    def preflight(self) -> None:
        """See `Consumer.preflight`."""
        if self._is_asked:
            self._asked({})
        else:
            self._signed(self._request, "", b"")

    def verify(self, version: Version) -> Sight:
        """See `Consumer.verify`."""
        if self._is_asked:
            answer = self._asked({"version": version.rotation_id})
            return _sight(http_exchange.document(answer), version, self.name())
        if self._now() - self._promoted_at() < TOLD_FOR:
            return Sight(Pickup.UNTOLD, "")
        return Sight(Pickup.WAITING, "", "it is not asked how far it is")

    def trigger(self, version_id: RotationId, seen: Sight) -> None:
        """See `Consumer.trigger`. It is the receiver that compares, if it says what it was told."""
        told = {"secret": self._secret, "version": version_id}
        if self._is_asked:
            told["after"] = seen.mark
        event = replace(self._request, method="POST", json={"type": "secret.current", "data": told})
        content = http_exchange.body(event, {}) or b""
        self._send(self._signed(event, f"msg_{self._digest(version_id)}", content))

    def _asked(self, about: Mapping[str, str]) -> http_exchange.Answer:
        target = self._request.target
        query = urlencode({"secret": self._secret, **about})
        question = replace(self._request, target=f"{target}{'&' if '?' in target else '?'}{query}")
        # Another id each time: a receiver that drops what it has seen would not answer.
        message_id = f"ask_{self._digest(query)}_{self._now():%Y%m%d%H%M%S%f}"
        content = question.target.partition("?")[2].encode()
        return self._send(self._signed(question, message_id, content))

    def _signed(self, request: Request, message_id: str, content: bytes) -> Request:
        at = str(int(self._now().timestamp()))
        signed = b".".join([message_id.encode(), at.encode(), content])
        signature = http_exchange.signature(self._key(), signed)
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": at,
            "webhook-signature": signature,
        }
        return replace(request, headers=headers)

    def _send(self, request: Request) -> http_exchange.Answer:
        answer = self._exchange.send(request, {})
        if answer.status in http_exchange.OK:
            return answer
        failure = http_exchange.failed(answer)
        remedy = _REMEDIES.get(type(failure), failure.remedy)
        raise type(failure)(str(failure), remedy=remedy)

    def _digest(self, what: str) -> str:
        return hashlib.sha256(f"{self._secret}\n{what}".encode()).hexdigest()[:32]


_REMEDIES: Mapping[type[KeyturnError], str] = {
    Busy: "Nothing: it has been told of something else since, and is looked at again.",
    Denied: "Give the receiver the key that signs, and compare its clock.",
    Misconfigured: "Compare what the receiver takes with docs/follow-up.md.",
}


def _request(url: str) -> Request:
    """Return a request for *url*, without anything in it yet."""
    try:
        found = urlsplit(url)
        host, port = found.hostname, found.port
    except ValueError:
        host = port = None
    # A pattern's $ lets a line end pass.
    if not host or port == 0 or not url.isprintable():
        raise Misconfigured("the webhook's `url` is no URL", remedy=FIXES["url"])
    if http_exchange.is_metadata(host):
        raise Misconfigured(
            f"the webhook's `url` has an address of the cloud itself, {host}",
            remedy="Name the receiver's own host.",
        )
    scheme, _, rest = url.partition("://")
    authority, slash, target = rest.partition("/")
    return Request("GET", scheme, authority, f"/{target}" if slash else "/")


class _Said(msgspec.Struct, frozen=True):
    """What a receiver answers. Whatever else it says is ignored."""

    version: str
    state: Pickup
    told: Annotated[str, msgspec.Meta(max_length=256)] = ""
    waits_for: str = ""


def _sight(tree: object, version: Version, name: str) -> Sight:
    """Read an answer: what it says of another version says nothing of this one."""
    try:
        said = msgspec.convert(tree, _Said)
    except msgspec.ValidationError:  # Which may quote the answer.
        said = None
    if said is None:
        raise Misconfigured(
            f"{name}: its answer is none that is known here",
            remedy="Let it answer as docs/follow-up.md says.",
        )
    if said.version != version.rotation_id:
        return Sight(Pickup.UNTOLD, said.told, "it speaks of another version")
    if said.state is Pickup.FOLLOWED:
        return Sight(Pickup.FOLLOWED, said.told)
    waits_for = _shown(said.waits_for, version) or f"it says that it is {said.state}"
    return Sight(said.state, said.told, waits_for)


def _shown(waits_for: str, version: Version) -> str:
    """Return what a receiver says as an alert may show it; "" if it may not."""
    if not waits_for.isprintable() or http_exchange.quotes(waits_for, version.credential.secret):
        return ""
    return scrub(waits_for[:WAITS_FOR_MAX])
