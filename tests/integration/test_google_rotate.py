"""The rotate function on Google: real framework, real Secret Manager protocol, real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from google_functions import (
    OWN_TOPIC,
    PARENT,
    TOPIC,
    Deployed,
    Room,
    bearer,
    environment,
    lines,
    pushed,
)
from keyturn.local.postgres import Postgres
from keyturn.local.secret_manager import LocalSecretManager


@pytest.fixture
def google() -> Iterator[LocalSecretManager]:
    with LocalSecretManager() as running:
        running.vault.quota = 1_000  # else most of a test is waiting
        yield running


@pytest.fixture
def room(google: LocalSecretManager, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Room:
    for name, value in environment(google).items():
        monkeypatch.setenv(name, value)
    return Room(google, postgres)


@pytest.fixture
def rotate() -> Deployed:
    return Deployed("rotate")


def test_a_tick_rotates(room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    assert rotate.push(room.tick()) == 200

    assert room.versions == 2
    assert room.works()
    told = lines(capsys)
    assert [each["step"] for each in told] == ["create", "set", "test", "finish"]
    assert {each["severity"] for each in told} == {"INFO"}
    assert {each["secret"] for each in told} == {room.ref}
    assert {each["rotation_id"] for each in told} == {"m1001"}


@pytest.mark.parametrize("times", [2, 5])
def test_a_message_that_comes_again_changes_nothing(
    room: Room, rotate: Deployed, times: int
) -> None:
    tick = room.tick()

    assert {rotate.push(tick) for _ in range(times)} == {200}

    assert room.versions == 2
    assert room.works()


def test_a_tick_that_is_published_twice_rotates_once(room: Room, rotate: Deployed) -> None:
    """Secret Manager may send it again; then it is another message, of the same time."""
    at = datetime.now(UTC).isoformat()

    assert rotate.push(room.tick("1001", timestamp=at)) == 200
    assert rotate.push(room.tick("1002", timestamp=at)) == 200

    assert room.versions == 2


def test_ticks_out_of_order_rotate_once(room: Room, rotate: Deployed) -> None:
    earlier = room.tick("1001")
    later = room.tick("1002")

    assert rotate.push(later) == 200
    assert rotate.push(earlier) == 200

    assert room.versions == 2
    assert room.works()


def test_a_message_may_have_a_versions_number_for_an_id(room: Room, rotate: Deployed) -> None:
    """The emulator counts from 1, as versions do."""
    for number in range(1, 4):
        assert rotate.push(room.tick(str(number))) == 200

    assert room.versions == 4


def test_an_old_message_that_is_sent_again_rotates_nothing(room: Room, rotate: Deployed) -> None:
    """Whoever may publish and has kept a message cannot make more of it than it was."""
    old = room.tick("1001")
    rotate.push(old)
    rotate.push(room.tick("1002"))
    versions = room.versions

    assert rotate.push(old) == 200
    old["message"]["messageId"] = "9999"
    assert rotate.push(old) == 200

    assert room.versions == versions == 3


def test_each_new_tick_rotates_once_more(room: Room, rotate: Deployed) -> None:
    for number in range(3):
        assert rotate.push(room.tick(str(1000 + number))) == 200

    assert room.versions == 4
    assert room.works()


FORGED = {
    "without a token": "",
    "with a password": "Basic Canary7-basic",
    "with a token that is none": "Bearer a.b",
    "with claims that are none": "Bearer a.Canary7!.SIGNATURE_REMOVED_BY_GOOGLE",
    "of another account": bearer("thief@example.iam.gserviceaccount.com"),
    "for another function": bearer(host="other.run.app"),
    "of an address that nobody has verified": bearer(email_verified=False),
    "of another issuer": bearer(iss="https://thief.example"),
}


@pytest.mark.parametrize("authorization", FORGED.values(), ids=FORGED)
def test_a_forged_push_is_refused(
    room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str], authorization: str
) -> None:
    calls = len(room.google.calls)

    assert rotate.push(room.tick(), authorization=authorization) == 403

    assert len(room.google.calls) == calls
    assert [each["error"] for each in lines(capsys)] == ["UnknownCaller"]


def test_a_signature_that_nobody_has_removed_is_checked(
    room: Room, rotate: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came past no gate. Google's keys are on loopback here, and there are none."""
    from keyturn.testing import google_rest

    asked = []

    def keys(request: google_rest.Asked) -> dict[str, str]:
        asked.append(request.path)
        return {}

    forged = bearer().replace("SIGNATURE_REMOVED_BY_GOOGLE", "c2lnbmVk")
    with google_rest.served(keys) as endpoint:
        monkeypatch.setenv("KEYTURN_GOOGLE_ENDPOINT", endpoint)
        assert rotate.push(room.tick(), authorization=forged) == 403

    assert room.versions == 1
    assert asked == ["/oauth2/v1/certs"]


