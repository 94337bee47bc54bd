"""What README, manual pages and example scripts name is there, and every ucl command line in them parses; the slow test runs the pages' examples."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.harness import Runner, environment
from test_man import FILES, MAN, plain

from ucl.cli import COMMANDS, build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted([*(ROOT / "examples").rglob("*.sh"), *(ROOT / "examples").rglob("*.bash")])
BEFORE = {"until", "while", "if", "elif", "then", "else", "do", "!", "{", "time", "exec", "srun", "[", "&&", "||"}
"""Words after which a command may begin."""

BREAKS = set(";&|()\n")


# -- finding command lines -------------------------------------------------------------------------------------------------------


def examples(file: str) -> list[tuple[str, str]]:
    """(where it can be run, shell text) of every example of a page."""
    found = []
    text = (MAN / file).read_text(encoding="utf-8")
    for block in re.finditer(r'(?:^\.\\" run (.*)\n)?^\.EX\n((?:.*\n)*?)\.EE$', text, re.MULTILINE):
        found.append((block[1] or "", "".join(plain(line) + "\n" for line in block[2].splitlines())))
    return found


def words_of(script: str) -> list[str]:
    """A script's words and operators; variables have become numbers, or nothing where they may stand for several words."""
    script = re.sub(r"<<'?(\w+)'?\n(?:.*\n)*?\1$", "", script, flags=re.MULTILINE)          # here documents
    script = script.replace("\\\n", " ")
    script = re.sub(r"^\s*#.*$|(?<=\s)#\s.*$", "", script, flags=re.MULTILINE)
    script = re.sub(r"\$\(\([^)]*\)\)", "1", script)
    script = re.sub(r'"?\$\(', " ( ", script).replace(')"', " ) ")
    script = re.sub(r'"\$(?:@|\{\w+\[@\]\})"', "", script)
    script = re.sub(r'"([^"\n]*)\$(?:\{[^}]*\}|\w+)([^"\n]*)"', r'"\g<1>1\2"', script)
    script = re.sub(r"(?<=[\w/=])\$(?:\{[^}]*\}|\w+)", "1", script)
    script = re.sub(r"\$(?:\{[^}]*\}|\w+|\?)", "", script)
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    return list(lexer)


def command_lines(script: str) -> Iterator[list[str]]:
    """The words after each ``ucl`` of a script."""
    current: list[str] | None = None
    starts, skip = True, False
    for word in words_of(script):
        if skip:
            skip = False
        elif set(word) <= BREAKS:
            if current is not None:
                yield current
            current, starts = None, True
        elif set(word) <= set("<>&"):
            skip = True
        elif current is not None:
            current.append(word)
        elif starts and word == "ucl":
            current = []
        elif not (word in BEFORE or re.fullmatch(r"\w+=.*", word, re.DOTALL)):
            starts = False
    if current is not None:
        yield current


built = functools.cache(build)


def parse(line: list[str], *, whole: bool = True) -> None:
    """Parse a command line as typer does, without running it.

    Args:
        line: the words after ucl.
        whole: False lets required arguments be missing.
    """
    if not line or line[0].startswith("-"):
        assert line in ([], ["--version"], ["--help"]), line
        return
    name, *rest = line
    assert name in COMMANDS, f"no command {name}: ucl {shlex.join(line)}"
    command: Any = built(name)
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, shlex.join(line)
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.make_context(name, [w for w in rest if w != "..."])
    except Exception as error:
        kind = type(error).__name__
        if kind != "Exit" and (whole or kind not in ("MissingParameter", "NoArgsIsHelpError")):
            raise AssertionError(f"ucl {shlex.join(line)}: {error}") from error


SHELL = [block for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)]
SPANS = re.findall(r"`(ucl [^`\n]*)`", README)


def test_the_finder_finds() -> None:
    script = """set -e
until ucl status --done; do   # until ucl nothing
    ucl extract "$X" $MORE "${all[@]}" "$@" | tee a.h5 | ucl cluster -k $((K / 5)) > out.h5 || exit
done
[ -e "$OUT/x" ] || UCL_DEBUG=1 ucl init "$M" photos/ -o "$OUT" --seed "$2" </dev/null
[ "$(ucl digest < a.h5)" = "$(ucl digest < b.h5)" ]
echo ucl nonsense
"""
    assert list(command_lines(script)) == [["status", "--done"], ["extract", "1"], ["cluster", "-k", "1"],
                                           ["init", "1", "photos/", "-o", "1", "--seed", "1"], ["digest"], ["digest"]]


