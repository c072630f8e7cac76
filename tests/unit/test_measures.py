"""What the follow-up measures: what is behind, and for how long; what died; what failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyturn.errors import Unreachable
from keyturn.follow_up import Line, Part, Report, Retirement, State
from keyturn.measures import UNITS, Measures
from keyturn.model import Alert, Happening, RotationId, SecretRef

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
DEADLINE = timedelta(days=2)
COPY, READER, OLD = Part.DESTINATION, Part.CONSUMER, Part.OLD_CREDENTIAL


def report(*lines: tuple[Part, State], age: timedelta = timedelta(hours=3)) -> Report:
    """Return what a look has found, of a version that was promoted *age* ago."""
    found = [Line(part, f"{part.value} {n}", state) for n, (part, state) in enumerate(lines)]
    return Report(RotationId("v2"), NOW - age, found)


def sweep(*reports: Report) -> Measures:
    measures = Measures(is_sweep=True)
    for number, each in enumerate(reports):
        measures.look(f"secret/{number}", each, Retirement(deadline=DEADLINE), NOW)
    return measures


def test_a_sweep_counts_what_is_behind_in_all_secrets() -> None:
    numbers = sweep(
        report((COPY, State.WAITING), (COPY, State.DONE), (READER, State.WAITING)),
        report((COPY, State.FAILED), (READER, State.FAILED), (READER, State.DONE)),
    ).numbers()

    assert numbers["CopiesBehind"] == 2
    assert numbers["ConsumersBehind"] == 2
    assert numbers["SecretsFollowed"] == 2


def test_how_long_is_that_of_whatever_waits_longest() -> None:
    numbers = sweep(
        report((COPY, State.WAITING), age=timedelta(minutes=5)),
        report((READER, State.WAITING), age=timedelta(minutes=40)),
        report((COPY, State.DONE), age=timedelta(days=9)),
    ).numbers()

    assert numbers["SecondsBehind"] == 40 * 60


def test_what_is_done_or_kept_is_not_behind() -> None:
    """A credential that the plan never retires is nobody's task."""
    numbers = sweep(report((COPY, State.DONE), (READER, State.DONE), (OLD, State.KEPT))).numbers()

    assert numbers == {
        "LooksFailed": 0,
        "CredentialsRetired": 0,
        "SecretsFollowed": 1,
        "CopiesBehind": 0,
        "ConsumersBehind": 0,
        "SecondsBehind": 0,
        "OldCredentialHours": 0,
        "CredentialsHeld": 0,
    }


@pytest.mark.parametrize("state", [State.WAITING, State.FAILED])
def test_an_old_credential_that_is_to_die_has_an_age(state: State) -> None:
    numbers = sweep(
        report((OLD, state), age=timedelta(hours=3)),
        report((OLD, state), age=timedelta(minutes=90)),
    ).numbers()

    assert numbers["OldCredentialHours"] == 3.0
    assert numbers["SecondsBehind"] == 0


def test_one_that_lives_after_its_deadline_is_held() -> None:
    numbers = sweep(
        report((OLD, State.WAITING), age=DEADLINE),
        report((OLD, State.WAITING), age=DEADLINE - timedelta(seconds=1)),
    ).numbers()

    assert numbers["CredentialsHeld"] == 1


def test_what_died_in_this_look_is_counted_and_what_was_dead_is_not() -> None:
    """A line without a name says that there was no old credential."""
    nothing = Report(RotationId("v2"), NOW, [Line(OLD, "", State.DONE)])

    numbers = sweep(report((OLD, State.DONE)), nothing).numbers()

    assert numbers["CredentialsRetired"] == 1


def test_a_look_fails_once_whatever_failed_in_it() -> None:
    bad = report((COPY, State.FAILED))
    bad.errors += [Unreachable("a", remedy="b"), Unreachable("c", remedy="d")]
    measures = sweep(bad, report((COPY, State.DONE)))

    measures.look_failed("secret/0")
    measures.look_failed("secret/9")

    assert measures.numbers()["LooksFailed"] == 2


def test_alerts_are_counted_by_what_happened() -> None:
    measures = Measures(is_sweep=False)
    for happening in (Happening.STUCK, Happening.STUCK, Happening.ABANDONED):
        measures.send(Alert(happening, SecretRef("s"), None, "", "f", "r", NOW))

    numbers = measures.numbers()

    assert (numbers["AlertStuck"], numbers["AlertAbandoned"]) == (2, 1)
    assert "AlertHeld" not in numbers


def test_one_look_says_nothing_of_the_whole() -> None:
    """Its few copies would be taken for all there are."""
    measures = Measures(is_sweep=False)
    measures.look("secret/0", report((COPY, State.WAITING)), Retirement(), NOW)

    assert measures.numbers() == {"LooksFailed": 0, "CredentialsRetired": 0}


def test_each_secret_that_waits_has_a_line_with_names_and_numbers() -> None:
    measures = sweep(
        report((COPY, State.WAITING), (READER, State.FAILED), (OLD, State.WAITING)),
        report((COPY, State.DONE)),
    )

    assert measures.behind() == [
        {
            "secret": "secret/0",
            "version_id": "v2",
            "copies_behind": 1,
            "consumers_behind": 1,
            "seconds_behind": 10800,
            "old_credential_hours": 3.0,
        }
    ]


def test_every_number_has_a_unit() -> None:
    measures = sweep(report((OLD, State.DONE)))
    for happening in Happening:
        measures.send(Alert(happening, SecretRef("s"), None, "", "f", "r", NOW))

    assert measures.numbers().keys() == UNITS.keys()
