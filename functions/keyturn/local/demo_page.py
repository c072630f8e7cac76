"""Recordings of the demo as one HTML page: no script, nothing from elsewhere, light and dark.

Per run there are two charts: the whole run, and the one rotation in which what was current
was refused longest. In a chart each version of the secret is a row:

    green bar       this login is accepted                (refused: a thin line)
    outline         the store serves it as current
    red cross       a login of the application failed

Built as a tree, so that whatever a name holds is escaped. What comes out is XML as well as HTML:
no element that needs an end tag in HTML is left empty, and the style sheet has no `<`, `>`, `&`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from keyturn.local.demo_aftermath import OLD_LOGIN, Aftermath, broken, steps
from keyturn.local.demo_aftermath import verdict as aftermath_verdict
from keyturn.local.demo_recording import (
    AWS,
    Cloud,
    KnownVersion,
    Recording,
    Rotated,
    Span,
    Verdict,
    accepted,
    figures,
    gaps,
    gaps_ms,
    is_good,
    method,
    refused_logins,
    resolution_ms,
    served,
    spans,
    verdict,
)

WIDTH, LEFT, RIGHT = 960, 168, 20
PLOT = WIDTH - LEFT - RIGHT
"""Widths of a chart, in its own units: all of it, beside the timelines, the timelines."""

HEAD, ROW, AXIS = 44, 36, 34
"""Heights of what is above the rows, of each row, and of what is below."""

BAR, OUTLINE = 14, 24
"""Heights of the green bars, and of the outline around them."""

BEYOND = 20
"""How far what goes on is drawn beyond an end, where it cannot be seen."""

MARGIN_S = 0.04
"""Seconds that a close-up shows before and after its rotation."""

NAME_MAX_CHARACTERS = 16
"""How much of a user's name fits beside its row."""


def page(
    recordings: Sequence[Recording], measured_at: datetime, aftermath: Aftermath | None = None
) -> str:
    """Return the page.

    Args:
        recordings: What to show, in this order.
        measured_at: Aware.
        aftermath: The follow-up, if there was one.
    """
    html = ET.Element("html", {"lang": "en"})
    head = _add(html, "head")
    _add(head, "meta", charset="utf-8")
    _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _add(head, "title", "keyturn demo")
    _add(head, "style", _STYLE)
    main = _add(_add(html, "body"), "main")
    _add(main, "h1", "Who could log in while the secret changed")
    _add(main, "p", _introduction(recordings), class_="lead")
    _add_legend(main, _cloud(recordings))
    for recording in recordings:
        _add_run(main, recording)
    if aftermath is not None:
        _add_aftermath(main, aftermath)
    _add_close_ups(main, recordings)
    _add_figures(main, recordings)
    _add_method(main, recordings, measured_at)
    return f"<!DOCTYPE html>\n{ET.tostring(html, encoding='unicode')}\n"


def _introduction(recordings: Sequence[Recording]) -> str:
    key = ", and an access key of an IAM user" if _has_key(recordings) else ""
    return (
        f"keyturn rotated the password of a {_database(recordings)} user, again and again{key},"
        " while an application kept logging in with whatever the secret store served, and a prober"
        " tried every version of the secret there ever was."
    )


def _database(recordings: Sequence[Recording]) -> str:
    named = (each.database for each in recordings if each.strategy is not None)
    return next(named, "database")


def _cloud(recordings: Sequence[Recording]) -> Cloud:
    return next((each.cloud for each in recordings), AWS)


def _has_key(recordings: Sequence[Recording]) -> bool:
    return any(recording.strategy is None for recording in recordings)


def _add(parent: ET.Element, tag: str, text: str = "", /, **attributes: str | float) -> ET.Element:
    """Add an element. `class_` is class, and `_` within a name is a hyphen."""
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}"
        for name, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, named)
    element.text = text or None
    return element


# ---------------------------------------------------------------------------- words


def _add_run(parent: ET.Element, recording: Recording) -> None:
    section = _add(parent, "section")
    heading = _add(section, "h2", recording.title + " ")
    lost = refused_logins(recording)
    kind = "bad" if lost else "good"
    badge = f"{lost} of {len(recording.logins)} logins refused"
    _add(heading, "span", badge, class_=f"badge {kind}")
    _add(section, "p", verdict(recording), class_="sound" if is_good(recording) else "broken")
    _add_chart(section, _overview(recording))


