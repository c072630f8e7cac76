"""The local Secret Manager, by the official client over the wire: the rules a rotation rests on.

The source of each rule is beside it in `keyturn.local.secret_manager_rules` and `.._vault`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.secretmanager_v1.types import SecretVersion

from keyturn.crc32c import crc32c
from keyturn.local.secret_manager import LocalSecretManager
from keyturn.local.secret_manager_vault import Notification
from keyturn.testing.faults import Moment, Verdict

PARENT, NAME = "projects/shop", "projects/123456789/secrets/s"
TOPIC = {"name": "projects/shop/topics/t"}
STATES = SecretVersion.State


class Time:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def google(time: Time) -> Iterator[LocalSecretManager]:
    with LocalSecretManager({"shop": "123456789"}, now=lambda: time.now) as running:
        yield running


@pytest.fixture
def client(google: LocalSecretManager) -> Any:
    return google.client()


@pytest.fixture
def sent(google: LocalSecretManager) -> list[Notification]:
    heard: list[Notification] = []
    google.listen(heard.append)
    return heard


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(GoogleAPICallError) as caught:
        yield
    assert caught.value.grpc_status_code.name == code


def make(client: Any, **settings: Any) -> Any:
    secret = {"replication": {"automatic": {}}, **settings}
    return client.create_secret(parent=PARENT, secret_id="s", secret=secret)


def add(client: Any, data: bytes = b"x") -> Any:
    payload = {"data": data, "data_crc32c": crc32c(data)}
    return client.add_secret_version(parent=NAME, payload=payload)


def read(client: Any, which: str) -> bytes:
    data: bytes = client.access_secret_version(name=f"{NAME}/versions/{which}").payload.data
    return data


def update(client: Any, etag: str = "", **fields: Any) -> Any:
    return client.update_secret(
        secret={"name": NAME, "etag": etag, **fields}, update_mask={"paths": list(fields)}
    )


# ---------------------------------------------------------------------------- names and versions


def test_a_name_comes_back_with_the_projects_number(client: Any) -> None:
    made = make(client)

    assert made.name == NAME
    assert client.get_secret(name=f"{PARENT}/secrets/s").name == NAME


def test_a_regional_secret_is_another_one(client: Any) -> None:
    make(client)
    regional = client.create_secret(
        parent=f"{PARENT}/locations/europe-west1", secret_id="s", secret={}
    )

    assert regional.name == "projects/123456789/locations/europe-west1/secrets/s"
    assert [s.name for s in client.list_secrets(parent=PARENT)] == [NAME]


def test_a_name_is_taken_once(client: Any) -> None:
    make(client)

    with refused("ALREADY_EXISTS"):
        make(client)


@pytest.mark.parametrize("secret_id", ["", "a b", "a/b", "x" * 256])
def test_a_malformed_id_is_refused(client: Any, secret_id: str) -> None:
    with refused("INVALID_ARGUMENT"):
        client.create_secret(
            parent=PARENT, secret_id=secret_id, secret={"replication": {"automatic": {}}}
        )


def test_a_version_is_born_enabled_and_is_latest(client: Any) -> None:
    """So no untested value may ever be added where somebody reads `latest`."""
    make(client)
    first, second = add(client, b"one"), add(client, b"two")

    assert [first.name, second.name] == [f"{NAME}/versions/1", f"{NAME}/versions/2"]
    assert second.state == STATES.ENABLED
    assert read(client, "latest") == b"two"
    assert read(client, "1") == b"one"


def test_latest_is_the_newest_whatever_its_state(client: Any) -> None:
    """Blogs and the best-known emulator say that it is the newest enabled one."""
    make(client)
    add(client), add(client)
    client.disable_secret_version(name=f"{NAME}/versions/2")

    with refused("FAILED_PRECONDITION"):
        read(client, "latest")
    assert read(client, "1") == b"x"

    client.destroy_secret_version(name=f"{NAME}/versions/2")
    with refused("FAILED_PRECONDITION"):
        read(client, "latest")


@pytest.mark.parametrize("which", ["latest", "1", "0", "no-alias"])
def test_what_is_not_there_is_not_found(client: Any, which: str) -> None:
    make(client)

    with refused("NOT_FOUND"):
        read(client, which)


def test_destroyed_is_for_ever(client: Any) -> None:
    make(client)
    add(client)
    client.destroy_secret_version(name=f"{NAME}/versions/1")

    with refused("FAILED_PRECONDITION"):
        client.enable_secret_version(name=f"{NAME}/versions/1")
    client.destroy_secret_version(name=f"{NAME}/versions/1")


def test_destruction_may_wait_and_be_called_off(client: Any, google: Any, time: Time) -> None:
    make(client, version_destroy_ttl=timedelta(days=1))
    add(client), add(client)
    for number in (1, 2):
        waiting = client.destroy_secret_version(name=f"{NAME}/versions/{number}")
        assert waiting.state == STATES.DISABLED
        assert waiting.scheduled_destroy_time == time.now + timedelta(days=1)

    client.enable_secret_version(name=f"{NAME}/versions/1")
    time.now += timedelta(days=1)
    google.tick()

    assert read(client, "1") == b"x"
    assert client.get_secret_version(name=f"{NAME}/versions/2").state == STATES.DESTROYED


def test_a_list_is_newest_first_in_pages_and_by_state(client: Any) -> None:
    make(client)
    for _ in range(3):
        add(client)
    client.disable_secret_version(name=f"{NAME}/versions/2")

    def numbers(**how: Any) -> list[str]:
        found = client.list_secret_versions(request={"parent": NAME, **how})
        return [version.name[-1] for version in found]

    assert numbers() == numbers(page_size=1) == ["3", "2", "1"]
    assert numbers(filter="state:ENABLED") == ["3", "1"]


def test_a_wrong_checksum_is_refused_and_a_right_one_comes_back(client: Any) -> None:
    make(client)
    with refused("INVALID_ARGUMENT"):
        client.add_secret_version(parent=NAME, payload={"data": b"x", "data_crc32c": 1})

    assert add(client).client_specified_payload_checksum
    got = client.access_secret_version(name=f"{NAME}/versions/1").payload
    assert got.data_crc32c == crc32c(b"x")


def test_a_payload_has_64_kib(client: Any) -> None:
    make(client)
    add(client, b"x" * 65_536)

    with refused("INVALID_ARGUMENT"):
        add(client, b"x" * 65_537)


# ---------------------------------------------------------------------------- guarded writes


def test_another_etag_is_a_failed_precondition(client: Any) -> None:
    """Not ABORTED. None at all is no condition."""
    old = make(client).etag
    new = update(client, old, annotations={"a": "b"}).etag

    assert old.startswith('"')
    assert new != old
    with refused("FAILED_PRECONDITION"):
        update(client, old, annotations={})
    assert update(client, annotations={"a": "b"}).etag != new, "even if nothing changes"


def test_a_version_has_an_etag_of_its_own(client: Any) -> None:
    etag = make(client).etag
    old = add(client).etag
    client.disable_secret_version(request={"name": f"{NAME}/versions/1", "etag": old})

    assert client.get_secret(name=NAME).etag == etag
    with refused("FAILED_PRECONDITION"):
        client.enable_secret_version(request={"name": f"{NAME}/versions/1", "etag": old})


def test_aliases_and_annotations_move_in_one_write(client: Any) -> None:
    make(client)
    add(client, b"one"), add(client, b"two")

    update(client, version_aliases={"current": 1}, annotations={"a": "b"})

    assert read(client, "current") == b"one"


@pytest.mark.parametrize(
    "fields",
    [
        {"version_aliases": {"latest": 1}},
        {"version_aliases": {"NEW": 1}},
        {"version_aliases": {"1st": 1}},
        {"version_aliases": {"x" * 64: 1}},
        {"version_aliases": {"current": 2}},
        {"version_aliases": {f"a{n}": 1 for n in range(51)}},
        {"annotations": {"-a": "b"}},
        {"annotations": {"a": "x" * 16_383}},
        {"labels": {"A": "b"}},
        {"labels": {f"l{n}": "" for n in range(65)}},
        {"topics": [{"name": f"projects/p/topics/t{n}"} for n in range(11)]},
        {"topics": [{"name": "t"}]},
        {"replication": {"automatic": {}}},
        {"version_destroy_ttl": timedelta(hours=23)},
    ],
    ids=str,
)
def test_what_is_outside_the_limits_changes_nothing(client: Any, fields: dict[str, Any]) -> None:
    make(client)
    add(client)
    before = client.get_secret(name=NAME)

    with refused("INVALID_ARGUMENT"):
        update(client, **fields)
    assert client.get_secret(name=NAME) == before


# ---------------------------------------------------------------------------- rotation


@pytest.mark.parametrize(
    "rotation, topics",
    [
        ({"period": 3_600}, [TOPIC]),
        ({"due": 299, "period": 3_600}, [TOPIC]),
        ({"due": 3_153_600_001}, [TOPIC]),
        ({"due": 300, "period": 3_599}, [TOPIC]),
        ({"due": 300, "period": 3_600}, []),
    ],
    ids=["no next time", "too soon", "too late", "too often", "no topic"],
)
def test_rotation_has_its_rules(
    client: Any, time: Time, rotation: dict[str, int], topics: list[dict[str, str]]
) -> None:
    with refused("INVALID_ARGUMENT"):
        make(client, topics=topics, rotation=schedule(time, **rotation))


def schedule(time: Time, due: int | None = None, period: int | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if due is not None:
        made["next_rotation_time"] = time.now + timedelta(seconds=due)
    if period is not None:
        made["rotation_period"] = timedelta(seconds=period)
    return made


def test_a_rotation_is_announced_once_and_the_next_one_scheduled(
    client: Any, google: LocalSecretManager, time: Time, sent: list[Notification]
) -> None:
    make(client, topics=[TOPIC], rotation=schedule(time, due=3_600, period=7_200))
    sent.clear()
    google.tick()
    assert sent == []

    time.now += timedelta(hours=1)
    google.tick()
    google.tick()

    assert len(sent) == 1
    assert sent[0].topic == TOPIC["name"]
    assert sent[0].attributes == {
        "eventType": "SECRET_ROTATE",
        "secretId": NAME,
        "dataFormat": "JSON_API_V1",
        "timestamp": "2030-01-01T01:00:00Z",
    }
    assert client.get_secret(name=NAME).rotation.next_rotation_time == time.now + timedelta(hours=2)


def test_a_rotation_without_a_period_comes_once(
    client: Any, google: LocalSecretManager, time: Time, sent: list[Notification]
) -> None:
    make(client, topics=[TOPIC], rotation=schedule(time, due=3_600))
    sent.clear()

    for _ in range(3):
        time.now += timedelta(hours=1)
        google.tick()

    assert [each.attributes["eventType"] for each in sent] == ["SECRET_ROTATE"]


def test_every_change_is_told_and_no_payload(client: Any, sent: list[Notification]) -> None:
    """Also the rotator's own: it must know them for what they are."""
    make(client, topics=[TOPIC])
    add(client, b"Canary7-payload")
    client.disable_secret_version(name=f"{NAME}/versions/1")
    client.enable_secret_version(name=f"{NAME}/versions/1")
    read(client, "1")
    update(client, annotations={"a": "b"})
    client.destroy_secret_version(name=f"{NAME}/versions/1")
    client.delete_secret(name=NAME)

    told = [each.attributes["eventType"] for each in sent]
    assert told == [
        *("SECRET_CREATE", "TOPIC_CONFIGURED", "SECRET_VERSION_ADD", "SECRET_VERSION_DISABLE"),
        *("SECRET_VERSION_ENABLE", "SECRET_UPDATE", "SECRET_VERSION_DESTROY", "SECRET_DELETE"),
    ]
    assert sent[2].attributes["versionId"] == f"{NAME}/versions/1"
    assert json.loads(sent[2].data)["state"] == "ENABLED"
    assert not [each for each in sent if b"Canary7" in each.data]


