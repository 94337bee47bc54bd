"""Run directories of odc and uic, whose labels move with the network: shell = run, resuming, labels by a classifier, and what is refused."""

import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from cli.harness import Runner, tree
from cli.test_instance import all_go_on, copied, digests, longer, metrics, plans, same
from cli.test_resume import cut
from ucl import models, read, store
from ucl.artifacts import replace
from ucl.methods.method import plan_length
from ucl.rundir import RunConfig, RunDir

EPOCHS = {"odc": 3, "uic": 4}                              # uic: two epochs, then the final stage, of two
FIRST: dict[str, list[list[object]]] = {"odc": [["extract"], ["cluster"], ["train-epoch"]], "uic": [["train-epoch"]]}
SETS = {"odc": ("init.neck=6", "init.neck_hidden=12", "cluster.k=3", "odc.least=3", "odc.lr=4", "train-epoch.refresh_every=2"),
        "uic": ("uic.k=3", "uic.final_share=1", "train-epoch.mlp=12")}


def words(method: str, photos: Path, where: Path) -> list[object]:
    sets = [word for setting in ("train-epoch.batch=8", *SETS[method]) for word in ("--set", setting)]
    return ["init", method, photos, "-o", where, "--epochs", EPOCHS[method], "--keep", "all", "--size", 16, "-j", 1, "--seed", 3, *sets]


