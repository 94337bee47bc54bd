"""What commands of a run directory share: the machine, the context of the next turn, and the generation it starts from."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from ucl import device
from ucl.context import Context
from ucl.errors import DataError, InputMissing, OutputRefused
from ucl.front.options import Common
from ucl.memory import budget
from ucl.methods.method import KEPT, Step, plan, step_for
from ucl.run import next_input, written
from ucl.rundir import RunDir

log = logging.getLogger("ucl.session")


def threads_for(run: RunDir | None, common: Common) -> int:
    """Threads to use: those init recorded (another number warns), else those asked for, else the machine's.

    Also tells libraries that are not yet loaded.
    """
    threads = common.threads or (run.config.threads if run else 0) or device.machine_threads()
    if run and run.config.threads != threads:
        log.warning("%d threads, the run directory was made with %d: results may differ in their last bits", threads, run.config.threads)
    device.set_thread_variables(threads)
    return threads


def runtime_for(run: RunDir | None, common: Common, *, torch: bool) -> device.Runtime:
    """The machine: device, threads, precision, compilation, memory.  Without ``torch`` the device is the CPU, and torch is imported only to
    refuse a GPU that was asked for and is missing."""
    memory = budget(common.memory)
    threads = threads_for(run, common)
    precision, compiled = (run.config.precision, run.config.compile) if run else ("float32", False)
    for name, asked_for in (("precision", common.precision), ("compile", common.compile)):
        if run and asked_for is not None and asked_for != getattr(run.config, name):
            log.warning("%s %s, the run directory was made with %s: results differ", name, asked_for, getattr(run.config, name))
    precision = common.precision or precision
    compiled = torch and (compiled if common.compile is None else common.compile)
    asked = common.device or "auto"
    found = device.resolve(asked, threads, precision, compiled) if torch or asked != "auto" else None
    if found is None or not torch:
        found = device.resolve("cpu", threads, precision)
    return dataclasses.replace(found, memory=memory)


def with_flags(context: Context, verb: str, given: dict[str, Any], step: Step | None = None) -> Context:
    """The context with the command line's settings noted, so that files say what was set by hand.

    What ``step`` does not read under these flags is no longer noted.

    Raises:
        UsageError: a setting that the plan decides itself, and would refuse of whoever reads the file.
    """
    if not given:
        return context
    noted = {f"{verb}.{k}": ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for k, v in given.items()}
    unread = {f"{verb}.{name}" for name in step.settings.unread} if step is not None else set()
    made = dataclasses.replace(context, overrides={k: v for k, v in (context.overrides | noted).items() if k not in unread})
    if made.method:
        plan(made)
    return made


def step_of(context: Context, verb: str, stage: str, given: dict[str, Any]) -> Step:
    """The step a command stands for (see `methods.method.step_for`)."""
    return step_for(context, verb, stage, given)


def context_of(artifact: Any, run: RunDir | None, common: Common, where: str, *, joins: bool) -> Context:
    """The context a stage works in: its input's; the newest generation's where a stage of somebody's own dropped it.

    What an explicit extraction made (``ucl extract IMAGES --model CKPT``) stands beside the plan, also inside a run directory,
    unless the stage ``joins`` the plan with whatever it is given, as train-epoch does.

    Raises:
        DataError: the input does not belong to the run directory.
    """
    context: Context = artifact.context
    if context.method:
        return context if common.seed is None else dataclasses.replace(context, seed=common.seed)
    if run is not None and (joins or artifact.foreign):
        samples = artifact.samples.digest if artifact.samples is not None else ""
        run.check(dataclasses.replace(context, samples_digest=samples), where)
        context = run.next_turn()
        return context if common.seed is None else dataclasses.replace(context, seed=common.seed)
    return dataclasses.replace(context, seed=common.seed if common.seed is not None else context.seed)


def fresh(run: RunDir, context: Context, where: str, *, piped: bool) -> None:
    """Refuse input made for a generation that is no longer the newest.

    Raises:
        OutputRefused: from a pipe: another process committed first.  DataError: from a file: it is stale.
    """
    run.check(context, where)
    newest = run.newest
    if context.generation < 0 or context.generation == newest:
        if context.generation_digest and context.generation_digest != run.context(newest).generation_digest:
            raise DataError(f"{where}: made from another model of generation {newest} than this directory's",
                            "make it again here")
        return
    if piped:
        raise OutputRefused(f"{where}: made for generation {context.generation}, but {newest} is committed: another process was first",
                            "run the same line again: it goes on from there")
    raise DataError(f"{where}: stale: made for generation {context.generation}, the newest is {newest}",
                    "make it again: ucl extract, ucl cluster")


def unfinished(run: RunDir) -> dict[str, Any]:
    """What is kept of the next turn: "train-epoch" -> epoch, batches, of; "extract" -> rows, of.  Only what would be gone on with on
    this machine is listed (the kind of device is not looked at)."""
    from ucl.safepoints import machine, rows_of, unlike

    found: dict[str, Any] = {}
    context = run.context()
    same = machine(device.Runtime("cpu", run.config.threads, run.config.precision, run.config.compile))
    same.pop("device")
    steps = [s for s in plan(context) if s.verb == "train-epoch"]
    safe = run.safe_points(0)
    epoch = safe.midway() if steps else None
    if epoch is not None:
        source = steps[0].trained[0]
        digest = context.generation_digest if source == "model" else digest_of(run.file(context.generation, source))
        wanted = {"generation": context.generation, "model": digest, "seed": context.seed, "stage": steps[0].stage,
                  "settings": steps[0].settings.as_dict(), **same}
        if not unlike(epoch["identity"], wanted) and (not next_input(context) or safe.made() is not None):
            found["train-epoch"] = {name: epoch[name] for name in ("epoch", "batches", "of")}
    rows = rows_of(run.partial("features"))
    if rows is not None and rows.done and rows.context.generation_digest == context.generation_digest and not unlike(rows.note, same):
        found["extract"] = {"rows": rows.done, "of": rows.of}
    return found


def load_model(run: RunDir, generation: int) -> Any:
    """The model of a generation."""
    return load_kept(run.file(generation, "model"), "ucl/checkpoint")


def digest_of(path: Path) -> str:
    """Content digest of a file of the run directory."""
    from ucl.formats.reader import open_artifact

    with open_artifact(path) as file:
        return file.digest


def load_labels(run: RunDir, generation: int) -> Any:
    """The labels of a generation, or None where it has none (the untrained model's, and all of a method without clusters)."""
    return load_slot(run, generation, "labels")


def load_slot(run: RunDir, generation: int, slot: str) -> Any:
    """What a generation has in a slot, or None where nothing has written it yet, and the next turn does not begin with it.

    Raises:
        InputMissing: it is gone.
    """
    path = run.file(generation, slot)
    if not path.exists():
        context = run.context(generation)
        if not generation or slot not in written(dataclasses.replace(context, epoch=generation - 1)) | _begun_with(context):
            return None
    return load_kept(path, KEPT[slot])


def _begun_with(context: Context) -> frozenset[str]:
    """Slots that a turn reads before it makes them itself."""
    made: set[str] = set()
    found: set[str] = set()
    for step in plan(context):
        found |= set(step.reads) - made
        made |= set(step.writes)
    return frozenset(found)


def load_slots(run: RunDir, generation: int) -> dict[str, Any]:
    """All that a turn may go on from: the image list, and what the generation keeps."""
    found = {slot: load_slot(run, generation, slot) for slot in KEPT}
    return {"images": load_images(run)} | {slot: kept for slot, kept in found.items() if kept is not None}


def load_agreed(run: RunDir) -> Any:
    """The labels of an ensemble that were put into work/; None without."""
    from ucl.store import load

    path = run.work("agreed")
    return load(path, "ucl/labels") if path.exists() else None


def has_labels(run: RunDir) -> bool:
    """Whether the newest generation has pseudo-labels; those of ir, is and simclr have none."""
    return run.file(run.newest, "labels").exists()


def load_images(run: RunDir) -> Any:
    """The frozen image list of a run directory."""
    return load_kept(run.path / "images.h5", "ucl/images")


def load_kept(path: Path, kind: str) -> Any:
    """An artifact that a run directory ought to have.

    Raises:
        InputMissing: it is gone.
    """
    from ucl.store import load

    if not path.exists():
        raise InputMissing(f"{path}: missing from the run directory", "--keep keeps more generations")
    return load(path, kind)