def _add_close_ups(parent: ET.Element, recordings: Sequence[Recording]) -> None:
    section = _add(parent, "section")
    _add(section, "h2", "One rotation, close up")
    _add(section, "p", _CLOSE_UP)
    for recording in recordings:
        for number, rotation in _worth_a_look(recording):
            figure = _add(section, "figure")
            _add(figure, "figcaption", f"{recording.title}, rotation {number}")
            _add_chart(figure, _close_up(recording, rotation))


_CLOSE_UP = (
    "The rotation in which the served password was refused longest, else the last one. A dot is"
    " one try; the shaded bands are the function's own steps, with their milliseconds."
)


def _add_chart(parent: ET.Element, svg: ET.Element) -> None:
    # Narrow windows scroll the chart, not the page; the keyboard must be able to do it, too.
    title = svg.findtext("title", "")
    _add(parent, "div", class_="wide", tabindex="0", role="group", aria_label=title).append(svg)


def _add_figures(parent: ET.Element, recordings: Sequence[Recording]) -> None:
    section = _add(parent, "section")
    _add(section, "h2", "In figures")
    table = _add(section, "table")
    row = _add(_add(table, "thead"), "tr")
    _add(row, "th", "Run", scope="col")
    for recording in recordings:
        _add(row, "th", recording.title, scope="col")
    body = _add(table, "tbody")
    for cells in zip(*map(figures, recordings), strict=True):
        row = _add(body, "tr")
        _add(row, "th", cells[0][0], scope="row")
        for _, value in cells:
            _add(row, "td", value)


def _add_method(parent: ET.Element, recordings: Sequence[Recording], measured_at: datetime) -> None:
    section = _add(parent, "section", class_="method")
    _add(section, "h2", "How this was measured")
    _add(section, "p", method(_cloud(recordings)))
    coarsest = max((resolution_ms(recording) for recording in recordings), default=0)
    _add(
        section,
        "p",
        f"Every version was tried about every {coarsest:.0f} ms; an edge lies halfway between two"
        " tries that differ. The steps are slower than they would be alone: function, store,"
        " database and all who log in share one machine.",
    )
    _add(
        section,
        "p",
        f"Measured {measured_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by keyturn demo:"
        f" {_database(recordings)} on this machine, {_cloud(recordings).simulated}, the rotation"
        " functions' own code.",
    )


def _add_legend(parent: ET.Element, cloud: Cloud) -> None:
    legend = _add(parent, "ul", class_="legend")
    for meaning, draw in _LEGEND:
        item = _add(legend, "li")
        svg = _add(item, "svg", viewBox="0 0 34 26", width="34", height="26", aria_hidden="true")
        for tag, attributes in draw:
            _add(svg, tag, **attributes)
        _add(item, "span", meaning.format(current=cloud.current))


_CROSS = "M-5,-5L5,5M-5,5L5,-5"
_Drawing = list[tuple[str, dict[str, str]]]
_YES = {"class_": "yes", "x": "3", "y": "6", "width": "28", "height": "14", "rx": "2"}
_NOW = {"class_": "now", "x": "1", "y": "1", "width": "32", "height": "24", "rx": "4"}
_GAP = {**_NOW, "class_": "gap"}
_NO = {"class_": "no", "x1": "3", "x2": "31", "y1": "13", "y2": "13"}
_FAILED = {"class_": "failed", "d": _CROSS, "transform": "translate(17,13)"}
_FRESH = {"class_": "fresh", "cx": "17", "cy": "13", "r": "5"}
_TICKS = {"class_": "tick", "d": "M7,9V17M14,9V17M20,9V17M27,9V17"}
_LEGEND: list[tuple[str, _Drawing]] = [
    ("this login is accepted", [("rect", _YES)]),
    ("it is refused", [("line", _NO)]),
    ("the store serves it ({current})", [("rect", _YES), ("rect", _NOW)]),
    ("served, but refused", [("rect", _GAP), ("line", _NO), ("rect", _NOW)]),
    ("a login failed", [("path", _FAILED)]),
    ("refused, then in after a fresh read", [("circle", _FRESH)]),
    ("begin and end of the steps create, set, test, finish", [("path", _TICKS)]),
]


