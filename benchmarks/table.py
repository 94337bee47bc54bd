"""Rows of the table: how two sides are timed against each other, what a row says, and how it is shown."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Side = Callable[[], float | None]
"""One side of a row: does its work once.  One that has work which is not to be timed returns its own seconds."""

COLUMNS = ("row", "ours", "against", "ours", "against", "ratio (median)", "spread", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: the row's name.
        ours: what of ucl is measured; other: against what.
        pairs: what both sides took, (ours, other), one pair for each repeat; seconds, or bytes.
        kind: "cost": the ratio is ours / other, and less is better; "gain": other / ours, and more is better.
        goal: bound of the median ratio; None: the row is for information.
        most: bound of the median of what ours took; instead of ``goal``.
        unit: "s" or "MB" (then ``pairs`` are bytes).
        faults: why the row does not count although its ratio may be good (results that differ, say).
        note: what else there is to know.
        absent: why the row was not run; the rest is then empty.
    """

    name: str
    ours: str
    other: str
    pairs: tuple[tuple[float, float], ...] = ()
    kind: str = "cost"
    goal: float | None = None
    most: float | None = None
    unit: str = "s"
    faults: tuple[str, ...] = ()
    note: str = ""
    absent: str = ""

    @property
    def ratios(self) -> list[float]:
        """One ratio for each pair."""
        return [a / b if self.kind == "cost" else b / a for a, b in self.pairs]

    @property
    def ratio(self) -> float:
        """Median ratio; NaN where the row was not run."""
        return statistics.median(self.ratios) if self.pairs else math.nan

    def median(self, side: int) -> float:
        """Median of what a side took: 0 ours, 1 the other."""
        return statistics.median(pair[side] for pair in self.pairs) if self.pairs else math.nan

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none or the row was not run.  A fault never meets a goal."""
        if self.absent or not self.pairs:
            return None
        if self.faults:
            return False
        if self.most is not None:
            return self.median(0) <= self.most
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.kind == "cost" else self.ratio >= self.goal

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: everything, and what follows from it."""
        return {"name": self.name, "ours": self.ours, "against": self.other, "kind": self.kind, "unit": self.unit,
                "pairs": [list(pair) for pair in self.pairs], "ratio": None if not self.pairs else self.ratio, "goal": self.goal,
                "most": self.most, "met": self.met, "faults": list(self.faults), "note": self.note, "not_run": self.absent}


def race(ours: Side, other: Side, repeat: int, *, warm: bool = True) -> tuple[tuple[float, float], ...]:
    """Time two sides in turn, so that what else the machine does meets both.

    Args:
        ours, other: the sides; every second time ``other`` goes first.
        repeat: number of pairs.
        warm: run each once before, untimed: imports, caches, first-touch of memory.

    Returns:
        (seconds of ours, seconds of other), one for each repeat.
    """
    if warm:
        ours()
        other()
    found = []
    for turn in range(repeat):
        if turn % 2:
            second = _seconds(other)
            found.append((_seconds(ours), second))
        else:
            first = _seconds(ours)
            found.append((first, _seconds(other)))
    return tuple(found)


def _seconds(side: Side) -> float:
    began = time.perf_counter()
    own = side()
    return time.perf_counter() - began if own is None else own


def show(rows: Sequence[Row]) -> str:
    """The table as Markdown that reads as text too, and a line below it for each note and fault."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    width = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(line, width, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
    notes = [f"- {row.name}: {'; '.join(part for part in (*(f'FAULT: {f}' for f in row.faults), row.note) if part)}"
             for row in rows if row.note or row.faults]
    return "\n".join([*lines, "", *notes]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    if row.absent:
        return (row.name, row.ours, row.other, "", "", f"not run ({row.absent})", "", _goal(row), "-")
    low, high = min(row.ratios), max(row.ratios)
    met = {True: "yes", False: "NO", None: "-"}[row.met]
    return (row.name, row.ours, row.other, amount(row.median(0), row.unit), amount(row.median(1), row.unit), _ratio(row),
            f"{low:.2f}-{high:.2f} of {len(row.pairs)}", _goal(row), met)


def _ratio(row: Row) -> str:
    if row.kind == "gain":
        return f"{row.ratio:.2f} times sooner"
    return f"{row.ratio:.2f} of its {'time' if row.unit == 's' else 'bytes'}"


def _goal(row: Row) -> str:
    if row.most is not None:
        return f"<= {amount(row.most, row.unit)}"
    if row.goal is None:
        return "none"
    return f"{'<=' if row.kind == 'cost' else '>='} {row.goal:g}"


def amount(value: float, unit: str) -> str:
    """Seconds or bytes for people, three digits."""
    if unit == "MB":
        return f"{value / 1e6:.0f} MB"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
