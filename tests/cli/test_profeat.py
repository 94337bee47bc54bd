"""profeat as a plan: two models in a generation, epochs cut in each kind of stage, and an ensemble whose models wait for each other."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.harness import Runner, environment, tree
from cli.test_instance import all_go_on, digests, plans, same
from cli.test_resume import cut
from cli.test_scan import copied, metrics
from ucl import read
from ucl.artifacts import replace
from ucl.rundir import RunDir
from ucl.store import save

SLOW = pytest.mark.slow
COMMON = ["--size", 16, "-j", 1, "--keep", "all"]
SETS = [word for setting in ("k=3", "iterations=2", "contrast_epochs=2", "scan_epochs=2", "self_epochs=1", "refine_epochs=2", "contrast_batch=8",
                             "scan_batch=8", "self_batch=8", "least_batch=2", "scan_lr=0.002", "self_threshold=0.3", "threshold=0.3")
        for word in ("--set", f"profeat.{setting}")]
PIPE: list[list[object]] = [["extract"], ["neighbors"], ["train-epoch"]]
TURNS: dict[int, list[list[object]]] = {2: PIPE, 5: [["purify"], ["train-epoch"]], 7: PIPE}
"""Lines of the shell loop that begin with more than training, by epochs done."""


@pytest.fixture(scope="session")
def begun(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("begun") / "profeat"
    made = ucl("init", "profeat", photos_made, "-o", run, *COMMON, *SETS)
    assert made.code == 0, made.err
    return run


@pytest.fixture(scope="session")
def straight(ucl: Runner, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After `ucl run` of all ten epochs; not to be changed."""
    run = copied(begun, tmp_path_factory.mktemp("straight") / "profeat")
    made = ucl("run", cwd=run)
    assert made.code == 0, made.err
    return run


def longer(run: Path) -> Path:
    """Many more batches in an epoch, to be cut in between."""
    config = run / "ucl.toml"
    config.write_text(config.read_text() + '\n[train-epoch]\nepoch_length = "8"\n')
    return run


KINDS = {0: "contrast", 1: "contrast", 2: "scan", 3: "scan", 4: "selflabel", 5: "refine", 6: "refine", 7: "scan", 9: "selflabel"}


@pytest.mark.parametrize(("epoch", "signum", "code"), [
    (2, signal.SIGKILL, 137), *(pytest.param(*case, marks=SLOW) for case in (
        (0, signal.SIGKILL, 137), (1, signal.SIGTERM, 143), (2, signal.SIGUSR2, 75), (3, signal.SIGKILL, 137), (3, signal.SIGTERM, 143),
        (4, signal.SIGKILL, 137), (4, signal.SIGUSR2, 75), (5, signal.SIGKILL, 137), (5, signal.SIGUSR2, 75), (5, signal.SIGTERM, 143),
        (6, signal.SIGKILL, 137), (7, signal.SIGKILL, 137), (7, signal.SIGTERM, 143), (9, signal.SIGUSR2, 75)))])
def test_cut_inside_an_epoch_it_is_the_undisturbed_one(ucl: Runner, straight: Path, tmp_path: Path, epoch: int, signum: int, code: int) -> None:
    """Gone on with by `run`, by `train-epoch` alone, by what `status --next` says, or by the whole line of the loop: every part and the metrics."""
    undisturbed = longer(copied(straight, tmp_path / "undisturbed", epoch))
    result = ucl("run", "--limit", 1, cwd=undisturbed)
    assert result.code == 0, result.err
    there = longer(copied(straight, tmp_path / "cut", epoch))
    assert ucl("status", "--midway", cwd=there).code == 1
    whole = ucl("status", "--next", cwd=there, stdout="pipe").text.strip()
    assert whole == " | ".join(f"ucl {words[0]}" for words in TURNS.get(epoch, [["train-epoch"]]))
    result = cut(ucl.start("run", "--limit", 1, "--checkpoint-every", "0.02", cwd=there), there / "work/train.partial", signum)
    assert result.code == code, result.err
    assert ucl("status", "--midway", cwd=there).code == 0
    done = ucl("status", "--json", cwd=there, stdout="pipe").json["unfinished"]["train-epoch"]
    assert (done["epoch"], done["of"]) == (epoch + 1, 24)
    assert (there / "work/train-labels.partial").exists() is (epoch in TURNS)          # else all is in the generation
    told = ucl("status", "--next", cwd=there, stdout="pipe").text.strip()
    assert told == "ucl train-epoch"
    ways: list[list[list[object]]] = [[["run", "--limit", 1, "-v"]], [["train-epoch", "-v"]]]
    if epoch in TURNS:
        ways.append([*TURNS[epoch][:-1], ["train-epoch", "-v"]])
    all_go_on(ucl, there, undisturbed, ways)


