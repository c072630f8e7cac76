"""Recordings of the demo, for a terminal: the figures, and a timeline of one line per version.

The timeline can be read without colour. A cell shows what was so in its middle; a time in
which the current version was refused has at least one cell, however short it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from keyturn.local.demo_aftermath import OLD_LOGIN, Aftermath, broken
from keyturn.local.demo_aftermath import verdict as aftermath_verdict
from keyturn.local.demo_recording import (
    Cloud,
    KnownVersion,
    Recording,
    Span,
    T,
    accepted,
    figures,
    gaps,
    is_good,
    served,
    verdict,
)

LABEL_WIDTH = 17
"""Columns for a version's number and user, before its timeline."""


class Cell(Enum):
    """What one character of a timeline says: glyph, style, meaning."""

    UNSEEN = (" ", "", "")
    REFUSED = ("·", "bright_black", "refused")
    ACCEPTED = ("▒", "green", "works")
    SERVED = ("█", "green", "works, is {current}")
    GAP = ("✗", "bold red", "is {current}, refused")

    @property
    def glyph(self) -> str:
        """One character wide."""
        return self.value[0]

    @property
    def style(self) -> str:
        """For rich."""
        return self.value[1]

    @property
    def meaning(self) -> str:
        """For the legend; `current` is the cloud's word for it."""
        return self.value[2]


def summary(recordings: Sequence[Recording]) -> Table:
    """Return the figures, one column per run."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column()
    for recording in recordings:
        table.add_column(recording.title, justify="right")
    for rows in zip(*map(figures, recordings), strict=True):
        table.add_row(rows[0][0], *(value for _, value in rows))
    return table


def timeline(recording: Recording, width: int) -> Group:
    """Return what happened to each version, and what it means, in *width* columns."""
    columns = max(1, width - LABEL_WIDTH)
    title = Text(recording.title, style="bold")
    conclusion = Text(verdict(recording), style="" if is_good(recording) else "bold red")
    lines = [_line(label, row) for label, row in _rows(recording, columns)]
    return Group(
        title, _rotations(recording, columns), *lines, _axis(recording, columns), conclusion
    )


def aftermath_timeline(aftermath: Aftermath, width: int) -> Group:
    """Return who had which version when, what became of the old login, and who was told."""
    columns = max(1, width - LABEL_WIDTH)
    numbers = range(len(aftermath.places))
    rows = [(aftermath.places[n], _has_new(aftermath, n, columns)) for n in numbers]
    rows.append((OLD_LOGIN, _old_login(aftermath, columns)))
    is_good = not broken(aftermath)
    conclusion = Text(aftermath_verdict(aftermath), style="" if is_good else "bold red")
    axis = f"{aftermath.length_min:.0f} min".rjust(columns - 5)
    return Group(
        Text(f"follow-up of {aftermath.secret}", style="bold"),
        *(_line(name, row) for name, row in rows),
        _told(aftermath, columns),
        Text(" " * LABEL_WIDTH + "0 min" + axis, style="bright_black"),
        aftermath_legend(),
        conclusion,
    )


def aftermath_legend() -> Text:
    """Return what the characters mean there."""
    meanings = {
        Cell.SERVED: "has the new version",
        Cell.ACCEPTED: "still has the old one, or works",
        Cell.REFUSED: "refused",
    }
    parts = [Text.assemble((cell.glyph, cell.style), f" {it}") for cell, it in meanings.items()]
    return Text("   ").join(parts)


def _has_new(aftermath: Aftermath, place: int, columns: int) -> list[Cell]:
    found = [(each.at_min, each.has_new[place]) for each in aftermath.moments]
    return [Cell.SERVED if new else Cell.ACCEPTED for new in _at_columns(found, columns)]


def _old_login(aftermath: Aftermath, columns: int) -> list[Cell]:
    found = [(each.at_min, each.old_works) for each in aftermath.moments]
    return [Cell.ACCEPTED if works else Cell.REFUSED for works in _at_columns(found, columns)]


def _at_columns(samples: Sequence[tuple[float, bool]], columns: int) -> list[bool]:
    """Return the latest sample at the beginning of each column."""
    end = samples[-1][0] or 1.0
    times = [end * column / columns for column in range(columns)]
    return [
        [value for at, value in samples if at <= max(time, samples[0][0])][-1] for time in times
    ]


def _told(aftermath: Aftermath, columns: int) -> Text:
    line = [" "] * columns
    for each in aftermath.heard:
        word = each.happening.value
        column = int(columns * each.at_min / (aftermath.length_min or 1.0))
        first = max(0, min(columns - len(word), column))
        line[first : first + len(word)] = word
    return Text(aftermath.cloud.alerts.ljust(LABEL_WIDTH) + "".join(line), style="cyan")


def legend(cloud: Cloud) -> Text:
    """Return what the characters mean."""
    told = [(cell, cell.meaning.format(current=cloud.current)) for cell in Cell if cell.meaning]
    parts = [Text.assemble((cell.glyph, cell.style), f" {meaning}") for cell, meaning in told]
    return Text("   ").join(parts)


def cells(recording: Recording, version: KnownVersion, columns: int) -> list[Cell]:
    """Return one version's timeline in *columns* cells."""
    works = accepted(recording, version.version_id)
    current = [span for span in served(recording) if span.value == version.version_id]
    refused = [span for span in gaps(recording) if span.value == version.version_id]
    width_s = recording.length_s / columns
    return [
        _cell(Span(n * width_s, (n + 1) * width_s, None), works, current, refused)
        for n in range(columns)
    ]


