"""ucl purify: fewer labels, never others."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import Runner, tree
from ucl import read
from ucl.artifacts import replace
from ucl.store import save


def test_keep_nearest(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    result = ucl("purify", labels, "--keep-nearest", 0.5, "-o", tmp_path / "p.h5")
    assert result.code == 0
    before, after = read(labels), read(tmp_path / "p.h5")
    kept = after.labels >= 0
    assert (after.labels[kept] == before.labels[kept]).all()
    assert kept.sum() == sum(s // 2 for s in before.size)
    for c in range(3):
        members = before.labels == c
        assert before.distance[members & kept].max() <= before.distance[members & ~kept].min()
    assert set(after.flag[~kept].tolist()) == {1}
    assert f"24 images, {kept.sum()} of them labelled; " in result.err
    assert f", kept {kept.sum()}, cut by distance {(~kept).sum()}, dropped by vote 0, pulled back 0, dissolved 0; in " in result.err


def test_small_clusters_are_dissolved(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    smallest = int(read(labels).size.min())
    assert ucl("purify", labels, "--min-size", smallest + 1, "-o", tmp_path / "p.h5").code == 0
    before, after = read(labels), read(tmp_path / "p.h5")
    gone = np.flatnonzero(before.size <= smallest)
    assert ((after.labels == -1) == np.isin(before.labels, gone)).all()
    assert set(after.flag[after.labels == -1].tolist()) == {4}


def test_streams_and_work(ucl: Runner, labels: Path, small: Path, tmp_path: Path) -> None:
    piped = ucl("purify", "--keep-nearest", 0.5, stdin=labels.read_bytes(), stdout=tmp_path / "a.h5")
    assert piped.code == 0
    assert ucl("purify", labels, "--keep-nearest", 0.5, "-o", tmp_path / "b.h5", "-q").err == ""
    assert read(tmp_path / "a.h5").digest == read(tmp_path / "b.h5").digest
    assert ucl("extract", cwd=small).code == 0
    assert ucl("cluster", cwd=small).code == 0
    before = read(small / "work/labels.h5")
    result = ucl("purify", "--keep-nearest", 0.5, cwd=small)
    assert (result.code, result.out) == (0, b"")
    after = read(small / "work/labels.h5")
    assert (after.labels >= 0).sum() < (before.labels >= 0).sum()
    assert (after.context.stage, after.context.generation) == ("purify", 1)
    assert after.context.overrides["purify.keep_nearest"] == "0.5"


def test_ucl_toml_speaks_to_a_verb_outside_the_plan(ucl: Runner, small: Path) -> None:
    config = small / "ucl.toml"
    config.write_text(config.read_text() + "\n[purify]\nkeep_nearest = 0.25\n")
    results = ucl.pipe(["extract"], ["cluster"], ["purify"], ["train-epoch", "-o", small / "used.h5"], cwd=small)
    assert [r.code for r in results] == [0, 0, 0, 0]
    used = read(small / "used.h5")
    assert used.info["purify"]["keep_nearest"] == 0.25
    assert (used.labels == read(small / "epochs/0002/labels.h5").labels).all()
    assert (used.labels >= 0).sum() == sum(s // 4 for s in used.size)


def test_json(ucl: Runner, labels: Path) -> None:
    result = ucl("purify", labels, "--keep-nearest", 0.5, "--json", stdout="pipe")
    facts = json.loads(result.err)
    assert (facts["schema"], facts["images"]) == ("ucl.labels/1", 24)
    assert facts["purify"]["kept"] == facts["labelled"]


@pytest.fixture
def remembered(labels: Path, tmp_path: Path) -> Path:
    """The labels of 24 photos with 15 past epochs that agree with each other, but for one near member of the largest cluster, which
    was never in it before, and one far member, which was not in the last epoch."""
    made = read(labels)
    members = np.flatnonzero(made.labels == np.argmax(made.size))
    members = members[np.argsort(made.distance[members], kind="stable")]
    history = np.tile(made.labels, (16, 1))
    history[:-1] = (history[:-1] + 1) % 3                                     # other ids, the same clusters
    history[:-1, members[1]], history[-2, members[-1]] = 7, 8
    path = tmp_path / "remembered.h5"
    with path.open("wb") as file:
        save(replace(made, history=history, history_epoch=np.arange(100, 116, dtype=np.int32)), file)
    return path


def test_votes(ucl: Runner, remembered: Path, tmp_path: Path) -> None:
    result = ucl("purify", remembered, "--keep-nearest", 0.5, "--votes", "-o", tmp_path / "p.h5")
    assert result.code == 0, result.err
    before, after = read(remembered), read(tmp_path / "p.h5")
    flags = np.bincount(after.flag, minlength=6).tolist()
    near = sum(s // 2 for s in before.size)
    assert flags == [near - 1, 0, 1, 24 - near, 0, 0]                         # all that were cut come back, one of them with 3.26
    assert (after.labels == np.where(after.flag == 2, -1, before.labels)).all()
    assert f", kept {near - 1}, cut by distance 0, dropped by vote 1, pulled back {24 - near}, dissolved 0; in " in result.err
    assert np.isfinite(after.score).all()
    assert after.score.max() == pytest.approx(4.859263, abs=1e-6)
    for name in ("size", "mean", "centroid", "anchor", "distance", "history"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    rows = ucl("view", tmp_path / "p.h5", "--columns", "row,label,flag,score", "--no-header", stdout="pipe").text.split("\n")[:24]
    shown = [r.split("\t") for r in rows]
    assert [float(r[3]) for r in shown] == pytest.approx(after.score.tolist(), rel=1e-4)
    assert [r[2] for r in shown] == [("KEPT", "CUT_BY_DISTANCE", "DROPPED_BY_VOTE", "PULLED_BACK", "DISSOLVED", "BAD_IMAGE")[f] for f in after.flag]
    told = ucl("info", tmp_path / "p.h5", stdout="pipe").text
    names = ("KEPT", "CUT_BY_DISTANCE", "DROPPED_BY_VOTE", "PULLED_BACK", "DISSOLVED")
    assert f"flags                    {', '.join(f'{n} {c}' for n, c in zip(names, flags, strict=False) if c)}\n" in told
    facts = ucl("info", "--json", tmp_path / "p.h5", stdout="pipe").json["files"][0]
    assert sum(facts["flags"].values()) == 24
    assert facts["scores"]["rows"] == 24
    assert ucl("validate", "--full", tmp_path / "p.h5").code == 0


def test_votes_of_a_runs_own_epochs(ucl: Runner, small: Path) -> None:
    """The history grows by the raw labels of each epoch, also where the labels of the generations are purified."""
    for epoch in (1, 2):
        turn = ucl.pipe(["extract"], ["cluster", "--history", 3], ["purify", "--keep-nearest", 0.5, "--votes", "--vote-history", 2],
                        ["train-epoch"], cwd=small)
        assert [r.code for r in turn] == [0, 0, 0, 0], [r.err for r in turn]
        made = read(small / f"epochs/{epoch + 1:04d}/labels.h5")
        assert made.history_epoch.tolist() == list(range(epoch + 1))
        assert (made.history >= 0).all()
        assert made.info["purify"]["voted"] == (epoch == 2)
        assert ("votes need 2 past epochs, the history has 1" in "".join(r.err for r in turn)) == (epoch == 1)
    assert not np.isnan(made.score).any()


def test_purifying_twice_is_purifying_the_raw_labels(ucl: Runner, remembered: Path, tmp_path: Path) -> None:
    assert ucl("purify", remembered, "--keep-nearest", 0.25, "-o", tmp_path / "a.h5").code == 0
    assert ucl("purify", tmp_path / "a.h5", "--keep-nearest", 0.5, "--votes", "-o", tmp_path / "b.h5").code == 0
    assert ucl("purify", remembered, "--keep-nearest", 0.5, "--votes", "-o", tmp_path / "c.h5").code == 0
    assert read(tmp_path / "b.h5").digest == read(tmp_path / "c.h5").digest
    piped = ucl.pipe(["purify", remembered, "--votes"], ["purify", "--keep-nearest", 0.5, "--votes", "-o", tmp_path / "d.h5"])
    assert [r.code for r in piped] == [0, 0]
    assert read(tmp_path / "d.h5").digest == read(tmp_path / "c.h5").digest


def test_votes_without_enough_history_are_skipped_in_one_line(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    result = ucl("purify", labels, "--keep-nearest", 0.5, "--votes", "-o", tmp_path / "a.h5")
    assert result.code == 0
    assert result.lines[0] == "ucl purify: warning: votes need 15 past epochs, the history has 0: no votes"
    assert len(result.lines) == 2
    assert ucl("purify", labels, "--keep-nearest", 0.5, "-o", tmp_path / "b.h5").code == 0
    a, b = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert (a.labels == b.labels).all()
    assert np.isnan(a.score).all()


def test_a_wrong_history_is_refused_and_nothing_written(ucl: Runner, remembered: Path, tmp_path: Path) -> None:
    made = read(remembered)

    def stage(name: str, history: np.ndarray, labels: np.ndarray | None = None, epochs: int = 16) -> Path:
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file["labels"] = made.labels if labels is None else labels
            file["distance"], file["history/labels"], file["history/epoch"] = made.distance, history, np.arange(epochs, dtype=np.int32)
        return path

    holed = made.history.copy()
    holed[3, 5] = -1
    cases = {"other": (stage("other", made.history[:, :20]), "/history/labels: N = 20, but /labels has N = 24"),
             "epochs": (stage("epochs", made.history, epochs=15), "/history/epoch: H = 15, but /history/labels has H = 16"),
             "present": (stage("present", made.history, (made.labels + 1) % 3), "the newest row of /history/labels says"),
             "holed": (stage("holed", holed), "row 5 is in no cluster in epoch 3")}
    before = tree(tmp_path)
    for name, (path, text) in cases.items():
        result = ucl("purify", path, "--votes", "-o", tmp_path / "never.h5")
        assert (result.code, result.out) == (65, b""), name
        assert result.lines[0].startswith("ucl purify: error: ")
        assert text in result.lines[0], name
        assert result.lines[1].startswith("  try: ")
    assert tree(tmp_path) == before
    fine = stage("fine", made.history)
    assert ucl("purify", fine, "--votes", "-o", tmp_path / "fine-pure.h5").code == 0


def test_values_out_of_range(ucl: Runner, remembered: Path, tmp_path: Path) -> None:
    for option, value in (("--vote-history", 0), ("--vote-decay", 1.5), ("--keep-cap", -1), ("--whole-up-to", -1), ("--pull-back-from", "nan")):
        result = ucl("purify", remembered, option, value, "-o", tmp_path / "never.h5")
        assert result.code == 2, option
        assert "wanted" in result.err
    assert not (tmp_path / "never.h5").exists()


def test_purity_before_after_and_by_flag(ucl: Runner, remembered: Path, tmp_path: Path) -> None:
    assert ucl("purify", remembered, "--keep-nearest", 0.5, "--votes", "-o", tmp_path / "p.h5").code == 0
    plain = ucl("evaluate", "clusters", remembered, "--json", stdout="pipe").json["metrics"]
    found = ucl("evaluate", "clusters", tmp_path / "p.h5", "--json", stdout="pipe").json["metrics"]
    assert not [name for name in plain if name.startswith("purity_")]
    assert found["purity_raw"]["value"] == pytest.approx(plain["purity"]["value"])
    made = read(tmp_path / "p.h5")
    flags = {name: m for name, m in found.items() if name.startswith("purity_") and name != "purity_raw"}
    assert sum(m["n"] for m in flags.values()) == 24
    assert flags["purity_dropped_by_vote"]["n"] == (made.flag == 2).sum() == 1
    assert sum(m["n"] * m["value"] for m in flags.values()) / 24 == pytest.approx(found["purity_raw"]["value"])
