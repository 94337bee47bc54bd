"""The manual pages say what the code says: they are generated, and what they say is read back from them here."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ucl.cli import COMMANDS, build
from ucl.errors import EXIT_STATUS
from ucl.formats.layout import INTEGRITY, PROVENANCE, ROOT_ATTRS, SCHEMA, Item
from ucl.front.options import default_text, flags_of
from ucl.methods import METHODS, pcp
from ucl.settings import METHOD_TABLES, SETTINGS, PcpSettings, parse_assignments

MAN = Path(__file__).parents[1] / "man"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", MAN / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module        # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


generate = _generator()
FILES = [page.file for page in generate.PAGES]
PARTS = [(name, part) for name in COMMANDS for part in (getattr(build(name), "commands", None) or [""])]
ESCAPES = ((r"\fB", ""), (r"\fI", ""), (r"\fP", ""), (r"\-", "-"), (r"\(aq", "'"), (r"\(ga", "`"), (r"\(ha", "^"), (r"\(ti", "~"), (r"\&", ""),
           (r"\e", "\\"))


def plain(roff: str) -> str:
    """Roff text without its escapes."""
    for escape, text in ESCAPES:
        roff = roff.replace(escape, text)
    return roff


def section(file: str, title: str) -> str:
    """Roff of a section (or subsection) of a page, up to the next of its rank."""
    text = (MAN / file).read_text(encoding="utf-8")
    found = re.search(rf"^\.(SH|SS) {re.escape(title)}$", text, re.MULTILINE)
    assert found, f"{file}: no {title}"
    rest = text[found.end():]
    end = re.search(r"^\.SH " if found[1] == "SH" else r"^\.S[HS] ", rest, re.MULTILINE)
    return rest[:end.start()] if end else rest


def entries(roff: str) -> dict[str, str]:
    """Tagged paragraphs: tag -> text."""
    found = {}
    for one in re.split(r"^\.TP\n", roff, flags=re.MULTILINE)[1:]:
        lines = re.split(r"^\.(?:PP|SS|SH|PD).*", one, maxsplit=1, flags=re.MULTILINE)[0].replace("\n.br", "").splitlines()
        found[lines[0]] = " ".join(" ".join(lines[1:]).split())
    return found


def options_on_page(name: str, part: str) -> dict[str, str]:
    """The OPTIONS entries of a command or part."""
    file = f"ucl-{name}.1"
    roff = section(file, "OPTIONS")
    if part:
        roff = roff[roff.index(f".SS evaluate {part}\n"):].split("\n.SS ", 1)[0] if roff.count(f".SS evaluate {part}\n") else ""
    return entries(roff)


def flags(tag: str) -> set[str]:
    """The spellings that a tag names."""
    return set(re.findall(r"(?:^|, )(--?[a-z0-9][a-z0-9-]*)", plain(tag)))


def command(name: str, part: str) -> Any:
    made = build(name)
    return made.commands[part] if part else made


def help_of(name: str, part: str) -> str:
    made = command(name, part)
    return str(made.get_help(made.context_class(made, info_name=f"ucl {name} {part}".strip(), max_content_width=200, terminal_width=200)))


@pytest.mark.parametrize("page", generate.PAGES, ids=FILES)
def test_pages_are_what_the_generator_makes(page: Any) -> None:
    assert (MAN / page.file).read_text(encoding="utf-8") == page.text(), "python man/generate.py"


def test_check_tells_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0
    for prose in MAN.glob("*.inc"):
        shutil.copy(prose, tmp_path)
    monkeypatch.setattr(generate, "HERE", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "ucl-cluster.1: differs" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.1"))
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".inc") == sorted(FILES)


def test_there_is_a_page_for_every_command_and_nothing_else() -> None:
    wanted = {"ucl.1", "ucl-formats.5", "ucl-methods.7", "ucl-exit-status.7", *(f"ucl-{name}.1" for name in COMMANDS)}
    assert {p.name for p in MAN.iterdir() if p.suffix in (".1", ".5", ".7")} == wanted == set(FILES)
    assert {p.stem for p in MAN.glob("*.inc")} == {Path(name).stem for name in wanted}


@pytest.mark.parametrize("file", FILES)
def test_sections_stand_in_order(file: str) -> None:
    text = (MAN / file).read_text(encoding="utf-8")
    titles = re.findall(r"^\.SH (.+)$", text, re.MULTILINE)
    known = [t for t in titles if t in generate.ORDER]
    assert known == [t for t in generate.ORDER if t in known]
    needed = {"NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"} | ({"SYNOPSIS", "OPTIONS", "EXIT STATUS"} if file.endswith(".1") else set())
    assert needed <= set(titles)
    assert len(titles) == len(set(titles))
    assert text.isascii()
    assert "@" not in {line[:1] for line in text.splitlines()}


@pytest.mark.parametrize("file", FILES)
def test_references_lead_to_pages(file: str) -> None:
    text = plain((MAN / file).read_text(encoding="utf-8"))
    found = re.findall(r"\b(ucl(?:-[a-z]+)*) ?\((\d)\)", text)
    assert found
    assert {f"{name}.{number}" for name, number in found} <= set(FILES)


def test_mandoc_finds_nothing() -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "style", *(str(MAN / f) for f in FILES)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_help_has_an_example_and_names_the_page(name: str, part: str) -> None:
    text = help_of(name, part)
    example = text.split("Example:")[1]
    assert re.search(rf"^ +.*\bucl {name}", example, re.MULTILINE)
    assert f"man ucl-{name}" in example


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_options_of_page_and_help_agree(name: str, part: str) -> None:
    """Spelling by spelling, both ways; from the text that --help prints, not from what the generator reads."""
    lines = re.findall(r"^  (-.*?)(?:  |$)", help_of(name, part).split("Options:")[1].split("Example:")[0], re.MULTILINE)
    in_help = {flag for line in lines for flag in re.findall(r"(?:^|, | / )(--?[a-z0-9][a-z0-9-]*)", line)}
    on_page = [flag for tag in options_on_page(name, part) for flag in flags(tag)]
    assert set(on_page) == in_help
    assert len(on_page) == len(set(on_page))
    assert {"--help", "--quiet", "-q"} <= in_help


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_arguments_are_on_the_page(name: str, part: str) -> None:
    wanted = {generate.name_of(p) for p in generate.arguments_of(command(name, part))}
    assert {plain(tag) for tag in options_on_page(name, part) if not flags(tag)} == wanted
    line = next(x for x in plain(section(f"ucl-{name}.1", "SYNOPSIS")).splitlines() if x.startswith(f"ucl {name} {part}".strip()))
    assert wanted <= set(re.findall(r"[A-Z]{3,}", line))


@pytest.mark.parametrize("verb", SETTINGS)
def test_every_setting_states_its_default_range_and_source(verb: str) -> None:
    name, _, part = verb.partition("-") if verb.startswith("evaluate-") else (verb, "", "")
    for page in [(name, part), *([("run", "")] if verb == "init" else [])]:
        by_flag = {flag: (tag, text) for tag, text in options_on_page(*page).items() for flag in flags(tag)}
        for field in dataclasses.fields(SETTINGS[verb]):
            tag, text = by_flag[flags_of(field)[-1].split("/")[0]]
            text = plain(text)
            assert f"Default: {default_text(field)}." in text, field.name
            assert field.metadata["source"] in text
            assert all(choice in plain(tag) for choice in field.metadata["choices"])
            for bound in ("low", "high"):
                assert field.metadata[bound] is None or f"{field.metadata[bound]:g}" in text


def test_formats_names_the_schema_and_nothing_else() -> None:
    """Every dataset under its kind, with shape and type; no path or attribute that the schema does not have."""
    def paths(roff: str) -> set[str]:
        return {plain(tag).split()[0] for tag in entries(roff) if plain(tag).startswith("/")}

    def check(item: Item, roff: str) -> None:
        tag = next(tag for tag in map(plain, entries(roff)) if tag.split()[0] == item.path)
        shape = "any shape" if item.dims == ("*",) else str(tuple(item.dims)).replace("'", "")
        code = "compound" if " " in item.dtype else "any type" if item.dtype == "*" else item.dtype.replace("|", " or ")
        assert tag == f"{item.path} {shape} {code}" + (", required" if item.required else "")
        text = next(plain(text) for tag, text in entries(roff).items() if plain(tag).split()[0] == item.path)
        assert item.help in text
        assert ("Trailing" in text) == item.trailing
        for name, value in (item.enum or {}).items():
            assert f"{name} {value}" in text

    file = "ucl-formats.5"
    for kind, made in SCHEMA.items():
        roff = section(file, f"{kind.removeprefix('ucl/').upper()} ({kind})")
        items = (*made.items, *made.prefix_items)
        assert paths(roff) == {item.path for item in items}
        for item in items:
            check(item, roff)
        assert {plain(tag).split()[0] for tag in entries(roff) if not plain(tag).startswith("/")} == {attr.name for attr in made.attrs}
        assert f"Version {made.version}." in plain(roff)
    shared = section(file, "Datasets of every file")
    assert paths(shared) == {item.path for item in (PROVENANCE, *INTEGRITY)}
    for item in (PROVENANCE, *INTEGRITY):
        check(item, shared)
    known = {item.path for made in SCHEMA.values() for item in (*made.items, *made.prefix_items)}
    known |= {item.path for item in (PROVENANCE, *INTEGRITY)} | {alias for made in SCHEMA.values() for alias in made.aliases}
    bold = re.findall(r"\\fB(/[^\\ ]*)", (MAN / file).read_text(encoding="utf-8"))
    assert {plain(path) for path in bold} <= known


def test_formats_names_the_root_attributes() -> None:
    found = entries(section("ucl-formats.5", "Attributes of every file"))
    assert [plain(tag) for tag in found] == [f"{attr.name} {attr.dtype}" for attr in ROOT_ATTRS]
    for attr, text in zip(ROOT_ATTRS, found.values(), strict=True):
        assert ("Part of the content digest" in text) == attr.result_relevant


def test_exit_codes() -> None:
    table = entries(section("ucl-exit-status.7", "DESCRIPTION"))
    found = {int(plain(tag)): plain(text).rstrip(".") for tag, text in table.items() if plain(tag).isdigit()}
    assert found == {code: " ".join(text.split()) for code, text in EXIT_STATUS.items()}
    for name in COMMANDS:
        codes = {int(plain(tag)) for tag in entries(section(f"ucl-{name}.1", "EXIT STATUS"))}
        assert {0, 2, 70, 130, 143} - {130, 143} <= codes <= set(EXIT_STATUS)


def test_environment_variables_are_those_the_code_reads() -> None:
    """Each UCL_* and Slurm variable that a module mentions is on the page of ucl, and the reverse."""
    source = "".join(p.read_text(encoding="utf-8") for p in (MAN.parent / "ucl").rglob("*.py"))
    read = set(re.findall(r"\b(?:UCL|SLURM)_[A-Z_]+\b", source)) | {"SOURCE_DATE_EPOCH", "TMPDIR", "TERM", "RANK", "WORLD_SIZE", "OMP_WAIT_POLICY"}
    text = plain(section("ucl.1", "ENVIRONMENT"))
    named = {plain(tag) for tag in entries(section("ucl.1", "ENVIRONMENT"))}
    assert named <= read
    assert not {name for name in read if name not in text}


def test_lines_of_a_plan_are_those_of_a_dry_run() -> None:
    text = plain(section("ucl-run.1", "Plans"))
    for flag in ("-k 60 --pca 64", "--head kept", "--warm-start", "--iterations 5"):
        assert flag in text


@pytest.mark.parametrize("method", METHOD_TABLES)
def test_every_setting_of_a_method_states_its_default_range_and_source(method: str) -> None:
    text = section("ucl-methods.7", "SETTINGS")
    found = {plain(tag): plain(words) for tag, words in entries(text).items()}
    fields = dataclasses.fields(METHOD_TABLES[method])
    for field in fields:
        words = found.get(f"{method}.{field.name}") or found[f"METHOD.{field.name}"]
        assert f"Default: {default_text(field)}." in words, field.name
        assert field.metadata["source"] in words
        assert field.metadata["help"][1:] in words
        assert all(choice in words for choice in field.metadata["choices"])
        assert all(f"{field.metadata[bound]:g}" in words for bound in ("low", "high") if field.metadata[bound] is not None)
    assert {name.partition(".")[2] for name in found if name.startswith(f"{method}.")} <= {field.name for field in fields}


def test_what_the_methods_page_sets_is_there() -> None:
    """Each table.key=value on the page is a setting that takes the value."""
    found = re.findall(r"\b([a-z-]+\.[a-z_]+)=([\w.,-]*\w)", plain((MAN / "ucl-methods.7").read_text(encoding="utf-8")))
    assert {"pcp.early_return", "pcp.warm_up", "pcp.vote_history", "pcp.whole_up_to", "pcp.keep_cap", "pcp.views", "pcp.lr_factor",
            "train-epoch.cluster_loss"} <= {name for name, _ in found}
    parse_assignments([f"{name}={value}" for name, value in found if value != "X"])


def test_votes_begin_where_the_methods_page_says() -> None:
    """Its way to the paper's words: 15 terms, from epoch 100 on, all sizes cut from the start."""
    told = PcpSettings(epochs=200, vote_history=14, all_sizes_from=0.43, whole_up_to=0)
    assert [pcp.purification(t, told).votes for t in (0, 99, 100, 199)] == [False, False, True, True]
    assert {(p.keep_nearest, p.whole_up_to) for p in (pcp.purification(t, told) for t in range(200))} == {(0.5, 0)}
    late = PcpSettings(epochs=200, vote_history=15, whole_up_to=50_000)
    assert [pcp.purification(t, late).whole_up_to for t in (0, 99, 100)] == [50_000, 50_000, 0]


def test_every_method_is_named() -> None:
    for name in ("init", "run"):
        text = " ".join(help_of(name, "").split("Options:")[0].split())
        assert ", ".join(METHODS) in text
    titles = re.findall(r"^\.SH (.+)$", (MAN / "ucl-methods.7").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.upper() for name in METHODS} <= {word for title in titles for word in title.split(", ")}
    readme = (MAN.parent / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z]+)` \| .* \| `?(?:extract|the same|train-epoch)", readme, re.MULTILINE) == list(METHODS)


@pytest.mark.parametrize(("name", "own", "shared"), [("extract", "--layer", "--crop-scale"), ("train-epoch", "--objective", "--crop-scale"),
                                                     ("init", "--backbone", "--on-error")])
def test_own_settings_come_before_those_that_verbs_share(name: str, own: str, shared: str) -> None:
    text = help_of(name, "")
    assert text.index(f"  {own} ") < text.index(f"  {shared} ")
