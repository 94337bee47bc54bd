#!/usr/bin/env python
"""Makes the manual pages from the code and from hand-written prose.

    python man/generate.py            rewrite man/*.1, man/*.5, man/*.7
    python man/generate.py --check    exit 1 and name the pages that differ

From the code come: every command's SYNOPSIS and OPTIONS (`ucl.cli.build`), defaults, ranges and sources (`ucl.settings`),
datasets and attributes (`ucl.formats.layout`), exit codes (`ucl.errors`), methods, backbones and plans.  Everything else is
in `<page>.inc`: man(7) macros and plain text, in which

    `text`            is bold, with its hyphens and backslashes escaped
    ucl-run(1)        is a reference
    .EX ... .EE       is shell or Python as it is typed; a comment `run in a folder` or `run in a run directory` before it
                      tells the slow test where it can be run
    @options [PART]   and other lines that start with @ are filled in by a function of that name below
    @help --json TEXT replaces the help of an option or argument on this page, where the command's own says less
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ucl import __version__
from ucl.cli import COMMANDS, GROUPS, build
from ucl.context import Context
from ucl.errors import EXIT_STATUS
from ucl.formats.layout import INTEGRITY, PROVENANCE, ROOT_ATTRS, SCHEMA, Attr, Item, relevant_attrs
from ucl.front.forecast import changing, ends_text, shell_line
from ucl.front.options import default_text
from ucl.methods import METHODS, pcp, rounds
from ucl.methods.method import Step, plan, plan_length
from ucl.models import BACKBONES
from ucl.settings import METHOD_TABLES, SETTINGS, PlanSettings, RoundSettings

HERE = Path(__file__).parent
DATE = "2026-11-21"
"""Of the last change to what the pages say; no clock, so that equal sources make equal pages."""

WIDTH = 76
ORDER = ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FILES", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO")

ENVIRONMENT: dict[str, str] = {
    "UCL_DEVICE": "Stands for `--device` where that is not given.",
    "UCL_THREADS": "Stands for `--threads` where that is not given.",
    "UCL_CHECKPOINT_EVERY": "Stands for `--checkpoint-every` where that is not given.",
    "UCL_MEMORY": "Stands for `--memory` where that is not given.",
    "UCL_LOG": "`debug`, `info`, `warning` or `error`: which messages are shown, whatever `-q` and `-v` say.",
    "UCL_DEBUG": "If not empty, an error also shows the Python traceback.",
    "UCL_PROVENANCE": "`minimal` leaves host, job and folders out of the provenance of new files; `none` leaves out the provenance.",
    "SOURCE_DATE_EPOCH": "Seconds since 1970 to write into the provenance in place of the time.",
    "TMPDIR": "Where a stream that ucl did not write itself is spooled, and rows that do not fit into memory; the spool file has no name and "
              "needs no cleaning up.  "
              "`UCL_TMPDIR`, then `SLURM_TMPDIR`, go before it.",
    "OMP_WAIT_POLICY": "ucl sets it to `passive` unless it is set: threads that wait do not spin, which costs up to 15 % on idle cores and "
                       "saves very much beside other busy processes.  `active` is for cores of one's own.",
    "TERM": "No progress bar is drawn if it is `dumb` or not set.",
    "SLURM_CPUS_PER_TASK": "Number of threads where neither option, variable nor run directory names one; without it, the CPUs that the "
                           "process may use.",
    "SLURM_MEM_PER_NODE": "In MB, a limit of the memory where `--memory` is not given; likewise `SLURM_MEM_PER_CPU` times "
                          "`SLURM_CPUS_ON_NODE`.",
    "SLURM_TASK_PID": "Tells a task that srun(1) started: its standard streams are not data.",
    "SLURM_JOB_ID": "Noted in the provenance and in the lock of a run directory.",
    "RANK": "With `WORLD_SIZE`, set by torchrun: more than one process is refused (69), and so is a half-set pair (2).  Without them "
            "`SLURM_PROCID` and `SLURM_STEP_NUM_TASKS` are looked at.",
}

DATA: tuple[tuple[str, Context], ...] = (
    ("the built-in digits", Context(images=1797, size=16, source="digits")),
    ("views up to 64 px, 10,000 images", Context(images=10_000, size=32)),
    ("views up to 64 px, 50,000 images", Context(images=50_000, size=32)),
    ("larger views, 1,281,167 images", Context(images=1_281_167, size=224)),
)


# -- text ------------------------------------------------------------------------------------------------------------------------


def literal(text: str) -> str:
    """Text that stands as it is typed: no hyphen becomes a dash, no quote a curly one."""
    for plain, escape in (("\\", r"\e"), ("-", r"\-"), ("`", r"\(ga"), ("'", r"\(aq"), ("^", r"\(ha"), ("~", r"\(ti")):
        text = text.replace(plain, escape)
    return text


def bold(text: str) -> str:
    return rf"\fB{literal(text)}\fP"


def italic(text: str) -> str:
    return rf"\fI{literal(text)}\fP"


def inline(text: str) -> str:
    """Prose: `bold` in backquotes, references to pages bold."""
    parts = text.split("`")
    refer = re.compile(r"(?<![\w/-])([a-z][a-z0-9]*(?:-[a-z]+)*)\(([1-8])\)")
    return "".join(bold(part) if i % 2 else refer.sub(lambda m: bold(m[1]) + f"({m[2]})", part) for i, part in enumerate(parts))


def fill(text: str) -> list[str]:
    """Lines of at most 80 bytes; a sentence starts a line."""
    lines: list[str] = []
    for sentence in re.split(r"(?<=[^.A-Z][.:!?])\s+(?=[A-Z\\])", " ".join(text.split())):
        lines += textwrap.wrap(sentence, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [rf"\&{line}" if line[0] in ".'" else line for line in lines]


def prose(text: str) -> list[str]:
    return fill(inline(text))


def stop(text: str) -> str:
    """With a full stop."""
    return text if text[-1] in ".:" else text + "."


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return stop(text[0].upper() + text[1:])


def entry(tag: str, *paragraphs: str) -> Iterator[str]:
    """A tagged paragraph; ``tag`` is roff already, paragraphs are prose."""
    yield from (".TP", tag)
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".br"
        yield from prose(paragraph)


# -- from the code ---------------------------------------------------------------------------------------------------------------


def command_of(name: str, part: str = "") -> Any:
    """The typer command, or a part of it."""
    made = build(name)
    return made.commands[part] if part else made


def options_of(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option"]


def arguments_of(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "argument"]


def name_of(argument: Any) -> str:
    """FILE of ``[FILE...]``."""
    return str(argument.metavar).strip("[].")


def value_of(param: Any) -> str:
    """What stands for an option's value; empty for a switch."""
    if param.is_flag or getattr(param, "count", False):
        return ""
    return param.metavar or "TEXT"