# ---------------------------------------------------------------------------- the follow-up


def _add_aftermath(parent: ET.Element, aftermath: Aftermath) -> None:
    section = _add(parent, "section")
    heading = _add(section, "h2", "Afterwards: the follow-up ")
    kind = "bad" if broken(aftermath) else "good"
    badge = f"{aftermath.refused} of {aftermath.logins} logins refused"
    _add(heading, "span", badge, class_=f"badge {kind}")
    _add(
        section,
        "p",
        aftermath_verdict(aftermath),
        class_="broken" if broken(aftermath) else "sound",
    )
    _add_chart(section, _aftermath_chart(aftermath))
    _add(section, "p", _TIME_LAPSE)
    table = _add(section, "table")
    row = _add(_add(table, "thead"), "tr")
    _add(row, "th", "What", scope="col")
    _add(row, "th", "after", scope="col")
    body = _add(table, "tbody")
    for at_min, what in steps(aftermath):
        row = _add(body, "tr")
        _add(row, "th", what, scope="row")
        _add(row, "td", f"{at_min:.0f} min")


_TIME_LAPSE = (
    "Minutes are the local cloud's: it lets time pass, and its schedules, delayed messages and"
    " functions go by that. A row is green from when it has the new version; the old login is green"
    " as long as it is accepted."
)


def _aftermath_chart(aftermath: Aftermath) -> ET.Element:
    rows = [*aftermath.places, OLD_LOGIN]
    height = HEAD + ROW * len(rows) + AXIS
    svg = ET.Element("svg", {"viewBox": f"0 0 {WIDTH} {height}", "role": "img"})
    svg.set("aria-labelledby", "follow-up-title follow-up-desc")
    _add(svg, "title", "Who had which version when", id="follow-up-title")
    told = [f"After {at:.0f} minutes: {what}." for at, what in steps(aftermath)]
    _add(svg, "desc", " ".join(told), id="follow-up-desc")
    for number, name in enumerate(rows):
        y = HEAD + ROW * (number + 0.5)
        label = _add(svg, "text", _shortened(name), x=0.0, y=y + 4.5)
        _add(label, "title", name)
        for span in _aftermath_spans(aftermath, number):
            left, right = (LEFT + PLOT * _part(aftermath, at) for at in (span.start_s, span.end_s))
            if span.value:
                place = {"x": left, "y": y - BAR / 2, "width": right - left, "height": float(BAR)}
                _add(svg, "rect", class_="yes", rx="2", **place)
            else:
                _add(svg, "line", class_="no", x1=left, x2=right, y1=y, y2=y)
    _draw_heard(svg, aftermath, height - AXIS)
    return svg


def _aftermath_spans(aftermath: Aftermath, row: int) -> list[Span[bool]]:
    """Return when a row is green. Times are minutes here."""
    is_place = row < len(aftermath.places)
    samples = [
        (each.at_min, each.has_new[row] if is_place else each.old_works)
        for each in aftermath.moments
    ]
    return spans(samples, aftermath.length_min)


def _part(aftermath: Aftermath, at_min: float) -> float:
    return at_min / (aftermath.length_min or 1.0)


def _draw_heard(svg: ET.Element, aftermath: Aftermath, bottom: float) -> None:
    _add(svg, "text", f"told by {aftermath.cloud.alerts}", class_="quiet", x=0.0, y=19.0)
    for each in aftermath.heard:
        x = LEFT + PLOT * _part(aftermath, each.at_min)
        _add(svg, "line", class_="tick", x1=x, x2=x, y1=26.0, y2=bottom)
        at_end = _part(aftermath, each.at_min) > 0.9  # noqa: PLR2004  # where a name has no room
        anchor = "end" if at_end else "start"
        _add(svg, "text", each.happening.value, x=x, y=19.0, text_anchor=anchor)
    y = bottom + 6
    _add(svg, "line", class_="axis", x1=float(LEFT), x2=float(WIDTH - RIGHT), y1=y, y2=y)
    for at_min in range(0, int(aftermath.length_min) + 1, 10):
        x = LEFT + PLOT * _part(aftermath, at_min)
        _add(svg, "line", class_="axis", x1=x, x2=x, y1=y, y2=y + 5)
        _add(svg, "text", f"{at_min} min", class_="name quiet", x=x, y=y + 19)


