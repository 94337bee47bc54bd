"""An epoch of training inside a run directory (committed) and outside of one (a checkpoint file)."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from ucl import device
from ucl.errors import UsageError
from ucl.front import session
from ucl.front.console import Progress, say
from ucl.front.extraction import open_images
from ucl.front.labels import load_input
from ucl.front.options import Common
from ucl.front.streams import find_output, open_output
from ucl.run import perform
from ucl.rundir import RunDir


def commit_epoch(run: RunDir, labels: str | None, stage: str, output: str | None, given: dict[str, Any], common: Common,
                 runtime: device.Runtime, as_json: bool, *, force: bool) -> int:
    """Train on labels and commit the next generation; labels go to ``output`` too where one is named.

    Raises:
        PlanFinished: the plan has no next turn.  OutputRefused: somebody else is at work or was first.
    """
    from ucl.front.streams import find_input

    run.next_turn()
    source, _ = find_input(labels, run, "labels")
    found, context = load_input(labels, run, "labels", common, joins=True)
    with run.lock():
        session.fresh(run, context, "labels", piped=source == 0)
        step = session.step_of(context, "train-epoch", stage, given)
        context = session.with_flags(context, "train-epoch", given)
        slots = {"images": session.load_images(run), "model": session.load_model(run, context.generation), "labels": found,
                 "previous": session.load_labels(run, context.generation)}
        with Progress("ucl train-epoch", common) as progress:
            made = perform(step, slots, context, runtime, progress)
        commit_turn(run, context, slots | made, made["metrics"])
    if output is not None:
        from ucl.store import save

        with open_output(output, force=force) as out:
            save(slots["labels"], out)
    tell("ucl train-epoch", run, context.generation + 1, made["metrics"], common, as_json)
    return 0


def commit_turn(run: RunDir, context: Any, slots: dict[str, Any], metrics: dict[str, Any]) -> Any:
    """Commit what a turn made; returns the context of the next one."""
    generation = context.generation + 1
    facts = {"generation": generation, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **metrics}
    run.commit(generation, {"model": slots["model"], "labels": slots["labels"]}, facts)
    return dataclasses.replace(context, epoch=context.epoch + 1, generation=generation, stage="",
                               generation_digest=slots["model"].digest, overrides=dict(run.config.overrides))


def loose_epoch(run: RunDir | None, labels: str | None, images: str | None, chosen: dict[str, str | None], model: str | None,
                output: str | None, given: dict[str, Any], common: Common, runtime: device.Runtime, as_json: bool, *, force: bool) -> int:
    """Train on explicit inputs and write a checkpoint; ``chosen`` are the settings of the image list."""
    from ucl.store import load, save

    if not (images and model) and run is None:
        raise UsageError("outside a run directory train-epoch needs --images and --model",
                         "ucl train-epoch labels.h5 --images images.h5 --model model.h5 -o next.h5")
    where = find_output(output, None, "model")
    found, context = load_input(labels, None, "labels", common)
    checkpoint = load(Path(model), "ucl/checkpoint") if model else session.load_model(run, run.newest)  # type: ignore[arg-type,union-attr]
    pictures = open_images(images, None, checkpoint, {k: v for k, v in chosen.items() if v}, common, runtime) if images else session.load_images(run)  # type: ignore[arg-type]
    context = dataclasses.replace(context, method="", epoch=checkpoint.progress.get("epoch", 0), generation=-1)
    step = session.step_of(context, "train-epoch", "", given)
    context = session.with_flags(context, "train-epoch", given)
    with Progress("ucl train-epoch", common) as progress:
        made = perform(step, {"images": pictures, "model": checkpoint, "labels": found}, context, runtime, progress)
    with open_output(where, force=force) as out:
        save(made["model"], out)
    tell("ucl train-epoch", None, context.epoch + 1, made["metrics"], common, as_json)
    return 0


def tell(command: str, run: RunDir | None, generation: int, metrics: dict[str, Any], common: Common, as_json: bool) -> None:
    """One line about an epoch."""
    if as_json:
        say(json.dumps({"schema": "ucl.epoch/1", "generation": generation, **metrics}, sort_keys=True))
    elif not common.quiet:
        say(f"{command}: {one_line(generation, metrics)}")


def one_line(generation: int, m: dict[str, Any]) -> str:
    """An epoch in one line."""
    nmi = f", NMI to the last {m['nmi_arithmetic']:.3f}, churn {m['churn']:.3f}" if "nmi_arithmetic" in m else ""
    return (f"epoch {generation}: loss {m['loss']:.4f} (log K {m['log_k']:.2f}), {m['clusters']} of {m['k']} clusters filled, "
            f"largest {m['largest']}{nmi}, {m['images_per_second_train']:.0f} images/s")
