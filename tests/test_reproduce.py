"""The scripts of examples/reproduce say what they claim: every row, by a stand-in for ucl that notes its command lines, against the plans."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_docs import parse

from ucl.context import Context
from ucl.methods.method import plan, plan_length
from ucl.settings import check_override, parse_assignments

FOLDER = Path(__file__).parents[1] / "examples" / "reproduce"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh"))
STAND_IN = r"""
ucl() {
    local IFS=$'\x1f' out="" at
    echo "$*" >> LOG
    for ((at = 1; at < $#; at++)); do
        [ "${!at}" != -o ] || { ((at++)); out=${!at}; }
    done
    case $1 in
    init) mkdir -p "$out/work" && : > "$out/ucl.toml" ;;
    status) if [[ $* == *--lowest* ]]; then echo "${!#}"; else echo '{"epoch": 1000000}'; fi ;;
    evaluate) echo '{"metrics": {"'"$2"'_top1": {"value": 0.5, "low": 0.4, "high": 0.6}, "nmi_geometric": {"value": 0.25, "low": null},
                    "acc_one_to_one": {"value": 0.75}, "nmi_arithmetic": {"value": 0.5}, "ari": {"value": 0.25}}}' ;;
    esac
}
python() { command python -SI "$@"; } # starts sooner
"""


def told(script: str, tmp_path: Path, **env: str) -> tuple[list[list[str]], subprocess.CompletedProcess[str]]:
    """The command lines that a script gives to ucl, which says of every plan that it has come to its end."""
    shim, log = tmp_path / "ucl.bash", tmp_path / "log"
    shim.write_text(STAND_IN.replace("LOG", shlex.quote(str(log))))
    for part in ("train", "val"):
        (tmp_path / "data" / part / "a").mkdir(parents=True, exist_ok=True)
    (tmp_path / "classes.txt").write_text("a\n")
    data = {name: str(tmp_path / "data") for name in ("CIFAR", "IMAGENET", "CUB", "WEIGHTS", "STL")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "BASH_ENV": str(shim), "CLASSES": str(tmp_path / "classes.txt"), "OUT": str(tmp_path / "out")}
    done = subprocess.run(["bash", str(FOLDER / script)], cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, **own, **data, **env})
    lines = [line.split("\x1f") for line in log.read_text().splitlines()] if log.exists() else []
    return lines, done


LINES: dict[tuple[str, ...], list[list[str]]] = {}


def lines_of(script: str, tmp_path: Path, VARIANT: str = "", ROWS: str = "") -> list[list[str]]:
    """All lines of a script with seed 3; it runs once for all tests."""
    if (script, VARIANT, ROWS) not in LINES:
        (tmp_path / "log").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        lines, done = told(script, tmp_path, VARIANT=VARIANT, SEEDS="3", MEMBERS="2", **({"ROWS": ROWS} if ROWS else {}))
        assert done.returncode == 0, done.stderr
        LINES[script, VARIANT, ROWS] = lines
    return LINES[script, VARIANT, ROWS]


def made(script: str, tmp_path: Path, **which: str) -> list[list[str]]:
    """The lines of ucl init among them."""
    return [line for line in lines_of(script, tmp_path, **which) if line[0] == "init"]


def row_of(line: list[str]) -> str:
    """The row that a run directory is of; of an ensemble's members the ensemble's."""
    where = Path(line[line.index("-o") + 1])
    return (where.parent if re.fullmatch(r"m\d+", where.name) else where).name.rpartition("-")[0]


def contexts(line: list[str], images: int = 50_000, size: int = 32) -> dict[str, Any]:
    """Length of the plan of a line of ucl init, and settings of its first, 120th and last epoch by verb."""
    by_hand = parse_assignments([line[i + 1] for i, word in enumerate(line) if word == "--set"])
    overrides = {f"{verb}.{key}": value for verb, values in by_hand.items() for key, value in values.items()}
    for key, value in overrides.items():
        check_override(key.partition(".")[0], {key.partition(".")[2]: value}, "a script")
    if "--epochs" in line:
        overrides["plan.epochs"] = line[line.index("--epochs") + 1]
    context = Context(method=line[1], images=images, size=size, overrides=overrides)
    length = plan_length(context)
    steps = {epoch: {step.verb: step.settings for step in plan(dataclasses.replace(context, epoch=epoch))} for epoch in (0, 120, length - 1)}
    return {"length": length, "first": steps[0], "middle": steps[120], "last": steps[length - 1], "overrides": overrides}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("variant", ["", *(pytest.param(name, marks=pytest.mark.slow) for name in ("paper", "released"))])
def test_every_row_is_a_plan(script: str, variant: str, tmp_path: Path) -> None:
    lines = lines_of(script, tmp_path, VARIANT=variant)
    rows = [line for line in lines if line[0] == "init" and line[1] != "simclr"]
    for line in lines:
        parse(line)
    for line in rows:
        assert line[line.index("--seed") + 1] in (["3"] if row_of(line) not in ("d", "e") else ["6", "7"])
        if row_of(line) not in ("random", "supervised"):
            found = contexts(line) if script.startswith(("pcp", "profeat")) else of_photos(script, line)
            if script.startswith("pcp"):
                assert found["length"] == 200 * int(found["overrides"][f"{line[1]}.rounds"])
                assert found["first"]["train-epoch"].lr == 0.03
    promised = re.search(r'\$\{ROWS:=([^}]*)\}', (FOLDER / script).read_text(encoding="utf-8"))
    assert promised is not None
    assert list(dict.fromkeys(row_of(line) for line in rows)) == [row.replace(":", "-") for row in promised[1].split()]
    assert script in README


def of_photos(script: str, line: list[str]) -> dict[str, Any]:
    """The same of ImageNet, or of some classes of it, at 224 px."""
    return contexts(line, 80_000 if script in ("odc-refresh.sh", "odc-least.sh", "odc-tail.sh") else 1_281_167, 224)


def labels(script: str, tmp_path: Path, **env: str) -> dict[str, dict[str, Any]]:
    """Rows of ODC and UIC."""
    return {row_of(line): of_photos(script, line) for line in made(script, tmp_path, **env)}


def test_odc(tmp_path: Path) -> None:
    """Length, learning rates and clusters of the paper; rows differ in what they name; variants."""
    alexnet, resnet, tuned = (labels(f"odc-{name}.sh", tmp_path) for name in ("alexnet", "resnet50", "finetune"))
    trained = {name: row["first"]["train-epoch"] for rows in (alexnet, tuned) for name, row in rows.items()}
    assert (alexnet["odc"]["length"], alexnet["odc"]["first"]["cluster"].k) == (440, 10_000)
    assert (trained["odc"].lr, trained["odc"].batch, trained["odc"].least) == (0.04, 512, 0)
    assert resnet["odc"]["first"]["train-epoch"].lr == 0.06
    assert resnet["odc"]["last"]["train-epoch"].lr == pytest.approx(0.006)
    assert {name: (row["length"], Path(row["overrides"]["init.weights"]).name) for name, row in tuned.items()} == {
        name: (120, f"{name}.pt") for name in ("colorization", "jigsaw", "rotation", "deepcluster")}
    assert {row["first"]["train-epoch"].refresh_every for row in labels("odc-refresh.sh", tmp_path).values()} == {1, 5, 10, 20, 50, 100, 200}
    least = labels("odc-least.sh", tmp_path)
    assert [row["first"]["train-epoch"].least for row in least.values()] == [1, 5, 10, 20, 40, 80, 120, 160]
    assert {row["first"]["cluster"].k for row in least.values()} == {280}

    paper, released = (labels("odc-resnet50.sh", tmp_path, VARIANT=v)["odc"] for v in ("paper", "released"))
    assert (paper["first"]["train-epoch"].similarity, paper["first"]["train-epoch"].refresh) == ("l2", "changed")
    assert (released["first"]["train-epoch"].repair, released["last"]["train-epoch"].lr) == ("once", pytest.approx(0.024))


def test_uic(tmp_path: Path) -> None:
    alexnet, sources, resnet = (labels(f"uic-{name}.sh", tmp_path) for name in ("alexnet", "labels", "resnet50"))
    assert {name: row["length"] for name, row in alexnet.items()} == {"final": 530, "moving": 500, "strong": 500}
    first = {name: row["first"]["train-epoch"] for name, row in {**alexnet, **sources, **resnet}.items()}
    assert {(s.batch, s.lr, s.k) for name, s in first.items() if name not in resnet} == {(256, 0.1, 3000)}
    assert {name for name, s in first.items() if s.blur_p} == {"strong", "plain", "mlp"}
    assert alexnet["moving"]["middle"]["train-epoch"].lr == pytest.approx(0.1 * (1 - 120 / 500))
    assert {name: first[name].relabel for name in sources} == {"training": "training", "fixed": "fixed"}
    assert {row["length"] for row in sources.values()} == {530}
    assert {name: (first[name].batch, first[name].lr, first[name].mlp) for name in resnet} == {"plain": (1024, 0.2, 0), "mlp": (1024, 0.2, 2048)}
    assert [row["first"]["train-epoch"].k for row in labels("uic-classes.sh", tmp_path).values()] == [3000, 5000, 10_000]
    released = labels("uic-alexnet.sh", tmp_path, VARIANT="released")
    assert {(row["length"], row["overrides"]["uic.schedule"]) for row in released.values()} == {(500, "cosine")}


def test_what_odc_and_uic_are_measured_on(tmp_path: Path) -> None:
    """Each layer of the run's own images, or of some classes; before and after fine-tuning; Places beside; labels' NMI of uic alone."""
    def read(script: str, **env: str) -> tuple[list[str], list[list[str]], str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "log").unlink(missing_ok=True)
        lines, done = told(script, tmp_path, **env)
        assert done.returncode == 0, done.stderr
        return [line[line.index("--map") + 1] for line in lines if line[0] == "extract"], lines, done.stdout

    maps, lines, table = read("odc-alexnet.sh", PLACES=str(tmp_path / "data"))
    assert maps == [f"grid-{side}" for side in (10, 6, 5, 5, 6) * 2 for _ in range(2)]
    assert sum(str(tmp_path / "data" / "train") in line for line in lines if line[0] == "extract") == 5  # of Places; else the run's own list
    assert "| odc | 0 | 0 |" + " 50.0 (40.0 to 60.0) |" * 10 in table
    assert read("odc-resnet50.sh")[0][::2] == ["grid-12", "grid-6", "grid-4", "grid-3", "grid-2"]
    maps, _, table = read("uic-classes.sh", ROWS="5000")
    assert maps[::2] == ["max-5", "max-5", "max-6"]
    assert table.splitlines()[0] == "| row | seed | round | conv3 | conv4 | conv5 | NMI |"
    assert table.splitlines()[2].endswith("| 50.0 (40.0 to 60.0) | 25.0 |")
    assert set(read("uic-resnet50.sh")[0]) == {"grid-1"}
    assert [line.split("|")[3].strip() for line in read("odc-finetune.sh", ROWS="rotation")[2].splitlines()[2:]] == ["0", "1"]
    _, lines, _ = read("odc-tail.sh", ROWS="64")
    tail = next(line for line in lines if line[0] == "select" and "--long-tail" in line)
    assert tail[tail.index("--long-tail") + 1] == "64"
    lists = [(line[0], line[line.index("--files-from") + 1].rpartition("/")[2]) for line in lines if "--files-from" in line]
    assert lists == [("init", "tail-64.txt"), ("extract", "balanced.txt"), ("extract", "balanced.txt")]


def test_the_components_and_their_variants(tmp_path: Path) -> None:
    rows = {row_of(line): contexts(line) for line in made("pcp-components.sh", tmp_path)}
    first = {name: row["first"] for name, row in rows.items()}
    last = {name: row["last"] for name, row in rows.items()}
    assert {name: row["cluster"].k for name, row in first.items()} == {"dc": 100, "pc": 50_000, "cpr": 50_000, "cps": 50_000}
    assert {row["cluster"].k for row in last.values()} == {100}
    assert {name: row["purify"].keep_nearest for name, row in last.items()} == {"dc": 1, "pc": 1, "cpr": 0.5, "cps": 0.5}
    assert {name for name, row in last.items() if row["purify"].votes} == {"cps"}
    assert {row["train-epoch"].spread for row in first.values()} == {0}

    paper = {row_of(line): contexts(line) for line in made("pcp-components.sh", tmp_path, VARIANT="paper")}
    assert {row["last"]["train-epoch"].cluster_loss for row in paper.values()} == {"pairs"}
    assert {row["first"]["extract"].views for row in paper.values()} == {"fixed"}
    assert paper["cpr"]["first"]["purify"].whole_up_to == 0

    released = {row_of(line): contexts(line) for line in made("pcp-methods.sh", tmp_path, VARIANT="released", ROWS="dc pcp pcp:5")}
    assert {name for name, row in released.items() if row["first"]["purify"].early_return} == {"pcp", "pcp-5"}
    assert {name: row["middle"]["purify"].keep_cap for name, row in released.items()} == {"dc": 1, "pcp": 0.5, "pcp-5": 0.5}
    again = [line for line in made("pcp-methods.sh", tmp_path, VARIANT="released", ROWS="pcp:5") if row_of(line) == "pcp-5"][-1]
    later = {step.verb: step.settings for step in plan(Context(method="pcp", images=50_000, size=32, epoch=210,
                                                                 overrides=contexts(again)["overrides"]))}
    assert later["train-epoch"].spread > 0  # warm-up in later rounds too


def test_the_other_tables(tmp_path: Path) -> None:
    def of(script: str) -> dict[str, Any]:
        return {row_of(line): contexts(line) for line in made(script, tmp_path) if row_of(line) not in ("random", "supervised")}

    gamma = of("pcp-gamma.sh")
    assert [row["last"]["purify"].keep_nearest for row in gamma.values()] == pytest.approx([1, 0.7, 0.5, 0.3, 0.1, 0.05, 0.01] * 2)
    assert [row["last"]["purify"].votes for row in gamma.values()] == [False] * 7 + [True] * 7
    clusters = of("pcp-clusters.sh")
    assert [row["last"]["cluster"].k for row in clusters.values()] == [10_000, 5_000, 3_000, 1_000, 100, 10, 5] * 3
    assert {name.split("-")[0] for name, row in clusters.items() if row["first"]["train-epoch"].spread} == {"pcp"}
    rounds = of("pcp-rounds.sh")
    assert {name: (row["length"], row["last"]["train-epoch"].neighbors) for name, row in rounds.items()} == {
        **{f"and-{n}": (1000, n) for n in (1, 5, 10, 20)}, "cps": (1000, 1), "pcp": (1000, 1)}
    methods = of("pcp-methods.sh")
    assert {name: row["length"] for name, row in methods.items()} == {"dc": 200, "ir": 200, "is": 200, "and": 400, "pcp": 200, "and-5": 1000,
                                                                      "pcp-5": 1000}
    assert {row["first"]["train-epoch"].batch for row in methods.values()} == {128}
    imagenet = of("pcp-imagenet100.sh")["pcp"]
    assert imagenet["last"]["train-epoch"].lr == pytest.approx(0.03 * 0.05)
    assert imagenet["last"]["cluster"].k == 10_000
    assert imagenet["overrides"]["pcp.warm_up_end"] == "0.55"
    birds = of("pcp-cub.sh")
    assert {row["first"]["train-epoch"].batch for row in birds.values()} == {64}
    assert birds["pcp"]["last"]["cluster"].k == 500


@pytest.mark.slow
def test_profeat(tmp_path: Path) -> None:
    """The numbers of the papers' tables; rows differ in what they name; networks of SimCLR are shared by seed, ensembles have five."""
    def of(dataset: str, images: int, size: int, **env: str) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
        (tmp_path / "log").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        lines, done = told(f"profeat-{dataset}.sh", tmp_path, **env)
        assert done.returncode == 0, done.stderr
        lines = [line for line in lines if line[0] == "init"]
        return {Path(line[line.index("-o") + 1]).name: (contexts(line, images, size), contexts(line, images, size)["overrides"]) for line in lines}

    cifar = of("cifar10", 50_000, 32)
    assert {name for name in cifar if name.startswith("simclr")} == {f"simclr-{seed}" for seed in range(5)}
    assert {name: row["length"] for name, (row, _) in cifar.items()} == {
        **{f"simclr-{seed}": 500 for seed in range(5)}, "scan-0": 50, "self-0": 250, **{f"{name}-0": 10 * 300 - 50 for name in "abcs"},
        **{f"m{seed}": 10 * 300 - 50 for seed in range(5)}}
    first = cifar["simclr-0"][0]["first"]["train-epoch"]
    assert (first.lr, first.batch, first.tau, first.weight_decay) == (0.4, 512, 0.1, 1e-4)
    turned = {name: tuple(told.get(f"profeat.{key}") for key in ("threshold", "apart")) for name, (_, told) in cifar.items()}
    assert [turned[f"{name}-0"] for name in "abcs"] == [("0", "false"), ("0.99", "false"), ("0", None), ("0.99", None)]
    assert cifar["m3"][1]["profeat.connections"] == "20"  # of e, which comes last
    assert {Path(told["init.weights"]).parent.name for name, (_, told) in cifar.items() if name[0] == "m"} == {f"simclr-{seed}" for seed in range(5)}

    coarse = of("cifar20", 50_000, 32)
    stage = coarse["s-0"][0]["first"]["train-epoch"]
    assert (stage.k, stage.batch, stage.optimizer, stage.lr, coarse["s-0"][0]["length"]) == (20, 512, "adam", 1e-4, 10 * 350 - 50)
    assert coarse["m0"][1]["profeat.connections"] == "10"
    stl = of("stl10", 5_000, 96)
    assert {name: stl[name][0]["length"] for name in ("scan-0", "self-0", "s-0", "m0")} == {
        "scan-0": 100, "self-0": 200, "s-0": 100 * 150 - 50, "m0": 300 * 150 - 50}
    assert (stl["s-0"][1]["profeat.threshold"], stl["m0"][1]["profeat.connections"]) == ("0.95", "1")
    parts = {row_of(line): line[line.index("--split") + 1] for line in made("profeat-stl10.sh", tmp_path)}
    assert parts == {"simclr": "train+unlabeled", "scan": "train", "self": "train", "s": "train", "e": "train"}

    (tmp_path / "log").unlink()
    lines, done = told("profeat-cifar20.sh", tmp_path, ROWS="e", OUT=str(tmp_path / "other"), MORE="positives=sum own=false", MEMBERS="2")
    assert done.stdout.splitlines()[0] == "| row | seed | round | ACC | NMI | ARI |"
    assert "| e | 0 | 10 | 75.0 | 50.0 | 25.0 |" in done.stdout
    members = [line for line in lines if line[:2] == ["init", "profeat"]]
    assert [line.count("profeat.positives=sum") for line in members] == [1, 1]
    measured = next(line for line in reversed(lines) if line[0] == "evaluate")
    assert measured[-3:] == ["--labels", "coarse", "--json"]
    assert next(line for line in lines if "--lowest" in line)[2:] == ["score", *(str(tmp_path / "other" / "e-0" / f"m{seed}") for seed in range(2))]
    paper = of("cifar10", 50_000, 32, VARIANT="paper", ROWS="scan")["scan-0"][0]["first"]
    assert (paper["train-epoch"].trains, paper["neighbors"].include_self) == ("head", False)
    assert told("profeat-cifar10.sh", tmp_path, ROWS="f")[1].returncode == 64


def test_what_fails_ends_all(tmp_path: Path) -> None:
    """An unknown row; a row that fails: the others are not begun, and the exit code is its own."""
    lines, done = told("pcp-components.sh", tmp_path, ROWS="nonsense dc")
    assert (lines, done.returncode) == ([], 64)
    assert "found no row nonsense" in done.stderr
    assert told("pcp-components.sh", tmp_path, VARIANT="mine")[1].returncode == 64
    done = told("pcp-components.sh", tmp_path, ROWS="dc pc", BASH_ENV=str(stopping(tmp_path)))[1]
    assert done.returncode == 75, done.stderr
    assert (tmp_path / "stopped").read_text() == "init pcp\n"


def stopping(folder: Path) -> Path:
    """A file of bash in which ucl stops as after a signal."""
    made = folder / "stopping.bash"
    made.write_text(f'ucl() {{ echo "$1 $2" >> "{folder}/stopped"; return 75; }}\n')
    return made
