"""The example scripts do what their headers say, and other programs read what ucl writes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli.harness import Runner
from test_parity import ENV, QUARTER, digests, make, pipe, ucl

from ucl import read

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
COMMANDS: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def forked(ucl: Runner, tmp_path_factory: pytest.TempPathFactory) -> None:
    """ucl in the scripts is forked from a process that has loaded the packages: scripts call it hundreds of times."""
    COMMANDS[:] = [ucl.on_path(tmp_path_factory.mktemp("ucl"))]


def bash(line: str, cwd: Path, *, real: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; real: by the installed ucl."""
    path = PATH if real else ":".join([*COMMANDS, PATH])
    return subprocess.run(["bash", "-c", line], cwd=cwd, env={**ENV, "PATH": path, **env}, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)


def classes(folder: Path, **parts: int) -> None:
    """Folders such as train/class0 with so many small JPEG files each, darker and lighter ones."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, n in parts.items():
        for c in range(3):
            (folder / part / f"class{c}").mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(c * 60, c * 60 + 100, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / f"class{c}" / f"{i:04d}.jpg")


def release(folder: Path) -> Path:
    """A small release of CIFAR-10: 200 training and 40 test images."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        truth = np.arange(40, dtype=np.uint8) % 10
        pixels = (truth[:, None] * 20 + rng.integers(0, 60, (40, 3072))).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([truth[:, None], pixels], 1).tobytes())
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n")
    return folder


def birds(folder: Path) -> Path:
    """A small CUB-200-2011: three classes, a split file of its own."""
    classes(folder, images=12)
    paths = sorted(str(path.relative_to(folder / "images")) for path in (folder / "images").rglob("*.jpg"))
    for name, values in (("images", paths), ("train_test_split", [int(i % 4 > 0) for i in range(36)]),
                         ("image_class_labels", [int(path[5]) + 1 for path in paths]), ("classes", [f"class{c}" for c in range(3)])):
        (folder / f"{name}.txt").write_text("".join(f"{i + 1} {value}\n" for i, value in enumerate(values)))
    return folder


def test_the_loop(tmp_path: Path) -> None:
    """examples/deepcluster.sh, killed by nothing, equals `ucl run`; started again it finds nothing to do."""
    env = {"OUT": str(tmp_path / "loop"), "INIT": "--epochs 2 --keep all -j 1"}
    done = bash(str(EXAMPLES / "deepcluster.sh"), tmp_path, real=True, **env)
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 2, done" in done.stdout
    assert "knn_top1" in done.stdout
    straight = make(tmp_path / "straight", epochs=2)
    ucl("run", cwd=straight)
    assert digests(tmp_path / "loop") == digests(straight)
    again = bash(str(EXAMPLES / "deepcluster.sh"), tmp_path, **env)
    assert again.returncode == 0, again.stderr


def test_a_stage_of_ones_own(tmp_path: Path) -> None:
    run = make(tmp_path / "run", epochs=2)
    assert pipe(f"ucl extract | {sys.executable} {EXAMPLES / 'my_cluster.py'} | ucl train-epoch", run, commands=COMMANDS[0]) == 0
    with h5py.File(run / "epochs" / "0001" / "labels.h5") as f:
        labels, paths = f["labels"][:], f["samples/path"].asstr()[:]
    assert len(np.unique(labels)) == 50
    assert paths[0] == "digits/0000.png"
    ucl("run", cwd=run)  # and the plan goes on from there
    assert (run / "epochs" / "0002").exists()


