"""ucl cluster: from features to labels; what a flag, ucl.toml and the plan say."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import UCL, Runner, environment
from ucl import read
from ucl.artifacts import Features, Samples
from ucl.memory import parse_size
from ucl.store import save


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


# Methods

def test_methods(ucl: Runner, features: Path, tmp_path: Path) -> None:
    for name, flags in (("pic", ["--neighbors", 3]), ("minibatch", ["-k", 3, "--batch", 8])):
        made = [tmp_path / f"{name}{i}.h5" for i in range(3)]
        words = ["cluster", "--method", name, *flags, "--pca", 4]
        assert ucl(*words, features, "-o", made[0]).code == 0
        assert ucl(*words, stdin=features.read_bytes(), stdout=made[1]).code == 0
        assert ucl(*words, "-", "-o", made[2], "--memory", "900M", stdin=features).code == 0
        labels = [read(path) for path in made]
        assert len({y.digest for y in labels}) == 1
        assert labels[0].info["method"] == name
        assert labels[0].k == labels[0].labels.max() + 1
        assert ucl("validate", "--full", made[0]).code == 0
        result = ucl("cluster", features, "--assign", made[0], "-o", tmp_path / f"{name}.again.h5")
        assert result.code == 0, result.err
    facts = json.loads(ucl("cluster", features, "--method", "pic", "--json", "-o", tmp_path / "j.h5").err)
    assert {"k", "objective", "joined", "alone", "sigma"} <= set(facts)


@pytest.mark.parametrize("method", ["pic", "minibatch"])
def test_deepcluster_with_another_clustering_in_shell_and_run(ucl: Runner, photos: Path, tmp_path: Path, method: str) -> None:
    """K comes out anew in every epoch; the shell's loop and run agree; a plan's k is no obstacle."""
    words = ["deepcluster", photos, "--epochs", 2, "--seed", 0, "--threads", 1, "--set", "init.size=16", "--set", "train-epoch.batch=8",
             "--set", f"cluster.method={method}"]
    assert ucl("run", *words, "-o", tmp_path / "one").code == 0
    assert ucl("init", *words, "-o", tmp_path / "two").code == 0
    for _ in range(2):
        results = ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=tmp_path / "two")
        assert [r.code for r in results] == [0, 0, 0], [r.err for r in results]
    for epoch in (1, 2):
        one, two = (read(tmp_path / place / f"epochs/{epoch:04d}/labels.h5") for place in ("one", "two"))
        assert one.digest == two.digest
        assert one.info["method"] == method
    assert read(tmp_path / "one/model.h5").digest == read(tmp_path / "two/model.h5").digest
    lines = ucl("run", "-n", *words, "-o", tmp_path / "three", stdout="pipe").text
    assert f"ucl cluster --method {method}" in lines
    assert (" -k " in lines) is (method == "minibatch")
    toml = ucl("run", "-n", "--toml", *words, "-o", tmp_path / "three", stdout="pipe").text
    cluster = toml.split("[cluster]")[1].split("[")[0]
    assert ("\nk = " in cluster) is (method == "minibatch")
    assert ("sigma" in cluster) is (method == "pic")


def test_a_flag_may_change_the_method_of_a_plan(ucl: Runner, small: Path) -> None:
    """ucl.toml's k = 3 is k-means'; the labels no longer carry it, and train-epoch takes them."""
    assert ucl("extract", cwd=small).code == 0
    result = ucl("cluster", "--method", "pic", "--neighbors", 3, cwd=small)
    assert result.code == 0, result.err
    made = read(small / "work/labels.h5")
    assert "cluster.k" not in made.context.overrides
    assert made.context.overrides["cluster.method"] == "pic"
    assert made.history_epoch.tolist() == [0, 1]
    result = ucl("train-epoch", cwd=small)
    assert result.code == 0, result.err


def test_settings_of_another_method_are_refused(ucl: Runner, features: Path, small: Path, photos: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    for words, said, cure in (
            (["--method", "pic", "-k", 10], "k: is of kmeans and minibatch only, the method is pic, which finds the number", "--method kmeans"),
            (["--method", "pic", "--iterations", 3], "iterations: is of kmeans only", "leave it out"),
            (["--sigma", 1], "sigma: is of pic only, the method is kmeans", "--method pic"),
            (["--method", "minibatch", "--max-points", 9], "max_points: is of kmeans only", "--method kmeans"),
            (["--method", "pic", "--warm-start"], "warm_start: pic starts from nothing", "--no-warm-start"),
            (["--method", "pic", "--neighbors", 24], "neighbors: found 24, wanted fewer than 24", "--neighbors 23"),
            (["--method", "dbscan"], "method: found 'dbscan', wanted one of kmeans, minibatch, pic", "")):
        result = ucl("cluster", features, *words, "-o", tmp_path / "out.h5")
        assert (result.code, result.out) == (2, b"")
        assert result.err.startswith("ucl cluster: error: ")
        assert said in result.lines[0]
        assert not cure or (result.lines[1].startswith("  try: ") and cure in result.lines[1])
    result = ucl("init", "deepcluster", photos, "--set", "cluster.method=pic", "--set", "cluster.k=3", "-o", tmp_path / "new")
    assert result.code == 2
    assert "ucl.toml: k: is of kmeans" in result.err
    result = ucl("init", "persistent", photos, "--set", "cluster.method=pic", "-o", tmp_path / "new")
    assert result.code == 2
    assert "warm_start" in result.err
    assert set(tmp_path.iterdir()) == before


# Memory

@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 x 64 features, 5 MB."""
    path = tmp_path_factory.mktemp("many") / "many.h5"
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((50, 64))[rng.integers(0, 50, 20_000)] + rng.standard_normal((20_000, 64))).astype(np.float32)
    with path.open("wb") as out:
        save(Features(x, Samples(np.array([b"%05d.png" % i for i in range(len(x))]), np.zeros(len(x), np.uint8))), out)
    return path


