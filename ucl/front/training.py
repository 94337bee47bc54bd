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
from ucl.run import identity, perform
from ucl.rundir import RunDir
from ucl.safepoints import SafePoints
from ucl.settings import TrainSettings

log = logging.getLogger(__name__)


def commit_epoch(run: RunDir, labels: str | None, stage: str, output: str | None, given: dict[str, Any], common: Common,
                 runtime: device.Runtime, as_json: bool, *, force: bool, every: float, resume: bool) -> int:
    """Train on labels and commit the next generation; labels go to ``output`` too where one is named.

    Without labels, named or streamed, an epoch that was stopped goes on with its own.

    Raises:
        PlanFinished: the plan has no next turn.  OutputRefused: somebody else is at work or was first.
    """
    asked = session.step_of(_next(run, common), "train-epoch", stage, given)
    safe = run.safe_points(every, strict=resume)
    wanted = "labels" in asked.reads
    makes = "labels" in asked.writes
    if labels is not None and not wanted:
        own = "goes on with its own labels" if makes else "trains without labels"
        raise UsageError(f"{labels}: the method {run.config.method} {own}", "leave them out, or train outside the plan: --model")
    if output is not None and not makes:
        raise UsageError(f"-o {output}: the method {run.config.method} has no labels to write", "the model is in the run directory")
    if not wanted and stdin_is_data():
        log.warning("standard input is not read: the method %s %s", run.config.method,
                    "goes on with its own labels" if makes else "trains without labels")
    alone = labels is None and (not wanted or not stdin_is_data())
    if not alone:  # a pipe may have to be waited for
        found, context = load_input(labels, run, "labels", common, joins=True)
    with open_report(output, force=force) as write, run.lock():
        if not wanted:
            found, context = None, _next(run, common)
        elif alone:
            kept = _kept_labels(run, safe, stage, given, common, runtime)
            found, context = (kept, _next(run, common)) if kept is not None else load_input(None, run, "labels", common, joins=True)
        session.fresh(run, context, "labels", piped=not alone and labels in (None, "-"))
        step = session.step_of(context, "train-epoch", stage, given)
        context = session.with_flags(context, "train-epoch", given)
        slots = _slots(run, context, found)
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


def _slots(run: RunDir, context: Context, labels: Any) -> dict[str, Any]:
    return {"images": session.load_images(run), "model": session.load_model(run, context.generation), "labels": labels,
            "previous": session.load_labels(run, context.generation)}


def _kept_labels(run: RunDir, safe: SafePoints, stage: str, given: dict[str, Any], common: Common, runtime: device.Runtime) -> Any:
    """The labels of the epoch that was stopped, if it is the one that would be trained now; else None.  Labels that were put into
    work/ since then are meant instead."""
    newer = run.work("labels")
    kept = safe.labels()
    if kept is None or (newer.exists() and newer.stat().st_mtime_ns > safe.train.stat().st_mtime_ns):
        return None
    context = _next(run, common)
    step = session.step_of(context, "train-epoch", stage, given)
    context = dataclasses.replace(session.with_flags(context, "train-epoch", given), stage=step.stage)
    return kept if safe.fits(identity(step, _slots(run, context, kept), context, runtime)) else None


def commit_turn(run: RunDir, context: Any, slots: dict[str, Any], metrics: dict[str, Any], safe: SafePoints) -> Any:
    """Commit what a turn made, and drop what was kept of it meanwhile; returns the context of the next one."""
    generation = context.generation + 1
    facts = {"generation": generation, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **metrics}
    run.commit(generation, {name: slots[name] for name in ("model", "labels") if slots.get(name) is not None}, facts)
    safe.clear()
    return dataclasses.replace(context, epoch=context.epoch + 1, generation=generation, stage="",
                               generation_digest=slots["model"].digest, overrides=dict(run.config.overrides))


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
    unlabelled = labels is None and given.get("objective", TrainSettings.objective) != TrainSettings.objective and not stdin_is_data()
    found, context = (None, Context(seed=common.seed or 0)) if unlabelled else load_input(labels, None, "labels", common)
    checkpoint = load(Path(model), "ucl/checkpoint") if model else session.load_model(run, run.newest)  # type: ignore[arg-type,union-attr]
    pictures = open_images(images, None, checkpoint, {k: v for k, v in chosen.items() if v}, common, runtime) if images else session.load_images(run)  # type: ignore[arg-type]
    context = dataclasses.replace(context, method="", epoch=checkpoint.progress.get("epoch", 0), generation=-1)
    step = session.step_of(context, "train-epoch", "", given)
    step = dataclasses.replace(step, reads=("images", "model") if unlabelled else ("images", "model", "labels"))
    context = session.with_flags(context, "train-epoch", given)
    if safe is not None and not resume:
        safe.forget()
    with Progress("ucl train-epoch", common) as progress:
        made = perform(step, {"images": pictures, "model": checkpoint, "labels": found}, context, runtime, progress, safe)
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
    key = next(key for key in ("log_batch", "log_n", "log_k") if key in m)
    return {"log_batch": "log 2B-1", "log_n": "log N", "log_k": "log K"}[key], float(m[key])


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
    nmi = f", NMI to the last {m['nmi_arithmetic']:.3f}, churn {m['churn']:.3f}" if "nmi_arithmetic" in m else ""
    return (f"{begin}, {m['clusters']} of {m['k']} clusters filled, "
            f"largest {m['largest']}{nmi}, {speed}")
