"""Released data sets through the commands: their parts, their classes, labelled and unlabelled images in one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import releases

from cli.harness import Runner
from ucl import read
from ucl.artifacts import Features, Samples
from ucl.evaluate.knn import evaluate_knn
from ucl.settings import KnnSettings

SMALL = ("--threads", 1, "--epochs", 1, "--size", 32, "--set", "cluster.k=3", "--set", "cluster.pca=4", "--set", "train-epoch.batch=8")


def test_stl10_labelled_and_unlabelled_in_one_run(ucl: Runner, tmp_path: Path) -> None:
    """One list, one epoch on all of it, measured on the labelled images alone."""
    wanted = releases.stl10(tmp_path / "stl", train=9, unlabeled=12)
    run = tmp_path / "run"
    made = ucl("run", "deepcluster", tmp_path / "stl", "--split", "train+unlabeled", "-o", run, *SMALL, stdout="pipe")
    assert made.code == 0, made.err
    assert 'split = "train+unlabeled"' in (run / "ucl.toml").read_text()
    paths = [f"stl10/train/{i:05}.png" for i in range(9)] + [f"stl10/unlabeled/{i:05}.png" for i in range(12)]
    assert ucl("view", "--columns", "path", "--no-header", cwd=run, stdout="pipe").text.splitlines() == paths
    labels = read(run / "labels.h5")
    assert (labels.labels >= 0).sum() == 21
    clusters = ucl("evaluate", "clusters", "--json", cwd=run, stdout="pipe").json["metrics"]
    assert clusters["purity"]["n"] == 9
    assert clusters["unknown"]["value"] == 12
    most = sum(np.bincount(wanted["train"][1][labels.labels[:9] == k]).max() for k in set(labels.labels[:9].tolist()))
    assert clusters["purity"]["value"] == most / 9
    assert ucl("extract", "--model", "model.h5", "-o", "f.h5", cwd=run).code == 0
    knn = ucl("evaluate", "knn", "-k", 3, "--json", cwd=run, stdout="pipe").json["metrics"]
    assert knn["knn_top1"]["n"] == 9
    assert knn["left_out"]["value"] == 12
    features = read(run / "f.h5").features[:9]
    samples = Samples(np.array(paths[:9]).astype("S"), np.zeros(9, np.uint8))
    alone = evaluate_knn(Features(features, samples), wanted["train"][1], KnnSettings(neighbors=3), threads=1)
    assert knn["knn_top1"]["value"] == alone.value("knn_top1")
    assert ucl("targets", "-o", "t.h5", cwd=run).code == 0
    truth = read(run / "t.h5")
    assert truth.labels[9:].tolist() == [-1] * 12
    assert [truth.info["classes"][i] for i in truth.labels[:9]] == [releases.STL10_NAMES[i] for i in wanted["train"][1]]


def test_coarse_and_fine(ucl: Runner, tmp_path: Path) -> None:
    wanted = releases.cifar100(tmp_path / "c", n=8)
    assert ucl("init", "deepcluster", tmp_path / "c", "-o", tmp_path / "run", *SMALL).code == 0
    assert ucl("extract", tmp_path / "c", "--split", "test", "--model", tmp_path / "run/model.h5", "-o", tmp_path / "test.h5").code == 0
    for name, part, options in (("fine", 2, ()), ("coarse", 1, ("--labels", "coarse"))):
        names = {"fine": releases.FINE, "coarse": releases.COARSE}[name]
        for split in ("train", "test"):
            made = ucl("targets", tmp_path / "c", "--split", split, *options, "-o", tmp_path / f"{name}-{split}.h5")
            assert made.code == 0, made.err
            truth = read(tmp_path / f"{name}-{split}.h5")
            assert [truth.info["classes"][i] for i in truth.labels] == [names[i] for i in wanted[split][part]]
        here = ucl("targets", *options, "-o", tmp_path / f"{name}-run.h5", cwd=tmp_path / "run")
        assert here.code == 0
        assert read(tmp_path / f"{name}-run.h5").digest == read(tmp_path / f"{name}-train.h5").digest
        given = ucl("evaluate", "knn", tmp_path / "test.h5", "--targets", tmp_path / "c", *options, "-k", 2, "--json", stdout="pipe")
        assert given.json["metrics"]["knn_top1"]["n"] == 8
    told = ucl("evaluate", "knn", "--labels", "super", cwd=tmp_path / "run")
    assert (told.code, told.lines[0]) == (2, "ucl evaluate knn: error: --labels: found 'super', wanted fine or coarse")


def test_the_test_part_is_tested_on(ucl: Runner, tmp_path: Path) -> None:
    releases.cifar10(tmp_path / "c")
    assert ucl("init", "deepcluster", tmp_path / "c", "-o", tmp_path / "run", *SMALL).code == 0
    run = tmp_path / "run"
    for options, n in (((), 4), (("--test-split", "train"), 20), (("--test-split", "all"), 24)):
        found = ucl("evaluate", "knn", "--test", tmp_path / "c", *options, "-k", 1, "--json", cwd=run, stdout="pipe")
        assert found.code == 0, found.err
        assert found.json["metrics"]["knn_top1"]["n"] == n
        if n == 20:
            assert found.json["metrics"]["knn_top1"]["value"] == 1.0         # each image's nearest is itself
    assert ucl("pack", tmp_path / "c", "--split", "test", "-o", tmp_path / "test.h5").code == 0
    found = ucl("evaluate", "knn", "--test", tmp_path / "test.h5", "-k", 1, "--json", cwd=run, stdout="pipe")
    assert found.json["metrics"]["knn_top1"]["n"] == 4
    (tmp_path / "c").rename(tmp_path / "moved")
    told = ucl("evaluate", "knn", cwd=run)
    assert (told.code, len(told.lines)) == (65, 2)
    assert f"the images are CIFAR-10's, and their classes are in its files, not found at {tmp_path / 'c'}" in told.err
    assert ucl("evaluate", "knn", "--targets", tmp_path / "moved", cwd=run).code == 0
    assert ucl("run", cwd=run).code == 0                                 # packed pixels need the release no more


def test_targets_as_a_text_with_blanks(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """The form of ground-truth lists for ImageNet's flat validation folder."""
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    (tmp_path / "val.txt").write_text("".join(f"{name} n0{i % 2}\n" for i, name in enumerate(names)))
    assert ucl("targets", photos, "--targets", tmp_path / "val.txt", "-o", tmp_path / "t.h5").code == 0
    assert read(tmp_path / "t.h5").labels.tolist() == [0, 1] * 12


