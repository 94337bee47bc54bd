"""Making a run directory, for `init` and for the first start of `run`."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucl import device, stop
from ucl.context import Context
from ucl.errors import OutputRefused, UsageError
from ucl.formats.atomic import fsync_dir, write_bytes_atomic
from ucl.front.console import Progress, clean, say
from ucl.front.listing import listing_of
from ucl.front.options import Common, settings_table
from ucl.front.weights import absolute, initial
from ucl.keys import Key
from ucl.methods.method import advise, method_named, plan, plan_length
from ucl.rundir import CONFIG, RunConfig, RunDir
from ucl.settings import ExtractSettings, InitSettings, MachineSettings


@dataclass(frozen=True)
class Request:
    """What a command line asks a new run directory to be; ``given`` are the fields that were really given."""

    config: RunConfig
    given: dict[str, Any]


def request(method: str, images: str | None, files_from: str | None, assignments: list[str], epochs: int | None,
            keep: str | None, precision: str | None, compile: bool | None, given: dict[str, Any], common: Common) -> Request:
    """Check a command line before anything is read.

    Raises:
        UsageError: no images, an unknown method or setting, or a --keep that is no number.
    """
    method_named(method)
    if images is None and files_from is None:
        raise UsageError("no images: found neither IMAGES nor --files-from", "a folder, archive, data set, digits, or --files-from FILE")
    if keep is not None and keep != "all" and not (keep.isdecimal() and int(keep) > 0):
        raise UsageError(f"--keep: found {keep!r}, wanted a number from 1, or all")
    overrides = settings_table(assignments) | {f"init.{k}": str(v) for k, v in given.items()}
    if "init.weights" in overrides:
        overrides["init.weights"] = absolute(overrides["init.weights"])
    if epochs is not None:
        overrides["plan.epochs"] = str(epochs)
    stated: dict[str, Any] = {"method": method, "overrides": overrides}
    stated |= {"images": _absolute(images)} if images is not None else {}
    stated |= {"files_from": files_from} if files_from is not None else {}
    machine = {"keep": keep, "precision": precision, "compile": compile, "seed": common.seed, "threads": common.threads}
    stated |= {k: v for k, v in machine.items() if v is not None}
    chosen = MachineSettings().override({k: stated[k] for k in ("seed", "threads", "precision", "compile") if k in stated})
    defaults = chosen.as_dict() | {"threads": chosen.threads or device.machine_threads()}
    return Request(RunConfig(**(stated | defaults)), stated)


def _absolute(images: str) -> str:
    return images if images == "digits" else os.path.abspath(images)  # noqa: PTH100


def settings_of(config: RunConfig) -> InitSettings:
    """`init`'s settings: what was set by hand over what the method and the data ask for, over what the network is made for."""
    from ucl.models import view_defaults

    source = "digits" if config.images == "digits" else ""
    by_method = method_named(config.method).init(Context(config.method, source=source, overrides=config.overrides))
    by_hand = {k.partition(".")[2]: v for k, v in config.overrides.items() if k.startswith("init.")}
    by_network = view_defaults(by_hand.get("backbone", InitSettings().backbone))
    return InitSettings().override(by_network).override(by_method).override(by_hand, "init")


