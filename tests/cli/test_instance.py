"""Run directories of ir, is, and and pcp: shell = run, resuming, and what is told where a method makes no labels."""

import dataclasses
import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from cli.harness import Runner, tree
from cli.test_resume import cut
from ucl import read
from ucl.context import Context
from ucl.methods.method import plan, plan_length
from ucl.rundir import RunConfig, RunDir

METHODS = ("ir", "is", "and", "pcp")
SLOW = pytest.mark.slow
TURN: dict[str, list[list[object]]] = {name: [["train-epoch"]] for name in METHODS} | {"pcp": [["extract"], ["cluster"], ["purify"], ["train-epoch"]]}
EPOCHS = 6                                                 # pcp: 24, 14, 8, 4, 3, 3 clusters, votes in the last; and: its five rounds


def words(method: str, photos: Path, where: Path, epochs: int = EPOCHS) -> list[object]:
    return ["init", method, photos, "-o", where, "--epochs", epochs, "--keep", "all", "--size", 16, "--projection", 16, "-j", 1, "--seed", 3,
            "--set", "train-epoch.batch=8", *(["--set", "pcp.final_k=3", "--set", "pcp.warm_up_until=0.8"] if method == "pcp" else [])]


@pytest.fixture(scope="session")
def begun(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories of each method before the first epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    for method in METHODS:
        made = ucl(*words(method, photos_made, folder / method))
        assert made.code == 0, made.err
    return {method: folder / method for method in METHODS}


@pytest.fixture(scope="session")
def straight(ucl: Runner, begun: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same after `ucl run`; not to be changed."""
    folder = tmp_path_factory.mktemp("straight")
    for method, run in begun.items():
        shutil.copytree(run, folder / method, symlinks=True)
        made = ucl("run", cwd=folder / method, stdout="pipe")
        assert made.code == 0, made.err
        assert made.text.splitlines()[0].split("  ")[-1] == "6 of 6"
    return {method: folder / method for method in METHODS}


def copied(source: Path, place: Path, epochs: int = EPOCHS) -> Path:
    """A copy of a run directory as it was after so many epochs."""
    shutil.copytree(source, place, symlinks=True)
    for generation in range(epochs + 1, EPOCHS + 1):
        shutil.rmtree(place / f"epochs/{generation:04d}", ignore_errors=True)
    for name in ("model", "labels"):
        link = place / f"{name}.h5"
        if link.is_symlink():
            link.unlink()
            link.symlink_to(f"epochs/{epochs:04d}/{name}.h5")
    return place


def digests(run: Path) -> dict[str, str]:
    return {str(p.relative_to(run)): read(p).digest for p in sorted(run.glob("epochs/*/*.h5"))}


def metrics(run: Path) -> list[dict[str, object]]:
    found = [json.loads(p.read_text()) for p in sorted(run.glob("epochs/*/metrics.json"))]
    return [{k: v for k, v in m.items() if "second" not in k and k != "time"} for m in found]


def same(a: Path, b: Path) -> None:
    assert digests(a) == digests(b)
    assert metrics(a) == metrics(b)


def all_go_on(ucl: Runner, there: Path, undisturbed: Path, ways: list[list[list[object]]]) -> None:
    """Each of these pipes, in a copy of a run directory whose epoch was cut, goes on inside it and makes what the undisturbed one has."""
    for number, rest in enumerate(ways):
        goes_on = there.parent / f"{number}"
        shutil.copytree(there, goes_on, symlinks=True)
        results = ucl.pipe(*rest, cwd=goes_on)
        assert all(r.code == 0 for r in results), [r.err for r in results]
        assert "train.partial: going on after" in results[-1].err
        same(goes_on, undisturbed)
        assert not list((goes_on / "work").iterdir())


# shell = run

@pytest.mark.parametrize("method", [pytest.param("ir", marks=SLOW), pytest.param("is", marks=SLOW), "and", "pcp"])
def test_the_shell_loop_is_run(ucl: Runner, begun: dict[str, Path], straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    """A process for each verb of each epoch: all models, labels and metrics are those of the one process, bit for bit."""
    shell = copied(begun[method], tmp_path / "shell", 0)
    while ucl("status", "--done", cwd=shell).code:
        results = ucl.pipe(*TURN[method], cwd=shell)
        assert [r.code for r in results] == [0] * len(results), [r.err for r in results]
    same(shell, straight[method])
    found = digests(shell)
    assert len(found) == 1 + EPOCHS * (1 + (method == "pcp"))
    assert len(set(found.values())) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["and", "pcp"])
def test_shell_and_run_by_turns(ucl: Runner, straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    """From any epoch on, also where past epochs vote: through work/, through files, and in memory."""
    turns = copied(straight[method], tmp_path / "turns", 1)
    for step in TURN[method]:
        assert ucl(*step, cwd=turns).code == 0
    assert ucl("run", "--limit", 1, "--through-disk", cwd=turns).code == 0
    assert ucl("run", "--limit", 1, cwd=turns).code == 0
    assert all(r.code == 0 for r in ucl.pipe(*TURN[method], cwd=turns))
    for epoch in range(2, 6):
        assert digests(turns)[f"epochs/000{epoch}/model.h5"] == digests(straight[method])[f"epochs/000{epoch}/model.h5"]
    for step in TURN[method]:
        assert ucl(*step, cwd=turns).code == 0
    same(turns, straight[method])


def test_what_the_epochs_of_pcp_are(straight: dict[str, Path]) -> None:
    """As many clusters as the schedule says, purified from the second phase on by distance, in the last epoch by votes, with the two views'
    loss but at the end; the raw labels of the last epochs are remembered."""
    run, found = straight["pcp"], metrics(straight["pcp"])[1:]
    labels = [read(run / f"epochs/{g:04d}/labels.h5") for g in range(1, EPOCHS + 1)]
    assert [m["k"] for m in found] == [y.k for y in labels] == [24, 14, 8, 4, 3, 3]
    assert [y.info["purify"]["votes"] for y in labels] == [y.info["purify"]["voted"] for y in labels] == [False] * 5 + [True]
    assert [y.info["purify"]["whole_up_to"] for y in labels] == [5, 5, 5, 0, 0, 0]
    assert [y.history_epoch.tolist() for y in labels] == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert (labels[0].labels == -1).all()                                # k = N
    assert all(0 < m["kept"] < 24 for m in found[3:])
    assert [("loss_views" in m, "loss_memory" in m) for m in found] == [(True, True)] * 5 + [(False, False)]
    assert [m["lr"] for m in found] == pytest.approx([0.03] * 4 + [0.003, 0.0003])
    assert all(m["log_n"] == pytest.approx(np.log(24)) for m in found)
    assert [("nmi_arithmetic" in m) for m in found] == [False] + [True] * 5
    from ucl.agreement import compare_labelings

    for m, before, after in zip(found[1:], labels, labels[1:], strict=False):       # of the labels before purification
        wanted = compare_labelings(after.history[-1], before.history[-1])
        assert {k: m[k] for k in wanted} == pytest.approx(wanted)


def test_what_the_epochs_of_the_others_are(straight: dict[str, Path]) -> None:
    assert [sorted(read(straight[m] / "model.h5").memory) for m in METHODS] == [["bank"], [], ["bank", "neighbor"], ["bank"]]
    anchors = [int((read(straight["and"] / f"epochs/{g:04d}/model.h5").memory.get("neighbor", np.full((24, 1), -1)) >= 0).sum()) for g in range(1, 7)]
    assert anchors == [0, 6, 12, 18, 24, 24]
    for method in ("ir", "is", "and"):
        assert not list(straight[method].glob("epochs/*/labels.h5"))
        assert all({"loss", "log_n", "lr", "steps"} <= set(m) and "clusters" not in m for m in metrics(straight[method])[1:])


def plans(context: Context) -> list[list[object]]:
    return [list(plan(dataclasses.replace(context, epoch=epoch))) for epoch in range(plan_length(context))]


@pytest.mark.parametrize("words", [
    ["pcp", "--epochs", 6, "--set", "pcp.final_k=3", "--set", "train-epoch.batch=8", "--set", "evaluate-knn.neighbors=3"],
    ["deepcluster", "--epochs", 3, "--set", "cluster.k=5", "--set", "init.sobel=true"], ["ir", "--set", "ir.epochs=4"]], ids=lambda words: words[0])
def test_a_dry_runs_toml_is_the_same_run(ucl: Runner, photos_made: Path, tmp_path: Path, words: list[object]) -> None:
    """Read back as ucl.toml it gives every epoch's plan, and what is set for verbs beside the plan."""
    method, *rest = words
    line = [method, photos_made, "-o", tmp_path / "run", *rest]
    text = ucl("run", *line, "--dry-run", "--toml", stdout="pipe").text
    assert ucl("init", *line).code == 0
    made = RunDir(tmp_path / "run")
    told = RunConfig.from_toml(text, "toml")
    context = made.context()
    assert plans(dataclasses.replace(context, overrides=dict(told.overrides))) == plans(context)
    assert told.n == made.config.n
    assert {k: v for k, v in made.config.overrides.items() if k.startswith("evaluate")}.items() <= told.overrides.items()


def test_the_projection_is_drawn_as_asked_for(ucl: Runner, photos_made: Path, tmp_path: Path) -> None:
    for name in ("he", "torch"):
        assert ucl("init", "ir", photos_made, "-o", tmp_path / name, "--projection", 16, "--set", f"init.projection_init={name}").code == 0
    he, torch_ = (read(tmp_path / name / "model.h5").model for name in ("he", "torch"))
    assert float(np.abs(torch_["projection.weight"]).max()) <= 1 / 16 < float(np.abs(he["projection.weight"]).max())
    assert not he["projection.bias"].any()
    assert torch_["projection.bias"].any()


# epochs one by one outside, resuming

@pytest.mark.parametrize("method", [pytest.param("ir", marks=SLOW), "is", "and"])
def test_epochs_one_by_one_through_files_are_the_run(ucl: Runner, straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    """Two calls of one epoch each, from file to file: memory and momentum are in the checkpoint.  What --dry-run prints are the flags."""
    run, model = straight[method], straight[method] / "epochs/0000/model.h5"
    line = ucl("run", "--dry-run", cwd=copied(run, tmp_path / "new", 0), stdout="pipe").text.splitlines()[2]
    flags = shlex.split(line.strip().removesuffix(" || exit"))[2:]
    assert "--objective" in flags
    for epoch in (1, 2):
        result = ucl("train-epoch", *flags, *(["--anchors", 0.25, "--discover"] if (method, epoch) == ("and", 2) else []), "--lr", 0.03, "-j", 1,
                     "--images", run / "images.h5", "--model", model, "--seed", 3, "-o", f"{epoch}.h5", cwd=tmp_path)
        assert result.code == 0, result.err
        made, wanted = read(tmp_path / f"{epoch}.h5"), read(run / f"epochs/{epoch:04d}/model.h5")
        for part in ("model", "optimizer", "memory"):
            a, b = getattr(made, part), getattr(wanted, part)
            assert set(a) == set(b)
            assert all(a[k].tobytes() == b[k].tobytes() for k in a), part
        model = tmp_path / f"{epoch}.h5"


def longer(run: Path) -> Path:
    """Ten times as many batches, to be cut in between."""
    config = run / "ucl.toml"
    config.write_text(config.read_text().replace('batch = "8"', 'batch = "8"\nepoch_length = "10"'))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epoch", "signum", "code"), [("pcp", 5, signal.SIGKILL, 137), ("pcp", 5, signal.SIGUSR2, 75),
                                                                 ("and", 2, signal.SIGKILL, 137)])
def test_cut_inside_an_epoch_it_is_the_undisturbed_one(ucl: Runner, straight: dict[str, Path], tmp_path: Path, method: str, epoch: int,
                                                       signum: int, code: int) -> None:
    """In the voting phase, and in the first epoch of a round of anchors, whose neighbours belong to the memory before it: gone on with by
    `run`, by `train-epoch` alone, or by the whole line of the loop."""
    undisturbed = longer(copied(straight[method], tmp_path / "undisturbed", epoch))
    assert ucl("run", "--limit", 1, cwd=undisturbed).code == 0
    there = longer(copied(straight[method], tmp_path / "cut", epoch))
    result = cut(ucl.start("run", "--checkpoint-every", "0.02", cwd=there), there / "work/train.partial", signum)
    assert result.code == code, result.err
    assert ucl("status", "--midway", cwd=there).code == 0
    ways: list[list[list[object]]] = [[["run", "--limit", 1, "-v"]], [["train-epoch", "-v"]], [*TURN[method][:-1], ["train-epoch", "-v"]]]
    all_go_on(ucl, there, undisturbed, ways)
    if method == "pcp":
        assert read(undisturbed / "labels.h5").info["purify"]["voted"]


# methods without labels

@pytest.mark.parametrize("method", ["ir", pytest.param("is", marks=SLOW), pytest.param("and", marks=SLOW)])
def test_nothing_asks_for_labels_that_are_not_there(ucl: Runner, straight: dict[str, Path], tmp_path: Path, method: str) -> None:
    run = copied(straight[method], tmp_path / "run")
    before = tree(run)
    text = ucl("status", cwd=run, stdout="pipe").text.splitlines()
    assert text[0] == f"{method} on 24 images: epoch 6 of 6, done"
    assert len(text) == 8
    facts = ucl("status", "--json", cwd=run, stdout="pipe").json
    assert [m["generation"] for m in facts["metrics"]] == list(range(7))
    assert ucl("info", "model.h5", cwd=run, stdout="pipe").code == 0
    result = ucl("view", cwd=run, stdout="pipe")
    assert result.code == 0
    assert result.out == ucl("view", "images.h5", cwd=run, stdout="pipe").out
    assert len(result.text.splitlines()) == 25
    assert ucl("evaluate", "knn", "--json", cwd=run, stdout="pipe").code == 0
    assert ucl("validate", "--full", "model.h5", cwd=run).code == 0
    assert tree(run) == before


def test_the_table_at_the_end_names_what_is_there(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    for method, last in (("ir", "h5ls -r model.h5"), ("pcp", "h5ls -r labels.h5")):
        run = copied(straight[method], tmp_path / method, 5)
        result = ucl("run", cwd=run, stdout="pipe")
        assert result.code == 0
        assert result.text.splitlines()[-1].startswith("next: ucl status; ")
        assert result.text.splitlines()[-1].endswith(last)
        assert f"(log N = {np.log(24):.4f})" in result.text
        assert ("clusters" in result.text) is (method == "pcp")


def test_labels_are_refused_where_none_are_trained_on(ucl: Runner, straight: dict[str, Path], labels: Path, tmp_path: Path) -> None:
    run = copied(straight["ir"], tmp_path / "run", 1)
    before = tree(run)
    for given, said in (([labels], f"{labels}: the method ir trains without labels"), (["-"], "-: the method ir trains without labels"),
                        (["-o", tmp_path / "x.h5"], f"-o {tmp_path / 'x.h5'}: the method ir has no labels to write")):
        result = ucl("train-epoch", *given, cwd=run, stdin=labels.read_bytes() if given == ["-"] else None)
        assert (result.code, len(result.lines)) == (2, 2)
        assert result.lines[0] == f"ucl train-epoch: error: {said}"
        assert result.lines[1].startswith("  try: ")
    assert tree(run) == before
    assert not (tmp_path / "x.h5").exists()
    result = ucl("train-epoch", cwd=run, stdin=labels.read_bytes())                 # a pipe that nobody named may be the shell's own
    assert result.code == 0
    assert result.lines[0] == "ucl train-epoch: warning: standard input is not read: the method ir trains without labels"
    assert read(run / "model.h5").digest == read(straight["ir"] / "epochs/0002/model.h5").digest


# what is refused

def test_a_memory_of_other_images(ucl: Runner, straight: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    (photos / "ant/0.png").unlink()
    result = ucl("train-epoch", "--objective", "instance", "--images", photos, "--model", straight["ir"] / "model.h5", "-o", "x.h5", cwd=tmp_path)
    assert (result.code, len(result.lines)) == (65, 2), result.err
    assert result.lines[0] == "ucl train-epoch: error: checkpoint: /memory/bank: shape (24, 16), expected (23, 16): images x dimensions"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_settings_that_say_nothing(ucl: Runner, photos: Path, labels: Path, small: Path, tmp_path: Path) -> None:
    """Views of extraction that draws none, a layer that is not there, tables of other methods, settings of the other objective."""
    before = tree(tmp_path)
    outside = ["extract", photos, "--backbone", "convnet", "--size", 16, "-o", "x.h5"]
    inside = ["train-epoch", "--objective", "instance", "--images", small / "images.h5", "--model", small / "model.h5", "-o", "x.h5"]
    for given, said in (
            ([*outside, "--flip", 0.2], "flip: is of random views, and views is fixed"),
            ([*outside, "--layer", "projection"], "layer: this checkpoint has no projection"),
            ([*inside, "--head", "kept"], "head: is of the classifier, and the objective is instance"),
            ([*inside, "--neighbors", 2], "neighbors: needs anchors, and there are none"),
            ([*inside, "--spread", 1, "--sampled", 5], "sampled: is of the memory, which has no share in the loss while spread is 1"),
            ([*inside, "--anchors", 0.5, "--neighbors", 24], "neighbors: found 24, wanted fewer than the 24 images that can be used"),
            ([*inside, "--nesterov", "--momentum", 0], "nesterov: needs momentum, found 0"),
            (["train-epoch", labels, *inside[3:], "--tau", 0.2], "tau: is of the instance or contrast objective, and the objective is classify"),
            (["init", "deepcluster", photos, "-o", "new", "--set", "pcp.final_k=3"], "[pcp]: the method is deepcluster, which does not read it"),
            (["init", "pcp", photos, "-o", "new", "--set", "pcp.final=3"], "unknown setting 'final'"),
            (["init", "pcp", photos, "-o", "new", "--set", "pcp.vote_history=1"], "scores from 0.2 drop nobody"),
            (["init", "pcp", photos, "-o", "new", "--set", "pcp.views=fixed", "--set", "extract.flip=0"], "flip: is of random views"),
            (["init", "pcp", photos, "-o", "new", "--set", "init.projection=0", "--set", "extract.layer=projection"], "no")):
        result = ucl(*given, cwd=tmp_path)
        assert (result.code, len(result.lines)) == (2, 2), (given, result.err)
        assert said in result.lines[0], result.err
        assert result.lines[1].startswith("  try: ")
        assert tree(tmp_path) == before, given


def test_a_random_view_outside_a_run_directory(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    outside = ["extract", photos, "--backbone", "convnet", "--size", 16]
    for name, more in (("a", ["--views", "train", "--flip", 1]), ("b", ["--views", "train", "--flip", 1]),
                       ("c", ["--views", "train", "--flip", 1, "--seed", 1]), ("d", [])):
        assert ucl(*outside, *more, "-o", name, cwd=tmp_path).code == 0
    a, b, c, d = (read(tmp_path / name) for name in "abcd")
    assert a.digest == b.digest
    assert not np.allclose(a.features, c.features, atol=1e-3)
    assert json.loads(a.transform)["views"]["flip"] == 1
    assert "views" not in json.loads(d.transform)


# what the plan's extraction is

def test_evaluation_sees_whole_images_of_the_plans_layer(ucl: Runner, straight: dict[str, Path], tmp_path: Path) -> None:
    """Clusters are of random views; kNN is of the fixed ones, of the projection."""
    run = copied(straight["pcp"], tmp_path / "run", 5)
    for name, flags in (("fixed", ["--views", "fixed"]), ("plan", [])):
        assert ucl("extract", *flags, "-o", tmp_path / f"{name}.h5", cwd=run).code == 0
    fixed, plan = (read(tmp_path / f"{name}.h5") for name in ("fixed", "plan"))
    assert (fixed.layer, plan.layer, fixed.features.shape) == ("projection", "projection", (24, 16))
    assert "views" in json.loads(plan.transform)
    assert "views" not in json.loads(fixed.transform)
    assert not np.allclose(fixed.features, plan.features, atol=1e-3)
    outside = ["extract", run / "images.h5", "--model", run / "model.h5", "--layer", "projection", "--final-relu", "-o", tmp_path / "outside.h5"]
    assert ucl(*outside, cwd=tmp_path).code == 0
    assert np.allclose(read(tmp_path / "outside.h5").features, fixed.features, atol=1e-6)
    here, there = (ucl("evaluate", "knn", *file, "--json", cwd=run, stdout="pipe").json for file in ([], [tmp_path / "fixed.h5"]))
    assert here["metrics"] == there["metrics"]
    alone = copied(straight["ir"], tmp_path / "alone")                    # no step of its plan extracts
    assert ucl("evaluate", "knn", "-o", "knn.h5", cwd=alone).code == 0
    chain = [json.loads(entry) for entry in read(alone / "knn.h5").provenance]
    assert [(step["settings"]["layer"], step["settings"]["views"]) for step in chain if step["verb"] == "extract"] == [("projection", "fixed")]


def test_the_dry_run_tells_what_changes(ucl: Runner, straight: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    run = copied(straight["pcp"], tmp_path / "run", 0)
    text = ucl("run", "--dry-run", cwd=run, stdout="pipe").text
    assert "ucl extract" in text
    assert "--layer projection" in text
    said = next(line for line in text.splitlines() if line.startswith("# the plan's, from epoch to epoch: "))
    for part in ("cluster k 24 ... 3", "purify votes False ... True", "train-epoch lr 0.03 ... 0.0003"):
        assert part in said
    assert "-k" not in text.splitlines()[2].split()                       # so that the printed line is good for every epoch
    text = ucl("run", "and", photos, "-o", tmp_path / "new", "--epochs", 10, "-n", stdout="pipe").text
    assert "train-epoch anchors 0 ... 1" in text
    assert "# memory: " in text