def test_tee_and_foreign_readers(tmp_path: Path) -> None:
    run = make(tmp_path / "run", epochs=1)
    assert pipe("ucl extract | tee f.h5 | ucl cluster -k 50 > l.h5", run, commands=COMMANDS[0]) == 0
    with h5py.File(run / "f.h5") as f, h5py.File(run / "l.h5") as g:
        x, labels, centroid = f["features"][:], g["labels"][:], g["clusters/centroid"][:]
        z = (x.astype(np.float64) - g["pca/mean"][:]) @ g["pca/components"][:]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    distance = ((z[:, None] - centroid[None]) ** 2).sum(2)
    assert (distance.argmin(1) == labels).mean() > 0.999
    for tool in (["h5ls", "-r"], ["h5dump", "-H"]):
        if shutil.which(tool[0]) is None:
            pytest.skip(f"{tool[0]} is not installed")
        for name, dataset in (("f.h5", "features"), ("l.h5", "labels")):
            done = subprocess.run([*tool, name], cwd=run, capture_output=True, text=True, check=True)
            assert dataset in done.stdout
            assert not done.stderr
    assert ucl("validate", "--full", "f.h5", "l.h5", cwd=run).splitlines() == ["f.h5: ok", "l.h5: ok"]


def test_the_small_cifar_experiment_on_toy_data(tmp_path: Path) -> None:
    classes(tmp_path / "cifar", train=40, test=10)
    done = bash(str(EXAMPLES / "cifar10-small.sh"), tmp_path, CIFAR=str(tmp_path / "cifar"), OUT=str(tmp_path / "out"), EPOCHS="1", SEEDS="0",
                PER_CLASS="40", SETTINGS="--set cluster.k=4 --set cluster.pca=8", JOBS="1", METHODS="deepcluster")
    assert done.returncode == 0, done.stderr
    assert "| deepcluster | 0 |" in done.stdout