def create(asked: Request, where: str, common: Common, as_json: bool = False) -> RunDir:
    """Make the run directory: whole or not at all.

    Raises:
        OutputRefused: something is there already.  DataError: unreadable images.
    """
    target = Path(where)
    if target.is_dir() and target.samefile(Path()):
        raise UsageError(f"-o {where}: is the folder you are in", "cd .. and give it a name: the folder is made whole by one rename")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise OutputRefused(f"{target}: exists already", "ucl run goes on with a run directory; a new one needs a new name")
    started = time.monotonic()
    config = asked.config
    settings = settings_of(config)
    _check_fold(settings)
    source = "digits" if config.images == "digits" else ""
    uncounted = 10**9  # images: before the list is read only what no number of them would allow is refused
    context = Context(config.method, seed=config.seed, images=uncounted, size=settings.size, source=source, overrides=config.overrides)
    steps = plan(context)
    plan_length(context)
    device.set_thread_variables(config.threads)
    from ucl import models

    begun = None
    if settings.weights != "none":
        by_hand = frozenset(k.removeprefix("init.") for k in config.overrides)
        settings, model, noted = initial(settings, by_hand, common)
        begun = (model, noted)
    for step in steps:
        if isinstance(step.settings, ExtractSettings):
            models.check(settings.backbone, sobel=settings.sobel, size=settings.size, settings=step.settings,
                         tops={"projection": settings.projection, "neck": settings.neck})
    images = read_images(config, settings, common, next(p for p in target.absolute().parents if p.is_dir()))
    advice = advise(dataclasses.replace(context, images=images.n - len(images.reasons)))
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    _make_parents(target)
    try:
        temporary.mkdir()
        run = _fill(temporary, config, settings, images, begun)
        fsync_dir(temporary)
        stop.check()
        _put(temporary, target)
        fsync_dir(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    run = RunDir(target)
    _summary(run, images, time.monotonic() - started, common, as_json)
    for line in advice if not common.quiet else ():
        say(f"{common.command}: warning: {line}")
    return run


def _check_fold(settings: InitSettings) -> None:
    if settings.fold_sobel and settings.sobel:
        raise UsageError("--fold-sobel and --sobel: give one of them", "--sobel keeps the filter, --fold-sobel makes a network that takes colours")
    if settings.fold_sobel and settings.weights == "none":
        raise UsageError("--fold-sobel: found no --weights to fold the filter of", "--weights FILE, of a network behind a Sobel filter")


def _put(temporary: Path, target: Path) -> None:
    """Rename the finished folder to its place.

    Raises:
        OutputRefused: another process made it first.
    """
    try:
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OutputRefused(f"{target}: exists already; another process made it", "ucl run goes on with a run directory") from error
        raise


def _make_parents(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)


def read_images(config: RunConfig, settings: InitSettings, common: Common, folder: Path | None = None) -> Any:
    """The frozen image list: every image decoded once; packed pixels that are many wait in ``folder`` without a name."""
    from ucl.images import read_all

    not_compressed(config.images, settings.pack)
    listing = listing_of(config.images, config.files_from, settings)
    with Progress(common.command, common) as progress:
        side = int(settings.pack) if settings.pack.isdecimal() else settings.pack
        made = read_all(listing, size=settings.size, pack=side, pack_budget=settings.pack_budget,
                        on_error=settings.on_error, max_bad=settings.max_bad, workers=config.threads,
                        max_pixels=settings.max_pixels, progress=ticking(progress, "init"), folder=folder)
    tell_bad(made, listing.ignored, common)
    return made


def not_compressed(images: str, pack: str) -> None:
    """Refuse, before anything is read, an archive that would have to be unpacked again on every pass."""
    from ucl.sources.tar import is_compressed

    if pack == "none" and is_compressed(images):
        raise UsageError(f"{images}: compressed, and with --pack none its images would be unpacked again on every pass",
                         "gunzip it, or pack pixels: --pack auto")


def ticking(progress: Progress, what: str) -> Callable[[int, int], None]:
    """A callback that heeds signals and shows progress."""

    def tick(done: int, total: int) -> None:
        stop.check()
        if done % 16 == 0 or done == total:
            progress(what, done, total)

    return tick


def tell_bad(made: Any, ignored: int, common: Common) -> None:
    """Warn of images that cannot be used, and say what was left out."""
    if common.quiet:
        return
    for row, reason in list(made.reasons.items())[:10]:
        say(f"{common.command}: warning: {clean(made.paths[row].decode(errors='replace'))}: {reason}")
    if len(made.reasons) > 10:
        say(f"{common.command}: warning: and {len(made.reasons) - 10} more; ucl view --bad names them all")
    if ignored:
        say(f"{common.command}: {ignored} files are no images by their names and were left out")


def _fill(folder: Path, config: RunConfig, settings: InitSettings, made: Any, begun: tuple[Any, dict[str, Any]] | None) -> RunDir:
    """Write images.h5, ucl.toml and generation 0 into a new folder; ``begun``: a model of weights from outside, and their name."""
    from ucl import store
    from ucl.artifacts import ImageList
    from ucl.packing import write_list

    images = ImageList.made(made)
    source = "digits" if config.images == "digits" else ""
    usable = made.n - len(made.reasons)
    config = dataclasses.replace(config, n=made.n, usable=usable, size=settings.size, source=source, samples_digest=images.samples.digest)
    context = Context(config.method, seed=config.seed, images=usable, size=settings.size, source=source,
                      samples_digest=images.samples.digest, overrides=config.overrides)
    said = settings.as_dict()
    del said["weights"]
    images.provenance = store.chain("init", said | (begun[1] if begun else {}), config.seed, [], "cpu", config.threads)
    images.context = context
    images.recipe = store.recipe(images.kind, "init", said, config.seed, [])
    with (folder / "images.h5").open("wb") as out:
        write_list(out, images, made.squares)
        out.flush()
        os.fsync(out.fileno())
    write_bytes_atomic(folder / CONFIG, config.to_toml().encode())
    (folder / "epochs").mkdir()
    (folder / "work").mkdir()
    model = begun[0] if begun else drawn(settings, config.seed)
    _top(model, settings, config.seed)
    model.progress, model.context = {"seed": config.seed, "world_size": 1}, context
    model.provenance = [*model.provenance, *images.provenance] if images.provenance else []
    if begun:
        said["weights"] = model.config["weights"]
    model.recipe = store.recipe(model.kind, "init", said, config.seed, [images])
    run = RunDir(folder)
    run.commit(0, {"model": model}, {"generation": 0, "images": made.n, "bad": len(made.reasons)})
    return run


def drawn(settings: InitSettings, seed: int) -> Any:
    """A checkpoint of an untrained backbone."""
    from ucl import models
    from ucl.artifacts import Checkpoint

    net = models.build(settings.backbone, Key(seed, stage="init"), sobel=settings.sobel, size=settings.size)
    return Checkpoint({f"backbone.{k}": v for k, v in models.to_arrays(net).items()},
                      config={"backbone": settings.backbone, "sobel": settings.sobel, "size": settings.size,
                              "mean": list(settings.mean), "std": list(settings.std)})


def _top(model: Any, settings: InitSettings, seed: int) -> None:
    """Put a projection, a neck, or both beside each other, on top of a checkpoint's features."""
    if not settings.projection and not settings.neck:
        return
    from ucl import models
    from ucl.networks.neck import new_neck
    from ucl.networks.projector import new_projector

    dim, key = int(models.restore(model).feature_dim), Key(seed, stage="init")
    made: dict[str, Any] = {}
    if settings.projection and "projection" not in model.config:
        made["projection"] = (models.new_projection(dim, settings.projection, key, settings.projection_init) if settings.projection_layers == 1
                              else new_projector(dim, settings.projection, key, init=settings.projection_init))
        model.config["projection"] = settings.projection
    if settings.neck:
        made["neck"] = new_neck(dim, settings.neck_hidden, settings.neck, settings.neck_dropout, key)
        model.config["neck_dropout"] = settings.neck_dropout
    model.model |= {f"{name}.{k}": v for name, module in made.items() for k, v in models.to_arrays(module).items()}


def _summary(run: RunDir, made: Any, seconds: float, common: Common, as_json: bool) -> None:
    packed = "not packed" if made.pixels is None else f"packed at {made.pixels.shape[1]} px"
    facts = {"schema": "ucl.init/1", "directory": str(run.path), "images": made.n, "bad": len(made.reasons), "packed": packed,
             "method": run.config.method, "epochs": plan_length(run.context()), "seconds": round(seconds, 2)}
    if as_json:
        say(json.dumps(facts))
    elif not common.quiet:
        say(f"ucl init: {run.path}: {made.n} images ({len(made.reasons)} unreadable), {packed}; {facts['method']}, "
            f"{facts['epochs']} epochs; {seconds:.1f} s")


def same_or_refuse(asked: Request, run: RunDir) -> None:
    """Refuse to go on in a directory that was made with other settings than the command line names.

    Raises:
        UsageError: naming the field, what is there and what was asked for.
    """
    there = run.config
    for name, wanted in asked.given.items():
        if name == "overrides":
            for key, value in wanted.items():
                if there.overrides.get(key) != value:
                    raise UsageError(f"{run.path}: {key}: the run has {there.overrides.get(key, 'its default')}, asked for {value}",
                                     f"leave it out to go on, or change {run.path / CONFIG} on purpose")
        elif name != "threads" and getattr(there, name) != wanted:  # another number of threads warns, as everywhere
            raise UsageError(f"{run.path}: {name}: the run has {getattr(there, name)}, asked for {wanted}",
                             "leave it out to go on, or give another -o DIR")