def test_a_secret_expires(client: Any, google: LocalSecretManager, time: Time) -> None:
    make(client, ttl=timedelta(hours=1))
    time.now += timedelta(hours=1)

    google.tick()

    with refused("NOT_FOUND"):
        client.get_secret(name=NAME)


def test_googles_own_rotation_shows(client: Any, google: LocalSecretManager) -> None:
    make(client, secret_type="CLOUD_SQL_DB_CREDENTIALS")
    google.vault.manage(NAME, is_active=True)

    got = client.get_secret(name=NAME)

    assert got.secret_type.name == "CLOUD_SQL_DB_CREDENTIALS"
    assert got.rotation.managed_rotation_status.state.name == "ACTIVE"


# ---------------------------------------------------------------------------- what goes wrong


def test_what_may_be_late_is_and_what_may_not_is_not(
    client: Any, google: LocalSecretManager
) -> None:
    """By number right after the add, and guarded writes: at once. All else: some time."""
    make(client)
    google.vault.be_late(2)
    seen: dict[str, set[object]] = {"latest": set(), "list": set(), "etag": set()}
    for number in range(1, 21):
        add(client, b"%d" % number)
        assert read(client, str(number)) == b"%d" % number
        if number > 2:
            seen["latest"].add(number - int(read(client, "latest")))
        seen["list"].add(number - len(list(client.list_secret_versions(parent=NAME))))
        etag = update(client, annotations={"n": str(number)}).etag
        seen["etag"].add(client.get_secret(name=NAME).etag == etag)
        update(client, etag, annotations={"n": "again"})

    assert seen["latest"] == {0, 1}
    assert {0, 1} <= seen["list"]
    assert seen["etag"] == {True, False}


