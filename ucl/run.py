"""`run` walks a plan in memory: the same verbs, the same settings, nothing printed, no paths.

A command performs one step of the plan (`perform`); `walk` performs all of them, turn after turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ucl import safepoints, stop, store
from ucl.context import Context
from ucl.device import Runtime
from ucl.errors import DataError, InputMissing
from ucl.methods.method import KEPT, Step, plan, plan_length

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
    return context, inputs, decided(step, runtime)


def decided(step: Step, runtime: Runtime) -> dict[str, Any]:
    """What decides a step's numbers beside its inputs and the seed: its settings, and how the machine computes."""
    return step.settings.as_dict() | runtime.numerics


def sign(made: Stored, step: Step, inputs: list[Stored], context: Context, runtime: Runtime) -> Stored:
    """Give what a step made its recipe and provenance."""
    settings = decided(step, runtime)
    made.recipe = store.recipe(made.kind, step.verb, settings, context.seed, inputs)
    made.provenance = store.chain(step.verb, settings, context.seed, inputs, runtime.device, runtime.threads)
    return made


def identity(step: Step, slots: Mapping[str, Any], context: Context, runtime: Runtime) -> dict[str, Any]:
    """All that decides what a training step makes, for what is kept of an unfinished one."""
    said = labels_slot(step)
    near = {"neighbors": store.content_of(slots["neighbors"])} if slots.get("neighbors") is not None and "neighbors" in step.reads else {}
    return {"generation": context.generation, "epoch": context.epoch, "round": context.round, "stage": step.stage, "seed": context.seed,
            "model": store.digest_of(slots[step.trained[0]]), "settings": step.settings.as_dict(), **safepoints.machine(runtime),
            "images": safepoints.listed(slots["images"]), "labels": store.content_of(slots[said]) if said else None, **near}


def labels_slot(step: Step) -> str:
    """Where a training step finds its labels: "labels", "agreed" (of an ensemble's models), or "" where it reads none."""
    return next((name for name in ("agreed", "labels") if name in step.reads), "")


def next_input(context: Context) -> str:
    """What the training of a turn waits for: the slot that the steps before it make ("labels" or "neighbors"); "agreed", which comes from
    other runs; "" where everything is in the generation."""
    steps = plan(context)
    first = next((i for i, step in enumerate(steps) if step.verb == "train-epoch"), 0)
    made = {slot for step in steps[:first] for slot in step.writes} | {"agreed"}
    return next((slot for slot in ("labels", "neighbors", "agreed") if slot in steps[first].reads and slot in made), "")


def written(context: Context) -> frozenset[str]:
    """Slots of a generation that the turn writes."""
    return frozenset(slot for step in plan(context) for slot in step.writes if slot in KEPT)