def _metavar(text: str) -> str:
    return bold(text) if text.islower() else italic(text)


def _tag(param: Any) -> str:
    value = value_of(param)
    after = f" {_metavar(value)}" if value else ""
    return ", ".join(bold(o) + after for o in (*sorted(param.opts, key=len), *param.secondary_opts))


def verb_of(name: str, part: str = "") -> str:
    """The key of `SETTINGS` whose fields a command has as options; `run` has those of `init`, `pack` those of its image list."""
    verb = f"{name}-{part}" if part else "init" if name in ("run", "pack") else name
    return verb if verb in SETTINGS else ""


def field_of(param: Any, verb: str) -> dataclasses.Field[Any] | None:
    """The settings field an option comes from."""
    fields = {f"set_{f.name}": f for f in dataclasses.fields(SETTINGS[verb])} if verb else {}
    return fields.get(param.name)


def _range(field: dataclasses.Field[Any]) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is None and high is None:
        return ""
    return f"  At least {low:g}." if high is None else f"  From {low:g} to {high:g}."


def _source(field: dataclasses.Field[Any]) -> str:
    return f"  Source: {field.metadata['source']}." if field.metadata["source"] else ""


def _option(param: Any, verb: str, helps: dict[str, str]) -> Iterator[str]:
    text = next((helps[o] for o in param.opts if o in helps), "")
    field = field_of(param, verb)
    if field is None:
        yield from entry(_tag(param), text or param.help)
        return
    what = text or sentence(field.metadata["help"])
    yield from entry(_tag(param), what, f"Default: `{default_text(field)}`.{_range(field)}{_source(field)}")