# what the generations keep

CONTRAST, SCAN, SELF, REFINE, AGAIN = (1, 2), (3, 4), (5,), (6, 7), (8, 9, 10)
"""Epochs of the stages; the last are of the second clustering step."""


def test_clustering_leaves_the_representation_as_it_is(straight: Path) -> None:
    """A-PFs-8: g and p are the very same file all through a clustering step; g', the classifier, is through a contrastive one."""
    def kinds(name: str, *epochs: int) -> int:
        return len({read(straight / f"epochs/{e:04d}/{name}.h5").digest for e in epochs})

    assert len({(straight / f"epochs/{e:04d}/model.h5").stat().st_ino for e in (2, *SCAN, *SELF)}) == 1
    assert kinds("model", 2, *SCAN, *SELF) == 1
    assert kinds("model", 5, *REFINE) == 3
    assert kinds("model", 7, *AGAIN) == 1
    assert kinds("classifier", 5, *REFINE) == 1
    assert kinds("classifier", *SCAN, *SELF, *AGAIN) == 6
    assert (kinds("neighbors", *SCAN, *SELF, *REFINE), kinds("neighbors", 7, *AGAIN)) == (1, 2)
    before, after = (read(straight / f"epochs/{e:04d}/model.h5").model for e in (5, 6))
    assert all(not np.array_equal(before[name], after[name]) for name in ("projection.0.weight", "projection.2.weight"))


def test_what_the_generations_keep(straight: Path) -> None:
    for epoch in range(11):
        found = {p.stem for p in straight.glob(f"epochs/{epoch:04d}/*.h5")}
        assert found == ({"model"} if epoch < 3 else {"model", "classifier", "labels", "neighbors"})
    labels = read(straight / "epochs/0005/labels.h5")
    assert labels.probs.shape == (24, 3)
    assert np.array_equal(labels.labels, labels.probs.argmax(axis=1))
    assert np.array_equal(labels.score, labels.probs.max(axis=1))
    purified = read(straight / "epochs/0006/labels.h5")
    assert np.array_equal(purified.labels, np.where(labels.score > 0.3, labels.labels, -1))
    assert (straight / "epochs/0006/labels.h5").stat().st_ino == (straight / "epochs/0007/labels.h5").stat().st_ino


def test_the_best_epoch_of_a_stage_goes_on(straight: Path) -> None:
    """Of a lower score before the last epoch the weights go on; nothing of it is kept beside them."""
    last = metrics(straight, SCAN[-1])
    assert last["best_score"] == last["score"] <= metrics(straight, SCAN[0])["score"]  # type: ignore[operator]
    assert last["best_epoch"] in SCAN
    ended = read(straight / f"epochs/{SCAN[-1]:04d}/classifier.h5")
    assert not [name for name in ended.memory if name.startswith("best/")]
    noted = read(straight / f"epochs/{SCAN[0]:04d}/classifier.h5")
    assert np.array_equal(noted.memory["best/head.weight"], noted.model["head.weight"])  # the first is the best so far


def test_the_commands_say_what_training_hands_on(ucl: Runner, straight: Path, tmp_path: Path) -> None:
    """Labels of a clustering step are those of `cluster --method argmax` on the fixed views."""
    classifier = straight / "epochs/0010/classifier.h5"
    assert ucl("extract", straight / "images.h5", "--model", classifier, "--final-relu", "-o", tmp_path / "f.h5", "-j", 1).code == 0
    assert ucl("cluster", tmp_path / "f.h5", "--method", "argmax", "--model", classifier, "--probs", "-o", tmp_path / "l.h5", "-j", 1).code == 0
    found, wanted = read(tmp_path / "l.h5"), read(straight / "epochs/0010/labels.h5")
    assert np.array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.probs, wanted.probs, atol=1e-5)