def test_cifar10(tmp_path: Path) -> None:
    """examples/cifar10.sh on a small release of its own; started again it only measures."""
    folder = release(tmp_path / "cifar-10-batches-bin")
    env = {"CIFAR": str(folder), "OUT": str(tmp_path / "run"), "BACKBONE": "convnet", "EPOCHS": "1", "SETTINGS": "--set cluster.k=8 -j 1"}
    for _ in range(2):
        done = bash(str(EXAMPLES / "cifar10.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        assert "knn_top1" in done.stdout
        assert "linear_top1" in done.stdout
        assert "nmi_arithmetic" in done.stdout


def test_imagenet(tmp_path: Path) -> None:
    """examples/imagenet-deepcluster.sh, every line of it, on something small."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("n01440764", "n01443537"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (40 + i, 60 - i, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{i}.JPEG", format="JPEG")
    env = {"IMAGENET": str(tmp_path / "train"), "OUT": str(tmp_path / "run"), "BACKBONE": "alexnet-32", "EPOCHS": "1",
           "SETTINGS": "--set cluster.k=3 --set cluster.pca=4 -j 1 --set evaluate-linear.folds=2"}
    done = bash(str(EXAMPLES / "imagenet-deepcluster.sh"), tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("linear_top1") == 3


def test_the_loop_of_pcp(tmp_path: Path) -> None:
    """examples/pcp.sh on digits equals `ucl run`; started again it only measures; photos of one's own with a test set, and without classes."""
    env = {"OUT": str(tmp_path / "loop"), "INIT": " ".join(["--epochs 3 --keep all -j 1", *QUARTER])}
    for _ in range(2):
        done = bash(str(EXAMPLES / "pcp.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        for wanted in ("epoch 3 of 3, done", "knn_top1", "purity_raw", "purity_kept"):
            assert wanted in done.stdout
    straight = make(tmp_path / "straight", *QUARTER, epochs=3, method="pcp")
    ucl("run", cwd=straight)
    assert digests(tmp_path / "loop") == digests(straight)

    classes(tmp_path / "my photos", train=20, test=6)
    env = {"IMAGES": "my photos/train", "TEST": "my photos/test", "OUT": str(tmp_path / "photos"), "NEIGHBORS": "3",
           "INIT": "--epochs 2 --set pcp.final_k=3 -j 1"}
    done = bash(str(EXAMPLES / "pcp.sh"), tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("knn_top1") == 2
    for i, path in enumerate(sorted((tmp_path / "my photos" / "train").rglob("*.jpg"))):
        (tmp_path / "flat").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "flat" / f"{i}.jpg")
    done = bash(str(EXAMPLES / "pcp.sh"), tmp_path, **{**env, "IMAGES": "flat", "TEST": "", "OUT": str(tmp_path / "bare")})
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 2, done" in done.stdout
    assert "knn_top1" not in done.stdout
    assert "class" in done.stderr


def moving(method: str, tmp_path: Path) -> None:
    """The loop of a method whose labels move on digits equals `ucl run`; started again it only measures; photos without classes."""
    env = {"OUT": str(tmp_path / "loop"), "INIT": " ".join(["--epochs 3 --keep all -j 1", *QUARTER])}
    for _ in range(2):
        done = bash(str(EXAMPLES / f"{method}.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        for wanted in ("epoch 3 of 3, done", "knn_top1", "purity"):
            assert wanted in done.stdout
    straight = make(tmp_path / "straight", *QUARTER, epochs=3, method=method)
    ucl("run", cwd=straight)
    assert digests(tmp_path / "loop") == digests(straight)

    classes(tmp_path / "photos", train=10, test=4)
    (tmp_path / "flat").mkdir()
    for i, path in enumerate(sorted((tmp_path / "photos" / "train").rglob("*.jpg"))):
        shutil.copy(path, tmp_path / "flat" / f"{i}.jpg")
    settings = {"odc": "--set cluster.k=3", "uic": "--set uic.k=3"}[method]
    for images, test, measured in (("photos/train", "photos/test", 2), ("flat", "", 0)):
        env = {"IMAGES": images, "TEST": test, "OUT": str(tmp_path / f"of-{measured}"), "NEIGHBORS": "3", "INIT": f"--epochs 2 {settings} -j 1"}
        done = bash(str(EXAMPLES / f"{method}.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        assert "epoch 2 of 2, done" in done.stdout
        assert done.stdout.count("knn_top1") == measured


def test_the_loop_of_odc(tmp_path: Path) -> None:
    moving("odc", tmp_path)


def test_the_loop_of_uic(tmp_path: Path) -> None:
    moving("uic", tmp_path)


STAGES = {"contrast": 1, "scan": 2, "self": 1, "refine": 2}
TINY = "-j 1 --keep all --set profeat.scan_lr=0.003 --set profeat.threshold=0.5 --set profeat.self_threshold=0.3"


def tiny(iterations: int, **stages: int) -> list[str]:
    """Words of `ucl init profeat` for stages of an epoch or two."""
    lengths = [word for name, epochs in (STAGES | stages).items() for word in ("--set", f"profeat.{name}_epochs={epochs}")]
    return [*lengths, "--set", f"profeat.iterations={iterations}", *TINY.split()]


def test_the_loop_of_profeat(tmp_path: Path) -> None:
    """examples/profeat.sh on digits equals `ucl run`, also where that has gone a part of the way; started again it only measures; photos with a
    test set, and without classes."""
    env = {"OUT": str(tmp_path / "loop"), "INIT": TINY, "ITERATIONS": "2", **{name.upper(): str(epochs) for name, epochs in STAGES.items()}}
    straight = tmp_path / "straight"
    ucl("init", "profeat", "digits", "-o", str(straight), *tiny(2), cwd=tmp_path)
    shutil.copytree(straight, tmp_path / "loop")
    ucl("run", "--limit", "4", cwd=tmp_path / "loop")  # as far as the end of the first iteration, which the loop then measures
    for _ in range(2):
        done = bash(str(EXAMPLES / "profeat.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        for wanted in ("epoch 9 of 9, done", "iteration 2: clusters against the classes", "acc_one_to_one"):
            assert wanted in done.stdout
        assert (tmp_path / "loop" / "iteration-1.json").exists()
    ucl("run", cwd=straight)
    assert digests(tmp_path / "loop") == digests(straight)

    classes(tmp_path / "photos", train=12, test=4)
    (tmp_path / "flat").mkdir()
    for i, path in enumerate(sorted((tmp_path / "photos" / "train").rglob("*.jpg"))):
        shutil.copy(path, tmp_path / "flat" / f"{i}.jpg")
    for images, measured in (("photos/train", 2), ("flat", 0)):
        more = {"IMAGES": images, "TEST": "photos/test" if measured else "", "OUT": str(tmp_path / f"of-{measured}"), "K": "3", "ITERATIONS": "1",
                "INIT": TINY.replace(" --set profeat.threshold=0.5", "")}  # of later iterations alone
        done = bash(str(EXAMPLES / "profeat.sh"), tmp_path, **{**env, **more})
        assert done.returncode == 0, done.stderr
        assert "epoch 4 of 4, done" in done.stdout
        assert done.stdout.count("acc_one_to_one") == measured


def test_the_loop_of_scan(tmp_path: Path) -> None:
    """examples/scan.sh equals two `ucl run`, the second from the model of the first; started again it only measures."""
    before, stages = ["--epochs", "1", "-j", "1"], ["--set", "scan.scan_epochs=2", "--set", "scan.self_epochs=1", "--keep", "all", "-j", "1"]
    env = {"OUT": str(tmp_path / "loop"), "BEFORE": " ".join(before), "INIT": " ".join(stages)}
    for _ in range(2):
        done = bash(str(EXAMPLES / "scan.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        for wanted in ("epoch 3 of 3, done", "acc_one_to_one"):
            assert wanted in done.stdout
    ucl("run", "simclr", "digits", "-o", "before", *before, cwd=tmp_path)
    ucl("run", "scan", "digits", "-o", "scan", "--from", "before/model.h5", *stages, cwd=tmp_path)
    assert digests(tmp_path / "loop" / "scan") == digests(tmp_path / "scan")


def test_the_loop_of_an_ensemble(tmp_path: Path) -> None:
    """examples/profeat-ensemble.sh: members wait for each other, are told what they agree on, and one of them is chosen without classes; a
    member by itself does the same; started again it only measures."""
    script = str(EXAMPLES / "profeat-ensemble.sh")
    words = " ".join([*tiny(3, scan=1, self=0, refine=1), "--set", "profeat.connections=1"])
    words = words.replace("--set profeat.threshold=0.5 --set profeat.self_threshold=0.3", "")  # of no meaning here
    env = {"OUT": str(tmp_path / "out"), "MEMBERS": "1 2", "INIT": words}
    for number in (1, 2):  # as an array job would
        done = bash(f"{script} member {number}", tmp_path, **env)
        assert done.returncode == 0, done.stderr
        assert "work/agreed.h5" in done.stderr
    assert bash(f"{script} agree", tmp_path, **env).returncode == 0
    assert bash(f"{script} member 1", tmp_path, **env).returncode == 0
    apart = bash(f"{script} agree", tmp_path, **env)
    assert apart.returncode == 65
    assert "at epochs 2,4" in apart.stderr
    for _ in range(2):
        done = bash(script, tmp_path, **env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("acc_one_to_one") == 2
    scores = {number: json.loads((tmp_path / "out" / f"m{number}" / "epochs" / "0006" / "metrics.json").read_text())["score"] for number in (1, 2)}
    assert done.stdout.splitlines()[-1] == f"lowest score without labels: {tmp_path / 'out'}/m{min(scores, key=lambda n: scores[n])}"
    assert {path.name for path in (tmp_path / "out").glob("*.h5")} == {"agreed-2.h5", "agreed-4.h5"}
    for number, epoch in itertools.product((1, 2), (2, 4, 6)):
        rows = json.loads((tmp_path / "out" / f"m{number}" / f"clusters-{epoch}.json").read_text())
        assert "acc_one_to_one" in json.dumps(rows)

    ucl("init", "profeat", "digits", "-o", "alone", "--seed", "2", "--set", "profeat.rule=agree", *env["INIT"].split(), cwd=tmp_path)
    for file in ("agreed-2.h5", "agreed-4.h5", ""):  # the same by ucl run
        code = subprocess.run([sys.executable, "-m", "ucl", "run"], cwd=tmp_path / "alone", env=ENV, stdin=subprocess.DEVNULL,
                              capture_output=True, check=False).returncode
        assert code == (66 if file else 0)
        if file:
            shutil.copy(tmp_path / "out" / file, tmp_path / "alone" / "work" / "agreed.h5")
    assert digests(tmp_path / "alone") == digests(tmp_path / "out" / "m2")


def test_fine_tuning(tmp_path: Path) -> None:
    """examples/odc-finetune.sh, from a run that it makes and from a file; started again it only compares."""
    env = {"OUT": str(tmp_path / "out"), "INIT": "--epochs 2 -j 1"}
    first, again = (bash(str(EXAMPLES / "odc-finetune.sh"), tmp_path, **env) for _ in range(2))
    for done in (first, again):
        assert done.returncode == 0, done.stderr
        assert "b_minus_a" in done.stdout
    assert "knn_top1 " in first.stdout
    assert len(list((tmp_path / "out" / "odc" / "epochs").iterdir())) == 3
    env |= {"OUT": str(tmp_path / "file"), "FROM": str(tmp_path / "out" / "before" / "model.h5")}
    done = bash(str(EXAMPLES / "odc-finetune.sh"), tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "file" / "before").exists()
    for name in ("before.h5", "after.h5"):
        a, b = (ucl("digest", name, cwd=tmp_path / folder / "odc") for folder in ("out", "file"))
        assert a == b


@pytest.mark.parametrize(("script", "rows", "rounds", "env"), [
    ("cifar10", ["scan", "b", "e"], {"scan": [1], "b": [1, 2], "e": [1, 2]}, {}),
    ("cifar20", ["self"], {"self": [1]}, {"VARIANT": "released"}),
    ("stl10", ["s"], {"s": [1, 2]}, {"BACKBONE": "convnet", "SIZE": "32", "SELF": "0"}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_reproduction_of_profeat(script: str, rows: list[str], rounds: dict[str, list[int]], env: dict[str, str], tmp_path: Path) -> None:
    """The scripts of ProFeat on something small: a line for each row and iteration; again, nothing but the table."""
    classes(tmp_path / "data", train=30, test=6, unlabeled=10)
    env = {"CIFAR": "data", "STL": "data", "BACKBONE": "convnet", "K": "3", "CONTRAST": "1", "CLUSTER": "1", "CLUSTER_BATCH": "16", "SELF": "1",
           "SELF_LABEL": "1", "REFINE": "1", "ITERATIONS": "2", "TOGETHER": "2", "MEMBERS": "2", "CONNECTIONS": "1", "THRESHOLD": "0.4",
           "SETTINGS": "-j 1 -q", "ROWS": " ".join(rows), "OUT": str(tmp_path / "out"), **env}
    path = str(EXAMPLES / "reproduce" / f"profeat-{script}.sh")
    done = bash(path, tmp_path, **env)
    assert done.returncode == 0, done.stderr
    found = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [cells[:3] for cells in found] == [(row, "0", str(number)) for row in rows for number in rounds[row]]
    assert all(re.match(r"[\d.]+", cell) for cells in found for cell in cells[3:])
    if script == "stl10":  # A-PFs-11: SimCLR sees the unlabelled images, everything after it the training images alone
        before, after = ({path.split(b"/")[0] for path in read(tmp_path / "out" / run / "images.h5").samples.path.tolist()}
                         for run in ("simclr-0", "s-0"))
        assert (before, b"unlabeled" in after) == ({b"train", b"unlabeled"}, False)
        assert len(read(tmp_path / "out/s-0/images.h5").samples.path) == 90
    if script == "cifar10":
        assert (tmp_path / "out" / "e-0" / "agreed-2.h5").exists()
        again = bash(path, tmp_path, **env)
        assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
        refused = bash(path, tmp_path, **{**env, "CLUSTER_BATCH": "8"})
        assert refused.returncode == 2, refused.stderr


def test_a_signal_to_all_of_a_job_ends_a_script_in_75(tmp_path: Path) -> None:
    """As Slurm sends it, to every process of the step: what trains keeps its epoch, the shells wait for it, and the same line goes on."""
    classes(tmp_path / "data", train=30, test=6)
    env = {**ENV, "PATH": PATH, "CIFAR": "data", "BACKBONE": "convnet", "K": "3", "CONTRAST": "2", "CLUSTER": "1",
           "CLUSTER_BATCH": "16", "SELF": "1", "SELF_LABEL": "1", "REFINE": "1", "TOGETHER": "2", "MEMBERS": "2", "CONNECTIONS": "1", "ROWS": "e",
           "SETTINGS": "-j 1 -q --set train-epoch.epoch_length=20", "OUT": str(tmp_path / "out")}
    words = ["bash", str(EXAMPLES / "reproduce" / "profeat-cifar10.sh")]
    for stage, sent in (("simclr-0/epochs/0001", signal.SIGUSR2), ("e-0/m0/epochs/0001", signal.SIGUSR1)):  # in a subshell, and beside it
        job = subprocess.Popen(words, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
        while not (tmp_path / "out" / stage).exists():
            assert job.poll() is None, job.communicate()[1].decode()
            time.sleep(0.02)
        os.killpg(job.pid, sent)
        _, told = job.communicate(timeout=120)
        assert job.returncode == 75, told.decode()
        assert f"stopped by {sent.name}".encode() in told, told.decode()
    done = subprocess.run(words, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1:4] for line in done.stdout.splitlines() if line.startswith("| e ")] == [[" e ", " 0 ", " 1 "], [" e ", " 0 ", " 2 "]]


@pytest.mark.parametrize(("script", "rows", "columns", "env"), [
    ("odc-alexnet", ["odc"], 2, {"LAYERS": "conv5", "PLACES": "cifar"}),
    ("odc-resnet50", ["odc"], 1, {"LAYERS": "layer4", "BACKBONE": "resnet18-32", "VARIANT": "paper"}),
    ("odc-refresh", ["3"], 1, {"LAYERS": "conv5", "VARIANT": "released"}),
    ("odc-least", ["2", "4"], 1, {"LAYERS": "conv5", "JOBS": "2"}),
    ("odc-tail", ["2"], 1, {"LAYERS": "conv5", "IMAGES": "30"}),
    ("odc-finetune", ["rotation"], 1, {"LAYERS": "conv5"}),
    ("uic-alexnet", ["final"], 3, {"LAYERS": "conv4 conv5"}),
    ("uic-labels", ["fixed"], 2, {"LAYERS": "conv5"}),
    ("uic-classes", ["4"], 2, {"LAYERS": "conv5", "VARIANT": "released"}),
    ("uic-resnet50", ["mlp"], 2, {"LAYERS": "conv5", "WIDTH": "16"}),
    ("uic-vgg16", ["strong"], 2, {"LAYERS": "conv5"}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_reproduction_of_moving_labels(script: str, rows: list[str], columns: int, env: dict[str, str], tmp_path: Path) -> None:
    """The scripts of ODC and UIC on something small: a line for each row, before and after fine-tuning."""
    classes(tmp_path / "cifar", train=20, val=6)
    env = {"IMAGENET": "cifar", "WEIGHTS": "weights", "BACKBONE": "alexnet-32", "EPOCHS": "2", "K": "4", "PER_CLASS": "10", "SETTINGS": "-j 1 -q",
           "ROWS": " ".join(rows), "OUT": str(tmp_path / "out"), **env}
    both = script == "odc-finetune"
    if both:
        (tmp_path / "weights").mkdir()
        ucl("init", "odc", "cifar/train", "-o", "run", "--backbone", "alexnet-32", "--set", "cluster.k=4", "-j", "1", cwd=tmp_path)
        ucl("export", "run/model.h5", "--no-head", "-o", "weights/rotation.pt", cwd=tmp_path)
    path = str(EXAMPLES / "reproduce" / f"{script}.sh")
    done = bash(path, tmp_path, **env)
    assert done.returncode == 0, done.stderr
    found = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [cells[:3] for cells in found] == [(row, "0", str(number)) for row in rows for number in range(1 + both)]
    assert all(len(cells) == 3 + columns and all(re.match(r"[\d.]+", cell) for cell in cells[3:]) for cells in found)
    if script in ("odc-tail", "uic-labels"):  # again: nothing but the table; other settings: refused
        again = bash(path, tmp_path, **env)
        assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
        refused = bash(path, tmp_path, **{**env, "SETTINGS": "--set train-epoch.momentum=0.2"})
        assert refused.returncode == 2, refused.stderr


def test_the_small_pcp_experiment_on_toy_data(tmp_path: Path) -> None:
    classes(tmp_path / "cifar", train=25, test=5)
    done = bash(str(EXAMPLES / "pcp-small.sh"), tmp_path, CIFAR=str(tmp_path / "cifar"), OUT=str(tmp_path / "out"), EPOCHS="4", SEEDS="0", EVERY="2",
                PER_CLASS="25", ROWS="ir dc:4 pcp")
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/knn.json")) == ["dc-k4-0", "ir-0", "pcp-0"]
    assert len((tmp_path / "out" / "pcp-0" / "clusters.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("script", "rows", "rounds", "env"), [
    ("components", ["dc", "cps"], 1, {"FINAL_K": "3", "JOBS": "2"}),
    ("gamma", ["cps:0.95"], 1, {"FINAL_K": "3"}),
    ("clusters", ["pcp:4"], 1, {"VARIANT": "released"}),
    ("rounds", ["and:2", "pcp"], 2, {"ROUNDS": "2", "FINAL_K": "3", "JOBS": "2"}),
    ("methods", ["random", "supervised", "is"], 1, {"CIFAR": "release"}),
    ("alexnet", ["dc", "supervised"], 1, {"CIFAR": "release", "FINAL_K": "3", "VARIANT": "paper"}),
    ("imagenet100", ["pcp"], 1, {"FINAL_K": "3"}),
    ("cub", ["random", "pcp"], 1, {"FINAL_K": "3"}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_reproduction(script: str, rows: list[str], rounds: int, env: dict[str, str], tmp_path: Path) -> None:
    """examples/reproduce on something small: a table with a line for each row and round."""
    if env.get("CIFAR"):
        env = {**env, "CIFAR": str(release(tmp_path / "cifar-10-batches-bin"))}
    else:
        classes(tmp_path / "cifar", train=20, test=6, val=6)
        (tmp_path / "classes.txt").write_text("class0\nclass2\n")
        env = {**env, "CIFAR": str(tmp_path / "cifar"), "IMAGENET": str(tmp_path / "cifar"), "CLASSES": str(tmp_path / "classes.txt")}
    env |= {"CUB": str(birds(tmp_path / "CUB_200_2011")), "BACKBONE": "convnet", "EPOCHS": "2", "NEIGHBORS": "5", "SETTINGS": "-j 1 -q",
            "ROWS": " ".join(rows), "OUT": str(tmp_path / "out")}
    path = str(EXAMPLES / "reproduce" / f"pcp-{script}.sh")
    done = bash(path, tmp_path, **env)
    assert done.returncode == 0, done.stderr
    found = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [cells[:3] for cells in found] == [(row, "0", str(number)) for row in rows for number in range(rounds)]
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cells[3]) for cells in found)
    assert all(bool(cells[4]) == (script in ("alexnet", "imagenet100")) for cells in found)
    if script in ("components", "methods"):  # again: nothing but the table; other settings: refused
        again = bash(path, tmp_path, **env)
        assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
        alone = bash(f"{path} {rows[-1]} 0", tmp_path, **env)  # one row by itself
        assert alone.returncode == 0, alone.stderr
        refused = bash(path, tmp_path, **{**env, "SETTINGS": "--set train-epoch.tau=0.2", "ROWS": rows[-1]})
        assert refused.returncode == 2, refused.stderr