# ---------------------------------------------------------------------------- charts


@dataclass(frozen=True, slots=True)
class _Chart:
    """A chart of one recording, from *start_s* to *end_s*.

    Attributes:
        plot: Where the timelines are drawn; cut off at both ends.
        versions: Those that have a row.
        origin_s: Where the axis counts from.
    """

    svg: ET.Element
    plot: ET.Element
    recording: Recording
    versions: tuple[KnownVersion, ...]
    start_s: float
    end_s: float
    origin_s: float

    @property
    def bottom(self) -> float:
        return HEAD + ROW * len(self.versions)

    def x(self, time_s: float) -> float:
        """Return where a time is. What goes on beyond an end is cut off there, so left open."""
        if time_s < self.start_s:
            return LEFT - BEYOND
        if time_s >= self.end_s:
            return LEFT + PLOT + BEYOND
        return LEFT + PLOT * (time_s - self.start_s) / (self.end_s - self.start_s)

    def y(self, version_id: str) -> float:
        """Return the middle of a version's row."""
        ids = [version.version_id for version in self.versions]
        return HEAD + ROW * (ids.index(version_id) + 0.5)

    def shows(self, start_s: float, end_s: float) -> bool:
        return start_s < self.end_s and self.start_s < end_s


@dataclass(frozen=True, slots=True)
class _Band:
    """Something that goes on for a time, above the rows and through them."""

    name: str
    start_s: float
    end_s: float


def _worth_a_look(recording: Recording) -> list[tuple[int, Rotated]]:
    """Return the rotation that is worth a closer look, and its number."""
    numbered = list(enumerate(recording.rotations, 1))
    # The last one among equals: then there are old versions to be seen as well.
    ranked = sorted(numbered, key=lambda each: (gaps_ms(recording)[each[0] - 1], each[0]))
    return ranked[-1:]


def _overview(recording: Recording) -> ET.Element:
    chart = _chart(recording, "all", Span(0.0, recording.length_s, 0.0))
    bands = [
        _Band(str(number), rotation.began_s, rotation.ended_s)
        for number, rotation in enumerate(recording.rotations, 1)
    ]
    _draw_bands(chart, "rotation", bands)
    for run in recording.steps:
        for time_s in (run.began_s, run.ended_s):
            _draw_tick(chart, time_s, "tick")
    _draw_rows(chart)
    _draw_logins(chart)
    _draw_axis(chart)
    return chart.svg


def _close_up(recording: Recording, rotation: Rotated) -> ET.Element:
    shown = Span(rotation.began_s - MARGIN_S, rotation.ended_s + MARGIN_S, rotation.began_s)
    chart = _chart(recording, "close", shown)
    bands = [
        _Band(f"{run.step.value} {run.elapsed_ms}", run.began_s, run.ended_s)
        for run in recording.steps
        if run.rotation_id == rotation.version_id
    ]
    _draw_bands(chart, "step, ms", bands)
    _draw_rows(chart)
    _draw_tries(chart)
    _draw_logins(chart)
    _draw_axis(chart)
    return chart.svg


def _chart(recording: Recording, name: str, shown: Span[float]) -> _Chart:
    """Return an empty chart with its words for those who do not see it."""
    versions = _seen_before(recording, shown.end_s)
    height = float(HEAD + ROW * len(versions) + AXIS)
    key = f"{recording.title.replace(' ', '-')}-{name}"
    svg = ET.Element("svg", {"viewBox": f"0 0 {WIDTH} {height:.0f}", "role": "img"})
    svg.set("aria-labelledby", f"{key}-title {key}-desc")
    _add(svg, "title", f"{recording.title}: which login worked when", id=f"{key}-title")
    _add(svg, "desc", " ".join(_descriptions(recording)), id=f"{key}-desc")
    plot = _plot(svg, f"{key}-plot", height)
    return _Chart(svg, plot, recording, versions, shown.start_s, shown.end_s, shown.value)


def _seen_before(recording: Recording, end_s: float) -> tuple[KnownVersion, ...]:
    """Return the versions that there were; one that came later needs no row."""
    seen = {one.version_id for one in recording.tries if one.at_s <= end_s}
    seen |= {span.value for span in served(recording) if span.start_s <= end_s}
    return tuple(version for version in recording.versions if version.version_id in seen)