def test_for_a_stranger_nobody_is_asked(
    room: Room, rotate: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever finds the function has it fetch keys as often as they like."""
    from keyturn.testing import google_rest

    asked = []

    def keys(request: google_rest.Asked) -> dict[str, str]:
        asked.append(request.path)
        return {}

    stranger = bearer("thief@example.iam.gserviceaccount.com")
    forged = stranger.replace("SIGNATURE_REMOVED_BY_GOOGLE", "c2lnbmVk")
    with google_rest.served(keys) as endpoint:
        monkeypatch.setenv("KEYTURN_GOOGLE_ENDPOINT", endpoint)
        assert rotate.push(room.tick(), authorization=forged) == 403

    assert asked == []


@pytest.mark.parametrize("topic", [f"{PARENT}/topics/anybodys", ""])
def test_another_topics_message_is_acknowledged_and_told(
    room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    assert rotate.push(room.tick(), topic=topic) == 200

    assert room.versions == 1
    [told] = lines(capsys)
    assert (told["severity"], told["error"]) == ("ERROR", "Denied")


WRONG = {
    "another project": ({"secretId": "projects/999/secrets/app"}, "of another project"),
    "no secret": ({"secretId": "orders"}, "not the full name"),
    "a companion of nobody": ({"secretId": f"{PARENT}/secrets/a/versions/1"}, "not the full name"),
    "the future": ({"timestamp": "2100-01-01T00:00:00Z"}, "from the future"),
    "no time": ({"timestamp": "yesterday"}, "a time that is none"),
}


@pytest.mark.parametrize("attributes,fact", WRONG.values(), ids=WRONG)
def test_a_message_that_cannot_be_is_acknowledged_and_told(
    room: Room,
    rotate: Deployed,
    capsys: pytest.CaptureFixture[str],
    attributes: dict[str, str],
    fact: str,
) -> None:
    assert rotate.push(room.tick(**attributes)) == 200

    assert room.versions == 1
    told = [each for each in lines(capsys) if each["message"] == "step failed"]
    assert len(told) == 1
    assert fact in told[0]["reason"]
    assert told[0]["severity"] == "ERROR"
    assert told[0]["remedy"]


def test_data_of_another_secret_is_refused(room: Room, rotate: Deployed) -> None:
    tick = room.tick()
    other = pushed(tick["message"]["attributes"], {"name": f"{PARENT}/secrets/other"}, "1001")

    assert rotate.push(other) == 200

    assert room.versions == 1


def test_a_secret_that_is_not_allowed_is_refused_and_told(
    room: Room,
    rotate: Deployed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KEYTURN_SECRETS", "orders-*")

    assert rotate.push(room.tick()) == 200

    assert room.versions == 1
    failed, alert = lines(capsys)
    assert failed["error"] == "Denied"
    assert (alert["message"], alert["happening"]) == ("alert", "failed")


@pytest.mark.parametrize("pattern", ["{ref}", "{id}", "projects/123456789/secrets/*", "app-*"])
def test_a_pattern_may_be_full_or_short(
    room: Room, rotate: Deployed, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setenv("KEYTURN_SECRETS", pattern.format(ref=room.ref, id=room.id))

    rotate.push(room.tick())

    assert room.versions == 2


@pytest.mark.parametrize(
    "kind", ["SECRET_VERSION_ADD", "SECRET_UPDATE", "SECRET_CREATE", "TOPIC_CONFIGURED", ""]
)
def test_our_own_echoes_are_not_heard(
    room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    calls = len(room.google.calls)

    assert rotate.push(room.tick(eventType=kind)) == 200

    assert len(room.google.calls) == calls
    assert lines(capsys) == []


def test_what_its_topic_is_told_of_a_rotation_rotates_nothing(room: Room, rotate: Deployed) -> None:
    rotate.push(room.tick())
    assert [each.attributes["eventType"] for each in room.told] == ["SECRET_VERSION_ADD"]

    for number, each in enumerate(room.told):
        body = pushed(each.attributes, json.loads(each.data), str(2000 + number))
        assert rotate.push(body) == 200

    assert room.versions == 2


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_an_eventarc_trigger_brings_the_same(room: Room, rotate: Deployed, mode: str) -> None:
    tick = room.tick()
    event = {
        "specversion": "1.0",
        "id": "1001",
        "source": f"//pubsub.googleapis.com/{TOPIC}",
        "type": "google.cloud.pubsub.topic.v1.messagePublished",
    }
    if mode == "binary":
        headers = {f"ce-{name}": value for name, value in event.items()}
        assert rotate.push(tick, topic="", headers=headers) == 200
    else:
        body = {**event, "datacontenttype": "application/json", "data": tick}
        headers = {"Content-Type": "application/cloudevents+json"}
        assert rotate.push(body, topic="", headers=headers) == 200

    assert room.versions == 2


def test_while_the_database_is_away_the_message_comes_again(
    room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    room.put("Canary7-first-Password1", port=1)

    assert rotate.push(room.tick()) == 503

    told = lines(capsys)[-1]
    assert (told["severity"], told["error"]) == ("WARNING", "Unreachable")


def test_while_the_store_is_away_the_message_comes_again(room: Room, rotate: Deployed) -> None:
    tick = room.tick()
    with room.google.outage():
        assert rotate.push(tick) == 503
    assert rotate.push(tick) == 200

    assert room.versions == 2
    assert room.works()


def test_what_no_redelivery_mends_is_acknowledged_and_told(
    room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    room.put("Canary7-first-Password1", engine="abacus")

    assert rotate.push(room.tick()) == 200

    failed, alert = lines(capsys)[-2:]
    assert (failed["severity"], failed["error"]) == ("ERROR", "Unsupported")
    assert failed["@type"].endswith("ReportedErrorEvent")
    assert "abacus" in failed["stack_trace"]
    assert alert["happening"] == "failed"
    assert alert["secret"] == room.ref


@pytest.mark.parametrize(
    "address", ["sns:arn:aws:sns:eu-west-1:111122223333:a", "pubsub:topic", "mail:me"]
)
def test_while_somebody_cannot_be_told_the_message_comes_again(
    room: Room,
    rotate: Deployed,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    """What is acknowledged and told to nobody is lost."""
    monkeypatch.setenv("KEYTURN_ALERTS", address)
    room.put("Canary7-first-Password1", engine="abacus")

    assert rotate.push(room.tick()) == 500


def test_what_a_person_publishes_is_asked_for_when_it_is_published(
    room: Room, rotate: Deployed
) -> None:
    """As docs/google.md does it: without data, without a time."""
    asked = pushed({"eventType": "SECRET_ROTATE", "secretId": room.ref}, None, "7001")

    assert rotate.push(asked) == 200

    assert room.versions == 2


def test_a_function_that_is_deployed_wrongly_keeps_its_messages(
    room: Room,
    rotate: Deployed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KEYTURN_SECRET", "*")

    assert rotate.push(room.tick()) == 500

    [told] = lines(capsys)
    assert "KEYTURN_SECRET" in told["reason"]


@pytest.mark.parametrize(
    "setting",
    [
        "KEYTURN_PROJECT=my-project",
        "KEYTURN_PROJECT=",
        "KEYTURN_CALLERS=",
        "KEYTURN_TOPICS=",
        "KEYTURN_TIMEOUT_S=soon",
        "KEYTURN_GOOGLE_ENDPOINT=http://10.0.0.1:80",
        "KEYTURN_SECRET_MANAGER=10.0.0.1:80",
        "KEYTURN_SECRET_MANAGER=127.0.0.1@evil.test:80",
    ],
)
def test_a_setting_that_cannot_be_is_named(  # fixtures
    room: Room,
    rotate: Deployed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)

    assert rotate.push(room.tick()) == 500

    told = lines(capsys)[0]
    assert name in told["reason"] + told["remedy"]


def test_lines_of_one_request_stand_together(
    room: Room, rotate: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = "0123456789abcdef0123456789abcdef"

    rotate.push(room.tick(), headers={"X-Cloud-Trace-Context": f"{trace}/1;o=1"})

    traces = {each["logging.googleapis.com/trace"] for each in lines(capsys)}
    assert traces == {f"projects/123456789/traces/{trace}"}


def test_its_own_topic_is_one_of_those_allowed(room: Room, rotate: Deployed) -> None:
    """A person publishes there; what may be rotated is said by KEYTURN_SECRETS all the same."""
    assert rotate.push(room.tick(), topic=OWN_TOPIC) == 200

    assert room.versions == 2


def test_an_hour_of_delay_is_no_reason_not_to_rotate(room: Room, rotate: Deployed) -> None:
    """Nothing has become current since: the rotation is due, however late its message is."""
    rotate.push(room.tick("1001"))
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()

    assert rotate.push(room.tick("1002", timestamp=soon)) == 200

    assert room.versions == 3
