"""Rollouts judged by one look. That kubectl judges alike is `integration/test_rollout_table.py`."""

from __future__ import annotations

import pytest

from keyturn.kubernetes.rollout import Stage, Workload, obstacle, rollout
from rollouts import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, TABLE, Json, Row


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_state_is_judged(row: Row) -> None:
    seen = rollout(row.kind, row.shown())

    assert seen.stage is row.ours
    assert row.waits_for in seen.waits_for
    assert bool(seen.waits_for) is (row.ours is not Stage.COMPLETE)
    assert seen.waits_for.isprintable()


def test_the_table_has_both_sides_of_each_rule() -> None:
    """At least 24 rows; every kind in every stage; and who differs says why."""
    assert len(TABLE) >= 24
    assert {(row.kind, row.ours) for row in TABLE} == {(k, s) for k in Workload for s in Stage}
    assert all(bool(row.stricter) is (row.kubectl is not row.ours) for row in TABLE)
    assert not [row.name for row in TABLE if row.ours is Stage.COMPLETE and row.stricter]


@pytest.mark.parametrize("kind", Workload)
@pytest.mark.parametrize("status", [None, {}], ids=["none", "empty"])
def test_what_has_no_status_yet_is_under_way(kind: Workload, status: Json | None) -> None:
    """An object that was created a moment ago."""
    row = next(each for each in TABLE if each.kind is kind)

    assert rollout(kind, {**row.shown(), "status": status}).stage is Stage.UNDER_WAY


def changed(kind: Workload, **spec: object) -> Json:
    row = next(each for each in TABLE if each.kind is kind and each.ours is Stage.COMPLETE)
    shown = row.shown()
    return {**shown, "spec": {**shown["spec"], **spec}}


ROLLING = {"type": "RollingUpdate"}


@pytest.mark.parametrize(
    "kind, spec, fact",
    [
        (DEPLOYMENT, {}, None),
        (DEPLOYMENT, {"strategy": {"type": "Recreate"}}, None),
        (DEPLOYMENT, {"replicas": 0}, None),
        (DEPLOYMENT, {"paused": True}, "is paused"),
        (STATEFUL_SET, {}, None),
        (STATEFUL_SET, {"updateStrategy": ROLLING}, None),
        (STATEFUL_SET, {"updateStrategy": {**ROLLING, "rollingUpdate": None}}, None),
        (
            STATEFUL_SET,
            {"updateStrategy": {**ROLLING, "rollingUpdate": {"partition": 1}}},
            "keeps pods below the ordinal 1 old: it has a partition",
        ),
        (
            STATEFUL_SET,
            {"updateStrategy": {"type": "OnDelete"}},
            "replaces no pod by itself: its update strategy is not RollingUpdate",
        ),
        (DAEMON_SET, {}, None),
        (
            DAEMON_SET,
            {"updateStrategy": {"type": "OnDelete"}},
            "replaces no pod by itself: its update strategy is not RollingUpdate",
        ),
        (
            DAEMON_SET,
            {"updateStrategy": None},
            "replaces no pod by itself: its update strategy is not RollingUpdate",
        ),
    ],
)
def test_what_never_replaces_all_its_pods_is_named(
    kind: Workload, spec: Json, fact: str | None
) -> None:
    found = obstacle(kind, changed(kind, **spec))

    assert (found.fact if found else None) == fact
    assert not found or found.remedy.endswith((".", "`."))


@pytest.mark.parametrize("kind", Workload)
def test_what_is_being_deleted_is_not_waited_for(kind: Workload) -> None:
    found = changed(kind)
    found["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"

    seen = obstacle(kind, found)

    assert seen is not None
    assert seen.fact == "is being deleted"
