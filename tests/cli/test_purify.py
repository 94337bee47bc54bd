"""ucl purify: fewer labels, never others."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import Runner, tree
from ucl import read
from ucl.artifacts import Samples, replace
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


# a classifier's labels, and those of several models

@pytest.fixture
def sure(labels: Path, tmp_path: Path) -> Path:
    """Labels of the 24 photos with probabilities: 0.6 to 0.991 in steps of 0.017."""
    made = read(labels)
    probs = np.zeros((24, 3), np.float32)
    probs[np.arange(24), made.labels] = 0.6 + 0.017 * np.arange(24)
    probs[np.arange(24), (made.labels + 1) % 3] = 0.4 - 0.017 * np.arange(24)
    return stored(replace(made, probs=probs, score=probs.max(axis=1)), tmp_path / "sure.h5")


def stored(made: object, path: Path) -> Path:
    with path.open("wb") as file:
        save(made, file)
    return path


def test_confident(ucl: Runner, sure: Path, tmp_path: Path) -> None:
    result = ucl("purify", sure, "--rule", "confident", "--threshold", 0.8, "-o", tmp_path / "p.h5")
    assert result.code == 0, result.err
    before, after = read(sure), read(tmp_path / "p.h5")
    kept = before.score > np.float32(0.8)
    assert 0 < kept.sum() < 24
    assert (after.labels == np.where(kept, before.labels, -1)).all()
    assert set(after.flag[~kept].tolist()) == {6}
    assert np.array_equal(after.probs, before.probs)
    assert np.array_equal(after.score, before.score)
    assert f"24 images, {kept.sum()} of them labelled; " in result.err
    assert f", kept {kept.sum()}, not confident {(~kept).sum()}, dissolved 0; in " in result.err
    assert ucl("purify", tmp_path / "p.h5", "--rule", "confident", "--threshold", 0.8, "-o", tmp_path / "again.h5").code == 0
    assert read(tmp_path / "again.h5").digest == after.digest
    assert ucl("validate", "--full", tmp_path / "p.h5").code == 0
    facts = ucl("info", "--json", tmp_path / "p.h5", stdout="pipe").json["files"][0]
    assert facts["flags"] == {"KEPT": kept.sum(), "NOT_CONFIDENT": (~kept).sum()}
    found = ucl("evaluate", "clusters", tmp_path / "p.h5", "--json", stdout="pipe").json["metrics"]
    assert (found["purity_kept"]["n"], found["purity_not_confident"]["n"]) == (kept.sum(), (~kept).sum())
    shown = ucl("view", tmp_path / "p.h5", "--columns", "flag,score", "--no-header", stdout="pipe").text
    assert shown.startswith("NOT_CONFIDENT\t0.6")
    assert ucl("select", tmp_path / "p.h5", "--flag", "NOT_CONFIDENT", "-o", tmp_path / "some.h5").code == 0
    assert np.array_equal(read(tmp_path / "some.h5").probs, before.probs[~kept])


def test_confident_needs_probabilities(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    result = ucl("purify", labels, "--rule", "confident", "-o", tmp_path / "never.h5")
    assert (result.code, len(result.lines)) == (65, 2)
    assert result.lines[0].startswith("ucl purify: error: labels: /probs: missing")
    assert result.lines[1] == "  try: ucl cluster --method argmax --probs keeps them"
    assert not (tmp_path / "never.h5").exists()


@pytest.fixture
def ensemble(labels: Path, tmp_path: Path) -> list[Path]:
    """Labels of three models: the second has other ids and moves image 5, the third moves image 9; the last one is purified."""
    made, files = read(labels), []
    for number, moved in enumerate((None, 5, 9)):
        y = ((made.labels + number) % 3).astype(np.int32)
        if moved is not None:
            y[moved] = (y[moved] + 1) % 3
        one = replace(made, labels=y, history=y[None], history_epoch=np.array([7], np.int32), size=np.bincount(y, minlength=3))
        files.append(stored(one, tmp_path / f"m{number}.h5"))
    return files


def test_agree(ucl: Runner, ensemble: list[Path], tmp_path: Path) -> None:
    result = ucl("purify", "--rule", "agree", *ensemble, "-o", tmp_path / "a.h5")
    assert result.code == 0, result.err
    raw = [read(f).labels for f in ensemble]
    found = read(tmp_path / "a.h5")
    tuples = list(zip(*(y.tolist() for y in raw), strict=True))
    alone = np.array([tuples.count(t) == 1 for t in tuples])
    assert np.array_equal(found.labels < 0, alone)
    assert alone[[5, 9]].all()
    assert np.array_equal(found.pred, np.stack(raw))
    for i in range(24):
        for j in range(24):
            assert (found.labels[i] == found.labels[j] >= 0) == (tuples[i] == tuples[j] and not alone[i])
    groups = len(set(tuples)) - int(alone.sum())
    assert f"ucl purify: {groups} clusters of 24 images, {24 - alone.sum()} of them labelled; models 3, agree 3, largest " in result.err
    assert (found.context.method, found.context.seed, found.context.samples_digest) == ("", 0, found.samples.digest)
    last = json.loads(found.provenance[-1])
    assert [i["content-sha256"] for i in last["inputs"]] == [read(f).digest for f in ensemble]
    facts = json.loads(ucl("purify", "--rule", "agree", "-t", 2, *ensemble, "--json", stdout="pipe").err)
    assert (facts["purify"]["agree"], facts["purify"]["models"], facts["k"]) == (2, 3, len(set(tuples)))
    piped = ucl("purify", "--rule", "agree", ensemble[0], "-", ensemble[2], stdin=ensemble[1].read_bytes(), stdout=tmp_path / "b.h5")
    assert piped.code == 0, piped.err
    assert read(tmp_path / "b.h5").digest == found.digest
    assert read(tmp_path / "b.h5").recipe == found.recipe
    assert ucl("purify", ensemble[2], "--keep-nearest", 0.25, "-o", tmp_path / "cut.h5").code == 0
    assert ucl("purify", "--rule", "agree", *ensemble[:2], tmp_path / "cut.h5", "-o", tmp_path / "c.h5").code == 0
    assert read(tmp_path / "c.h5").digest == found.digest                     # the raw labels are joined
    assert ucl("validate", "--full", tmp_path / "a.h5").code == 0
    assert ucl("evaluate", "clusters", tmp_path / "a.h5").code == 0
    assert ucl("select", tmp_path / "a.h5", "--rows", "3:20", "-o", tmp_path / "some.h5").code == 0
    assert np.array_equal(read(tmp_path / "some.h5").pred, found.pred[:, 3:20])


def test_what_models_agree_on_trains_any_of_them(ucl: Runner, ensemble: list[Path], small: Path, tmp_path: Path) -> None:
    """In a run directory, through a file, a pipe or work/; and outside of one."""
    assert ucl("purify", "--rule", "agree", *ensemble, "-o", tmp_path / "a.h5").code == 0
    before = read(small / "model.h5").digest
    outside = ucl("train-epoch", tmp_path / "a.h5", "--images", small / "images.h5", "--model", small / "model.h5", "--objective", "contrast",
                  "--batch", 12, "--connections", 2, "-o", tmp_path / "next.h5", "--json", cwd=tmp_path)
    assert outside.code == 0, outside.err
    facts = json.loads(outside.lines[-1])
    assert facts["confident_share"] <= 22 / 24
    assert facts["connections"] >= 2
    assert read(tmp_path / "next.h5").weights_digest() != before
    result = ucl("train-epoch", tmp_path / "a.h5", cwd=small)
    assert result.code == 0, result.err
    used = read(small / "epochs/0002/labels.h5")
    assert np.array_equal(used.pred, read(tmp_path / "a.h5").pred)
    assert used.context.method == "deepcluster"
    assert ucl("purify", "--rule", "agree", *ensemble, cwd=small).code == 0
    assert np.array_equal(read(small / "work/labels.h5").labels, used.labels)
    assert ucl("train-epoch", cwd=small).code == 0


def test_files_that_a_rule_does_not_take_are_refused(ucl: Runner, ensemble: list[Path], sure: Path, small: Path, tmp_path: Path) -> None:
    made = read(ensemble[1])
    order = np.arange(24)[::-1]
    stored(replace(made, samples=Samples(made.samples.path[order].copy(), made.samples.status)), tmp_path / "turned.h5")
    assert ucl("purify", "--rule", "agree", *ensemble, "-o", tmp_path / "a.h5").code == 0
    a, b = ensemble[:2]
    before = tree(tmp_path)
    for words, code, said, cure in (
            ([a, b], 2, "labels: found 2 files, wanted one: the rule distance purifies the labels of one model", "--rule agree"),
            ([a, b, "--rule", "confident"], 2, "labels: found 2 files, wanted one: the rule confident", "--rule agree"),
            ([a, "--rule", "agree"], 2, f"rule agree: found the labels of one model, {a}, wanted those of at least 2", "ucl purify --rule agree"),
            (["--rule", "agree"], 2, "rule agree: found no file of labels, wanted those of at least 2 models", "ucl purify --rule agree"),
            (["-", "-", "--rule", "agree"], 2, "labels: found - 2 times, wanted at most once", "as files"),
            ([a, b, "--rule", "agree", "-t", 3], 2, "agree: found 3, wanted 1 to 2", "2 = all of them"),
            ([a, b, "--rule", "agree", "--min-size", 3], 2, "min_size: is of distance and confident only, the rule is agree", "leave it out"),
            ([a, "--threshold", 0.9], 2, "threshold: is of confident only, the rule is distance", "--rule confident"),
            ([a, b, "--rule", "agree", "--threshold", 0.9], 2, "threshold: is of confident only, the rule is agree", "--rule confident"),
            ([sure, "--rule", "confident", "--votes"], 2, "votes: is of distance only, the rule is confident", "--rule distance"),
            ([a, tmp_path / "turned.h5", "--rule", "agree"], 65, f"turned.h5: row 0 is cat/7.png, expected ant/0.png as in {a} (the same images",
             "ucl align"),
            ([a, tmp_path / "a.h5", "--rule", "agree"], 65, "a.h5: what 3 models agree on, expected the labels of one model", "each model"),
            ([tmp_path / "a.h5", "--min-size", 2], 65, "labels: what 3 models agree on", "each model"),
            ([a, tmp_path / "gone.h5", "--rule", "agree"], 66, "gone.h5", "")):
        for where in (tmp_path, small) if words[0] == a else (tmp_path,):
            result = ucl("purify", *words, "-o", tmp_path / "never.h5", cwd=where)
            assert result.code == code, (words, result.err)
            assert result.lines[0].startswith("ucl purify: error: "), result.err
            assert said in result.lines[0] or where == small, result.err
            assert cure in result.lines[-1], result.err
            assert len(result.lines) <= 2
    assert tree(tmp_path) == before