def _cell(
    place: Span[None],
    works: Iterable[Span[bool]],
    current: Iterable[Span[str]],
    refused: Iterable[Span[str]],
) -> Cell:
    middle_s = _middle_s(place)
    if any(_covers(gap, middle_s) or _covers(place, _middle_s(gap)) for gap in refused):
        return Cell.GAP
    state = next((span.value for span in works if _covers(span, middle_s)), None)
    if state is None:
        return Cell.UNSEEN
    if not state:
        return Cell.REFUSED
    is_served = any(_covers(span, middle_s) for span in current)
    return Cell.SERVED if is_served else Cell.ACCEPTED


def _middle_s(span: Span[T]) -> float:
    return (span.start_s + span.end_s) / 2


def _covers(span: Span[T], time_s: float) -> bool:
    return span.start_s <= time_s < span.end_s


def _rows(recording: Recording, columns: int) -> Iterable[tuple[str, list[Cell]]]:
    for number, version in enumerate(recording.versions, 1):
        yield f"v{number} {version.user}", cells(recording, version, columns)


def _line(label: str, row: Iterable[Cell]) -> Text:
    name = Text(label)
    name.truncate(LABEL_WIDTH - 2, overflow="ellipsis", pad=True)
    return Text.assemble(name, "  ", *((cell.glyph, cell.style) for cell in row))


def _rotations(recording: Recording, columns: int) -> Text:
    """Return a line that says when a rotation was on."""
    line = [" "] * columns
    for number, rotation in enumerate(recording.rotations, 1):
        first, last = (
            _column(rotation.began_s, recording, columns),
            _column(rotation.ended_s, recording, columns),
        )
        line[first : last + 1] = "─" * (last + 1 - first)
        line[first : first + len(str(number))] = str(number)
    return Text("rotation".ljust(LABEL_WIDTH) + "".join(line), style="cyan")


def _axis(recording: Recording, columns: int) -> Text:
    end = f"{recording.length_s:.1f} s"
    return Text(" " * LABEL_WIDTH + "0 s" + end.rjust(columns - 3), style="bright_black")


def _column(time_s: float, recording: Recording, columns: int) -> int:
    return min(columns - 1, int(columns * time_s / recording.length_s))
