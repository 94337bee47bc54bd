"""A method is data: a plan, that is a list of steps for each turn of its alternation.  Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ucl.context import Context
from ucl.errors import ConfigError, UsageError
from ucl.settings import METHOD_TABLES, SETTINGS, PlanSettings, Settings

KEPT = {"model": "ucl/checkpoint", "classifier": "ucl/checkpoint", "labels": "ucl/labels", "neighbors": "ucl/neighbors"}
"""Slots that a generation keeps, and what they hold; those that a turn does not write go on as they are."""


@dataclass(frozen=True)
class Step:
    """One line of a plan, the same in memory and in shell.

    Attributes:
        verb: extract, cluster, purify, neighbors, train-epoch.
        settings: complete; every default and schedule is already resolved.
        reads: slots it takes; slot names are file names too.
        writes: slots it makes.
        name: unique in a turn; the verb if empty.
    """

    verb: str
    settings: Settings
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    name: str = ""

    @property
    def trained(self) -> tuple[str, str]:
        """Of a training step the slot of the model that it starts from, and the one it writes: "model", or "classifier" beside it."""
        return ("classifier" if "classifier" in self.reads else "model", "classifier" if "classifier" in self.writes else "model")

    @property
    def stage(self) -> str:
        """The name by which a Context and a random key know this step."""
        return self.name or self.verb


@dataclass(frozen=True)
class Method:
    """A method: its paper and its plan; no base class, no hooks, no registry.

    Attributes:
        paper: one line naming the source.
        steps: Context -> the steps of one turn, before anything set by hand.
        epochs: Context -> how many epochs the plan has.
        init: Context -> settings of `init` that the method or the data set asks for.
        beside: Context -> verb -> settings, of verbs that are in no turn but are used beside them, as to evaluate.
        advice: Context -> lines about what a plan will not do, for `init` to tell.
    """

    paper: str
    steps: Callable[[Context], Iterable[Step]]
    epochs: Callable[[Context], int]
    init: Callable[[Context], Mapping[str, Any]] = lambda context: {}
    beside: Callable[[Context], Mapping[str, Mapping[str, Any]]] = lambda context: {}
    advice: Callable[[Context], Iterable[str]] = lambda context: ()


_READS = {"extract": ("images", "model"), "cluster": ("features", "previous"), "purify": ("labels",), "train-epoch": ("images", "model", "labels"),
          "neighbors": ("features", "among")}
"""What a verb takes where no plan says it."""


def method_named(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UsageError: there is none; the known ones are named.
    """
    from ucl.methods import METHODS, load

    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}", "known: " + ", ".join(METHODS))
    return load(name)


def plan(context: Context) -> list[Step]:
    """The steps of the turn ``context`` stands at, with everything set by hand applied.

    The only source of settings: `run` walks this list, and every command looks itself up in it.
    """
    for key in context.overrides:
        table = key.partition(".")[0]
        if table in METHOD_TABLES and table != context.method:
            raise UsageError(f"ucl.toml: [{table}]: the method is {context.method}, which does not read it", f"leave out {key}")
    steps = list(method_named(context.method).steps(context))
    return [dataclasses.replace(step, settings=_applied(step.settings, set_by_hand(context, step.verb), "ucl.toml"))
            for step in steps]


def evaluated(context: Context) -> Step:
    """The extraction whose features are evaluated: what the method names beside its plan, else the plan's."""
    return _beside(context, "extract") if "extract" in method_named(context.method).beside(context) else step_for(context, "extract")


def _beside(context: Context, verb: str) -> Step:
    """A verb that the turn does not use: its own defaults, and what the method and ucl.toml say of it."""
    own = SETTINGS[verb]().override(method_named(context.method).beside(context).get(verb, {}))
    return Step(verb, _applied(own, set_by_hand(context, verb), "ucl.toml"), _READS.get(verb, ()), ())


def _applied(settings: Settings, by_hand: Mapping[str, Any], where: str = "") -> Settings:
    """Settings with what was set by hand; UsageError if that includes what is then not read."""
    changed = settings.override(by_hand, where)
    changed.refuse_unread(by_hand, where)
    return changed


def advise(context: Context) -> list[str]:
    """Check the plan of every epoch on so many images; returns what ought to be known of it.

    Raises:
        UsageError: settings that an epoch would refuse, or more clusters than images.
    """
    for epoch in range(plan_length(context)):
        for step in plan(dataclasses.replace(context, epoch=epoch)):
            k = getattr(step.settings, "k", 0)
            if step.verb == "cluster" and k > context.images and "k" not in step.settings.unread:
                raise UsageError(f"cluster.k: {k} clusters in epoch {epoch + 1}, the list has {context.images} usable images",
                                 "fewer clusters, or more images")
    return list(method_named(context.method).advice(context))


def plan_length(context: Context) -> int:
    """Number of epochs of the plan."""
    settings = PlanSettings().override(set_by_hand(context, "plan"), "ucl.toml")
    return settings.epochs or method_named(context.method).epochs(context)


def set_by_hand(context: Context, verb: str) -> dict[str, str]:
    """What ucl.toml, or flags on the way, say of a verb or a method's table: field -> text."""
    return {key.partition(".")[2]: value for key, value in context.overrides.items() if key.partition(".")[0] == verb}


def step_for(context: Context, verb: str, stage: str = "", overrides: Mapping[str, Any] | None = None) -> Step:
    """The plan's step that a command stands for, with the flags of its command line applied.

    Args:
        context: where in the plan; without a method (outside a run directory) the verb's own defaults hold.
        verb: the command.
        stage: the step's name, where a turn has several of one verb.
        overrides: field name -> value, from the command line.

    Raises:
        UsageError: the plan has several steps of this verb and none was named.
    """
    if not context.method:
        step = Step(verb, SETTINGS[verb](), _READS.get(verb, ()), (), stage)
    else:
        found = [s for s in plan(context) if s.verb == verb and stage in ("", s.stage)]
        if len(found) > 1:
            raise UsageError(f"{context.method}: {verb} stands {len(found)} times in a turn",
                             "name one: --stage " + "|".join(s.stage for s in found))
        if found:
            step = found[0]
        elif stage:
            raise ConfigError(f"{context.method}: no step {stage!r} with verb {verb}",
                              "steps: " + ", ".join(s.stage for s in plan(context)))
        else:
            step = _beside(context, verb)
    return dataclasses.replace(step, settings=_applied(step.settings, overrides or {}))
