"""ucl cluster: from features to labels; what a flag, ucl.toml and the plan say."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import Runner
from ucl import read


def test_options_and_the_file(ucl: Runner, features: Path, labels: Path, tmp_path: Path) -> None:
    made = read(labels, "ucl/labels")
    assert made.k == 3
    assert made.labels.shape == (24,)
    assert np.unique(made.labels).tolist() == [0, 1, 2]
    assert np.bincount(made.labels).tolist() == made.size.tolist()
    assert made.pca.components.shape == (256, 4)
    assert made.samples.path.tolist() == read(features).samples.path.tolist()
    assert (made.history == made.labels).all()
    result = ucl("cluster", features, "-k", 2, "--pca", 0, "--no-l2", "--iterations", 7, "--history", 1, "-o", tmp_path / "l.h5")
    assert result.code == 0
    other = read(tmp_path / "l.h5")
    assert (other.k, other.pca, other.info["l2"], other.info["iterations"]) == (2, None, False, 7)
    assert other.centroid.shape == (2, 256)
    assert result.err.startswith("ucl cluster: 2 clusters of 24 images, 24 of them labelled; objective ")


def test_default_k_is_two_percent(ucl: Runner, features: Path, tmp_path: Path) -> None:
    assert ucl("cluster", features, "-o", tmp_path / "l.h5").code == 0
    assert read(tmp_path / "l.h5").k == 2


def test_json_is_a_line_on_standard_error(ucl: Runner, features: Path) -> None:
    result = ucl("cluster", features, "-k", 3, "--json", stdout="pipe")
    assert result.code == 0
    assert result.out.startswith(b"\x89HDF")
    facts = json.loads(result.err)
    assert {"schema", "k", "images", "labelled", "objective", "iterations", "empty"} <= set(facts)
    assert (facts["schema"], facts["k"], facts["images"], facts["labelled"]) == ("ucl.labels/1", 3, 24, 24)


def test_streams(ucl: Runner, features: Path, labels: Path, small: Path, tmp_path: Path) -> None:
    """A pipe, <, a file name and - are the same input; a pipe and > the same output."""
    wanted = read(labels).digest
    results = [ucl("cluster", "-k", 3, "--pca", 4, stdin=features.read_bytes(), stdout=tmp_path / "a.h5"),
               ucl("cluster", "-k", 3, "--pca", 4, stdin=features, stdout=tmp_path / "b.h5"),
               ucl("cluster", "-", "-k", 3, "--pca", 4, "-o", tmp_path / "c.h5", stdin=features.read_bytes())]
    assert [r.code for r in results] == [0, 0, 0]
    piped = ucl("cluster", features, "-k", 3, "--pca", 4, stdout="pipe")
    (tmp_path / "d.h5").write_bytes(piped.out)
    assert {read(tmp_path / f"{n}.h5").digest for n in "abcd"} == {wanted}
    slurm = {"SLURM_TASK_PID": "self"}
    assert ucl("extract", cwd=small).code == 0
    result = ucl("cluster", cwd=small, stdin=b"", stdout="pipe", env=slurm)             # srun's streams are no data
    assert (result.code, result.out) == (0, b"")
    assert read(small / "work/labels.h5").context.generation == 1


def test_the_plan_then_ucl_toml_then_the_flag(ucl: Runner, digits: Path) -> None:
    """Digits' plan says k = 60; --set at init said iterations = 5; a flag goes over both; train-epoch is told by the labels."""
    assert ucl("extract", cwd=digits).code == 0

    def made(*flags: object) -> object:
        assert ucl("cluster", *flags, cwd=digits).code == 0
        return read(digits / "work/labels.h5")

    plan = made()
    assert (plan.k, plan.info["iterations"]) == (60, 5)
    config = digits / "ucl.toml"
    config.write_text(config.read_text().replace("[cluster]\n", "[cluster]\nk = 20\n"))
    changed = made()                                                    # features carry the context that was current when they were made
    assert changed.k == 60
    assert ucl("extract", cwd=digits).code == 0
    assert made().k == 20
    flagged = made("-k", 30, "--iterations", 2)
    assert (flagged.k, flagged.info["iterations"]) == (30, 2)
    assert flagged.context.overrides["cluster.k"] == "30"
    assert flagged.context.overrides["train-epoch.epoch_length"] == "0.1"


def test_the_history_grows_by_the_generations_labels(ucl: Runner, small: Path) -> None:
    assert ucl("extract", cwd=small).code == 0
    assert ucl("cluster", cwd=small).code == 0
    made, last = read(small / "work/labels.h5"), read(small / "labels.h5")
    assert made.history_epoch.tolist() == [0, 1]
    assert (made.history[0] == last.labels).all()
    assert (made.history[1] == made.labels).all()
    assert ucl("cluster", "--warm-start", cwd=small).code == 0
    assert read(small / "work/labels.h5").info["warm_start"] is True


def test_assign_new_images(ucl: Runner, small: Path, photos: Path, features: Path, labels: Path, tmp_path: Path) -> None:
    """New images go to the clusters that exist: the same images to their own, two of another folder to their like."""
    assert ucl("cluster", features, "--assign", labels, "-o", tmp_path / "same.h5").code == 0
    assert (read(tmp_path / "same.h5").labels == read(labels).labels).all()
    few = tmp_path / "few"
    few.mkdir()
    for name in ("ant/0.png", "cat/3.png"):
        (few / name.replace("/", "-")).write_bytes((photos / name).read_bytes())
    assert ucl("extract", few, "--model", small / "model.h5", "-o", tmp_path / "few.h5").code == 0
    result = ucl("cluster", tmp_path / "few.h5", "--assign", labels, stdout=tmp_path / "new.h5")
    assert result.code == 0, result.err
    new, old = read(tmp_path / "new.h5"), read(labels)
    assert new.labels.tolist() == [old.labels[0], old.labels[16 + 3]]
    assert new.samples.path.tolist() == [b"ant-0.png", b"cat-3.png"]
    assert (new.centroid == old.centroid).all()


def test_a_bad_row_gets_no_label(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (photos / "bee/2.png").write_text("broken")
    assert ucl("extract", photos, "--backbone", "convnet", "--on-error", "skip", "-o", "f.h5", cwd=tmp_path).code == 0
    result = ucl("cluster", "f.h5", "-k", 3, "-o", "l.h5", cwd=tmp_path)
    assert "24 images, 23 of them labelled" in result.err
    made = read(tmp_path / "l.h5")
    assert np.flatnonzero(made.labels == -1).tolist() == [10]
    with h5py.File(tmp_path / "l.h5") as file:
        assert file["flag"][10] == 5


@pytest.mark.slow
def test_the_real_pipe(ucl: Runner, small: Path) -> None:
    results = ucl.pipe(["extract"], ["cluster"], ["purify", "--keep-nearest", 0.7], ["train-epoch"], cwd=small, real=True)
    assert [r.code for r in results] == [0, 0, 0, 0]
    assert read(small / "epochs/0002/labels.h5").info["purify"]["keep_nearest"] == 0.7
