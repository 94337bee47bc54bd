"""What a setting is: a field with a default, a help line, a source, a range; parsed from text, checked when made."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ucl.errors import UsageError

S = TypeVar("S", bound="Settings")


def option(default: Any, help: str, *, source: str = "", choices: tuple[str, ...] = (),
           flags: tuple[str, ...] = (), low: float | None = None, high: float | None = None) -> Any:
    """A settings field.

    Args:
        default: the value if neither flag, ucl.toml nor plan says otherwise.
        help: one line for ``--help`` and the man page.
        source: the paper's section, or the code, the default follows.
        choices: the only values allowed, for strings.
        flags: command-line spellings; ``--field-name`` if empty.
        low: smallest value allowed.
        high: largest value allowed.
    """
    meta = {"help": help, "source": source, "choices": choices, "flags": flags, "low": low, "high": high}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Settings:
    """Base of all settings: checks ranges and choices when made, and can be changed by text."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            _check(f, getattr(self, f.name))

    def override(self: S, values: Mapping[str, Any], where: str = "") -> S:
        """The same settings with some fields replaced.

        Args:
            values: field name (dashes or underscores) -> value; text is parsed by the field's type.
            where: where the values come from, for messages ("ucl.toml", "--set").

        Raises:
            UsageError: an unknown field (the nearest known one is named) or a value of another type or out of range.
        """
        known = {f.name: f for f in dataclasses.fields(self)}
        hints = _types(type(self))  # type: ignore[arg-type]
        changes: dict[str, Any] = {}
        for name, value in values.items():
            key = name.replace("-", "_")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))
                raise UsageError(f"{where + ': ' if where else ''}unknown setting {name!r}", hint)
            changes[key] = parse(value, hints[key], f"{where + ': ' if where else ''}{name}")
        if not changes:
            return self
        try:
            return dataclasses.replace(self, **changes)
        except UsageError as error:
            raise UsageError(f"{where + ': ' if where else ''}{error.message}", error.hint) from error

    @property
    def unread(self) -> frozenset[str]:
        """Fields that say nothing under the others, so that nobody should set them by hand."""
        return frozenset()

    def refuse_unread(self, names: Iterable[str], where: str = "") -> None:
        """Refuse what was set by hand and would not be read.

        Raises:
            UsageError: one of ``names`` (dashes or underscores) is among `unread`.
        """
        for name in names:
            if name.replace("-", "_") in self.unread:
                why, hint = self.why_unread(name.replace("-", "_"))
                raise UsageError(f"{where + ': ' if where else ''}{name}: {why}", hint)

    def why_unread(self, name: str) -> tuple[str, str]:
        """What to say of a field that is not read, and how to mend it."""
        return "is not read", "leave it out"

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, in declaration order; tuples stay tuples."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def own_first(kind: type[Settings]) -> list[dataclasses.Field[Any]]:
    """The fields of a kind of settings as people should see them: its own, then those it shares with others by inheritance."""
    shared = {f.name for base in kind.__mro__[1:] if dataclasses.is_dataclass(base) for f in dataclasses.fields(base)}
    return sorted(dataclasses.fields(kind), key=lambda f: f.name in shared)


@functools.cache
def _types(of: type[Settings]) -> dict[str, Any]:
    """Field name -> type; a plan asks for them in every epoch."""
    return typing.get_type_hints(of)


def _check(f: dataclasses.Field[Any], value: Any) -> None:
    """Raise UsageError if ``value`` is outside the field's choices or range."""
    if value is None:
        return
    choices = f.metadata.get("choices") or ()
    if choices and value not in choices:
        raise UsageError(f"{f.name}: found {value!r}, wanted one of {', '.join(choices)}")
    low, high = f.metadata.get("low"), f.metadata.get("high")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            if isinstance(item, float) and not math.isfinite(item):
                raise UsageError(f"{f.name}: found {item}, wanted a finite number")
            if (low is not None and item < low) or (high is not None and item > high):
                span = f"at least {low}" if high is None else f"{low} to {high}"
                raise UsageError(f"{f.name}: found {item}, wanted {span}")


def parse(value: Any, hint: Any, where: str) -> Any:
    """``value`` (text, or what TOML gave) as the type ``hint``.

    Raises:
        UsageError: the value does not read as that type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or value in ("none", "None", ""):
            return None
        return parse(value, next(a for a in args if a is not type(None)), where)
    try:
        if origin is tuple:
            parts = value.replace(",", " ").split() if isinstance(value, str) else list(value)
            if len(parts) != len(args):
                raise ValueError
            return tuple(parse(p, a, where) for p, a in zip(parts, args, strict=True))
        if hint is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "1": True, "on": True,
                    "false": False, "no": False, "0": False, "off": False}[str(value).lower()]
        if isinstance(value, bool) and hint in (int, float):
            raise ValueError
        return _integer(value) if hint is int else hint(value)
    except (ValueError, KeyError, TypeError) as error:
        wanted = getattr(hint, "__name__", str(hint))
        raise UsageError(f"{where}: found {value!r}, wanted {wanted}") from error


def _integer(value: Any) -> int:
    """Digits exactly, however many; else a number that is whole, as "1e4"."""
    try:
        if not isinstance(value, float):
            return int(value)
    except ValueError:
        value = float(value)
    if not value.is_integer():
        raise ValueError
    return int(value)