def test_the_parser_refuses() -> None:
    parse(["cluster", "-k", "3", "features.h5"])
    parse(["evaluate", "knn", "--test", "photos/test"])
    parse(["init", "deepcluster"], whole=False)
    for wrong in (["nothing"], ["cluster", "--nothing"], ["cluster", "-k", "x"], ["evaluate", "nonlinear"], ["status", "--lowest"],
                  ["init", "deepcluster"]):
        with pytest.raises(AssertionError):
            parse(wrong)


# -- README, scripts, pages ------------------------------------------------------------------------------------------------------


def test_command_lines_of_the_readme_parse() -> None:
    found = [line for block in SHELL for line in command_lines(block)]
    assert found
    for line in found:
        parse(line)
    for span in SPANS:
        for line in command_lines(span):
            parse(line, whole=False)


def test_paths_of_the_readme_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if not re.match(r"[a-z]+:|#", link)]
    own = "|".join(re.escape(p.name) for p in ROOT.iterdir() if p.is_dir() and p.name not in ("runs", "photos"))
    named = re.findall(rf"(?<![\w/.-])(?:\.\./)*((?:{own})/[\w./-]+)", re.sub(r"https?://\S+", "", README))
    assert links
    for path in {*links, *(name.rstrip(".") for name in named)}:
        assert (ROOT / path.removeprefix("./").split("#")[0]).exists(), path


def test_pages_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"\b(ucl(?:-[a-z]+)*)\((\d)\)", README))
    assert named
    assert {f"{name}.{number}" for name, number in named} <= set(FILES)
    assert {f"{name}.1" for name in re.findall(r"`man (ucl(?:-[a-z]+)*)`", README)} <= {f"{Path(file).stem}.1" for file in FILES}
    assert {name for name in COMMANDS if f"ucl {name}" not in README} == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_command_lines_of_the_scripts_parse(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = list(command_lines(text))
    assert found or "\nsource " in text or path.name == "jobs.bash"  # which runs what it is told to
    for line in found:
        parse(line)


@pytest.mark.parametrize("file", FILES)
def test_command_lines_of_the_pages_parse(file: str) -> None:
    text = (MAN / file).read_text(encoding="utf-8")
    in_examples = text[text.index("\n.SH EXAMPLES\n"):]
    assert ".EX" in in_examples
    assert "run in a " in text, "no example of this page is ever run"
    found = [line for _, script in examples(file) for line in command_lines(script)]
    assert found
    for line in found:
        parse(line)


def test_examples_of_the_help_parse() -> None:
    for name in COMMANDS:
        command = built(name)
        for one in [command, *getattr(command, "commands", {}).values()]:
            for line in command_lines(one.epilog.split("\b\n")[1].split("\n\n")[0]):
                parse(line)


# -- the examples, run -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def run_directory(ucl: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits after one short epoch of six; not to be changed."""
    folder = tmp_path_factory.mktemp("man") / "digits"
    assert ucl("init", "deepcluster", "digits", "-o", folder, "--epochs", 6, "--set", "train-epoch.epoch_length=0.1", "-j", 1).code == 0
    assert ucl("run", "-o", folder, "--limit", 1).code == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_examples_run(file: str, ucl: Runner, run_directory: Path, photos_made: Path, tmp_path: Path) -> None:
    """Those marked, in the order of the page, in a run directory or in a folder with photos/, photos-test/ and runs/digits."""
    shutil.copytree(run_directory, tmp_path / "inside", symlinks=True)
    shutil.copytree(run_directory, tmp_path / "folder" / "runs" / "digits", symlinks=True)
    shutil.copytree(photos_made, tmp_path / "folder" / "photos")
    shutil.copytree(photos_made, tmp_path / "folder" / "photos-test")
    shim = ucl.on_path(tmp_path)
    places = {"in a run directory": tmp_path / "inside", "in a folder": tmp_path / "folder"}
    marked = [(where, script) for where, script in examples(file) if where]
    assert marked
    for where, script in marked:
        env = environment(PATH=f"{shim}:{Path(sys.executable).parent}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-e", "-c", script], cwd=places[where], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=300)
        assert done.returncode == 0, f"{script}\n{done.stderr.decode()}"
        assert b"Traceback" not in done.stderr
        assert b"\x89HDF" not in done.stdout
