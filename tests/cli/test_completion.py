"""ucl completion: the scripts, driven by the shells themselves where they are installed."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from test_cli import HEAVY, SLACK

from cli.harness import UCL, Runner, environment

HOOK = 'import atexit, os, sys\natexit.register(lambda: open(os.environ["MODULES_TO"], "a").write("\\n".join(sys.modules) + "\\n"))\n'


@pytest.fixture(scope="module")
def script(ucl: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "ucl.bash"
    made = ucl("completion", "bash", stdout="pipe")
    assert (made.code, made.err) == (0, "")
    path.write_bytes(made.out)
    return path


def bash(script: Path, line: str, cwd: Path | None = None, **env: str) -> list[str]:
    """What bash would offer for the last word of a line (a trailing space: a new word)."""
    words = line.split(" ")
    code = (f'source {script}\nCOMP_WORDS=({" ".join(repr(w) for w in words)})\nCOMP_CWORD={len(words) - 1}\n'
            '_ucl_completion ucl\nprintf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, cwd=cwd, env=environment(**env), check=True)
    assert done.stderr == ""
    return [w for w in done.stdout.splitlines() if w]


@pytest.mark.parametrize(("line", "offered"), [
    ("ucl ev", ["evaluate"]), ("ucl evaluate ", ["clusters", "knn", "linear", "compare"]),
    ("ucl evaluate knn --te", ["--test", "--test-split", "--test-targets"]),
    ("ucl cluster --empty ", ["leave", "relocate", "error"]), ("ucl train-epoch --weights inv", ["inverse", "inverse-sqrt"]),
    ("ucl init p", ["persistent", "pcp", "profeat"]), ("ucl init pe", ["persistent"]), ("ucl init --set pcp.final", ["pcp.final_k="]),
    ("ucl init deepcluster --backbone conv", ["convnet"]), ("ucl convert --from np", ["npy", "npz"]),
    ("ucl init --set purify.keep_n", ["purify.keep_nearest="]), ("ucl completion z", ["zsh"]), ("ucl run --device c", ["cpu", "cuda"]),
    ("ucl evaluate linear --solver ", ["lbfgs", "sgd"]), ("ucl nonsense --x", []), ("ucl view lab", []), ("ucl cluster --k", ["--k"])])
def test_bash(script: Path, line: str, offered: list[str]) -> None:
    assert bash(script, line) == offered


def test_bash_offers_every_command(script: Path) -> None:
    from ucl.cli import COMMANDS

    assert bash(script, "ucl ") == list(COMMANDS)


def test_bash_leaves_files_to_the_shell(script: Path) -> None:
    assert "complete -o default -F _ucl_completion ucl" in script.read_text()


def test_it_is_quick_and_imports_nothing_heavy(script: Path, tmp_path: Path) -> None:
    """0.3 s of one core, Python included, however busy the machine is; best of several."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    out = tmp_path / "modules.txt"
    for line in ("ucl ", "ucl init --backbone c", "ucl cluster --", "ucl convert --from ", "ucl select --class-order "):
        out.unlink(missing_ok=True)
        assert bash(script, line, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", MODULES_TO=str(out))
        assert not set(out.read_text().split()) & set(HEAVY), line
    best = 9.0
    env = environment(_UCL_COMPLETE="complete_bash", COMP_WORDS="ucl cluster --empty ", COMP_CWORD="3")
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([UCL], env=env, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stdout.split() == ["leave", "relocate", "error"]
        if best <= 0.3 * SLACK:
            break
    assert best <= 0.3 * SLACK


def answers(shell: str, line: str, **env: str) -> str:
    done = subprocess.run([UCL], env=environment(_UCL_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_ARGS=line, **env), capture_output=True,
                          text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_zsh_and_fish_by_their_protocol(ucl: Runner) -> None:
    zsh = ucl("completion", "zsh", stdout="pipe").text
    assert zsh.startswith("#compdef ucl\n")
    assert "_UCL_COMPLETE=complete_zsh ucl" in zsh
    offered = answers("zsh", "ucl cluster --em")
    assert offered.startswith("_arguments '*: :((\"--empty\":\"")
    assert offered.count("\n") == 1                                      # a help text of one line
    assert answers("zsh", "ucl view lab").strip() == "_files"
    fish = ucl("completion", "fish", stdout="pipe").text
    assert fish.startswith("complete --command ucl ")
    assert answers("fish", "ucl cluster --empty l", _TYPER_COMPLETE_FISH_ACTION="get-args").split() == ["leave"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_takes_the_script(ucl: Runner, shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "s").write_bytes(ucl("completion", shell, stdout="pipe").out)
    code = "autoload -Uz compinit; compinit -D; source s" if shell == "zsh" else "source s"
    done = subprocess.run([shell, "-c", code], cwd=tmp_path, env=environment(HOME=str(tmp_path)), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_mistakes(ucl: Runner) -> None:
    told = ucl("completion", "tcsh", stdout="pipe")
    assert (told.code, told.out) == (2, b"")
    assert told.lines[0] == "ucl completion: error: SHELL: found 'tcsh', wanted one of bash, zsh, fish"