def least(ucl: Runner, features: Path, *words: object) -> str:
    """The least --memory, as the error tells it."""
    result = ucl("cluster", features, *words, "--memory", "1M", "-o", "/nowhere/x.h5")
    assert result.code == 2
    found = re.search(r"needs at least (\S+)\n  try: --memory (\S+) if", result.err)
    assert found is not None, result.err
    assert found[1] == found[2]
    return found[1]


def test_memory_changes_no_bit(ucl: Runner, many: Path, tmp_path: Path) -> None:
    """Features from a file, a pipe and a spooled pipe; projected rows in memory and spooled."""
    flags = ["-k", 20, "--pca", 0, "--iterations", 3]
    small = least(ucl, many, *flags)
    assert parse_size(small) < 400 << 20
    assert ucl("cluster", many, *flags, "-o", tmp_path / "a.h5").code == 0
    assert ucl("cluster", many, *flags, "--memory", small, "-o", tmp_path / "b.h5").code == 0
    assert ucl("cluster", "-", *flags, "--memory", small, "-o", tmp_path / "c.h5", stdin=many.read_bytes()).code == 0
    assert ucl("cluster", "-", *flags, "-o", tmp_path / "d.h5", stdin=many.read_bytes(), env={"UCL_MEMORY": small}).code == 0
    assert ucl("cluster", "-", *flags, "-o", tmp_path / "e.h5", stdin=many.read_bytes(), fsize=3 << 20).code == 0    # nothing spooled
    assert len({read(tmp_path / f"{name}.h5").digest for name in "abcde"}) == 1
    for words, stdin, what in (("-", many.read_bytes(), "the features of stdin"), (many, None, "the projected features")):
        result = ucl("cluster", words, *flags, "--memory", small, "-o", tmp_path / "f.h5", stdin=stdin, fsize=3 << 20)
        assert result.code == 74                                        # so these are
        assert f"cannot spool {what}: File too large" in result.err
        assert not (tmp_path / "f.h5").exists()
    old = read(tmp_path / "a.h5")
    for size in (small, "2G"):
        assert ucl("cluster", many, "--assign", tmp_path / "a.h5", "--memory", size, "-o", tmp_path / f"{size}.h5").code == 0
        assert (read(tmp_path / f"{size}.h5").labels == old.labels).all()


