"""The scripts of examples/reproduce say what they claim: every row, by a stand-in for ucl that notes its command lines, against the plans."""

from __future__ import annotations

import os
import re
import shutil
import stat
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
STAND_IN = """#!{python} -SI
import os, sys
argv = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write("\\x1f".join(argv) + "\\n")
out = argv[argv.index("-o") + 1] if "-o" in argv else ""
if argv[0] == "init":
    os.makedirs(out + "/work")
    open(out + "/ucl.toml", "w").close()
elif argv[0] == "status":
    print('{{"epoch": 1000000}}')
elif argv[0] == "evaluate":
    print('{{"metrics": {{"%s_top1": {{"value": 0.5, "low": 0.4, "high": 0.6}}}}}}' % argv[1])
"""


def told(script: str, tmp_path: Path, **env: str) -> tuple[list[list[str]], subprocess.CompletedProcess[str]]:
    """The command lines that a script gives to ucl, which says of every plan that it has come to its end."""
    shim, log = tmp_path / "bin" / "ucl", tmp_path / "log"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    for part in ("train", "val"):
        (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
    (tmp_path / "classes.txt").write_text("a\n")
    data = {name: str(tmp_path / "data") for name in ("CIFAR", "IMAGENET", "CUB")}
    path = f"{shim.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", str(FOLDER / script)], cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PATH": path, "CLASSES": str(tmp_path / "classes.txt"), "OUT": str(tmp_path / "out"), **data, **env})
    lines = [line.split("\x1f") for line in log.read_text().splitlines()] if log.exists() else []
    return lines, done


def made(script: str, tmp_path: Path, **env: str) -> list[list[str]]:
    """The lines of ucl init among them."""
    (tmp_path / "log").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    return [line for line in told(script, tmp_path, **env)[0] if line[0] == "init"]


def row_of(line: list[str]) -> str:
    return Path(line[line.index("-o") + 1]).name.rpartition("-")[0]


def contexts(line: list[str], images: int = 50_000) -> dict[str, Any]:
    """Length of the plan of a line of ucl init, and settings of its first, 120th and last epoch by verb."""
    by_hand = parse_assignments([line[i + 1] for i, word in enumerate(line) if word == "--set"])
    overrides = {f"{verb}.{key}": value for verb, values in by_hand.items() for key, value in values.items()}
    for key, value in overrides.items():
        check_override(key.partition(".")[0], {key.partition(".")[2]: value}, "a script")
    context = Context(method=line[1], images=images, size=32, overrides=overrides)
    length = plan_length(context)
    steps = {epoch: {step.verb: step.settings for step in plan(Context(method=line[1], images=images, size=32, overrides=overrides, epoch=epoch))}
             for epoch in (0, 120, length - 1)}
    return {"length": length, "first": steps[0], "middle": steps[120], "last": steps[length - 1], "overrides": overrides}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("variant", ["", "paper", "released"])
def test_every_row_is_a_plan(script: str, variant: str, tmp_path: Path) -> None:
    lines, done = told(script, tmp_path, VARIANT=variant, SEEDS="3")
    assert done.returncode == 0, done.stderr
    rows = [line for line in lines if line[0] == "init"]
    for line in lines:
        parse(line)
    for line in rows:
        assert line[line.index("--seed") + 1] == "3"
        if row_of(line) not in ("random", "supervised"):
            found = contexts(line)
            assert found["length"] == 200 * int(found["overrides"][f"{line[1]}.rounds"])
            assert found["first"]["train-epoch"].lr == 0.03
    promised = re.search(r'\$\{ROWS:=([^}]*)\}', (FOLDER / script).read_text(encoding="utf-8"))
    assert promised is not None
    assert [row_of(line) for line in rows] == [row.replace(":", "-") for row in promised[1].split()]
    assert script in README


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