def _plot(svg: ET.Element, key: str, height: float) -> ET.Element:
    clip = _add(svg, "clipPath", id=key)
    _add(clip, "rect", x=float(LEFT), y=0.0, width=float(PLOT), height=height)
    return _add(svg, "g", clip_path=f"url(#{key})")


def _descriptions(recording: Recording) -> Iterator[str]:
    current = served(recording)
    for number, version in enumerate(recording.versions, 1):
        parts = [
            f"{'accepted' if span.value else 'refused'} {_between(span)}"
            for span in accepted(recording, version.version_id)
        ]
        parts += [f"current {_between(s)}" for s in current if s.value == version.version_id]
        yield f"Version {number}, user {version.user}: {', '.join(parts) or 'not tried'}."
    yield f"{refused_logins(recording)} of {len(recording.logins)} logins were refused."


def _between(span: Span[bool] | Span[str]) -> str:
    return f"from {span.start_s:.2f} s to {span.end_s:.2f} s"


def _draw_bands(chart: _Chart, title: str, bands: Iterable[_Band]) -> None:
    _add(chart.svg, "text", title, class_="quiet", x=0.0, y=19.0)
    for band in bands:
        left, right = chart.x(band.start_s), chart.x(band.end_s)
        _add(
            chart.plot,
            "rect",
            class_="band",
            x=left,
            y=26.0,
            width=right - left,
            height=chart.bottom - 26,
        )
        _add(chart.svg, "text", band.name, class_="name", x=(left + right) / 2, y=19.0)


def _draw_tick(chart: _Chart, time_s: float, kind: str) -> None:
    x = chart.x(time_s)
    _add(chart.svg, "line", class_=kind, x1=x, x2=x, y1=26.0, y2=34.0)


def _draw_rows(chart: _Chart) -> None:
    for number, version in enumerate(chart.versions, 1):
        _draw_name(chart, number, version)
        _draw_spans(chart, version)
    for span in gaps(chart.recording):
        _draw_box(chart, span, "gap", OUTLINE)
    for span in served(chart.recording):
        _draw_box(chart, span, "now", OUTLINE)


def _draw_name(chart: _Chart, number: int, version: KnownVersion) -> None:
    label = _add(chart.svg, "text", x=0.0, y=chart.y(version.version_id) + 4.5)
    _add(label, "title", f"{version.user}, version {version.version_id}")
    _add(label, "tspan", f"v{number}", class_="quiet")
    _add(label, "tspan", _shortened(version.user), dx="7")


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_MAX_CHARACTERS else f"{name[: NAME_MAX_CHARACTERS - 1]}…"


def _draw_spans(chart: _Chart, version: KnownVersion) -> None:
    y = chart.y(version.version_id)
    for span in accepted(chart.recording, version.version_id):
        if not chart.shows(span.start_s, span.end_s):
            continue
        left, right = chart.x(span.start_s), chart.x(span.end_s)
        if span.value:
            place = {"x": left, "y": y - BAR / 2, "width": right - left, "height": float(BAR)}
            _add(chart.plot, "rect", class_="yes", rx="2", **place)
        else:
            _add(chart.plot, "line", class_="no", x1=left, x2=right, y1=y, y2=y)


def _draw_box(chart: _Chart, span: Span[str], kind: str, height: float) -> None:
    if not chart.shows(span.start_s, span.end_s):
        return
    left, right = chart.x(span.start_s), chart.x(span.end_s)
    place = {"x": left, "y": chart.y(span.value) - height / 2, "width": right - left}
    _add(chart.plot, "rect", class_=kind, rx="4", height=height, **place)


def _draw_tries(chart: _Chart) -> None:
    for one in chart.recording.tries:
        if chart.shows(one.at_s, one.at_s):
            kind = "dot in" if one.accepted else "dot out"
            y = chart.y(one.version_id)
            _add(chart.plot, "circle", class_=kind, cx=chart.x(one.at_s), cy=y, r=2.6)


