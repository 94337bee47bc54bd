"""The benchmarks: their statistics and table, that README names every row, and (marker bench) that every row can be measured."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks are not installed

from benchmarks import __main__ as program  # noqa: E402
from benchmarks.table import COLUMNS, Row, race, show  # noqa: E402

PAIRS = ((2.0, 1.0), (3.0, 2.0), (1.0, 4.0))


def test_ratios_are_of_pairs_and_their_median_counts() -> None:
    cost = Row("a", "x", "y", PAIRS)
    assert cost.ratios == [2.0, 1.5, 0.25]
    assert cost.ratio == 1.5
    assert (cost.median(0), cost.median(1)) == (2.0, 2.0)  # their ratio would be 1
    gain = Row("a", "x", "y", PAIRS, kind="gain")
    assert gain.ratios == [0.5, pytest.approx(2 / 3), 4.0]
    assert gain.ratio == pytest.approx(2 / 3)


@pytest.mark.parametrize(("row", "met"), [
    (Row("a", "x", "y", PAIRS, goal=1.5), True),
    (Row("a", "x", "y", PAIRS, goal=1.4), False),
    (Row("a", "x", "y", PAIRS, kind="gain", goal=0.6), True),
    (Row("a", "x", "y", PAIRS, kind="gain", goal=0.7), False),
    (Row("a", "x", "y", PAIRS, most=2.0), True),
    (Row("a", "x", "y", PAIRS, most=1.9), False),
    (Row("a", "x", "y", PAIRS), None),
    (Row("a", "x", "y", PAIRS, goal=9.0, faults=("results differ",)), False),
    (Row("a", "x", "y", PAIRS, faults=("results differ",)), False),
    (Row("a", "x", "y", goal=9.0), None),
    (Row("a", "x", "y", goal=9.0, absent="no GPU"), None),
])
def test_met(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_a_race_takes_turns_and_believes_a_side_that_times_itself() -> None:
    seen = ""

    def ours() -> float:
        nonlocal seen
        seen += "a"
        return 3.0

    def other() -> None:
        nonlocal seen
        seen += "b"

    pairs = race(ours, other, 3)
    assert seen == "ab" + "ab" + "ba" + "ab"
    assert [a for a, _ in pairs] == [3.0] * 3
    assert all(0 <= b < 1 for _, b in pairs)
    seen = ""
    race(ours, other, 1, warm=False)
    assert seen == "ab"


def test_the_table() -> None:
    rows = [Row("one", "ours of it", "y", PAIRS, goal=1.4, note="a note"), Row("two", "x", "y", ((0.002, 0.01),), kind="gain", goal=5),
            Row("three", "x", "y", most=0.15, absent="no GPU"), Row("four", "x", "y", ((3e6, 2e6),), unit="MB", faults=("wrong",))]
    text = show(rows)
    lines = text.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0]) == COLUMNS
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["one", "ours of it", "y", "2 s", "2 s", "1.50 of its time", "0.25-2.00 of 3", "<= 1.4", "NO"]
    assert cells[3] == ["two", "x", "y", "2 ms", "10 ms", "5.00 times sooner", "5.00-5.00 of 1", ">= 5", "yes"]
    assert cells[4] == ["three", "x", "y", "", "", "not run (no GPU)", "", "<= 150 ms", "-"]
    assert cells[5] == ["four", "x", "y", "3 MB", "2 MB", "1.50 of its bytes", "1.50-1.50 of 1", "none", "NO"]
    assert text.split("\n\n")[1].splitlines() == ["- one: a note", "- four: FAULT: wrong"]
    assert json.loads(json.dumps([row.as_dict() for row in rows]))[2]["ratio"] is None
    assert math.isnan(rows[2].ratio)


def test_readme_tells_every_row_and_no_other() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\|---\|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    named = [name for line in table[1].splitlines() for name in re.findall(r"`([\w-]+)`", re.split(r"(?<!\\)\|", line)[1])]
    assert named == list(program.rows())


def test_rows_by_name() -> None:
    known = ["kmeans-cold", "kmeans-warm", "cluster", "pca"]
    assert program.chosen([], known) == known
    assert program.chosen(["pca", "kmeans"], known) == ["kmeans-cold", "kmeans-warm", "pca"]
    assert program.chosen(["kmeans-warm"], known) == ["kmeans-warm"]
    with pytest.raises(ValueError, match="did you mean kmeans-cold"):
        program.chosen(["kmeans-clod"], known)


def test_a_row_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: object) -> Row:
        raise RuntimeError("no such luck")

    good = Row("good", "x", "y", PAIRS)
    monkeypatch.setattr(program, "rows", lambda: {"broken": broken, "good": lambda _: good, "two": lambda _: [good, good]})
    done, failed = program.measure(["broken", "good", "two"], None)  # type: ignore[arg-type]
    assert (done, failed) == ([good, good, good], ["broken"])
    assert "no such luck" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "goal", "watched"), [("train-odc", 1.10, "see, after_step"), ("train-uic", 1.05, "record, settle")])
def test_rows_of_labels_that_move(name: str, goal: float, watched: str, tmp_path: Path) -> None:
    """At toy size: both batches, as many images on both sides, and the share of the bookkeeping is seen; what was watched is as before."""
    from benchmarks import moving
    from benchmarks.data import Scale
    from ucl.objectives.online import Online

    see = Online.see
    found = moving.ROWS[name](Scale(True, 1, 1, tmp_path))
    assert [row.name for row in found] == [f"{name}-64", f"{name}-256"]
    for row in found:
        assert row.goal == goal
        assert len(row.pairs) == 1
        assert row.ratio > 0
        share = re.search(rf"160 images, K = 5: .* bookkeeping \({watched}\) ([\d.]+) % of an epoch", row.note)
        assert share is not None
        assert 0 < float(share[1]) < 100
        assert row.met is not None
    assert Online.see is see


@pytest.mark.bench
def test_every_row_can_be_measured(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--quick", "--repeat", "1", "--json", str(out)], cwd=ROOT, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["failed"] == []
    assert "--quick" in done.stdout
    rows = {row["name"]: row for row in found["rows"]}
    for name in program.rows():
        own = [row for key, row in rows.items() if key == name or key.startswith(f"{name}-")]
        assert own, name
        for row in own:
            assert f"| {row['name']} " in done.stdout
            if row["not_run"]:
                assert name.startswith("gpu-") or "--method" in row["not_run"], row
            else:
                assert math.isfinite(row["ratio"]), row
                assert row["ratio"] > 0, row
    assert not [row["faults"] for row in rows.values() if row["faults"]]
