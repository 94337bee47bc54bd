"""`run` walks a plan in memory: the same verbs, the same settings, nothing printed, no paths.

A command performs one step of the plan (`perform`); `walk` performs all of them, turn after turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ucl import safepoints, stop, store
from ucl.context import Context
from ucl.device import Runtime
from ucl.methods.method import Step, plan, plan_length

if TYPE_CHECKING:
    from ucl.artifacts import Labels, Stored
    from ucl.safepoints import SafePoints
    from ucl.settings import ClusterSettings

_MAKES = {"extract": "ucl/features", "cluster": "ucl/labels", "purify": "ucl/labels", "neighbors": "ucl/neighbors"}
Slots = dict[str, Any]
Report = Callable[[str, int, int], None]
Commit = Callable[[Context, Slots, dict[str, Any]], Context]


def silent(what: str, done: int, total: int) -> None:
    """A report that says nothing."""


def begin(step: Step, slots: Mapping[str, Any], context: Context, runtime: Runtime) -> tuple[Context, list[Stored], dict[str, Any]]:
    """The context of a step, its inputs, and what its settings are called in recipes and provenance."""
    context = dataclasses.replace(context, stage=step.stage)
    inputs = [slots[name] for name in step.reads if slots.get(name) is not None]
    return context, inputs, step.settings.as_dict() | runtime.numerics


def sign(made: Stored, step: Step, inputs: list[Stored], context: Context, runtime: Runtime) -> Stored:
    """Give what a step made its recipe and provenance."""
    settings = step.settings.as_dict() | runtime.numerics
    made.recipe = store.recipe(made.kind, step.verb, settings, context.seed, inputs)
    made.provenance = store.chain(step.verb, settings, context.seed, inputs, runtime.device, runtime.threads)
    return made


def identity(step: Step, slots: Mapping[str, Any], context: Context, runtime: Runtime) -> dict[str, Any]:
    """All that decides what a training step makes, for what is kept of an unfinished one."""
    return {"generation": context.generation, "epoch": context.epoch, "round": context.round, "stage": step.stage, "seed": context.seed,
            "model": store.digest_of(slots["model"]), "settings": step.settings.as_dict(), **safepoints.machine(runtime),
            "images": safepoints.listed(slots["images"]), "labels": store.content_of(slots["labels"]) if "labels" in step.reads else None}


def perform(step: Step, slots: Slots, context: Context, runtime: Runtime, report: Report = silent,
            safe: SafePoints | None = None) -> dict[str, Any]:
    """One step: its verb on its slots.

    Args:
        step: with complete settings.
        slots: images, model, features, labels, previous, among, as far as the step reads them.
        context: where in the plan.  runtime: the machine.  report: progress.
        safe: keeps what is finished of an extraction or an epoch, and goes on with what was kept of the same one.

    Returns:
        Slot -> what the step made; "metrics" beside model and labels for train-epoch.
    """
    context, inputs, _ = begin(step, slots, context, runtime)
    made: dict[str, Any]
    if step.verb == "extract":
        from ucl.extract import extract

        stream = extract(slots["images"], slots["model"], step.settings, context, runtime, report)  # type: ignore[arg-type]
        sign(stream.head, step, inputs, context, runtime)
        made = {"features": stream.collect(safe.rows(stream, slots["images"], runtime) if safe else None)}
    elif step.verb == "cluster":
        made = {"labels": _clustered(step.settings, slots, context, runtime)}  # type: ignore[arg-type]
    elif step.verb == "purify":
        from ucl.purify import purify

        made = {"labels": purify(slots["labels"], step.settings, context)}  # type: ignore[arg-type]
    elif step.verb == "neighbors":
        from ucl.neighbors import neighbors

        made = {"neighbors": neighbors(slots["features"], step.settings, context,  # type: ignore[arg-type]
                                       among=slots.get("among"), threads=runtime.threads, memory=runtime.memory)}
    else:
        from ucl.train_epoch import train_epoch

        this = identity(step, slots, context, runtime) if safe else {}
        labels = slots["labels"] if "labels" in step.reads else None
        trained = train_epoch(slots["images"], slots["model"], labels, step.settings, context, runtime,  # type: ignore[arg-type]
                              report, slots.get("previous"), resume=safe.training(this) if safe else None,
                              safe=safe.point(this, labels) if safe else None)
        made = {"model": trained.model, "metrics": trained.metrics}
        if trained.made is not None:
            made["labels"] = trained.made
        elif labels is not None and trained.labels is not None:
            trained.labels.provenance = labels.provenance
            slots["labels"] = trained.labels
    for artifact in made.values():
        if not isinstance(artifact, dict):
            sign(artifact, step, inputs, context, runtime)
    return made


def _clustered(settings: ClusterSettings, slots: Slots, context: Context, runtime: Runtime) -> Labels:
    if settings.method == "argmax":
        from ucl.argmax import label_by_head

        return label_by_head(slots["features"], slots["model"], context, previous=slots.get("previous"), history=settings.history,
                             threads=runtime.threads)
    from ucl.cluster import cluster

    return cluster(slots["features"], settings, context, previous=slots.get("previous"), threads=runtime.threads, memory=runtime.memory)


def turn(slots: Slots, context: Context, runtime: Runtime, report: Report = silent,
         exchange: Callable[[str, Any], Any] | None = None, safe: SafePoints | None = None) -> dict[str, Any]:
    """All steps of one turn, on ``slots`` in place; returns the turn's metrics.

    If ``safe`` keeps an epoch of training on the labels that the steps before it would make, those steps are left out.

    Args:
        exchange: given (slot, artifact) after each step, returns what goes on; `run --through-disk` writes it to a file
            and reads it back.
        safe: see `perform`.
    """
    slots["previous"] = slots.get("labels")
    metrics: dict[str, Any] = {}
    for step in _left(plan(context), slots, context, runtime, safe):
        if safe is None or step.verb != "train-epoch":  # training keeps the labels first, and stops then
            stop.check()
        made = perform(step, slots, context, runtime, report, safe)
        metrics |= made.pop("metrics", {})
        slots |= {name: exchange(name, artifact) if exchange else artifact for name, artifact in made.items()}
    return metrics


def _left(steps: list[Step], slots: Slots, context: Context, runtime: Runtime, safe: SafePoints | None) -> list[Step]:
    """The steps of a turn that are left to do: from the training on, if its labels were kept, which then are in ``slots``."""
    first = next((i for i, step in enumerate(steps) if step.verb == "train-epoch"), 0)
    labels = safe.labels() if safe is not None and first else None
    if safe is None or labels is None or not labels.recipe or labels.recipe != _labels_recipe(steps[:first], slots, context):
        return steps
    step = steps[first]
    if not safe.fits(identity(step, {**slots, "labels": labels}, dataclasses.replace(context, stage=step.stage), runtime)):
        return steps
    slots["labels"] = labels
    return steps[first:]


def _labels_recipe(steps: list[Step], slots: Slots, context: Context) -> str:
    """The recipe of the labels that these steps would make; empty if a step's product is not known without doing it."""
    from ucl.artifacts import Stored

    known: dict[str, Stored] = {name: artifact for name, artifact in slots.items() if artifact is not None}
    for step in steps:
        if step.verb not in _MAKES:
            return ""
        inputs = [known[name] for name in step.reads if name in known]
        made = Stored(recipe=store.recipe(_MAKES[step.verb], step.verb, step.settings.as_dict(), context.seed, inputs))
        known |= dict.fromkeys(step.writes, made)
    return known["labels"].recipe if "labels" in known else ""


