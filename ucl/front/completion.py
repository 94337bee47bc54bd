"""What a shell completes the values of options and arguments from; typer completes the names of commands and options.

Imported only while a shell asks.  A value without words of its own is left to the shell, which completes files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

SHELLS = ("bash", "zsh", "fish")
HELP = 60
"""Longest help beside a completion; longer ones would be wrapped, which zsh does not take."""


def complete_values(made: Any) -> None:
    """Give the parameters of a typer command, and of its parts, the words their values are completed from."""
    for part in getattr(made, "commands", {}).values():
        complete_values(part)
    made.shell_complete = _shortened(made.shell_complete)
    for param in made.params:
        words = _words(param)
        if words is not None:
            param.shell_complete = _from(words)


def _from(words: Callable[[], Iterable[str]]) -> Callable[[Any, str], list[Any]]:
    return lambda ctx, incomplete: [SimpleNamespace(value=w, help=None, type="plain") for w in words() if w.startswith(incomplete)]


def _shortened(complete: Callable[[Any, str], list[Any]]) -> Callable[[Any, str], list[Any]]:
    def short(ctx: Any, incomplete: str) -> list[Any]:
        items = complete(ctx, incomplete)
        for item in items:
            if item.help and len(item.help) > HELP:
                item.help = item.help[:HELP - 3].rsplit(" ", 1)[0] + "..."
        return items

    return short


def _words(param: Any) -> Callable[[], Iterable[str]] | None:
    """The words of a parameter, from its metavar (fail|skip) or its name; None for anything else."""
    metavar = str(param.metavar or "").strip("[].")
    if metavar == "METHOD":
        return _methods
    if "--backbone" in param.opts:
        return _backbones
    if "--set" in param.opts:
        return _assignments
    if "--device" in param.opts:
        return lambda: ("auto", "cpu", "cuda")
    if metavar == "SHELL":
        return lambda: SHELLS
    words = [w for w in metavar.split("|") if re.fullmatch(r"[a-z][a-z0-9-]*", w)]
    return (lambda: words) if "|" in metavar and words else None


def _methods() -> Iterable[str]:
    from ucl.methods import METHODS

    return METHODS


def _backbones() -> Iterable[str]:
    from ucl.models import BACKBONES

    return BACKBONES


def _assignments() -> Iterable[str]:
    """VERB.KEY= of every setting."""
    import dataclasses

    from ucl.settings import tables

    return [f"{verb}.{f.name}=" for verb, made in tables().items() for f in dataclasses.fields(made)]
