"""An epoch of training inside a run directory (committed) and outside of one (a checkpoint file)."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

from ucl import device
from ucl.context import Context
from ucl.errors import UsageError
from ucl.front import session
from ucl.front.console import Progress, say
from ucl.front.evaluation import open_report
from ucl.front.extraction import open_images
from ucl.front.labels import load_input
from ucl.front.options import Common
from ucl.front.streams import find_output, open_output, partial_of, stdin_is_data
from ucl.methods.method import KEPT, Step
from ucl.run import awaited, identity, next_input, perform, written
from ucl.rundir import RunDir
from ucl.safepoints import SafePoints
from ucl.settings import TrainSettings
from ucl.store import digest_of

log = logging.getLogger(__name__)


def commit_epoch(run: RunDir, labels: str | None, stage: str, output: str | None, given: dict[str, Any], common: Common,
                 runtime: device.Runtime, as_json: bool, *, force: bool, every: float, resume: bool) -> int:
    """Train on what the steps before make, labels or neighbours, and commit the next generation; labels go to ``output`` too where one is
    named.

    Where they are neither named nor streamed, an epoch that was stopped goes on with its own.

    Raises:
        PlanFinished: the plan has no next turn.  OutputRefused: somebody else is at work or was first.
    """
    begin = _next(run, common)
    asked = session.step_of(begin, "train-epoch", stage, given)
    safe = run.safe_points(every, strict=resume)
    slot = next_input(begin)
    makes = "labels" in asked.writes
    if not slot and (labels is not None or stdin_is_data()):
        _unasked(run, asked, labels)
    if output is not None and not (makes or slot in ("labels", "agreed")):
        raise UsageError(f"-o {output}: the method {run.config.method} has no labels to write", "the model is in the run directory")
    alone = labels is None and not (slot and stdin_is_data())
    found, context = None, begin
    if slot and not alone:  # a pipe may have to be waited for
        found, context = _given(labels, run, slot, common)
    with open_report(output, force=force) as write, run.lock():
        if alone:
            found, context = _alone(run, safe, slot, stage, given, common, runtime)
        session.fresh(run, context, slot or "labels", piped=not alone and labels in (None, "-"))
        step = session.step_of(context, "train-epoch", stage, given)
        context = session.with_flags(context, "train-epoch", given)
        slots = _slots(run, context, slot, found)
        if slot == "agreed":
            awaited(slots, context)
        with Progress("ucl train-epoch", common) as progress:
            made = perform(step, slots, context, runtime, progress, safe)
        slots |= made
        commit_turn(run, context, slots, made["metrics"], safe)
        write(slots.get("labels"))
    tell("ucl train-epoch", run, context.generation + 1, made["metrics"], common, as_json)
    return 0


def _next(run: RunDir, common: Common) -> Context:
    context = run.next_turn()
    return context if common.seed is None else dataclasses.replace(context, seed=common.seed)


def _slots(run: RunDir, context: Context, slot: str, found: Any) -> dict[str, Any]:
    slots = session.load_slots(run, context.generation)
    slots["previous"] = slots.get("labels")
    return slots | ({} if found is None else {slot: found})


def _unasked(run: RunDir, asked: Step, labels: str | None) -> None:
    """Labels, or a pipe, where the plan's training takes nothing from a step before it: named ones are refused, a pipe is not read."""
    why = ("goes on with its own labels" if "labels" in asked.writes else
           "goes on with the labels of the epoch before" if "labels" in asked.reads else "trains without labels")
    if labels is not None:
        raise UsageError(f"{labels}: the method {run.config.method} {why}", "leave them out, or train outside the plan: --model")
    log.warning("standard input is not read: the method %s %s", run.config.method, why)


def _given(named: str | None, run: RunDir, slot: str, common: Common) -> tuple[Any, Context]:
    """What the training waits for, from a file or a stream."""
    if slot != "agreed":
        return load_input(named, run, slot, common, joins=True)
    found, _ = load_input(named, run, "labels", common)  # of several runs, and of no generation of this one
    return found, _next(run, common)


def _alone(run: RunDir, safe: SafePoints, slot: str, stage: str, given: dict[str, Any], common: Common, runtime: device.Runtime) -> tuple[
        Any, Context]:
    """What the training waits for, where nothing was named or streamed: that of the epoch which was stopped, else work/'s."""
    if not slot:
        return None, _next(run, common)
    kept = _kept(run, safe, slot, stage, given, common, runtime)
    if kept is not None:
        return kept, _next(run, common)
    if slot == "agreed":
        return session.load_agreed(run), _next(run, common)
    return load_input(None, run, slot, common, joins=True)


def _kept(run: RunDir, safe: SafePoints, slot: str, stage: str, given: dict[str, Any], common: Common, runtime: device.Runtime) -> Any:
    """The labels or neighbours of the epoch that was stopped, if it is the one that would be trained now; else None.  Those that were put
    into work/ since then are meant instead."""
    newer = run.work(slot)
    kept = safe.made()
    if kept is None or (newer.exists() and newer.stat().st_mtime_ns > safe.train.stat().st_mtime_ns):
        return None
    context = _next(run, common)
    step = session.step_of(context, "train-epoch", stage, given)
    context = dataclasses.replace(session.with_flags(context, "train-epoch", given), stage=step.stage)
    return kept if safe.fits(identity(step, _slots(run, context, slot, kept), context, runtime)) else None