def options(page: Page, part: str = "") -> Iterator[str]:
    """OPTIONS of a command: its arguments first, then its own options, its settings, the common ones."""
    command = command_of(page.command, part)
    verb = verb_of(page.command, part)
    for param in arguments_of(command):
        name = name_of(param)
        yield from entry(italic(name), page.helps.get(name, param.help))
    for param in options_of(command):
        yield from _option(param, verb, page.helps)
    yield from entry(bold("--help"), "Show a summary and exit.")


def synopsis(page: Page) -> Iterator[str]:
    """One line per command or part."""
    made = build(page.command)
    parts = list(made.commands) if hasattr(made, "commands") else [""]
    for number, part in enumerate(parts):
        if number:
            yield ".br"
        command = command_of(page.command, part)
        required = [p for p in options_of(command) if p.required]
        words = [bold(" ".join(f"ucl {page.command} {part}".split()))]
        words += [r"[\fIOPTION\fP ...\&]"] + [f"{bold(p.opts[0])} {_metavar(value_of(p))}" for p in required]
        for param in arguments_of(command):
            name = name_of(param)
            many = r" ...\&" if param.nargs == -1 else ""
            words.append(f"{italic(name)}{many}" if param.required else f"[{italic(name)}{many}]")
        yield " ".join(words)


def commands(page: Page) -> Iterator[str]:
    """All commands by group."""
    for group in GROUPS:
        yield f".SS {group}"
        for name, (_, text, of) in COMMANDS.items():
            if of == group:
                yield from entry(f"{bold(f'ucl-{name}')}(1)", text)


def methods(page: Page) -> Iterator[str]:
    for name, (_, text) in METHODS.items():
        yield from entry(bold(name), stop(text))


def backbones(page: Page) -> Iterator[str]:
    for name, one in BACKBONES.items():
        yield from entry(bold(name), stop(f"{one.help}; {one.dim} features; views of {one.size} pixels unless {bold('--size')} is given"))


def layers(page: Page) -> Iterator[str]:
    """The short names of each backbone's layers."""
    for name, one in BACKBONES.items():
        yield from entry(bold(name), ", ".join(one.layers) + ".")


def plans(page: Page, name: str, cases: str = "4") -> Iterator[str]:
    """A method's plan for each kind of data, as the shell lines that perform it."""
    for what, data in DATA[:int(cases)]:
        context = dataclasses.replace(data, method=name)
        first, later = ([shell_line(step) for step in plan(dataclasses.replace(context, epoch=epoch))] for epoch in (0, 1))
        yield from (".PP", f"{bold(name)}, {what}, {plan_length(context)} epochs:", ".EX")
        yield from _code(first)
        yield ".EE"
        if later != first:
            yield from prose("From the second epoch on:")
            yield ".EX"
            yield from _code([line for line, before in zip(later, first, strict=True) if line != before])
            yield ".EE"


def _code(lines: list[str]) -> Iterator[str]:
    """Shell lines, long ones continued."""
    for line in lines:
        wrapped = textwrap.wrap(line, 64, break_long_words=False, break_on_hyphens=False, subsequent_indent="    ")
        for number, piece in enumerate(wrapped):
            yield literal(piece + (" \\" if number < len(wrapped) - 1 else ""))


def plansettings(page: Page) -> Iterator[str]:
    """Settings of a whole plan, which only ucl.toml and `init` know."""
    for field in dataclasses.fields(PlanSettings):
        yield from entry(bold(f"plan.{field.name}"), sentence(field.metadata["help"]), f"Default: `{default_text(field)}`.")


def loop(page: Page, name: str) -> Iterator[str]:
    """A method's turn as a shell loop, for 50,000 small images, and what its plan changes from epoch to epoch; a first turn of other
    steps stands before the loop."""
    context = dataclasses.replace(DATA[2][1], method=name)
    differing = changing(context, plan_length(context))

    def pipe(steps: list[Step], before: str = "") -> Iterator[str]:
        lines = [shell_line(step, {field for stage, field in differing if stage == step.stage}) for step in steps]
        yield from _code([before + line + (" |" if line is not lines[-1] else " || exit") for line in lines])

    first, later = plan(context), plan(dataclasses.replace(context, epoch=1))
    yield ".EX"
    if [step.stage for step in first] != [step.stage for step in later]:
        yield from pipe(first)
        first = later
    yield literal("until ucl status --done; do")
    yield from pipe(first, "    ")
    yield from ("done", ".EE")
    if differing:
        yield ".PP"
        yield from prose(f"From the first epoch to the last: {ends_text(differing)}.")