def _draw_logins(chart: _Chart) -> None:
    for login in chart.recording.logins:
        at_s = (login.began_s + login.ended_s) / 2
        if login.verdict is Verdict.IN or not chart.shows(at_s, at_s):
            continue
        x, y = chart.x(at_s), chart.y(login.version_id)
        if login.verdict is Verdict.FAILED:
            place = f"translate({x:.1f},{y:.1f})"
            _add(chart.plot, "path", class_="failed", d=_CROSS, transform=place)
        else:
            _add(chart.plot, "circle", class_="fresh", cx=x, cy=y, r=5.0)


def _draw_axis(chart: _Chart) -> None:
    y = chart.bottom + 6
    _add(chart.svg, "line", class_="axis", x1=float(LEFT), x2=float(WIDTH - RIGHT), y1=y, y2=y)
    every_s = _round_step((chart.end_s - chart.start_s) / 8)
    unit, factor = ("s", 1) if every_s >= MARGIN_S * 2 else ("ms", 1000)
    first = math.ceil((chart.start_s - chart.origin_s) / every_s)
    after_last = math.ceil((chart.end_s - chart.origin_s) / every_s)
    for number in range(first, after_last):
        x = chart.x(chart.origin_s + number * every_s)
        _add(chart.svg, "line", class_="axis", x1=x, x2=x, y1=y, y2=y + 5)
        text = f"{number * every_s * factor:.6g} {unit}"
        _add(chart.svg, "text", text, class_="name quiet", x=x, y=y + 19)


def _round_step(least_s: float) -> float:
    """Return the smallest 1, 2, 2.5 or 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least_s))
    return next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= least_s)


_STYLE = """
:root { color-scheme: light dark;
  --back: #ffffff; --text: #1f2328; --quiet: #59636e; --line: #d4dae1; --band: #eef2f8;
  --yes: #3aa655; --no: #9aa4af; --now: #1f2328; --bad: #c8192e; --fresh: #a85b00;
  --gap: 0.2; --good-back: #dff5e5; --good: #11602c; --bad-back: #fde5e7; }
@media (prefers-color-scheme: dark) { :root {
  --back: #10151b; --text: #e6edf3; --quiet: #9aa5b1; --line: #303944; --band: #1a222d;
  --yes: #2f9c4d; --no: #626d79; --now: #f0f6fc; --bad: #ff6b6b; --fresh: #f0a63c;
  --gap: 0.42; --good-back: #12351f; --good: #7ee2a0; --bad-back: #431a20; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 28px 0 4px; }
p { margin: 4px 0 12px; max-width: 92ch; }
p.broken { color: var(--bad); font-weight: 600; }
.lead { font-size: 17px; color: var(--quiet); }
.badge { display: inline-block; margin-left: 6px; padding: 1px 10px; border-radius: 12px;
  font-size: 14px; font-weight: 600; vertical-align: 2px; }
.badge.good { background: var(--good-back); color: var(--good); }
.badge.bad { background: var(--bad-back); color: var(--bad); }
table { border-collapse: collapse; margin: 20px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 0 3px 32px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { padding-left: 0; text-align: left; }
tbody th { font-weight: 400; }
thead th:first-child { color: var(--quiet); font-weight: 400; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 26px; margin: 24px 0 0; padding: 0;
  list-style: none; font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 8px; }
figure { margin: 14px 0 26px; }
section { margin-bottom: 28px; }
figcaption { font-size: 14px; font-weight: 600; color: var(--quiet); margin-bottom: 4px; }
.wide { overflow-x: auto; }
.wide svg { display: block; width: 100%; min-width: 640px; height: auto; }
.method { color: var(--quiet); font-size: 14px; }
text { font-size: 13px; fill: var(--text); }
.quiet { fill: var(--quiet); }
.name { text-anchor: middle; font-size: 12px; }
.band { fill: var(--band); }
.tick { stroke: var(--quiet); stroke-width: 1; fill: none; }
.yes { fill: var(--yes); }
.no { stroke: var(--no); stroke-width: 2; }
.gap { fill: var(--bad); fill-opacity: var(--gap); }
.now { fill: none; stroke: var(--now); stroke-width: 2; }
.failed { stroke: var(--bad); stroke-width: 2.6; stroke-linecap: round; fill: none; }
.fresh { stroke: var(--fresh); stroke-width: 2.4; fill: none; }
.dot.in { fill: var(--back); }
.dot.out { fill: var(--back); stroke: var(--no); stroke-width: 1.5; }
.axis { stroke: var(--no); stroke-width: 1; }
"""