@SLOW
def test_shuffled_truth_changes_nothing(tmp_path: Path) -> None:
    """The digits' classes in another order: every file of every generation is the same."""
    program = """
import numpy, os, sklearn.datasets
load = sklearn.datasets.load_digits
def shuffled(**options):
    found = load(**options)
    found.target = numpy.random.default_rng(0).permutation(found.target)
    return found
assert (shuffled().target != load().target).mean() > 0.8
if "SHUFFLED" in os.environ:
    sklearn.datasets.load_digits = shuffled
from ucl.cli import main
main()
"""
    short = [word for setting in ("contrast_epochs=1", "scan_epochs=2", "self_epochs=1", "refine_epochs=1", "iterations=2", "threshold=0.3",
                                  "self_threshold=0.3") for word in ("--set", f"profeat.{setting}")]
    for name, more in (("true", {}), ("shuffled", {"SHUFFLED": "1"})):
        words = ["run", "profeat", "digits", "-o", str(tmp_path / name), "--keep", "all", "--threads", "1", *short]
        done = subprocess.run([sys.executable, "-c", program, *words], env=environment(**more), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(digests(tmp_path / "true")) > 20
    same(tmp_path / "true", tmp_path / "shuffled")
    assert read(tmp_path / "true/images.h5").digest == read(tmp_path / "shuffled/images.h5").digest


@pytest.mark.parametrize("epoch", [pytest.param(3, marks=SLOW), 6])
def test_a_part_that_is_gone_is_told(ucl: Runner, straight: Path, tmp_path: Path, epoch: int) -> None:
    """Of the parts that a later epoch of a stage goes on from, none is made again, and none left out in silence."""
    for number, name in enumerate(("classifier", "neighbors") if epoch == 3 else ("labels",)):
        run = copied(straight, tmp_path / f"{number}", epoch)
        (run / f"epochs/{epoch:04d}/{name}.h5").unlink()
        before = tree(run)
        for command in ("run", "train-epoch", "status"):
            result = ucl(command, cwd=run)
            if command != "status":
                assert result.code == 66, result.err
                assert f"{epoch:04d}/{name}.h5: missing" in result.lines[0]
        assert tree(run) == before


def test_nothing_confident_leaves_the_representation(ucl: Runner, straight: Path, tmp_path: Path) -> None:
    """A-PFs-7: no image above the threshold: g and p go on as they are, the run goes on, and says so."""
    run = copied(straight, tmp_path / "run", 5)
    config = run / "ucl.toml"
    config.write_text(config.read_text().replace('\nthreshold = "0.3"', '\nthreshold = "1"'))
    result = ucl("run", "--limit", 3, cwd=run)
    assert result.code == 0, result.err
    assert result.err.count("no step was taken") == 2
    before = read(run / "epochs/0005/model.h5").weights_digest()
    assert [read(run / f"epochs/{e:04d}/model.h5").weights_digest() for e in (6, 7, 8)] == [before] * 3
    assert (metrics(run, 6)["kept"], metrics(run, 6)["steps"], metrics(run, 6)["skipped"]) == (0, 0, 3)
    assert np.all(read(run / "epochs/0006/labels.h5").labels == -1)


def test_what_is_shown_of_a_classifier(ucl: Runner, straight: Path, tmp_path: Path) -> None:
    run = copied(straight, tmp_path / "run")
    assert {p.name: str(p.readlink()) for p in run.glob("*.h5") if p.is_symlink()} == {
        f"{name}.h5": f"epochs/0010/{name}.h5" for name in ("model", "classifier", "labels", "neighbors")}
    told = ucl("info", "classifier.h5", cwd=run, stdout="pipe").text
    assert "/model/head.weight       3x256 float32" in told
    assert "/model/head" not in ucl("info", "model.h5", cwd=run, stdout="pipe").text
    result = ucl("export", "classifier.h5", "-o", "w.pt", cwd=run)
    assert result.code == 0, result.err
    assert (run / "w.pt").exists()
    assert ucl("view", "--cluster", 0, cwd=run, stdout="pipe").code == 0
    lines = ucl("status", cwd=run, stdout="pipe").text.splitlines()
    assert lines[0] == "profeat on 24 images: epoch 10 of 10, done"
    assert len(lines) == 12
    for epoch in (0, 2, 5, 10):
        assert ucl("run", "--dry-run", cwd=copied(straight, tmp_path / f"{epoch}", epoch)).code == 0


@SLOW
def test_pruning_is_of_all_parts(ucl: Runner, begun: Path, straight: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    config = run / "ucl.toml"
    config.write_text(config.read_text().replace('keep = "all"', 'keep = "2"'))
    assert ucl("run", cwd=run).code == 0
    for epoch in range(11):
        found = {p.stem for p in run.glob(f"epochs/{epoch:04d}/*.h5")}
        assert found == ({"model", "classifier", "labels", "neighbors"} if epoch > 8 else set())
    assert all(digests(straight)[name] == d for name, d in digests(run).items())


# a network that is given

@SLOW
def test_from_a_trained_network_without_a_contrastive_step(ucl: Runner, straight: Path, photos_made: Path, tmp_path: Path) -> None:
    words = ["init", "profeat", photos_made, *COMMON, *SETS, "--set", "profeat.contrast_epochs=0", "-o", "run"]
    assert "untrained network" in ucl(*words, cwd=tmp_path).err
    shutil.rmtree(tmp_path / "run")
    made = ucl(*words, "--from", straight / "epochs/0002/model.h5", cwd=tmp_path)
    assert made.code == 0, made.err
    assert "untrained" not in made.err
    run, given = tmp_path / "run", read(straight / "epochs/0002/model.h5")
    assert {k: v.tobytes() for k, v in read(run / "model.h5").model.items()} == {k: v.tobytes() for k, v in given.model.items()}
    result = ucl("run", "--limit", 1, cwd=run)
    assert result.code == 0, result.err
    assert np.array_equal(read(run / "neighbors.h5").neighbors, read(straight / "epochs/0003/neighbors.h5").neighbors)
    assert ucl("run", "--dry-run", cwd=run).code == 0


# an ensemble

@pytest.fixture(scope="session")
def members(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run directories that wait for each other after their first clustering; not to be changed."""
    folder = tmp_path_factory.mktemp("ensemble")
    sets = [w for w in SETS if "threshold=0.3" not in w or "self_" in w]
    sets = [w for i, w in enumerate(sets) if w != "--set" or (i + 1 < len(sets) and sets[i + 1] != "--set")]
    for seed in (1, 2):
        made = ucl("init", "profeat", photos_made, "-o", folder / f"m{seed}", "--seed", seed, *COMMON, *sets, "--set", "profeat.rule=agree",
                   "--set", "profeat.connections=1")
        assert made.code == 0, made.err
        result = ucl("run", cwd=folder / f"m{seed}")
        assert result.code == 66, result.err
        assert "work/agreed.h5: not there yet: epoch 6 trains on what the models of an ensemble agree on" in result.err
        assert "try: ucl purify --rule agree" in result.err
    return folder


def test_models_of_an_ensemble_wait_for_each_other(ucl: Runner, members: Path, tmp_path: Path) -> None:
    """Through work/ or as a file; the labels are told from stale and foreign ones; the same in either way, by the shell or by run."""
    folder = tmp_path / "all"
    shutil.copytree(members, folder, symlinks=True)
    one, two = folder / "m1", folder / "m2"
    before = tree(one)
    for command in ("run", "train-epoch"):
        assert ucl(command, cwd=one).code == 66
    assert ucl("status", "--next", cwd=one, stdout="pipe").text == "ucl train-epoch\n"
    assert ucl("run", "--dry-run", cwd=one).code == 0
    assert ucl("status", "--json", cwd=one, stdout="pipe").json["needs"] == "agreed"
    assert "epoch 6 waits for work/agreed.h5" in ucl("status", cwd=one, stdout="pipe").text
    assert tree(one) == before
    result = ucl("purify", "--rule", "agree", "m1/labels.h5", "m2/labels.h5", "-o", "agreed.h5", cwd=folder)
    assert result.code == 0, result.err
    assert ucl("purify", "m1/labels.h5", "m2/labels.h5", "-o", "planned.h5", cwd=folder).code == 0  # the rule is that of the first one's plan
    assert read(folder / "planned.h5").digest == read(folder / "agreed.h5").digest
    a, b = (read(folder / f"{m}/labels.h5").labels for m in ("m1", "m2"))
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    agreed = read(folder / "agreed.h5")
    alike = np.array([[p == q for q in pairs] for p in pairs])
    wanted = alike & (alike.sum(1) > 1)[:, None]
    assert np.array_equal((agreed.labels[:, None] == agreed.labels) & (agreed.labels[:, None] >= 0), wanted)

    own = [shutil.copytree(one, folder / name, symlinks=True) for name in ("file", "work", "pipe")]
    assert ucl("train-epoch", folder / "agreed.h5", cwd=own[0]).code == 0
    shutil.copy(folder / "agreed.h5", own[1] / "work/agreed.h5")
    assert ucl("run", "--limit", 1, cwd=own[1]).code == 0
    assert ucl("train-epoch", "-", stdin=folder / "agreed.h5", cwd=own[2]).code == 0
    for other in own[1:]:
        same(own[0], other)
    assert not (own[1] / "work/agreed.h5").exists()         # else the next contrastive step would not wait, but refuse
    assert np.array_equal(read(own[0] / "labels.h5").labels, agreed.labels)
    assert np.array_equal(read(own[0] / "labels.h5").pred, agreed.pred)

    past = replace(agreed, history_epoch=np.array([read(two / "labels.h5").context.epoch - 1], np.int32))
    with (folder / "past.h5").open("wb") as out:  # as it stays where a job was killed between the commit and its removal
        save(past, out)
    run = shutil.copytree(two, folder / "past", symlinks=True)
    shutil.copy(folder / "past.h5", run / "work/agreed.h5")
    result = ucl("run", cwd=run)
    assert result.code == 66
    assert "agreed labels: of an earlier iteration: epoch 6 trains on" in result.err

    alone = read(folder / "m1/labels.h5")
    turned = replace(agreed, pred=(agreed.pred + 1) % 3)
    with (folder / "turned.h5").open("wb") as out:
        save(turned, out)
    for stale in ("turned.h5", "m1/labels.h5"):
        run = shutil.copytree(two, folder / f"stale-{Path(stale).parent.name}", symlinks=True)
        state = tree(run)
        result = ucl("train-epoch", folder / stale, cwd=run)
        assert result.code == 65, result.err
        assert result.lines[0].startswith("ucl train-epoch: error: agreed labels: ")
        assert tree(run) == state
        shutil.copy(folder / stale, run / "work/agreed.h5")
        for command in ("run", "train-epoch"):
            assert ucl(command, cwd=run).code == 65
        assert digests(run) == digests(two)
    assert alone.pred is None


@SLOW
def test_an_ensemble_to_its_end(ucl: Runner, members: Path, tmp_path: Path) -> None:
    """Agreed labels are those of all epochs of the contrastive step; then each clusters on its own; what was agreed before is not asked again."""
    folder = tmp_path / "all"
    shutil.copytree(members, folder, symlinks=True)
    assert ucl("purify", "--rule", "agree", "m1/labels.h5", "m2/labels.h5", "-o", "agreed.h5", cwd=folder).code == 0
    for name in ("m1", "m2"):
        shutil.copy(folder / "agreed.h5", folder / name / "work/agreed.h5")
        result = ucl("run", cwd=folder / name)
        assert result.code == 0, result.err
        run = folder / name
        kept = [read(run / f"epochs/{e:04d}/labels.h5") for e in (6, 7)]
        assert kept[0].digest == kept[1].digest
        assert np.array_equal(kept[0].labels, read(folder / "agreed.h5").labels)
        assert metrics(run, 6)["connections"] >= 1
        last = read(run / "labels.h5")
        assert (last.k, last.pred) == (3, None)
        assert last.labels.min() >= 0
        assert read(run / "epochs/0006/model.h5").weights_digest() != read(run / "epochs/0005/model.h5").weights_digest()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, 137), (signal.SIGUSR2, 75)])
@SLOW
def test_a_cut_epoch_of_an_ensemble_goes_on(ucl: Runner, members: Path, tmp_path: Path, signum: int, code: int) -> None:
    """Its labels were named, and are kept: neither the file nor work/ is needed again."""
    folder = tmp_path / "all"
    shutil.copytree(members, folder, symlinks=True)
    run = longer(folder / "m1")
    assert ucl("purify", "--rule", "agree", "m1/labels.h5", "m2/labels.h5", "-o", "agreed.h5", cwd=folder).code == 0
    undisturbed = shutil.copytree(run, folder / "undisturbed", symlinks=True)
    assert ucl("train-epoch", folder / "agreed.h5", cwd=undisturbed).code == 0
    result = cut(ucl.start("train-epoch", folder / "agreed.h5", "--checkpoint-every", "0.02", cwd=run), run / "work/train.partial", signum)
    assert result.code == code, result.err
    for number, command in enumerate((["train-epoch", "-v"], ["run", "--limit", 1, "-v"], ["train-epoch", folder / "agreed.h5", "-v"])):
        there = shutil.copytree(run, folder / f"{number}", symlinks=True)
        result = ucl(*command, cwd=there)
        assert result.code == 0, result.err
        assert "going on after" in result.err
        same(there, undisturbed)


@SLOW
def test_three_iterations_of_an_ensemble(ucl: Runner, members: Path, tmp_path: Path) -> None:
    """What was agreed on before is over: the next contrastive step waits again, as it did before the first."""
    folder = tmp_path / "all"
    shutil.copytree(members, folder, symlinks=True)
    for name in ("m1", "m2"):
        config = folder / name / "ucl.toml"
        config.write_text(config.read_text().replace('iterations = "2"', 'iterations = "3"'))
    for done in (5, 10):
        assert ucl("purify", "--rule", "agree", "m1/labels.h5", "m2/labels.h5", "-o", "agreed.h5", "-f", cwd=folder).code == 0
        for name in ("m1", "m2"):
            shutil.copy(folder / "agreed.h5", folder / name / "work/agreed.h5")
            result = ucl("run", cwd=folder / name)
            assert (result.code, read(folder / name / "model.h5").context.epoch) == ((66, 6) if done == 5 else (0, 11)), result.err
            assert ucl("status", cwd=folder / name, stdout="pipe").text.splitlines()[0].endswith(
                "epoch 10 of 15" if done == 5 else "epoch 15 of 15, done")


@SLOW
def test_clustering_of_the_network_itself(ucl: Runner, photos_made: Path, tmp_path: Path) -> None:
    """A-PFs-9, the ablation without g': clustering changes g, and there is no other model."""
    made = ucl("init", "profeat", photos_made, "-o", tmp_path / "run", *COMMON, *SETS, "--set", "profeat.apart=false")
    assert made.code == 0, made.err
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "shell", symlinks=True)
    result = ucl("run", cwd=run)
    assert result.code == 0, result.err
    weights = [read(run / f"epochs/{e:04d}/model.h5").model["backbone.trunk.0.weight"].tobytes() for e in range(11)]
    assert len(set(weights)) >= 10                          # the best epoch of a stage may be the one before the last
    assert not list(run.glob("epochs/*/classifier.h5"))
    heads = [e for e in range(11) if "head.weight" in read(run / f"epochs/{e:04d}/model.h5").model]
    assert heads == [3, 4, 5, 8, 9, 10]
    assert all("projection.0.weight" in read(run / f"epochs/{e:04d}/model.h5").model for e in range(11))
    for epoch in range(10):
        for words in TURNS.get(epoch, [["train-epoch"]]):
            assert ucl(*words, cwd=tmp_path / "shell").code == 0
    same(tmp_path / "shell", run)
    for epoch in (1, 6):
        told = ucl("info", run / f"epochs/{epoch:04d}/model.h5", "--json", stdout="pipe").text
        assert "head" not in told


@SLOW
@pytest.mark.parametrize("more", [["scan_trains=head"], ["features=last"], ["select=last"], ["select=held-out", "held_out=0.3"], ["own=false"],
                                  ["refine_schedule=whole"], ["positives=sum"], ["self_epochs=0"], ["anchors=first"]], ids=lambda v: v[0])
def test_every_other_reading_walks_to_its_end(ucl: Runner, photos_made: Path, tmp_path: Path, more: list[str]) -> None:
    """Shell and run are one; the dry run's TOML is the same plan."""
    sets = [w for i, w in enumerate(SETS) if not ("self_epochs=0" in more and ("self_" in w or "self_" in SETS[min(i + 1, len(SETS) - 1)]))]
    words = ["profeat", photos_made, *COMMON, *sets, *[w for setting in more for w in ("--set", f"profeat.{setting}")]]
    made = ucl("init", *words, "-o", "run", cwd=tmp_path)
    assert made.code == 0, made.err
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "shell", symlinks=True)
    shutil.copytree(run, tmp_path / "toml", symlinks=True)
    text = ucl("run", *words, "-o", "new", "--dry-run", "--toml", cwd=tmp_path, stdout="pipe")
    assert text.code == 0, text.err
    counted = text.text.replace("usable = 0", "usable = 24")
    (tmp_path / "toml/ucl.toml").write_text(counted)
    assert plans(RunDir(tmp_path / "toml").context()) == plans(RunDir(run).context())
    result = ucl("run", cwd=run)
    assert result.code == 0, result.err
    while ucl("status", "--done", cwd=tmp_path / "shell").code:
        line = ucl("status", "--next", cwd=tmp_path / "shell", stdout="pipe").text.strip()
        results = ucl.pipe(*[part.split()[1:] for part in line.split(" | ")], cwd=tmp_path / "shell")
        assert [r.code for r in results] == [0] * len(results), [r.err for r in results]
    same(tmp_path / "shell", run)