@pytest.mark.parametrize(("options", "code", "message"), [
    (("init", "deepcluster", "c", "--split", "val", "-o", "r"), 2, "--split: found 'val', CIFAR-10 has train, test"),
    (("init", "deepcluster", "photos", "--split", "train", "-o", "r"), 2, "--split train: a folder of images has no parts"),
    (("init", "deepcluster", "digits", "--split", "train", "-o", "r"), 2, "--split train: digits has no parts"),
    (("init", "deepcluster", "c", "--classes", "list.txt", "-o", "r"), 2, "--classes: these images lie in no class folders"),
    (("init", "deepcluster", "cut", "-o", "r"), 65, "data_batch_1.bin: found 3000 bytes, wanted a multiple of 3073"),
    (("init", "deepcluster", "c.tar.gz", "--pack", "none", "-o", "r"), 2, "compressed, and with --pack none"),
    (("init", "deepcluster", "list.txt", "-o", "r"), 2, "list.txt: not a folder, an archive (tar) or an images.h5"),
    (("targets", "photos", "--labels", "fine", "-o", "r.h5"), 2, "--labels fine: chooses between the classes of a released data set"),
    (("targets", "c", "--labels", "coarse", "-o", "r.h5"), 2, "--labels: found 'coarse', CIFAR-10 has one set of classes"),
    (("targets", "photos", "--targets", "photos", "-o", "r.h5"), 65, "found no released data set"),
    (("extract", "c", "--split", "val", "--backbone", "convnet", "-o", "r.h5"), 2, "--split: found 'val'"),
    (("train-epoch", "l.h5", "--split", "test", "--model", "m.h5", "-o", "r.h5"), 2, "--split and --classes choose from --images"),
    (("evaluate", "knn", "f.h5", "--test-split", "test"), 66, "f.h5: no such file"),
])
def test_mistakes(ucl: Runner, photos: Path, options: tuple[str, ...], code: int, message: str) -> None:
    here = photos.parent
    releases.cifar10(here / "c")
    releases.cifar10(here / "cut")
    (here / "cut/data_batch_1.bin").write_bytes(bytes(3000))
    (here / "c.tar.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    (here / "list.txt").write_text("ant\n")
    told = ucl(*options, cwd=here)
    assert told.code == code, told.err
    assert message in told.err
    assert told.lines[-2].startswith("ucl " + " ".join(options[:2] if options[0] == "evaluate" else options[:1]) + ": error: ")
    assert told.lines[-1].startswith("  try: ")
    assert not (here / "r").exists()
    assert not (here / "r.h5").exists()
