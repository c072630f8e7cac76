"""What the demo makes of a recording: figures, a strip for the terminal, a page."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from keyturn.local.demo_page import page
from keyturn.local.demo_recording import (
    KnownVersion,
    Login,
    Look,
    Recording,
    Rotated,
    Span,
    StepRun,
    Try,
    Verdict,
    accepted,
    figures,
    gaps_ms,
    is_good,
    resolution_ms,
    served,
    spans,
    verdict,
)
from keyturn.local.demo_terminal import Cell, cells, summary, timeline
from keyturn.model import Step, Strategy

MEASURED_AT = datetime(2026, 7, 30, 12, 0, tzinfo=UTC)
HOSTILE = "<b>&\"'\u00e9"

OLD, NEW = KnownVersion("11111111-old", "app"), KnownVersion("22222222-new", HOSTILE)


def recording() -> Recording:
    """One second, sampled every 100 ms: NEW works from 0.45 s on, OLD until then.

    The store serves OLD until 0.65 s, so that what it serves is refused for 200 ms.
    """
    moments = [n / 10 for n in range(11)]
    return Recording(
        database="PostgreSQL",
        strategy=Strategy.SINGLE_USER,
        wanted=1,
        length_s=1.0,
        versions=(OLD, NEW),
        rotations=(Rotated(NEW.version_id, 0.25, 0.75, finished=True, store_calls=10),),
        steps=tuple(
            StepRun(NEW.version_id, step, 0.35 + 0.1 * n, 80) for n, step in enumerate(Step)
        ),
        looks=tuple(Look(t, (OLD if t < 0.65 else NEW).version_id) for t in moments),
        tries=tuple(
            Try(t, version.version_id, (t > 0.45) is (version is NEW))
            for t in moments
            for version in (OLD, NEW)
            if version is OLD or t >= 0.3
        ),
        logins=(
            Login(0.1, 0.2, OLD.version_id, Verdict.IN),
            Login(0.5, 0.55, OLD.version_id, Verdict.FAILED),
            Login(0.6, 0.62, OLD.version_id, Verdict.FRESH_READ),
            Login(0.8, 0.9, NEW.version_id, Verdict.IN),
        ),
    )


def all_in() -> Recording:
    made = recording()
    return replace(
        made,
        strategy=Strategy.ALTERNATING_USERS,
        tries=tuple(replace(one, accepted=True) for one in made.tries),
        logins=tuple(replace(login, verdict=Verdict.IN) for login in made.logins),
    )


def access_key() -> Recording:
    return replace(all_in(), database="IAM", strategy=None)


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314  # our own page


def charts(root: ET.Element) -> list[ET.Element]:
    return [svg for svg in root.iter("svg") if svg.get("role") == "img"]


def drawn(chart: ET.Element, kind: str) -> list[ET.Element]:
    return [each for each in chart.iter() if each.get("class") == kind]


def printed(part: object, width: int = 80) -> str:
    console = Console(width=width, markup=False, emoji=False, color_system=None)
    with console.capture() as captured:
        console.print(part)
    return captured.get()


# ---------------------------------------------------------------------------- an access key


def test_no_login_with_an_access_key_may_be_refused() -> None:
    assert is_good(access_key())
    assert not is_good(replace(recording(), strategy=None))
    assert "No login failed" in verdict(access_key())


def test_an_access_key_is_shown_beside_the_database() -> None:
    shown = [all_in(), access_key()]

    html = page(shown, MEASURED_AT)

    assert "IAM key" in printed(summary(shown))
    assert "password of a PostgreSQL user" in html
    assert "an access key of an IAM user" in html
    assert "of an IAM user" not in page([all_in()], MEASURED_AT)


# ---------------------------------------------------------------------------- figures


def test_an_edge_lies_halfway_between_two_samples_that_differ() -> None:
    found = spans([(0.0, "a"), (1.0, "a"), (2.0, "b")], 3.0)

    assert found == [Span(0.0, 1.5, "a"), Span(1.5, 3.0, "b")]


def test_samples_may_come_in_any_order() -> None:
    assert spans([(2.0, "b"), (0.0, "a")], 3.0) == spans([(0.0, "a"), (2.0, "b")], 3.0)


def test_without_samples_there_is_nothing_to_say() -> None:
    assert spans([], 3.0) == []


def test_a_version_is_not_said_to_be_refused_before_it_was_tried() -> None:
    first, second = accepted(recording(), NEW.version_id)

    assert (first.start_s, first.value, second.value) == (0.3, False, True)


def test_the_time_in_which_current_is_refused_is_counted_per_rotation() -> None:
    assert gaps_ms(recording()) == pytest.approx([200])
    assert gaps_ms(all_in()) == [0]


def test_the_figures_are_the_recordings() -> None:
    assert figures(recording()) == [
        ("Rotations finished", "1 of 1"),
        ("Logins", "4"),
        ("Failed logins", "1"),
        ("In after a fresh read", "1"),
        ("Current refused", "200 ms"),
        ("Step create, median", "80 ms"),
        ("Step set, median", "80 ms"),
        ("Step test, median", "80 ms"),
        ("Step finish, median", "80 ms"),
        ("Store calls per rotation", "10"),
    ]
    assert resolution_ms(recording()) == pytest.approx(100)


def test_a_single_user_may_be_refused_for_a_moment() -> None:
    assert is_good(recording())
    assert "for 200 ms" in verdict(recording())


@pytest.mark.parametrize("bad", [Verdict.FAILED, Verdict.FRESH_READ])
def test_with_two_users_no_login_may_be_refused_not_even_once(bad: Verdict) -> None:
    good = all_in()
    assert is_good(good)

    seen = replace(good, logins=(*good.logins, Login(0.9, 0.91, NEW.version_id, bad)))

    assert not is_good(seen)
    assert "1 logins were refused" in verdict(seen)


def test_without_any_login_nothing_was_shown() -> None:
    assert not is_good(replace(all_in(), logins=()))


def test_a_rotation_that_does_not_finish_is_bad_and_says_why() -> None:
    made = recording()
    failed = replace(
        made,
        rotations=(replace(made.rotations[0], finished=False),),
        steps=(StepRun(NEW.version_id, Step.SET, 0.4, 5, "Unreachable: no answer"),),
    )

    assert not is_good(failed)
    assert "step set failed: Unreachable: no answer" in verdict(failed)
    assert figures(failed)[0] == ("Rotations finished", "0 of 1")


# ---------------------------------------------------------------------------- the terminal


def test_a_cell_says_what_was_so_in_its_middle() -> None:
    old, new = (cells(recording(), version, 10) for version in (OLD, NEW))

    assert old == [Cell.SERVED] * 4 + [Cell.GAP] * 2 + [Cell.REFUSED] * 4
    assert new == [Cell.UNSEEN] * 3 + [Cell.REFUSED] + [Cell.ACCEPTED] * 2 + [Cell.SERVED] * 4


def test_a_short_refusal_is_not_lost_in_a_wide_cell() -> None:
    assert Cell.GAP in cells(recording(), OLD, 2)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_strip_has_a_line_for_each_version_and_keeps_to_the_width(width: int) -> None:
    lines = printed(timeline(recording(), width), width).splitlines()

    assert sum(line.startswith("v1 app ") for line in lines) == 1
    assert sum(line.startswith(f"v2 {HOSTILE}") for line in lines) == 1
    assert max(map(len, lines)) <= width


def test_the_summary_has_a_column_for_each_strategy() -> None:
    text = printed(summary([recording(), all_in()]))

    assert re.search(r"single-user +alternating-users", text)
    assert re.search(r"Failed logins +1 +0", text)


# ---------------------------------------------------------------------------- the page


def test_the_page_is_the_same_for_the_same_recordings() -> None:
    assert page([recording()], MEASURED_AT) == page([recording()], MEASURED_AT)


def test_the_page_is_well_formed_and_names_are_escaped() -> None:
    text = page([recording(), all_in()], MEASURED_AT)

    assert HOSTILE not in text
    assert HOSTILE in "".join(parsed(text).itertext())


def test_an_element_that_html_does_not_close_by_itself_is_never_empty() -> None:
    text = page([recording()], MEASURED_AT)

    closed = set(re.findall(r"<(\w+)[^>]*/>", text))

    assert closed <= {"meta", "rect", "line", "path", "circle"}


def test_the_page_needs_nothing_from_elsewhere_and_no_script() -> None:
    text = page([recording()], MEASURED_AT)

    tags = {element.tag for element in parsed(text).iter()}
    attributes = {name for element in parsed(text).iter() for name in element.attrib}

    assert not tags & {"script", "link", "img", "iframe", "object", "use", "image"}
    assert not [name for name in attributes if name in {"href", "src"} or name.startswith("on")]
    assert "//" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_version_has_a_row_in_every_chart() -> None:
    for chart in charts(parsed(page([recording(), all_in()], MEASURED_AT))):
        names = ["".join(text.itertext()) for text in chart.iter("text")]

        for version, label in ((OLD, "v1app"), (NEW, f"v2{HOSTILE}")):
            assert [name for name in names if version.version_id in name and label in name]


def test_a_chart_shows_what_worked_what_was_served_and_what_failed() -> None:
    whole, _ = charts(parsed(page([recording()], MEASURED_AT)))

    assert len(drawn(whole, "yes")) == 2
    assert len(drawn(whole, "no")) == 2
    assert len(drawn(whole, "now")) == len(served(recording())) == 2
    assert len(drawn(whole, "gap")) == 1
    assert len(drawn(whole, "failed")) == 1
    assert len(drawn(whole, "fresh")) == 1
    assert len(drawn(whole, "tick")) == 8


def test_charts_have_words_for_those_who_do_not_see_them() -> None:
    root = parsed(page([recording(), all_in()], MEASURED_AT))
    ids = [element.get("id") for element in root.iter() if element.get("id")]

    assert len(ids) == len(set(ids))
    for chart in charts(root):
        assert set(chart.get("aria-labelledby", "").split()) <= set(ids)
        assert "user app: accepted from 0.00 s to 0.45 s" in chart.findtext("desc", "") or (
            "user app: accepted from 0.00 s to 1.00 s" in chart.findtext("desc", "")
        )


def test_a_close_up_leaves_out_what_came_later() -> None:
    later = KnownVersion("33333333-later", "late")
    made = recording()
    made = replace(
        made,
        versions=(*made.versions, later),
        tries=(*made.tries, Try(0.95, later.version_id, accepted=False)),
    )

    whole, close_up = charts(parsed(page([made], MEASURED_AT)))

    assert "late" in "".join(text for row in whole.iter("text") for text in row.itertext())
    assert "late" not in "".join(text for row in close_up.iter("text") for text in row.itertext())


def test_the_page_fits_dark_and_light() -> None:
    assert "prefers-color-scheme: dark" in page([recording()], MEASURED_AT)


def test_a_long_name_is_shortened_beside_its_row_and_whole_in_its_tooltip() -> None:
    long = replace(OLD, user="x" * 63)
    made = replace(recording(), versions=(long, NEW))

    root = parsed(page([made], MEASURED_AT))

    beside = [each.text for chart in charts(root) for each in chart.iter("tspan")]
    assert "x" * 15 + "…" in beside
    assert [each for each in root.iter("title") if each.text and "x" * 63 in each.text]


def test_a_recording_of_nothing_is_a_page_too() -> None:
    empty = replace(recording(), versions=(), rotations=(), steps=(), looks=(), tries=(), logins=())

    assert not is_good(empty)
    assert charts(parsed(page([empty], MEASURED_AT)))