def commit_turn(run: RunDir, context: Any, slots: dict[str, Any], metrics: dict[str, Any], safe: SafePoints) -> Any:
    """Commit what a turn made, and drop what was kept of it meanwhile; returns the context of the next one."""
    generation = context.generation + 1
    facts = {"generation": generation, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **metrics}
    new = written(context)
    made = {name: slots[name] for name in KEPT if slots.get(name) is not None and name in new}
    run.commit(generation, made, facts, [name for name in KEPT if name not in made and run.file(context.generation, name).exists()])
    safe.clear()
    if next_input(context) == "agreed":  # is in the generation now, and the next contrastive step waits for another
        run.work("agreed").unlink(missing_ok=True)
    return dataclasses.replace(context, epoch=context.epoch + 1, generation=generation, stage="",
                               generation_digest=digest_of(slots["model"]), overrides=dict(run.config.overrides))


def loose_epoch(run: RunDir | None, labels: str | None, images: str | None, chosen: dict[str, str | None], model: str | None,
                output: str | None, given: dict[str, Any], common: Common, runtime: device.Runtime, as_json: bool, *, force: bool,
                every: float, resume: bool) -> int:
    """Train on explicit inputs and write a checkpoint; unfinished, the epoch is kept beside it.  ``chosen`` are the settings of the
    image list."""
    from ucl.store import load, save

    if not (images and model) and run is None:
        raise UsageError("outside a run directory train-epoch needs --images and --model",
                         "ucl train-epoch labels.h5 --images images.h5 --model model.h5 -o next.h5")
    where = find_output(output, None, "model")
    beside = partial_of(where, None)
    if resume and beside is None:
        raise UsageError("--resume: nothing is kept of what goes to a stream", "name the file: -o FILE")
    safe = SafePoints(beside, every=every, strict=resume) if beside is not None else None
    objective = given.get("objective", TrainSettings.objective)
    kind = "neighbors" if objective in ("scan", "selflabel") else "labels"
    alone = labels is None and objective != TrainSettings.objective and not stdin_is_data()
    found, context = (None, Context(seed=common.seed or 0)) if alone else load_input(labels, None, kind, common)
    checkpoint = load(Path(model), "ucl/checkpoint") if model else session.load_model(run, run.newest)  # type: ignore[arg-type,union-attr]
    pictures = open_images(images, None, checkpoint, {k: v for k, v in chosen.items() if v}, common, runtime) if images else session.load_images(run)  # type: ignore[arg-type]
    context = dataclasses.replace(context, method="", epoch=checkpoint.progress.get("epoch", 0), generation=-1)
    step = session.step_of(context, "train-epoch", "", given)
    step = dataclasses.replace(step, reads=("images", "model") if alone else ("images", "model", kind))
    context = session.with_flags(context, "train-epoch", given)
    if safe is not None and not resume:
        safe.forget()
    with Progress("ucl train-epoch", common) as progress:
        made = perform(step, {"images": pictures, "model": checkpoint, kind: found}, context, runtime, progress, safe)
    with open_output(where, force=force) as out:
        save(made["model"], out)
    if safe is not None:
        safe.clear()
    tell("ucl train-epoch", None, context.epoch + 1, made["metrics"], common, as_json)
    return 0


def tell(command: str, run: RunDir | None, generation: int, metrics: dict[str, Any], common: Common, as_json: bool) -> None:
    """One line about an epoch."""
    if as_json:
        say(json.dumps({"schema": "ucl.epoch/1", "generation": generation, **metrics}, sort_keys=True))
    elif not common.quiet:
        say(f"{command}: {one_line(generation, metrics)}")


def chance(m: dict[str, Any]) -> tuple[str, float]:
    """The loss of guessing, and its name."""
    key = next(key for key in ("log_batch", "log_n", "loss_even", "log_k") if key in m)
    return {"log_batch": "log 2B-1", "log_n": "log N", "loss_even": "all alike", "log_k": "log K"}[key], float(m[key])


def one_line(generation: int, m: dict[str, Any]) -> str:
    """An epoch in one line."""
    speed = f"{m['images_per_second_train']:.0f} images/s"
    name, value = chance(m)
    begin = f"epoch {generation}: loss {m['loss']:.4f} ({name} {value:.2f})"
    if "log_batch" in m:
        return begin + (f", {m['confident_share']:.0%} of the images have a label" if "confident_share" in m else "") + f", {speed}"
    if "log_n" in m:
        clusters = f", {m['kept']} images in {m['clusters']} of {m['k']} clusters, largest {m['largest']}" if "clusters" in m else ""
        return f"{begin}{clusters}, {speed}"
    if "score_entropy" in m or "sure_share" in m:
        score = f", score {m['score']:.4f}" if "score" in m else ""
        begin += f"{score}, {m['sure_share']:.0%} of the images above 0.99" + (f", {m['skipped']} steps left out" if m.get("skipped") else "")
    nmi = f", NMI to the last {m['nmi_arithmetic']:.3f}, churn {m['churn']:.3f}" if "nmi_arithmetic" in m else ""
    return (f"{begin}, {m['clusters']} of {m['k']} clusters filled, "
            f"largest {m['largest']}{nmi}, {speed}")
