"""The last act of the demo: what it makes of what was seen, in a terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from keyturn.local.demo_aftermath import (
    Aftermath,
    Heard,
    Moment,
    broken,
    died_at,
    followed_at,
    steps,
    verdict,
)
from keyturn.local.demo_page import page
from keyturn.local.demo_terminal import Cell, aftermath_legend, aftermath_timeline
from keyturn.model import Happening

HOSTILE = "<b>&\"'"
NOON = datetime(2026, 7, 30, 12, 0, tzinfo=UTC)


def aftermath() -> Aftermath:
    """Four looks, five minutes apart: the copy follows at once, the pod at 5; the end is at 15."""
    return Aftermath(
        secret=HOSTILE,
        places=("copy", "pod 1"),
        moments=(
            Moment(0.0, (True, False), old_works=True),
            Moment(5.0, (True, True), old_works=True),
            Moment(10.0, (True, True), old_works=True),
            Moment(15.0, (True, True), old_works=False),
        ),
        heard=(
            Heard(0.0, Happening.SUCCEEDED, "is current"),
            Heard(15.0, Happening.RETIRED, "is accepted no longer"),
        ),
        refused=0,
        logins=4,
    )


def shown(seen: Aftermath, width: int = 57) -> list[str]:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(aftermath_timeline(seen, width))
    return captured.get().splitlines()


def test_who_followed_when_and_when_the_old_login_died() -> None:
    seen = aftermath()

    assert [followed_at(seen, place) for place in (0, 1)] == [0.0, 5.0]
    assert died_at(seen) == 15.0
    assert broken(seen) == []
    assert "after 5 minutes" in verdict(seen)
    assert "after 15" in verdict(seen)


def test_who_goes_back_has_followed_when_it_stayed() -> None:
    seen = aftermath()
    moments = list(seen.moments)
    moments[2] = Moment(10.0, (True, False), old_works=True)

    assert followed_at(replace(seen, moments=tuple(moments)), 1) == 15.0


def _too_early(seen: Aftermath) -> Aftermath:
    return replace(seen, moments=(Moment(0.0, (True, False), old_works=False), *seen.moments[3:]))


def _never_dies(seen: Aftermath) -> Aftermath:
    return replace(seen, moments=seen.moments[:3])


def _never_follows(seen: Aftermath) -> Aftermath:
    return replace(seen, moments=(Moment(0.0, (True, False), old_works=True),))


@pytest.mark.parametrize(
    "spoil,fact",
    [
        (_too_early, "died before all"),
        (_never_dies, "still works"),
        (_never_follows, "pod 1 never got"),
        (lambda seen: replace(seen, refused=1), "1 of 4 logins"),
        (lambda seen: replace(seen, logins=0), "0 of 0 logins"),
        (lambda seen: replace(seen, heard=seen.heard[:1]), "nobody was told: retired"),
        (lambda seen: replace(seen, heard=()), "nobody was told: succeeded"),
    ],
)
def test_what_is_not_as_promised_is_said(
    spoil: Callable[[Aftermath], Aftermath], fact: str
) -> None:
    seen = spoil(aftermath())

    assert any(fact in line for line in broken(seen))
    assert verdict(seen).startswith("This is not as promised: ")
    assert "broken" in page([], NOON, seen)


def test_the_terminal_has_a_line_for_each_and_says_who_was_told() -> None:
    title, copy, pod, old, told, axis, *_ = shown(aftermath())

    assert title == f"follow-up of {HOSTILE}"
    assert copy.removeprefix("copy").strip() == Cell.SERVED.glyph * 40
    assert pod.removeprefix("pod 1").strip() == Cell.ACCEPTED.glyph * 14 + Cell.SERVED.glyph * 26
    assert old.removeprefix("the old login").strip() == Cell.ACCEPTED.glyph * 40
    assert told.split() == ["SNS", "succeeded", "retired"]
    assert axis.split() == ["0", "min", "15", "min"]


def test_the_legend_explains_every_character() -> None:
    text = aftermath_legend().plain

    for line in shown(aftermath())[1:4]:
        assert set(line.removeprefix("the old login").removeprefix("copy")[17:]) - set(" ") <= set(
            text
        )


def test_the_page_shows_it_and_escapes_names() -> None:
    text = page([], NOON, aftermath()).removeprefix("<!DOCTYPE html>\n")

    root = ET.fromstring(text)  # noqa: S314  # we have just written it
    headings = ["".join(each.itertext()) for each in root.iter("h2")]
    rows = ["".join(cell.itertext()) for cell in root.iter("th") if cell.get("scope") == "row"]
    assert "Afterwards: the follow-up 0 of 4 logins refused" in headings
    assert [row for row in rows if "pod" in row or "SNS" in row] == [
        "SNS: succeeded, is current",
        "pod 1 has the new version",
        "SNS: retired, is accepted no longer",
    ]
    green = [each for each in root.iter("rect") if each.get("class") == "yes"]
    assert len(green) == 3 + 2  # copy, pod, old login; and those of the legend


def test_what_happened_is_told_in_order() -> None:
    assert [at for at, _ in steps(aftermath())] == [0.0, 0.0, 5.0, 15.0, 15.0]
