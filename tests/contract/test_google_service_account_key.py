"""Keys of Google's service accounts keep the promises of every issuer, over real HTTP."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from google.oauth2 import service_account

from keyturn import document, line
from keyturn.errors import Busy, Denied, KeyturnError, Misconfigured, Unreachable, Unsupported
from keyturn.minted import MintedKeys, Place
from keyturn.model import Credential, RotationId, Surroundings
from keyturn.rotation import Rotation
from keyturn.targets.google_service_account_key import (
    LIMIT,
    MEMBERS,
    NO_EXPIRY,
    PERMISSIONS,
    ServiceAccountKeys,
    issuer,
)
from keyturn.testing.contracts import ATTEMPT, LONG_S, Mint, MintedContract
from keyturn.testing.fakes import REF, LabelledStore, World
from keyturn.testing.strict_service_account_keys import ACCOUNT, StrictServiceAccountKeys

PAGE = (Path(__file__).parents[2] / "docs" / "google-service-account-keys.md").read_text("utf-8")
FIELDS = {
    "engine": "google-service-account-key",
    "type": "service_account",
    "project_id": "shop-42",
    "client_email": ACCOUNT,
    "client_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE_S", 0.0)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def service(world: World) -> Iterator[StrictServiceAccountKeys]:
    with StrictServiceAccountKeys(world.clock.now) as running:
        yield running


@pytest.fixture
def current(service: StrictServiceAccountKeys) -> Credential:
    key_id, private = service.make_key()
    return Credential(key_id, private, FIELDS)


def keys_of(
    service: StrictServiceAccountKeys,
    world: World,
    limit: int = LIMIT,
    holders: tuple[str, ...] = (ACCOUNT,),
) -> ServiceAccountKeys:
    surroundings = Surroundings(lambda: 60.0, key_holders=holders, google_endpoint=service.endpoint)
    return ServiceAccountKeys(surroundings, limit, world.clock.now)


class TestServiceAccountKeys(MintedContract):
    """An account that may have two keys; it has ten in truth."""

    @pytest.fixture(params=[0.0, 20.0], ids=["at once", "in its time"])
    def mint(
        self,
        service: StrictServiceAccountKeys,
        world: World,
        current: Credential,
        request: pytest.FixtureRequest,
    ) -> Mint:
        service.quota, service.lag_s = 2, request.param
        other = {**FIELDS, "client_email": "other@shop-42.iam.gserviceaccount.com"}
        return Mint(
            keys_of(service, world, limit=2),
            current,
            replace(current, fields=other),
            world,
            lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
            service.alive,
            lambda: service.make_key(timedelta(hours=3))[0],
            service.outage,
            lambda: service.lose("upload"),
        )

    def test_use_is_seen(self, mint: Mint) -> None:
        """No: the service does not tell, and the issuer says so."""
        made = mint.issuer.mint(mint.current, ATTEMPT)
        mint.pass_time(LONG_S)
        assert mint.issuer.verify(made)

        assert mint.issuer.last_used(mint.current, made.principal) is None
        assert mint.issuer.usage_lag is None

    def test_no_answer_is_no_refusal(self, mint: Mint) -> None:
        """As for every issuer, but for a last use: nobody is asked for that."""
        key_id = mint.current.principal
        acts: list[Callable[[], object]] = [
            lambda: mint.issuer.check(mint.current),
            lambda: mint.issuer.keys(mint.current),
            lambda: mint.issuer.mint(mint.current, ATTEMPT),
            lambda: mint.issuer.verify(mint.current),
            lambda: mint.issuer.deactivate(mint.current, key_id),
            lambda: mint.issuer.delete(mint.current, key_id),
        ]
        with mint.outage():
            for act in acts:
                with pytest.raises(Unreachable):
                    act()

        assert mint.alive() == {key_id}


# ---------------------------------------------------------------------------- what leaves us


def test_only_a_certificate_is_sent(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    made = keys_of(service, world).mint(current, ATTEMPT)

    sent = b"".join(service.bodies)
    assert b"PRIVATE" not in sent
    secret_lines = made.secret.reveal().split()[3:-3]
    is_sent = any(part.encode() in sent for part in secret_lines)
    assert not is_sent


def test_the_certificate_is_valid_from_now_on_for_thousands_of_years(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    """Lists tell when it begins and ends: by that a lost key is found again."""
    made = keys_of(service, world).mint(current, ATTEMPT)

    [sent] = [body for body in service.bodies if b"publicKeyData" in body]
    pem = base64.b64decode(json.loads(sent)["publicKeyData"])
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_before_utc == world.clock.now()
    ends_at = NO_EXPIRY - timedelta(seconds=0x0BADCAFE)
    assert certificate.not_valid_after_utc == ends_at
    assert service.keys[made.principal].since == world.clock.now()


def test_googles_own_library_reads_the_document(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    made = keys_of(service, world).mint(current, ATTEMPT)
    before = json.dumps(
        {**FIELDS, "private_key_id": current.principal, "private_key": current.secret.reveal()}
    )
    members = {"private_key_id": made.principal, "private_key": made.secret.reveal()}
    text = document.exchanged(before, "here", members, "")

    read = service_account.Credentials.from_service_account_info(json.loads(text))

    assert read.service_account_email == ACCOUNT
    assert (MEMBERS.principal, MEMBERS.secret) == ("private_key_id", "private_key")


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("may_upload", [False, True], ids=["a policy", "too many"])
def test_a_refusal_comes_again_and_names_both_reasons(
    service: StrictServiceAccountKeys, world: World, current: Credential, *, may_upload: bool
) -> None:
    """The service says the same of both, and what a list shows may be old."""
    service.may_upload, service.quota = may_upload, 1

    with pytest.raises(Busy, match="takes no further key now") as caught:
        keys_of(service, world).mint(current, ATTEMPT)

    assert "10 keys" in caught.value.remedy
    assert "iam.disableServiceAccountKeyUpload" in caught.value.remedy


@pytest.mark.parametrize("is_picky", [False, True])
def test_a_key_that_is_disabled_may_be_disabled_again(
    service: StrictServiceAccountKeys, world: World, current: Credential, *, is_picky: bool
) -> None:
    service.is_picky = is_picky
    keys = keys_of(service, world)
    for _ in range(2):
        keys.deactivate(current, current.principal)

    assert keys.verify(current) is False


def test_a_key_that_stays_enabled_is_no_success(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    """Whatever the refusal means."""
    service.refuses_to_disable = True

    with pytest.raises(KeyturnError, match="DisableServiceAccountKey"):
        keys_of(service, world).deactivate(current, current.principal)


@pytest.mark.parametrize(
    "account, kind",
    [
        ("other@shop-42.iam.gserviceaccount.com", Denied),
        ("orders@shop-42.example.com", Misconfigured),
        (f"{ACCOUNT}/keys/../x@a.iam.gserviceaccount.com", Misconfigured),
        ("", Misconfigured),
    ],
)
def test_only_accounts_that_the_deployment_names_are_touched(
    service: StrictServiceAccountKeys,
    world: World,
    current: Credential,
    account: str,
    kind: type[KeyturnError],
) -> None:
    stranger = replace(current, fields={**FIELDS, "client_email": account})
    keys = keys_of(service, world)

    for act in (keys.check, keys.keys, keys.verify, lambda each: keys.mint(each, ATTEMPT)):
        with pytest.raises(kind):
            act(stranger)
    assert service.asked == []


def test_another_address_in_the_secret_is_asked_for_nothing(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    """Whoever may write the secret would have an assertion sent there, signed by its key."""
    led_astray = replace(current, fields={**FIELDS, "token_uri": "http://127.0.0.1:1/token"})

    assert keys_of(service, world).verify(led_astray)
    assert service.asked == ["token"]


def test_an_id_that_is_none_is_put_into_no_address(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    keys = keys_of(service, world)

    for act in (keys.deactivate, keys.delete):
        with pytest.raises(Misconfigured):
            act(current, "../../other")
    assert service.asked == []


def test_without_its_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on AWS, where the functions that rotate are packed without it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cryptography" else find(name)
    )

    with pytest.raises(Unsupported, match="cryptography"):
        issuer(Surroundings(lambda: 60.0))


def test_the_limit_is_googles(service: StrictServiceAccountKeys) -> None:
    made = issuer(Surroundings(lambda: 60.0, google_endpoint=service.endpoint))

    assert made.limit == LIMIT == 10


# ---------------------------------------------------------------------------- rotations


def _rotation(
    service: StrictServiceAccountKeys, world: World, store: LabelledStore, name: str
) -> Rotation:
    def pause(seconds: float) -> bool:
        world.clock.advance(timedelta(seconds=seconds))
        return True

    store.begin(RotationId(name))
    place = Place(store, REF, RotationId(name))
    target = MintedKeys(keys_of(service, world), place, world.clock, pause)
    return Rotation(REF, RotationId(name), store=store, targets=lambda _: target, clock=world.clock)


def test_an_upload_whose_answer_is_lost_is_not_made_again(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    with service.lose("upload"), pytest.raises(Unreachable):
        keys_of(service, world).mint(current, ATTEMPT)

    assert service.asked.count("upload") == 1
    assert len(service.alive()) == 2


@pytest.mark.parametrize("lost", ["upload", "disable", "delete", "list", "token"])
def test_a_lost_reply_leaves_nothing_behind(
    service: StrictServiceAccountKeys, world: World, current: Credential, lost: str
) -> None:
    store = LabelledStore(world, current)

    for name in ("a", "b"):
        _rotation(service, world, store, name).run()
        world.clock.advance(timedelta(hours=3))
    with service.lose(lost), suppress(KeyturnError):
        _rotation(service, world, store, "c").run()
    for name in ("d", "e"):
        world.clock.advance(timedelta(hours=3))
        _rotation(service, world, store, name).run()

    served = store.serves().credential
    assert keys_of(service, world).verify(served)
    assert served.principal in service.alive()
    assert len(service.alive()) == 2


def test_a_key_that_a_person_makes_after_a_lost_answer_is_left(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    """Or another secret's rotation. It may be in use: this API does not tell."""
    store = LabelledStore(world, current)
    with service.lose("upload"), pytest.raises(Unreachable):
        _rotation(service, world, store, "a").run()
    [lost] = service.alive() - {current.principal}
    theirs, _ = service.make_key(timedelta(0))
    world.clock.advance(timedelta(hours=3))

    _rotation(service, world, store, "b").run()

    assert service.alive() == {current.principal, theirs, store.serves().credential.principal}
    assert not service.keys[theirs].is_disabled
    assert lost not in service.alive()


def test_no_private_key_is_shown(
    service: StrictServiceAccountKeys, world: World, current: Credential
) -> None:
    keys = keys_of(service, world)
    made = keys.mint(current, ATTEMPT)
    said = [repr(made), str(made)]
    with service.outage():
        for act in (keys.verify, keys.keys):
            try:
                act(made)
            except KeyturnError as error:
                said += [str(error), repr(error), error.remedy]

    is_shown = any("PRIVATE" in each or made.secret.reveal()[40:80] in each for each in said)
    assert not is_shown


def test_the_page_grants_what_is_declared() -> None:
    found = re.findall(r"`(iam\.serviceAccountKeys\.\w+)`", PAGE)

    assert sorted(set(found)) == [*PERMISSIONS]