def after(context: Context, slots: Slots, metrics: dict[str, Any]) -> Context:
    """The context of the turn after ``context``'s, where nothing is committed to disk."""
    return dataclasses.replace(context, epoch=context.epoch + 1, generation=context.generation + 1,
                               generation_digest=store.digest_of(slots["model"]))


def walk(context: Context, slots: Slots, runtime: Runtime, commit: Commit = after, *, limit: int = 0,
         report: Report = silent, exchange: Callable[[str, Any], Any] | None = None, safe: SafePoints | None = None) -> int:
    """Walk the plan from ``context`` to its end; what `run` does.

    Args:
        context: the first turn to take.
        slots: "images" and "model", and "labels" of the last epoch if there is one; changed in place.
        runtime: the machine.
        commit: called after each turn with (context, slots, metrics); returns the next turn's context.
        limit: at most so many turns; 0 = all.
        report: progress.
        exchange: see `turn`.
        safe: see `perform`; ``commit`` clears it.

    Returns:
        Number of turns taken.

    Raises:
        Stopped: a signal came; everything committed so far stands.
    """
    turns = 0
    while context.epoch < plan_length(context) and not (limit and turns >= limit):
        metrics = turn(slots, context, runtime, report, exchange, safe)
        context = commit(context, slots, metrics)
        turns += 1
    return turns
