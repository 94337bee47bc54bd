"""ucl train-epoch: the commit of a generation; and a checkpoint outside of a run directory."""

import json
from pathlib import Path

import h5py
import numpy as np

from cli.harness import Runner, tree
from ucl import read


def test_the_pipe_commits_the_next_generation(ucl: Runner, small: Path) -> None:
    before = tree(small)
    results = ucl.pipe(["extract"], ["cluster"], ["purify"], ["train-epoch"], cwd=small)
    assert [r.code for r in results] == [0, 0, 0, 0]
    assert [len(r.lines) for r in results] == [1, 1, 1, 1]
    assert results[3].err.startswith("ucl train-epoch: epoch 2: loss ")
    after = tree(small)
    new = {name for name in after if name not in before}
    assert new == {"epochs/0002", "epochs/0002/model.h5", "epochs/0002/labels.h5", "epochs/0002/metrics.json"}
    assert (small / "model.h5").readlink() == Path("epochs/0002/model.h5")
    assert (small / "labels.h5").readlink() == Path("epochs/0002/labels.h5")
    assert {k: v for k, v in before.items() if k.startswith(("epochs/0001", "images", "ucl.toml"))}.items() <= after.items()
    assert "epochs/0000/model.h5" not in after                          # --keep 2
    assert "epochs/0000/metrics.json" in after
    model = read(small / "model.h5")
    assert model.progress["epoch"] == 2
    assert model.context.generation_digest == read(small / "epochs/0001/model.h5").digest
    metrics = json.loads((small / "epochs/0002/metrics.json").read_text())
    for key in ("loss", "nmi_arithmetic", "nmi_geometric", "churn", "kept", "empty", "largest", "bad", "generation"):
        assert key in metrics
    assert (metrics["generation"], metrics["images"], metrics["bad"]) == (2, 24, 0)


def test_files_do_what_the_pipe_does(ucl: Runner, small: Path, tmp_path: Path) -> None:
    """The same epoch by pipe and by work/ files: equal digests."""
    import shutil

    other = tmp_path / "other"
    shutil.copytree(small, other, symlinks=True)
    assert [r.code for r in ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=small)] == [0, 0, 0]
    assert [ucl(step, cwd=other).code for step in ("extract", "cluster", "train-epoch")] == [0, 0, 0]
    for name in ("model.h5", "labels.h5"):
        assert read(small / name).digest == read(other / name).digest
    assert (other / "work/features.h5").exists()
    assert not (small / "work/features.h5").exists()


def test_json_and_labels_out(ucl: Runner, small: Path, labels: Path, tmp_path: Path) -> None:
    result = ucl("train-epoch", labels, "--json", "-o", tmp_path / "used.h5", cwd=small, stdout="pipe")
    assert (result.code, result.out) == (0, b"")                        # labels go to standard output only when asked
    facts = json.loads(result.err)
    assert (facts["schema"], facts["generation"], facts["k"]) == ("ucl.epoch/1", 2, 3)
    assert (read(tmp_path / "used.h5").labels == read(labels).labels).all()
    result = ucl("train-epoch", labels, "-o", "-", cwd=small, stdout=tmp_path / "more.h5")
    assert result.code == 0
    assert (read(tmp_path / "more.h5").labels == read(labels).labels).all()
    assert (read(small / "epochs/0003/labels.h5").labels == read(labels).labels).all()


def test_the_smallest_labels_file(ucl: Runner, small: Path, tmp_path: Path) -> None:
    """N integers as h5py writes them, by file and through a pipe, with an attribute nobody reads."""
    mine = (np.arange(24) % 4).astype(np.int64)
    mine[5] = -1
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["labels"] = mine
        file.attrs["note"] = "mine"
    assert ucl("train-epoch", tmp_path / "mine.h5", cwd=small).code == 0
    assert ucl("train-epoch", cwd=small, stdin=(tmp_path / "mine.h5").read_bytes()).code == 0
    for generation in ("0002", "0003"):
        kept = read(small / f"epochs/{generation}/labels.h5")
        assert kept.labels.tolist() == mine.tolist()
        assert kept.samples.path[0] == b"ant/0.png"
    assert json.loads((small / "epochs/0003/metrics.json").read_text())["kept"] == 23


def test_outside_a_run_directory(ucl: Runner, small: Path, labels: Path, photos: Path, tmp_path: Path) -> None:
    words = ["train-epoch", labels, "--model", small / "model.h5", "--batch", 8, "--lr", 0.01]
    assert ucl(*words, "--images", small / "images.h5", "-o", "a.h5", cwd=tmp_path).code == 0
    assert ucl(*words, "--images", photos, "-o", "b.h5", cwd=tmp_path).code == 0
    piped = ucl(*words, "--images", small / "images.h5", cwd=tmp_path, stdout="pipe")
    (tmp_path / "c.h5").write_bytes(piped.out)
    a, b, c = (read(tmp_path / f"{n}.h5", "ucl/checkpoint") for n in "abc")
    assert a.digest == c.digest
    assert a.progress["epoch"] == 2
    assert all(np.allclose(a.model[k], b.model[k], atol=1e-5) for k in a.model)
    moved = [k for k in a.model if k.startswith("backbone") and not np.array_equal(a.model[k], read(small / "model.h5").model[k])]
    assert moved
    told = ucl("train-epoch", labels, cwd=tmp_path)
    assert (told.code, told.lines[0]) == (2, "ucl train-epoch: error: outside a run directory train-epoch needs --images and --model")


def test_keep_all(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert ucl("run", "deepcluster", photos, "-o", run, "--epochs", 3, "--keep", "all", "--size", 16, "--set", "cluster.k=3").code == 0
    assert [(run / f"epochs/{i:04d}/model.h5").exists() for i in range(4)] == [True] * 4


def test_unreadable_images_stay_in_no_cluster(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """A stage of somebody's own that labels every row does not put an unreadable image into a cluster, and weight 0 is not drawn."""
    (photos / "ant/0.png").write_bytes(b"no picture")
    words = ["init", "persistent", photos, "-o", "run", "--size", 16, "--on-error", "skip", "--set", "cluster.k=3", "--epochs", 3]
    assert ucl(*words, cwd=tmp_path).code == 0
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["labels"] = np.arange(24) % 2
        file["weight"] = np.where(np.arange(24) < 4, 0, 1).astype("f4")
    assert ucl("train-epoch", tmp_path / "mine.h5", cwd=tmp_path / "run").code == 0
    with h5py.File(tmp_path / "run/epochs/0001/labels.h5") as file:
        assert file["labels"][0] == -1
        assert file["labels"][1] == 1
    result = ucl("run", cwd=tmp_path / "run")                 # and the plan goes on, from another number of clusters
    assert result.code == 0
    assert "started cold, 20 iterations" in result.err
