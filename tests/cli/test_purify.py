"""ucl purify: fewer labels, never others."""

from pathlib import Path

import numpy as np

from cli.harness import Runner
from ucl import read


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
    assert f", cut by distance {(~kept).sum()}, dissolved 0; in " in result.err


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
    import json

    result = ucl("purify", labels, "--keep-nearest", 0.5, "--json", stdout="pipe")
    facts = json.loads(result.err)
    assert (facts["schema"], facts["images"]) == ("ucl.labels/1", 24)
    assert facts["purify"]["kept"] == facts["labelled"]