def timeline(page: Page, epochs: str, images: str, final_k: str) -> Iterator[str]:
    """What PCP's plan does in the epochs of the first round: one line for each stretch in which nothing but numbers moves."""
    settings = pcp.settled(Context(method="pcp", images=int(images), overrides={"pcp.epochs": epochs, "pcp.final_k": final_k}))

    def phase(t: int) -> tuple[bool, str, str, bool, str]:
        told = pcp.purification(t, settings)
        k = pcp.cluster_count(t, int(images), settings.final_k, epochs=settings.epochs)
        return (k > settings.final_k, f"above {told.whole_up_to}" if told.whole_up_to else "all", "yes" if told.votes else "no",
                pcp.warm_up_weight(t, settings) > 0, f"{rounds.learning_rate(t, settings):g}")

    def ends(values: list[str]) -> str:
        return values[0] if values[0] == values[-1] else f"{values[0]}-{values[-1]}"

    form = "{:<9}{:<12}{:<11}{:<7}{:<17}{}"
    yield ".EX"
    yield literal(form.format("epochs", "clusters", "sizes cut", "votes", "weight of views", "learning rate"))
    for (_, cut, votes, _, lr), members in groupby(range(settings.epochs), phase):
        span = list(members)
        counts = [str(pcp.cluster_count(t, int(images), settings.final_k, epochs=settings.epochs)) for t in span]
        weights = [f"{pcp.warm_up_weight(t, settings):.3g}" for t in span]
        yield literal(form.format(ends([str(t) for t in span]), ends(counts), cut, votes, ends(weights), lr))
    yield ".EE"


def methodsettings(page: Page, name: str = "") -> Iterator[str]:
    """A method's table of ucl.toml: what it has beside the settings of rounds, or otherwise; without a name those, which all have."""
    shared = {f.name: f for f in dataclasses.fields(RoundSettings)}
    for field in dataclasses.fields(METHOD_TABLES[name] if name else RoundSettings):
        base = shared.get(field.name)
        if name and base is not None and (base.default, base.metadata) == (field.default, field.metadata):
            continue
        choices = f"  One of: {', '.join(field.metadata['choices'])}." if field.metadata["choices"] else ""
        yield from entry((bold(name) if name else italic("METHOD")) + bold(f".{field.name}"), sentence(field.metadata["help"]),
                         f"Default: `{default_text(field)}`.{choices}{_range(field)}{_source(field)}")


def exit(page: Page, *codes: str) -> Iterator[str]:
    """The exit codes of a command, or the whole table."""
    yield ".PD 0"
    for code in codes or map(str, EXIT_STATUS):
        yield from entry(bold(code), stop(EXIT_STATUS[int(code)]))
    yield ".PD"
    if codes:
        yield from (".PP", *prose("The whole table, and what a script makes of it: ucl-exit-status(7)."))


def env(page: Page, *names: str) -> Iterator[str]:
    for name in names or ENVIRONMENT:
        yield from entry(bold(name), ENVIRONMENT[name])


def _type(code: str) -> str:
    return code.replace("|", " or ") if " " not in code else code


def _item(item: Item) -> Iterator[str]:
    dims = "any shape" if item.dims == ("*",) else "(" + ", ".join(map(str, item.dims)) + ("," if len(item.dims) == 1 else "") + ")"
    code = "any type" if item.dtype == "*" else "compound" if " " in item.dtype else _type(item.dtype)
    word = ", required" if item.required else ""
    extra = ""
    if " " in item.dtype:
        extra += f"  Fields: {item.dtype}."
    if item.enum is not None:
        extra += "  An enumeration: " + ", ".join(f"{name} {value}" for name, value in item.enum.items()) + "."
    if item.trailing:
        extra += "  Trailing."
    yield from entry(f"{bold(item.path)} {dims} {code}{word}", stop(item.help) + extra)


def _attr(attr: Attr) -> Iterator[str]:
    relevant = "  Part of the content digest." if attr.name in relevant_attrs() else ""
    yield from entry(f"{bold(attr.name)} {attr.dtype}", stop(attr.help) + relevant)