def test_too_little_memory_is_told_before_work_starts(ucl: Runner, features: Path, labels: Path, small: Path, photos: Path,
                                                      tmp_path: Path) -> None:
    for words, code, said in (
            (["cluster", features, "-k", 3, "--memory", "10"], 2, "--memory: 10 at hand, clustering 24 x 256 features needs at least"),
            (["cluster", features, "--assign", labels, "--memory", "10M"], 2, "--memory: 10M at hand, clustering 24 x 256 features needs"),
            (["cluster", features, "-k", 3, "--memory", "nonsense"], 2, "--memory: found 'nonsense', wanted bytes with a suffix K, M, G or T"),
            (["run", "deepcluster", photos, "--memory", "8 giraffes", "-o", tmp_path / "new"], 2, "--memory: found '8 giraffes'")):
        result = ucl(*words, *([] if words[0] == "run" else ["-o", tmp_path / "out.h5"]))
        assert result.code == code, result.err
        assert said in result.lines[0]
        assert result.lines[1].startswith("  try: --memory ")
        assert not (tmp_path / "out.h5").exists()
        assert not (tmp_path / "new").exists()
    head = features.read_bytes()[:8192]                                 # the rows have not come yet
    result = ucl("cluster", "-k", 3, "--memory", "10M", "-o", tmp_path / "out.h5", stdin=head)
    assert (result.code, "at hand" in result.err) == (2, True)
    result = ucl("run", "--limit", 1, "--memory", "10M", cwd=small)
    assert (result.code, "at hand" in result.err) == (2, True)
    assert not (small / "epochs/0002").exists()


def test_features_that_anybody_wrote(ucl: Runner, many: Path, tmp_path: Path) -> None:
    """Half precision, and compressed chunks: read in chunks like ours, and the same labels as the same numbers in memory."""
    x = read(many).features[:3000].astype(np.float16)
    made = {}
    for name, data, options in (("half", x, {}), ("packed", x.astype(np.float32), {"compression": "gzip"}), ("plain", x.astype(np.float32), {})):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("features", data=data, **options)
        for place, source in (("file", {}), ("pipe", {"stdin": (tmp_path / f"{name}.h5").read_bytes()})):
            out = tmp_path / f"{name}-{place}.h5"
            result = ucl("cluster", *(["-"] if source else [tmp_path / f"{name}.h5"]), "-k", 10, "--pca", 8, "-o", out, **source)
            assert result.code == 0, result.err
            made[name, place] = read(out)
    assert len({y.digest for y in made.values()}) == 1


@pytest.mark.slow
def test_peak_memory(ucl: Runner, tmp_path: Path) -> None:
    """400 MB of features under less memory than they take; the labels are those of a run with all memory."""
    n, d = 100_000, 1024
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, d), dtype=np.float32)[rng.integers(0, 200, n)]
    for start in range(0, n, 10_000):
        x[start:start + 10_000] += rng.standard_normal((10_000, d), dtype=np.float32)
    path = tmp_path / "f.h5"
    with path.open("wb") as out:
        save(Features(x, Samples(np.array([b"%07d.png" % i for i in range(n)]), np.zeros(n, np.uint8))), out)
    del x
    flags = ["-k", 200, "--pca", 64, "--iterations", 3]
    small = least(ucl, path, *flags)

    def peak(memory: str, name: str, piped: bool = False) -> int:
        """Bytes that the process held at most; asked of a small parent, because a fork begins with its parent's."""
        words = [UCL, "cluster", "-" if piped else str(path), *map(str, flags), "--memory", memory, "-o", str(tmp_path / name)]
        ask = "import os, subprocess, sys; p = subprocess.Popen(sys.argv[1:]); r = os.wait4(p.pid, 0); print(r[1], r[2].ru_maxrss)"
        with (subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) if piped else contextlib.nullcontext()) as cat:
            done = subprocess.run([sys.executable, "-c", ask, *words], stdin=cat.stdout if cat else subprocess.DEVNULL, env=environment(),
                                  stdout=subprocess.PIPE, check=True)
        status, held = map(int, done.stdout.split())
        assert status == 0
        return held * 1024

    base = peak("8G", "many.h5", piped=True)
    assert base > 4 * n * d                                             # here they are held
    assert parse_size(small) < 4 * n * d + (100 << 20)
    for name, piped in (("file.h5", False), ("pipe.h5", True)):
        held = peak(small, name, piped)
        assert held < parse_size(small)
        assert held < base - (200 << 20)
        assert read(tmp_path / name).digest == read(tmp_path / "many.h5").digest