def perform(step: Step, slots: Slots, context: Context, runtime: Runtime, report: Report = silent,
            safe: SafePoints | None = None) -> dict[str, Any]:
    """One step: its verb on its slots.

    Args:
        step: with complete settings.
        slots: images, model, classifier, features, labels, neighbors, previous, among, as far as the step reads them.
        context: where in the plan.  runtime: the machine.  report: progress.
        safe: keeps what is finished of an extraction or an epoch, and goes on with what was kept of the same one.

    Returns:
        Slot -> what the step made; "metrics" beside the model, or the classifier, and labels for train-epoch.
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
        from ucl.purify import joined, purify

        if "members" in step.reads:
            inputs = [member for _, member in slots["members"]]
            made = {"labels": joined(inputs, [name for name, _ in slots["members"]], step.settings, context)}  # type: ignore[arg-type]
        else:
            made = {"labels": purify(slots["labels"], step.settings, context)}  # type: ignore[arg-type]
    elif step.verb == "neighbors":
        from ucl.neighbors import neighbors

        made = {"neighbors": neighbors(slots["features"], step.settings, context,  # type: ignore[arg-type]
                                       among=slots.get("among"), threads=runtime.threads, memory=runtime.memory)}
    else:
        from ucl.train_epoch import train_epoch

        this = identity(step, slots, context, runtime) if safe else {}
        source, target = step.trained
        labels = slots[labels_slot(step)] if labels_slot(step) else None
        near = slots.get("neighbors") if "neighbors" in step.reads else None
        kept = (labels if labels is not None else near) if not context.method or next_input(context) else None  # else a generation has it
        trained = train_epoch(slots["images"], slots[source], labels, step.settings, context, runtime,  # type: ignore[arg-type]
                              report, slots.get("previous"), neighbors=near, resume=safe.training(this) if safe else None,
                              safe=safe.point(this, kept) if safe else None)
        made = {target: trained.model, "metrics": trained.metrics}
        if trained.made is not None:
            made["labels"] = trained.made
        elif labels is not None and trained.labels is not None and labels.context.generation in (-1, context.generation):
            trained.labels.provenance = labels.provenance  # those of an earlier turn stay what they are
            slots["labels"] = trained.labels
    for artifact in made.values():
        if not isinstance(artifact, dict):
            sign(artifact, step, inputs, context, runtime)
    return made


def _clustered(settings: ClusterSettings, slots: Slots, context: Context, runtime: Runtime) -> Labels:
    if settings.method == "argmax":
        from ucl.argmax import label_by_head

        return label_by_head(slots["features"], slots["model"], context, previous=slots.get("previous"), history=settings.history,
                             threads=runtime.threads, probs=settings.probs)
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
    left = _left(plan(context), slots, context, runtime, safe)
    for number, step in enumerate(left):
        if "agreed" in step.reads:
            awaited(slots, context)
        if safe is None or step.verb != "train-epoch":  # training keeps the labels first, and stops then
            stop.check()
        made = perform(step, slots, context, runtime, report, safe)
        if "agreed" in step.reads:
            slots.pop("agreed", None)  # of this iteration alone
        metrics |= made.pop("metrics", {})
        slots |= {name: exchange(name, artifact) if exchange else artifact for name, artifact in made.items()}
        if "features" in slots and not any("features" in later.reads for later in left[number + 1:]):
            del slots["features"]  # a gigabyte or ten, which the next turn makes anew or does without
    return metrics


def awaited(slots: Mapping[str, Any], context: Context) -> None:
    """Refuse to go on without the labels of an ensemble, or with those of other predictions than the last labels.

    Raises:
        InputMissing: there are none, or those of an earlier iteration.  DataError: none of the models that were joined is this one, as it is
            now.
    """
    cure = "ucl purify --rule agree */labels.h5 in the folder of all runs makes them; put them into work/agreed.h5 here, or ucl train-epoch FILE"
    agreed, own = slots.get("agreed"), slots.get("previous")
    made = () if agreed is None or agreed.history_epoch is None else agreed.history_epoch.tolist()
    past = own is not None and bool(made) and max(made) < own.context.epoch
    if agreed is None or past:
        found = "agreed labels: of an earlier iteration" if past else "work/agreed.h5: not there yet"
        raise InputMissing(f"{found}: epoch {context.epoch + 1} trains on what the models of an ensemble agree on", cure)
    if own is None or agreed.pred is None or not any(np.array_equal(row, own.labels) for row in agreed.pred):
        found = "not of an ensemble: no /pred" if agreed.pred is None else "none of the models joined is this one, as it is now"
        raise DataError(f"agreed labels: {found}; expected the labels of this generation among them", cure)


def _left(steps: list[Step], slots: Slots, context: Context, runtime: Runtime, safe: SafePoints | None) -> list[Step]:
    """The steps of a turn that are left to do: from the training on, if its labels were kept, which then are in ``slots``."""
    first = next((i for i, step in enumerate(steps) if step.verb == "train-epoch"), 0)
    slot = next_input(context)
    kept = safe.made() if safe is not None and (first or slot == "agreed") else None
    if safe is not None and kept is not None and slot == "agreed" and slots.get("agreed") is None:  # named on a command line then
        if safe.fits(identity(steps[first], {**slots, slot: kept}, dataclasses.replace(context, stage=steps[first].stage), runtime)):
            slots[slot] = kept
        return steps
    if safe is None or kept is None or not kept.recipe or kept.recipe != _recipe(steps[:first], slot, slots, context, runtime):
        return steps
    step = steps[first]
    if not safe.fits(identity(step, {**slots, slot: kept}, dataclasses.replace(context, stage=step.stage), runtime)):
        return steps
    slots[slot] = kept
    return steps[first:]


def _recipe(steps: list[Step], slot: str, slots: Slots, context: Context, runtime: Runtime) -> str:
    """The recipe of what these steps would make for a slot; empty if a step's product is not known without doing it."""
    from ucl.artifacts import Stored

    known: dict[str, Stored] = {name: artifact for name, artifact in slots.items() if artifact is not None}
    for step in steps:
        if step.verb not in _MAKES:
            return ""
        inputs = [known[name] for name in step.reads if name in known]
        made = Stored(recipe=store.recipe(_MAKES[step.verb], step.verb, decided(step, runtime), context.seed, inputs))
        known |= dict.fromkeys(step.writes, made)
    return known[slot].recipe if slot in known else ""


def after(context: Context, slots: Slots, metrics: dict[str, Any]) -> Context:
    """The context of the turn after ``context``'s, where nothing is committed to disk."""
    return dataclasses.replace(context, epoch=context.epoch + 1, generation=context.generation + 1,
                               generation_digest=store.digest_of(slots["model"]))


def walk(context: Context, slots: Slots, runtime: Runtime, commit: Commit = after, *, limit: int = 0,
         report: Report = silent, exchange: Callable[[str, Any], Any] | None = None, safe: SafePoints | None = None) -> int:
    """Walk the plan from ``context`` to its end; what `run` does.

    Args:
        context: the first turn to take.
        slots: "images" and "model", and what else the last generation keeps; changed in place.
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