def attributes(page: Page) -> Iterator[str]:
    """Root attributes of every file."""
    yield ".PD 0"
    for attr in ROOT_ATTRS:
        yield from _attr(attr)
    yield ".PD"


def common(page: Page) -> Iterator[str]:
    """Datasets of every file."""
    yield ".PD 0"
    for item in (PROVENANCE, *INTEGRITY):
        yield from _item(item)
    yield ".PD"


def datasets(page: Page, kind: str) -> Iterator[str]:
    """Datasets and own attributes of one kind of file."""
    made = SCHEMA[kind]
    yield from prose(sentence(made.help) + f"  Version {made.version}.")
    yield ".PD 0"
    for item in (*made.items, *made.prefix_items):
        yield from _item(item)
    yield ".PD"
    if made.attrs:
        yield ".PP"
        yield from prose("Root attributes beside the common ones:")
        yield ".PD 0"
        for attr in made.attrs:
            yield from _attr(attr)
        yield ".PD"


def see(page: Page, *references: str) -> Iterator[str]:
    ordered = sorted(references, key=lambda r: (r[-2], r))
    yield from (f".BR {literal(r[:-3])} ({r[-2]})" + ("," if r != ordered[-1] else "") for r in ordered)


FILLERS: dict[str, Callable[..., Iterator[str]]] = {
    f.__name__: f for f in (options, commands, methods, backbones, layers, plans, loop, timeline, plansettings,
                                methodsettings, exit, env, attributes, common, datasets, see)}


# -- pages -----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Page:
    """One page: its name, section and prose.

    Attributes:
        name: ucl-cluster; section: 1.
        command: the command it is about, empty for others.
        helps: option -> text that replaces its help.
    """

    name: str
    section: int
    command: str = ""
    helps: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.name}.{self.section}"

    def text(self) -> str:
        """The page as roff."""
        lines = self._read()
        head = [r'.\" Made by man/generate.py from the code and from ' + f"man/{self.name}.inc; edit those.",
                f'.TH {literal(self.name.upper())} {self.section} "{DATE}" "ucl {__version__}" "ucl manual"']
        if self.command:
            title = COMMANDS[self.command][1].rstrip(".")
            head += [".SH NAME", *fill(rf"{literal(self.name)} \- {title[0].lower() + title[1:]}"), ".SH SYNOPSIS", *synopsis(self)]
        return "\n".join([*head, *self._body(lines)]) + "\n"

    def _read(self) -> list[str]:
        """The prose without its @help lines, which go to `helps`."""
        lines = []
        for line in (HERE / f"{self.name}.inc").read_text(encoding="utf-8").splitlines():
            if line.startswith("@help "):
                _, option, text = line.split(maxsplit=2)
                self.helps[option] = text
            else:
                lines.append(line)
        return lines

    def _body(self, lines: list[str]) -> Iterator[str]:
        paragraph: list[str] = []
        code = tag = False
        for line in [*lines, ""]:
            plain = not code and line and line[0] not in ".'@"
            if paragraph and not plain:
                yield from prose(" ".join(paragraph))
                paragraph = []
            if plain and tag:
                yield inline(line)
            elif plain:
                paragraph.append(line)
            elif code and line != ".EE":
                yield literal(line) if line[:1] not in (".", "'") else rf"\&{literal(line)}"
            elif line.startswith("@"):
                name, *words = line[1:].split()
                yield from FILLERS[name](self, *words)
            elif line:
                code = line == ".EX"
                yield self._macro(line)
            tag = line == ".TP"

    @staticmethod
    def _macro(line: str) -> str:
        """A macro line; its text may hold `bold`."""
        return line if line.startswith('.\\"') else inline(line)


PAGES: tuple[Page, ...] = (Page("ucl", 1), *(Page(f"ucl-{name}", 1, name) for name in COMMANDS), Page("ucl-formats", 5),
                           Page("ucl-methods", 7), Page("ucl-exit-status", 7))


def main(arguments: list[str]) -> int:
    """Write or check all pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the manual pages from the code and from man/*.inc.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page differs")
    check = parser.parse_args(arguments).check
    differs = False
    for page in PAGES:
        path, text = HERE / page.file, page.text()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differs = True
        if check:
            print(f"{path}: differs from what man/generate.py makes", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(path)
    return int(check and differs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
