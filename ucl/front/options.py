"""Options that several commands share, and those that come from a verb's settings.

`command("cluster")` gives a function one option for every field of the verb's settings, so that no default or help text
is written twice.  The function receives what was really given as ``given`` (field -> value).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from ucl import settings as all_settings
from ucl.errors import UsageError
from ucl.fields import own_first
from ucl.memory import parse_size

Main = Callable[..., int]


@dataclass(frozen=True)
class Common:
    """What every command is told.

    Attributes:
        command: as it is called in messages, "ucl cluster".
        quiet: errors only.  verbose: 0, 1 or 2.
        device, threads, seed, memory, precision, compile: the machine options, None where not given.
    """

    command: str = "ucl"
    quiet: bool = False
    verbose: int = 0
    device: str | None = None
    threads: int | None = None
    seed: int | None = None
    precision: str | None = None
    compile: bool | None = None
    memory: str | None = None


_QUIET = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")],
    "verbose": Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv for debugging.")],
}
_MACHINE = {
    "device": Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", metavar="DEVICE",
                                                 envvar="UCL_DEVICE", show_envvar=False)],
    "threads": Annotated[int | None, typer.Option("--threads", "-j", help="CPU threads; in a run directory those that init recorded.",
                                                  metavar="N", envvar="UCL_THREADS", show_envvar=False)],
}
PrecisionOption = Annotated[str | None, typer.Option("--precision", metavar="float32|tf32|bf16", help="Matrix products and convolutions: "
                                                     "float32, tf32 on a GPU that has it, or bf16. Default: float32, in a run directory what "
                                                     "init recorded.")]
CompileOption = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile the network with torch.compile; needs a C++ compiler. "
                                                    "Default: no, in a run directory what init recorded.", show_default=False)]
_COMPUTE = {"precision": PrecisionOption, "compile": CompileOption}
_MEMORY = {"memory": Annotated[str | None, typer.Option("--memory", metavar="SIZE", envvar="UCL_MEMORY", show_envvar=False,
                                                        help="Memory to keep to in clustering, as 8G; results do not depend on it. "
                                                             "Default: what the machine or the Slurm job has.")]}
_SEED = {"seed": Annotated[int | None, typer.Option("--seed", help="Seed of every random draw; in a run directory the one that "
                                                    "init recorded. Default: 0.", metavar="N")]}


def among(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """Refuse a value that is not one of a few words.

    Raises:
        UsageError: it is another.
    """
    if value is not None and value not in known:
        near = difflib.get_close_matches(value.lower(), known, n=1)
        raise UsageError(f"{name}: found {value!r}, wanted one of {', '.join(known)}", near[0] if near else known[0])


OutputOption = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Output file, written whole or not at all; "
                                                  "- is standard output.")]
ForceOption = Annotated[bool, typer.Option("-f", "--force", help="Replace an existing output file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
SummaryJsonOption = Annotated[bool, typer.Option("--json", help="The summary on standard error as one JSON document.")]
EveryOption = Annotated[str, typer.Option("--checkpoint-every", metavar="DURATION", envvar="UCL_CHECKPOINT_EVERY", show_envvar=False,
                                          show_default=False, help="Keep unfinished work so often, as 30s, 10m or 1h; 0: only when "
                                          f"stopped. Default: {all_settings.CHECKPOINT_EVERY}.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with what was kept; refuse what is not of this very work.")]
StageOption = Annotated[str, typer.Option("--stage", metavar="NAME", help="Which step of the plan, where a turn has several of this verb.")]


def command(verb: str = "", *, machine: bool = False, threads: bool = False, seed: bool = False, compute: bool = False, memory: bool = False,
            skip: tuple[str, ...] = ()) -> Callable[[Main], Main]:
    """Give a command function its shared options.

    Args:
        verb: key of `settings.SETTINGS`; its fields become options, collected in ``given``.
        machine: add --device and --threads.  threads: add --threads alone.  seed: add --seed.
        compute: add --precision and --compile.  memory: add --memory.
        skip: fields that get no option.
    """
    named = ("device", "threads") if machine else ("threads",) if threads else ()
    shared = {**_QUIET, **{name: _MACHINE[name] for name in named}, **(_SEED if seed else {}), **(_COMPUTE if compute else {}),
              **(_MEMORY if memory else {})}

    def wrap(function: Main) -> Main:
        hints = typing.get_type_hints(function, include_extras=True)
        hints.pop("return", None)
        own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()
               if p.name not in ("given", "common")]
        fields = [f for f in own_first(all_settings.SETTINGS[verb]) if f.name not in skip] if verb else []
        extra = [_parameter(name, hint, False if name == "quiet" else 0 if name == "verbose" else None) for name, hint in shared.items()]
        params = [*own, *(_setting(f, verb) for f in fields), *extra]

        called = "ucl " + function.__module__.rpartition(".")[2].rstrip("_").replace("_", "-")  # import is import_, as it is a keyword
        called += "" if function.__name__ == "main" else f" {function.__name__}"

        @wraps(function)
        def run(**values: Any) -> int:
            from ucl.front.console import start_logging

            common = Common(called, **{name: values.pop(name) for name in shared})
            start_logging(called, common)
            all_settings.MachineSettings().override({k: v for k in ("seed", "threads", "precision") if (v := getattr(common, k)) is not None},
                                                    "command line")
            if common.memory:
                parse_size(common.memory)
            given = {f.name: values.pop(_name(f, verb)) for f in fields}
            given = {k: v for k, v in given.items() if v is not None}
            if verb:
                values["given"] = given
            try:
                return function(common=common, **values)
            except BrokenPipeError:  # typer would make it exit 1
                return 141

        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in params}
        return run

    return wrap


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _name(field: dataclasses.Field[Any], verb: str) -> str:
    return f"set_{field.name}"


def default_text(field: dataclasses.Field[Any]) -> str:
    """How a field's default is written in help and man pages."""
    value = field.default
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def flags_of(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Command-line spellings of a field."""
    dashed = field.name.replace("_", "-")
    if isinstance(field.default, bool):
        return (f"--{dashed}/--no-{dashed}",)
    return tuple(field.metadata.get("flags") or (f"--{dashed}",))


def _setting(field: dataclasses.Field[Any], verb: str) -> inspect.Parameter:
    """One option for one field; its value is None where it was not given."""
    hint = typing.get_type_hints(all_settings.SETTINGS[verb])[field.name]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    choices = field.metadata.get("choices") or ()
    metavar = "|".join(choices) if choices else ",".join("ABC"[: len(typing.get_args(hint))]) if typing.get_origin(hint) is tuple else "NAME"
    plain = hint if hint in (int, float, bool) else str
    if plain in (int, float):
        metavar = "N" if plain is int else "X"
    help_text = f"{field.metadata['help'][0].upper()}{field.metadata['help'][1:]}. Default: {default_text(field)}."
    option = typer.Option(*flags_of(field), help=help_text, metavar=metavar if plain is not bool else None, show_default=False)
    return _parameter(_name(field, verb), Annotated[plain | None, option], None)


def settings_table(assignments: list[str]) -> dict[str, str]:
    """``--set`` values as "verb.key" -> text.

    Raises:
        UsageError: see `settings.parse_assignments`.
    """
    found = all_settings.parse_assignments(assignments)
    return {f"{verb}.{key}": value for verb, keys in found.items() for key, value in keys.items()}


def one_of(name: str, *values: Any) -> None:
    """Refuse more than one of several exclusive options.

    Raises:
        UsageError: more than one was given.
    """
    if sum(bool(v) for v in values) > 1:
        raise UsageError(f"{name}: give one of them")