@pytest.fixture(scope="session")
def begun(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories of both methods before the first epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    for method in EPOCHS:
        made = ucl(*words(method, photos_made, folder / method))
        assert made.code == 0, made.err
    return {method: folder / method for method in EPOCHS}


@pytest.fixture(scope="session")
def straight(ucl: Runner, begun: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same after `ucl run`; not to be changed."""
    folder = tmp_path_factory.mktemp("straight")
    for method, run in begun.items():
        shutil.copytree(run, folder / method, symlinks=True)
        made = ucl("run", cwd=folder / method, stdout="pipe")
        assert made.code == 0, made.err
        assert made.text.splitlines()[0].split("  ")[-1] == "{0} of {0}".format(EPOCHS[method])
    return {method: folder / method for method in EPOCHS}


def at(straight: dict[str, Path], method: str, place: Path, epochs: int) -> Path:
    """A copy of a run as it was after so many epochs."""
    run = copied(straight[method], place / method, epochs)
    if not epochs:
        (run / "labels.h5").unlink()
    return run


def turn(method: str, epoch: int) -> list[list[object]]:
    """The line of the shell loop."""
    return FIRST[method] if not epoch else [["train-epoch"]]


def labels_of(run: Path, epoch: int) -> np.ndarray:
    return np.array(read(run / f"epochs/{epoch:04d}/labels.h5").labels)


# shell = run

@pytest.mark.parametrize("method", EPOCHS)
def test_the_shell_loop_is_run(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    """odc: a pipe, and from then on training alone; uic: training alone, through its final stage.  All models, labels and metrics are those of
    the one process, bit for bit."""
    shell, epoch = copied(begun[method], tmp_path / "shell", 0), 0
    while ucl("status", "--done", cwd=shell).code:
        results = ucl.pipe(*turn(method, epoch), cwd=shell)
        assert [r.code for r in results] == [0] * len(results), [r.err for r in results]
        epoch += 1
    same(shell, straight[method])
    found = digests(shell)
    assert len(found) == 1 + 2 * EPOCHS[method]
    assert len({d for name, d in found.items() if name.endswith("model.h5")}) == 1 + EPOCHS[method]


@pytest.mark.slow
@pytest.mark.parametrize("method", EPOCHS)
def test_through_disk_it_is_the_same_run(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    disk = copied(begun[method], tmp_path / "disk", 0)
    assert ucl("run", "--through-disk", cwd=disk).code == 0
    same(disk, straight[method])


@pytest.mark.slow
@pytest.mark.parametrize("method", EPOCHS)
def test_shell_and_run_by_turns(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    """From any epoch on: through work/, in memory, through files; another seed is another run."""
    turns = copied(begun[method], tmp_path / "turns", 0)
    for step in turn(method, 0):
        assert ucl(*step, cwd=turns).code == 0
    assert ucl("run", "--limit", 1, cwd=turns).code == 0
    assert ucl("train-epoch", cwd=turns).code == 0
    assert ucl("run", "--through-disk", cwd=turns).code == (0 if method == "uic" else 76)
    same(turns, straight[method])
    other = copied(begun[method], tmp_path / "other", 0)
    (other / "ucl.toml").write_text((other / "ucl.toml").read_text().replace("seed = 3", "seed = 4"))
    assert ucl("run", cwd=other).code == 0
    assert not {d for name, d in digests(other).items() if "0000" not in name} & set(digests(straight[method]).values())


def test_what_the_epochs_of_odc_are(straight: dict[str, Path]) -> None:
    """Clusters of the neck's output once; the labels of each epoch's file are those of the model's memory, and the last two are remembered."""
    run, found = straight["odc"], metrics(straight["odc"])[1:]
    for epoch in range(1, 4):
        model, y = (read(run / f"epochs/{epoch:04d}/{name}.h5") for name in ("model", "labels"))
        assert sorted(model.memory) == ["bank", "centroid", "cluster", "online"]
        assert model.memory["cluster"].tobytes() == y.labels.tobytes()
        assert model.memory["bank"].shape == (24, 6)
        assert model.config["head_on"] == "neck"
        assert y.history_epoch.tolist() == [[0], [0, 1], [1, 2]][epoch - 1]
        assert y.history[-1].tolist() == y.labels.tolist()
        assert (y.k, y.info["method"], y.context.epoch) == (3, "online", epoch - 1)
        assert found[epoch - 1]["smallest"] == np.bincount(y.labels, minlength=3).min() >= 3
        assert found[epoch - 1]["iterations"] == 3 * epoch == model.memory["online"][0]
        chain = [json.loads(entry)["verb"] for entry in y.provenance]
        assert ("cluster" in chain) is (epoch == 1) or "train-epoch" in chain
    assert [("nmi_arithmetic" in m) for m in found] == [False, True, True]
    assert found[1]["churn"] == pytest.approx((labels_of(run, 1) != labels_of(run, 2)).mean())
    assert all(0 <= m["relabelled"] <= 1 for m in found)


def test_what_the_epochs_of_uic_are(straight: dict[str, Path]) -> None:
    """Two epochs whose own classes are the next one's labels; then labels of the fixed views, which stay (U8); no array of N x D (U9)."""
    run, found = straight["uic"], metrics(straight["uic"])[1:]
    for epoch in range(1, 5):
        model, y = (read(run / f"epochs/{epoch:04d}/{name}.h5") for name in ("model", "labels"))
        assert sorted(model.memory) == ["label_counts", "next_labels"]
        assert model.memory["next_labels"].tobytes() == y.labels.tobytes()
        assert all(array.size <= 24 for array in model.memory.values())
        assert (y.k, y.info["method"], y.context.epoch, len(model.model["head.weight"])) == (3, "relabel", epoch - 1, 3)
    assert labels_of(run, 4).tobytes() == labels_of(run, 3).tobytes()
    assert found[3]["churn"] == 0
    assert [("visited" in m, "split" in m) for m in found] == [(True, True)] * 2 + [(False, False)] * 2
    assert [m["lr"] for m in found] == pytest.approx([0.05, 0.025, 0.01, 0.005])


# labels in and out

def test_labels_that_an_epoch_made_are_written_where_asked_for(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    for method, epoch in (("odc", 0), ("odc", 1), ("uic", 1)):
        place = tmp_path / f"{epoch}"
        run = at(straight, method, place, epoch)
        *before, last = turn(method, epoch)
        results = ucl.pipe(*before, [*last, "-o", "made.h5"], cwd=run)
        assert all(r.code == 0 for r in results), [r.err for r in results]
        made, committed = read(run / "made.h5"), read(run / f"epochs/{epoch + 1:04d}/labels.h5")
        assert made.digest == committed.digest == digests(straight[method])[f"epochs/{epoch + 1:04d}/labels.h5"]
        assert made.labels.tobytes() == committed.labels.tobytes()
        assert (run / "labels.h5").readlink() == Path(f"epochs/{epoch + 1:04d}/labels.h5")
    before = digests(run)
    result = ucl("train-epoch", "-o", "made.h5", cwd=run)                             # there already: before the epoch, not after it
    assert (result.code, result.lines[0]) == (73, "ucl train-epoch: error: made.h5: exists already")
    assert digests(run) == before
    assert ucl("train-epoch", "-o", "made.h5", "--force", cwd=run).code == 0
    assert read(run / "made.h5").digest == digests(run)["epochs/0003/labels.h5"]


def test_labels_are_refused_in_a_turn_that_has_its_own(ucl: Runner, straight: dict[str, Path], labels: Path, tmp_path: Path) -> None:
    for method, epoch in (("odc", 1), ("uic", 0)):
        run = at(straight, method, tmp_path, epoch)
        before = tree(run)
        for given, stdin in ((labels, None), ("-", labels.read_bytes())):
            result = ucl("train-epoch", given, cwd=run, stdin=stdin)
            assert (result.code, len(result.lines)) == (2, 2)
            assert result.lines[0] == f"ucl train-epoch: error: {given}: the method {method} goes on with its own labels"
            assert result.lines[1].startswith("  try: ")
            assert tree(run) == before
        result = ucl("train-epoch", cwd=run, stdin=labels.read_bytes())              # a pipe that nobody named may be the shell's own
        assert result.code == 0, result.err
        assert result.lines[0] == f"ucl train-epoch: warning: standard input is not read: the method {method} goes on with its own labels"
        assert read(run / "model.h5").digest == digests(straight[method])[f"epochs/{epoch + 1:04d}/model.h5"]


def test_the_first_turn_of_odc_needs_its_clusters(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    """Nothing there; purified ones; smaller than the least members; those of another generation."""
    run = at(straight, "odc", tmp_path, 0)
    before = tree(run)
    result = ucl("train-epoch", cwd=run)
    assert (result.code, len(result.lines)) == (66, 2)
    assert "labels.h5: not there yet" in result.lines[0]
    assert tree(run).items() - {("lock", tree(run).get("lock"))} == before.items() - {("lock", before.get("lock"))}
    results = ucl.pipe(["extract"], ["cluster"], ["purify", "--keep-nearest", 0.5], ["train-epoch"], cwd=run)
    assert [r.code for r in results] == [0, 0, 0, 65]
    assert "found -1, expected 0 to 2: every usable image is in a cluster" in results[-1].lines[0]
    assert [p.name for p in (run / "epochs").iterdir()] == ["0000"]
    results = ucl.pipe(["extract"], ["cluster", "-k", 9], ["train-epoch"], cwd=run)
    assert (results[1].code, results[2].code) == (2, 65)
    assert "odc.least, cluster.k: least members: found 3, wanted 1 to 2" in results[1].lines[0]
    result = ucl("train-epoch", cwd=run, stdin=(straight["odc"] / "labels.h5").read_bytes())
    assert (result.code, result.lines[0]) == (65, "ucl train-epoch: error: labels: generation: found 2, the newest here is 0")
    assert [p.name for p in (run / "epochs").iterdir()] == ["0000"]


def test_flags_that_the_plan_decides_are_refused_at_once(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    """Not by the next command, which reads them in the file, and not by the next epoch, which has other ones; flags that are free are taken."""
    for method, epoch, flags, said, cure in (
            ("uic", 0, ["-k", 5], "train-epoch.k: the plan of uic decides it from epoch to epoch", "uic.k"),
            ("uic", 1, ["--relabel", "none"], "train-epoch.relabel: the plan of uic decides it", "uic.relabel"),
            ("odc", 1, ["--least", 4], "train-epoch.least: the plan of odc checks it", "odc.least")):
        run = at(straight, method, tmp_path / f"{epoch}-{method}", epoch)
        before = tree(run)
        result = ucl("train-epoch", *flags, cwd=run)
        assert (result.code, len(result.lines)) == (2, 2), result.err
        assert said in result.lines[0]
        assert cure in result.lines[1]
        assert {k: v for k, v in tree(run).items() if k != "lock"} == {k: v for k, v in before.items() if k != "lock"}
    assert ucl("train-epoch", "--lr", 0.01, cwd=run).code == 0
    assert read(run / "labels.h5").context.overrides["train-epoch.lr"] == "0.01"
    assert ucl("purify", "labels.h5", "-o", "p.h5", cwd=run).code == 0
    assert ucl("train-epoch", cwd=run).code == 0


# epochs outside

def test_epochs_from_file_to_file_are_the_run(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path) -> None:
    """What --dry-run prints are the flags; memories, counters and momentum are in the checkpoint."""
    for method, run in straight.items():
        lines = ucl("run", "--dry-run", cwd=begun[method], stdout="pipe").text.splitlines()
        flags = [shlex.split(part.removesuffix(" || exit"))[1:] for part in lines[2 if method == "uic" else 1].strip().split(" | ")]
        model, made = run / "epochs/0000/model.h5", tmp_path / f"{method}-labels.h5"
        if method == "odc":
            features = tmp_path / "features.h5"
            assert ucl(*flags[0], run / "images.h5", "--model", model, "--seed", 3, "-j", 1, "-o", features, cwd=tmp_path).code == 0
            assert ucl(*flags[1], features, "-j", 1, "-o", made, cwd=tmp_path).code == 0
        for epoch, facts in enumerate(metrics(run)[1:], 1):
            more = ["--lr", facts["lr"], *{3: ["--relabel", "fixed", "--no-fill-empty"], 4: ["--relabel", "none", "--no-fill-empty"]}.get(epoch, [])]
            result = ucl(*flags[-1], *([made] if made.exists() and epoch == 1 else []), *(more if method == "uic" else []), "-j", 1, "--images",
                         run / "images.h5", "--model", model, "--seed", 3, "-o", f"{method}{epoch}.h5", cwd=tmp_path)
            assert result.code == 0, result.err
            model = tmp_path / f"{method}{epoch}.h5"
            found, wanted = read(model), read(run / f"epochs/{epoch:04d}/model.h5")
            for part in ("model", "optimizer", "memory"):
                a, b = getattr(found, part), getattr(wanted, part)
                assert set(a) == set(b)
                assert all(a[k].tobytes() == b[k].tobytes() for k in a), (method, epoch, part)


def test_outside_the_first_epoch_needs_something_to_begin_with(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], photos: Path,
                                                               tmp_path: Path) -> None:
    run, before = begun["odc"], sorted(p.name for p in tmp_path.iterdir())
    (photos / "ant/0.png").unlink()
    there = ["--images", run / "images.h5", "--model", run / "model.h5"]
    trained = ["--objective", "online", "--model", straight["odc"] / "model.h5", "--least", 3]
    for given, code, said in (
            ([*there, "--objective", "online"], 65, "labels: found none, and the model has no clusters yet"),
            ([*there, "--objective", "relabel"], 2, "k: 0, and there is neither a classifier nor labels"),
            ([*there, "--objective", "relabel", "-k", 25], 2, "k: found 25 classes for 24 usable images"),
            ([*there, "--objective", "relabel", "-k", 3, "--relabel", "none"], 65, "labels: found none, and they are to stay as they are"),
            ([*trained, "--images", run / "images.h5", "--least", 9], 2, "least members: found 9, wanted 1 to 8"),
            ([*trained, "--images", photos], 65, "of another image list"),
            ([*there, "--objective", "online", "--relabel", "fixed"], 2, "relabel: is of the relabel objective, and the objective is online"),
            ([*there, "--objective", "relabel", "--least", 3], 2, "least: is of the online objective, and the objective is relabel")):
        result = ucl("train-epoch", *given, "-o", "x.h5", cwd=tmp_path)
        assert (result.code, len(result.lines)) == (code, 2), (given, result.err)
        assert said in result.lines[0], result.err
        assert result.lines[1].startswith("  try: ")
        assert sorted(p.name for p in tmp_path.iterdir()) == before


# labels by a classifier, and the neck

def test_labels_by_the_classifier_are_those_of_the_final_stage(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    """U8: cluster --method argmax, in the run directory after its last moving epoch, through work/, and outside of it."""
    run = at(straight, "uic", tmp_path, 2)
    wanted, model = labels_of(straight["uic"], 3), run / "epochs/0002/model.h5"
    for step in (["extract", "--final-relu"], ["cluster", "--method", "argmax"]):
        assert ucl(*step, cwd=run).code == 0
    piped = ucl.pipe(["extract", "--final-relu"], ["cluster", "--method", "argmax"], cwd=run, stdout=tmp_path / "piped.h5")
    assert [r.code for r in piped] == [0, 0]
    assert ucl("extract", run / "images.h5", "--model", model, "--final-relu", "-o", "f.h5", cwd=tmp_path).code == 0
    assert ucl("cluster", "f.h5", "--method", "argmax", "--model", model, "-o", "outside.h5", cwd=tmp_path).code == 0
    for path in (run / "work/labels.h5", tmp_path / "piped.h5", tmp_path / "outside.h5"):
        found = read(path)
        assert found.labels.tobytes() == wanted.tobytes(), path
        assert (found.k, found.info["method"], found.size.tolist()) == (3, "argmax", np.bincount(wanted, minlength=3).tolist())
    assert read(run / "work/labels.h5").history_epoch.tolist() == [1, 2]
    assert ucl("cluster", "f.h5", "--method", "argmax", "--probs", "--model", model, "-o", "probs.h5", cwd=tmp_path).code == 0
    probs, outside = read(tmp_path / "probs.h5"), read(tmp_path / "outside.h5")
    assert probs.probs.shape == (24, 3)
    assert probs.probs.sum(axis=1) == pytest.approx(np.ones(24), abs=1e-6)
    assert np.array_equal(probs.score, probs.probs[np.arange(24), wanted])
    assert store.content_of(replace(probs, probs=None, score=outside.score)) == outside.digest
    little = ucl("cluster", "f.h5", "--method", "argmax", "--probs", "--model", model, "--memory", "1M", "-o", "x.h5", cwd=tmp_path)
    assert (little.code, "--no-probs needs less" in little.err) == (2, True)
    result = ucl("train-epoch", cwd=run)                                              # the plan makes them itself
    assert result.code == 0
    assert digests(run)["epochs/0003/model.h5"] == digests(straight["uic"])["epochs/0003/model.h5"]


def test_the_neck_is_a_layer(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], small: Path, tmp_path: Path) -> None:
    """What the classifier of odc stands on, and what the memory holds at the start; not where there is none."""
    run = at(straight, "odc", tmp_path, 2)
    model = read(run / "model.h5")
    assert ucl("extract", "--layer", "neck", "-o", "neck.h5", cwd=run).code == 0
    result = ucl("cluster", "neck.h5", "--method", "argmax", "-o", "labels.h5.new", cwd=run)
    assert result.code == 0, result.err
    features, found = read(run / "neck.h5"), read(run / "labels.h5.new")
    assert (features.layer, features.features.shape) == ("neck", (24, 6))
    assert (features.features >= 0).all()
    assert found.labels.tolist() == (features.features @ model.model["head.weight"].T + model.model["head.bias"]).argmax(1).tolist()
    outside = ["extract", run / "images.h5", "--model", run / "model.h5", "--layer", "neck", "-o", tmp_path / "outside.h5"]
    assert ucl(*outside, cwd=tmp_path).code == 0
    assert np.array_equal(read(tmp_path / "outside.h5").features, features.features)
    fresh = copied(begun["odc"], tmp_path / "fresh", 0)                               # the plan's own extraction, of the first turn
    assert ucl("extract", cwd=fresh).code == 0
    assert read(fresh / "work/features.h5").layer == "neck"
    for where, words in ((small, []), (tmp_path, [run / "images.h5", "--model", small / "model.h5"])):
        result = ucl("extract", *words, "--layer", "neck", "-o", "x.h5", cwd=where)
        assert (result.code, len(result.lines)) == (2, 2), result.err
        assert result.lines[0] == "ucl extract: error: layer: this checkpoint has no neck"
        assert not (where / "x.h5").exists()


def test_argmax_refuses(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], features: Path, tmp_path: Path) -> None:
    run, model = at(straight, "odc", tmp_path, 2), straight["odc"] / "epochs/0002/model.h5"
    images = ["extract", run / "images.h5"]
    for name, flags in (("last", ["--model", model, "--final-relu"]), ("neck", ["--model", model, "--layer", "neck"]),
                        ("before", ["--model", straight["uic"] / "model.h5"]), ("untrained", ["--model", begun["uic"] / "model.h5", "--final-relu"])):
        assert ucl(*images, *flags, "-o", f"{name}.h5", cwd=tmp_path).code == 0
    before = tree(tmp_path)
    asks = ["--method", "argmax", "-o", "x.h5"]
    for where, words, code, said, cure in (
            (tmp_path, ["neck.h5", *asks], 2, "argmax: no model, whose classifier is to label the images", "--model CKPT"),
            (tmp_path, ["last.h5", *asks, "--model", model], 65, "of the layer 'last', the classifier takes the neck", "--layer neck"),
            (tmp_path, ["before.h5", *asks, "--model", straight["uic"] / "model.h5"], 65, "the classifier takes the last one after its ReLU",
             "--final-relu"),
            (tmp_path, [features, *asks, "--model", model], 65, "/features: of a model", "the model that labels"),
            (tmp_path, ["untrained.h5", *asks, "--model", begun["uic"] / "model.h5"], 65, "checkpoint: no classifier", "trained on labels"),
            (tmp_path, ["neck.h5", "-k", 3, "--pca", 0, "--model", model, "-o", "x.h5"], 2, "is of argmax only, the method is kmeans", "argmax"),
            (tmp_path, ["neck.h5", *asks, "--model", model, "-k", 3], 2, "k: is of kmeans and minibatch only, the method is argmax", "leave it out"),
            (tmp_path, ["neck.h5", *asks, "--model", model, "--pca", 4], 2, "pca: is of clustering, and argmax asks a classifier", "leave it out"),
            (run, [tmp_path / "last.h5", *asks], 65, "the classifier takes the neck", "--layer neck"),
            (run, [tmp_path / "neck.h5", "--model", model, "-o", "x.h5"], 2, "is of argmax only, the method is kmeans", "--method argmax")):
        result = ucl("cluster", *words, cwd=where)
        assert (result.code, len(result.lines)) == (code, 2), (words, result.err)
        assert said in result.lines[0], result.err
        assert cure in result.lines[1], result.err
        assert tree(tmp_path) == before, words


def test_what_is_evaluated_is_the_last_layer(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path) -> None:
    """Not the neck, which the plan clusters in the first turn: before it, after it, and at the end of the plan."""
    for epoch, source in ((0, begun["odc"]), (1, straight["odc"]), (3, straight["odc"])):
        run = copied(source, tmp_path / f"{epoch}", epoch)
        model = run / f"epochs/{epoch:04d}/model.h5"
        assert ucl("evaluate", "knn", "-o", "knn.h5", cwd=run).code == 0
        chain = [json.loads(entry) for entry in read(run / "knn.h5").provenance]
        extracted = [s["settings"] for s in chain if s["verb"] == "extract"]
        assert (extracted[-1]["layer"], extracted[-1]["views"]) == ("", "fixed")
        assert [s["layer"] for s in extracted[:-1]] == ["neck"] * bool(epoch)
        assert ucl("extract", run / "images.h5", "--model", model, "-o", "last.h5", cwd=tmp_path / f"{epoch}").code == 0
        assert read(run / "last.h5").features.shape == (24, 256)
        here, there = (ucl("evaluate", "knn", *file, "--json", cwd=run, stdout="pipe").json for file in ([], ["last.h5"]))
        assert here["metrics"] == there["metrics"]


# other programs

def test_weights_alone_leave_out_the_neck_and_its_classifier(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    for method, between in (("odc", "neck"), ("uic", "hidden layers")):
        model = straight[method] / "model.h5"
        result = ucl("export", model, "-o", f"{method}.pt", cwd=tmp_path)
        assert result.code == 0
        assert f"the {between} and the classifier on them are left out, an .onnx file has the logits" in result.err
        found = torch.load(tmp_path / f"{method}.pt", weights_only=True)
        assert set(found) == {k for k in read(model).model if k.startswith("backbone.")}
        result = ucl("export", model, "-o", "x.pt", "--head", cwd=tmp_path)
        assert (result.code, len(result.lines)) == (2, 2)
        assert result.lines[0] == f"ucl export: error: --head: the classifier stands on the {between}, which no network of that library has"
        assert not (tmp_path / "x.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", EPOCHS)
def test_onnx_has_the_logits(ucl: Runner, straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    """head(neck(x)), head(hidden(x)), in evaluation mode."""
    assert ucl("export", straight[method] / "model.h5", "-o", "w.onnx", cwd=tmp_path).code == 0
    model = read(straight[method] / "model.h5")
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32))
    p, eps = {k: torch.from_numpy(np.array(v)) for k, v in model.model.items()}, 1e-5
    with torch.no_grad():
        x = features = models.restore(model).eval()(images)
        if method == "odc":
            h = (x @ p["neck.0.weight"].T + p["neck.0.bias"] - p["neck.1.running_mean"]) / (p["neck.1.running_var"] + eps).sqrt()
            x = (h.relu() @ p["neck.4.weight"].T + p["neck.4.bias"]).relu()
        else:
            for i in (0, 3):
                norm = {name: p[f"mlp.{i + 1}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
                h = (x @ p[f"mlp.{i}.weight"].T - norm["running_mean"]) / (norm["running_var"] + eps).sqrt()
                x = (h * norm["weight"] + norm["bias"]).relu()
        logits = x @ p["head.weight"].T + p["head.bias"]
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["features", "logits"]
    found = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found[0], features, atol=1e-4)
    np.testing.assert_allclose(found[1], logits, atol=1e-4)


# what a dry run says

def test_the_dry_run_prints_both_kinds_of_turns(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path) -> None:
    first, loop, line, done, *_ = ucl("run", "--dry-run", cwd=begun["odc"], stdout="pipe").text.splitlines()[1:]
    assert [shlex.split(part)[1] for part in first.split(" | ")] == ["extract", "cluster", "train-epoch"]
    assert "--layer neck" in first
    assert (loop, done) == ("until ucl status --done; do", "done")
    assert line.strip() == first.rsplit(" | ", 1)[1]
    later = ucl("run", "--dry-run", cwd=at(straight, "odc", tmp_path, 1), stdout="pipe").text.splitlines()
    assert later[1:4] == [loop, line, done]
    text = ucl("run", "--dry-run", cwd=begun["uic"], stdout="pipe").text
    assert text.splitlines()[1] == loop
    assert "train-epoch relabel training ... none" in text
    assert "train-epoch lr 0.05 ... 0.005" in text


@pytest.mark.parametrize("method", EPOCHS)
def test_a_dry_runs_toml_is_the_same_run(ucl: Runner, begun: dict[str, Path], photos_made: Path, tmp_path: Path, method: str) -> None:
    """Read back as ucl.toml it gives every epoch's plan; also from a run directory."""
    _, *line = words(method, photos_made, tmp_path / "run")
    made = RunDir(begun[method])
    context = made.context()
    for asked, where in (([*line], tmp_path), ([], begun[method])):
        told = RunConfig.from_toml(ucl("run", *asked, "--dry-run", "--toml", cwd=where, stdout="pipe").text, "toml")
        again = RunDir(begun[method]).context()
        again = type(again)(**{**vars(again), "overrides": dict(told.overrides)})
        assert plans(again) == plans(context)
        assert plan_length(again) == EPOCHS[method]
        assert told.n == made.config.n
    assert not (tmp_path / "run").exists()


# stopped inside an epoch

@pytest.mark.slow
@pytest.mark.parametrize(("method", "epoch", "signum", "code"), [
    ("odc", 0, signal.SIGKILL, 137), ("odc", 0, signal.SIGUSR2, 75), ("odc", 1, signal.SIGKILL, 137), ("odc", 2, signal.SIGTERM, 143),
    ("uic", 0, signal.SIGKILL, 137), ("uic", 1, signal.SIGUSR2, 75), ("uic", 2, signal.SIGKILL, 137), ("uic", 3, signal.SIGINT, 130)])
def test_cut_inside_an_epoch_it_is_the_undisturbed_one(ucl: Runner, straight: dict[str, Path], tmp_path: Path, method: str, epoch: int,
                                                       signum: int, code: int) -> None:
    """In each kind of epoch, gone on with by `run`, by `train-epoch` alone, or by the whole line of the loop: model, labels and metrics."""
    undisturbed = longer(at(straight, method, tmp_path / "undisturbed", epoch))
    assert ucl("run", "--limit", 1, cwd=undisturbed).code == 0
    there = longer(at(straight, method, tmp_path / "cut", epoch))
    assert ucl("status", "--midway", cwd=there).code == 1
    result = cut(ucl.start("run", "--checkpoint-every", "0.02", cwd=there), there / "work/train.partial", signum)
    assert result.code == code, result.err
    assert ucl("status", "--midway", cwd=there).code == 0
    done = ucl("status", "--json", cwd=there, stdout="pipe").json["unfinished"]["train-epoch"]
    assert (done["epoch"], done["of"]) == (epoch + 1, 30)
    assert (there / "work/train-labels.partial").exists() is (method == "odc" and not epoch)    # what it trains on is in the model, but at the start
    ways: list[list[list[object]]] = [[["run", "--limit", 1, "-v"]], [["train-epoch", "-v"]], [*turn(method, epoch)[:-1], ["train-epoch", "-v"]]]
    all_go_on(ucl, there, undisturbed, ways if len(turn(method, epoch)) > 1 else ways[:2])


@pytest.mark.slow
def test_a_cut_epoch_outside_goes_on(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    """From file to file, also without labels."""
    line = ["train-epoch", "--objective", "online", "--least", 3, "--batch", 8, "--epoch-length", 15, "-j", 1,
            "--images", straight["odc"] / "images.h5", "--model", straight["odc"] / "epochs/0001/model.h5"]
    assert ucl(*line, "-o", "straight.h5", cwd=tmp_path).code == 0
    result = cut(ucl.start(*line, "-o", "cut.h5", "--checkpoint-every", "0.02", cwd=tmp_path), tmp_path / ".cut.h5.partial", signal.SIGKILL)
    assert result.code == 137
    result = ucl(*line, "-o", "cut.h5", "--resume", "-v", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "going on after" in result.err
    assert read(tmp_path / "cut.h5").digest == read(tmp_path / "straight.h5").digest