def test_late_answers_are_the_same_for_the_same_seed() -> None:
    assert drawn("one") == drawn("one")
    assert drawn("one") != drawn("other")


def drawn(seed: str) -> list[bytes]:
    with LocalSecretManager({"shop": "123456789"}) as google:
        client = google.client()
        make(client)
        for number in range(9):
            add(client, b"%d" % number)
        google.vault.be_late(5, seed)
        return [read(client, "latest") for _ in range(20)]


def test_a_third_write_in_a_second_is_refused(
    client: Any, google: LocalSecretManager, time: Time
) -> None:
    google.vault.quota = 2
    make(client)
    add(client), add(client)

    with refused("RESOURCE_EXHAUSTED"):
        add(client)
    time.now += timedelta(seconds=1)
    add(client)


@pytest.mark.parametrize(
    "moment, verdict, count",
    [
        (Moment.BEFORE, Verdict.CUT, 0),
        (Moment.AFTER, Verdict.CUT, 1),
        (Moment.BEFORE, Verdict.HOLD, 0),
        (Moment.BEFORE, Verdict.SWALLOW, 0),
    ],
    ids=["lost request", "lost reply", "late effect", "hang"],
)
def test_a_call_is_broken_at_the_wire(
    client: Any, google: LocalSecretManager, moment: Moment, verdict: Verdict, count: int
) -> None:
    make(client)
    google.interrupt = lambda number, method, now: (
        verdict if (number, method, now) == (2, "AddSecretVersion", moment) else Verdict.PASS
    )
    wanted = "DEADLINE_EXCEEDED" if verdict is Verdict.SWALLOW else "UNAVAILABLE"

    with refused(wanted):
        client.add_secret_version(parent=NAME, payload={"data": b"x"}, retry=None, timeout=0.3)

    assert len(google.vault.look(NAME).versions) == count
    is_held = verdict is Verdict.HOLD
    assert google.release() == is_held
    assert len(google.vault.look(NAME).versions) == count + is_held
