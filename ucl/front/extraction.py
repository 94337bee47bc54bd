"""What to extract from what, and features on their way out while they are made."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucl import device
from ucl.context import Context
from ucl.errors import Busy, StorageError, UsageError
from ucl.front import session
from ucl.front.console import Progress, say
from ucl.front.create import drawn, read_images
from ucl.front.listing import is_hdf5, no_choice
from ucl.front.options import Common, one_of
from ucl.front.streams import open_output, partial_of
from ucl.front.weights import with_weights
from ucl.methods.method import Step
from ucl.run import begin, sign
from ucl.rundir import RunConfig, RunDir
from ucl.safepoints import note_of, writer_for
from ucl.settings import ExtractSettings, InitSettings

if TYPE_CHECKING:
    from ucl.extract import FeatureStream
    from ucl.formats.partial import PartialFile
    from ucl.formats.writer import ArtifactWriter


def sources(run: RunDir | None, images: str | None, files_from: str | None, model: str | None, backbone: str | None,
            weights: str | None, settings: dict[str, Any], given: dict[str, Any], common: Common,
            runtime: device.Runtime) -> tuple[Any, Any, Context]:
    """(image list, checkpoint, context) of an extraction.

    Nothing explicit in a run directory: the next turn of its plan.  Anything explicit stands beside the plan.

    Raises:
        UsageError: nothing says what to extract, or with what.  PlanFinished: the plan has no next turn.
    """
    one_of("--model and --backbone", model, backbone)
    if weights and not backbone:
        raise UsageError("--weights: found no --backbone", "--backbone NAME says which network they are of")
    if settings.get("sobel") and not backbone:
        raise UsageError("--sobel: belongs to --backbone; a checkpoint has the filter or has it not", "ucl info CKPT shows which")
    explicit = images is not None or files_from is not None or model is not None or backbone is not None
    if run is not None and not explicit:
        context = run.next_turn()
        context = context if common.seed is None else dataclasses.replace(context, seed=common.seed)
        return session.load_images(run), session.load_model(run, context.generation), context
    if run is None and (images is None and files_from is None):
        raise UsageError("no images: found no run directory and no IMAGES", "ucl extract IMAGES --model CKPT, or cd into a run directory")
    if run is None and not (model or backbone):
        raise UsageError("no model: found no run directory and neither --model nor --backbone",
                         "--model CKPT, or --backbone NAME for an untrained network")
    from ucl.store import load

    if backbone:
        sobel = bool(settings.get("sobel"))
        checkpoint = with_weights(backbone, weights, settings.get("size"), common, sobel=sobel) if weights else \
            untrained(backbone, settings.get("size"), common.seed or 0, sobel=sobel)
    elif model:
        checkpoint = load(Path(model), "ucl/checkpoint")
    else:
        assert run is not None
        checkpoint = session.load_model(run, run.newest)
    if images is None and files_from is None:
        assert run is not None
        image_list = session.load_images(run)
    else:
        if given.keys() & {"layer", "map"}:  # told before the images are read
            from ucl import models

            models.tap(models.restore(checkpoint), checkpoint, ExtractSettings().override(given))
        image_list = open_images(images, files_from, checkpoint, settings, common, runtime)
    context = Context(seed=common.seed or 0, images=len(image_list.samples), samples_digest=image_list.samples.digest)
    return image_list, checkpoint, context


def untrained(backbone: str, size: int | None, seed: int, *, sobel: bool = False) -> Any:
    """A checkpoint of an untrained backbone, drawn as `init` draws it."""
    from ucl import models

    models.known(backbone)
    settings = InitSettings(backbone=backbone, sobel=sobel).override(models.view_defaults(backbone)).override({"size": size} if size else {})
    made = drawn(settings, seed)
    made.progress = {"seed": seed}
    return made


def open_images(images: str | None, files_from: str | None, checkpoint: Any, settings: dict[str, Any], common: Common,
                runtime: device.Runtime) -> Any:
    """An image list: an images.h5, or a folder, archive or list that is read now at the checkpoint's view size; so are the images
    of an images.h5 that holds their own bytes."""
    from ucl.artifacts import ImageList

    if images is not None and is_hdf5(images):
        found = load_list(images)
        if found is not None:
            no_choice(settings)
            return found
    config = RunConfig("", images=images or "", files_from=files_from or "", threads=runtime.threads)
    made = read_images(config, InitSettings(size=int(checkpoint.config["size"])).override(
        {k: v for k, v in settings.items() if k not in ("size", "sobel")}), common)
    return ImageList.made(made)


def load_list(path: str) -> Any:
    """An images.h5 as it is; None where it holds the images' own bytes, which are decoded as a folder's files are."""
    from ucl.formats.reader import open_artifact
    from ucl.store import load

    with open_artifact(path, "ucl/images") as file:
        if "/encoded" in file:
            return None
    return load(Path(path), "ucl/images")


def write_features(step: Step, images: Any, model: Any, context: Context, runtime: device.Runtime, where: str,
                   common: Common, *, force: bool, run: RunDir | None, resume: bool) -> None:
    """Extract, and write each batch as it comes; memory does not grow with the number of images.  What is finished of a file
    outlives the process.

    Raises:
        UsageError: ``resume`` of a stream.  DataError: ``resume`` of another extraction.
    """
    from ucl.extract import extract
    from ucl.formats.writer import ArtifactWriter

    context, inputs, _ = begin(step, {"images": images, "model": model}, context, runtime)
    inputs = inputs or [images, model]
    with Progress("ucl extract", common) as progress:
        stream = extract(images, model, step.settings, context, runtime, progress)  # type: ignore[arg-type]
        sign(stream.head, step, inputs, context, runtime)
        kept = _open_partial(where, run, force=force, resume=resume)
        if kept is None:
            with open_output(where, force=force, run=run) as out:
                attrs, specs = stream.layout()
                writer = ArtifactWriter(out, stream.head.kind, attrs, specs, stream.head.provenance)
                writer.write("/samples/path", images.samples.path)
                _write_rows(writer, stream, lambda status: None)
        else:
            with kept:
                writer = writer_for(kept, stream, note_of(stream, images, runtime), strict=resume)
                try:
                    _write_rows(writer, stream, kept.tick)
                except BaseException:
                    with contextlib.suppress(StorageError):
                        kept.mark(stream.status)
                    raise
    bad = int((stream.status != 0).sum())
    if not common.quiet:
        say(f"ucl extract: {stream.n} x {stream.d} features" + (f", {bad} rows bad" if bad else "") + (f" in {where}" if where != "-" else ""))


def _open_partial(where: str, run: RunDir | None, *, force: bool, resume: bool) -> PartialFile | None:
    """The file whose finished rows are kept; None for a stream, or if another process is writing the same file."""
    from ucl.formats.partial import PartialFile

    partial = partial_of(where, run)
    if partial is None:
        if resume:
            raise UsageError("--resume: nothing is kept of what goes to a stream", "name the file: -o FILE")
        return None
    own = run is not None and partial == run.partial("features")
    if own:
        partial.parent.mkdir(exist_ok=True)
    try:
        out = PartialFile(where, partial, force=force or own)
    except Busy:
        if resume:
            raise
        return None
    if not (own or resume):
        out.forget()
    return out


def _write_rows(writer: ArtifactWriter, stream: FeatureStream, done: Callable[[Any], None]) -> None:
    """The rows, telling ``done`` the status after each block, and all that comes after them."""
    for block in stream.blocks:
        writer.write("/features", block)
        done(stream.status)
    writer.write("/samples/status", stream.status)
    writer.finish()


def features_now(run: RunDir, common: Common, runtime: device.Runtime, images: Any = None, model: Any = None) -> Any:
    """Features of a run's newest model in memory, for evaluation: of the plan's layer, and of the whole images."""
    from ucl.extract import extract
    from ucl.methods.method import evaluated
    from ucl.run import sign

    context = dataclasses.replace(run.context(), stage="extract")
    step = evaluated(context)
    settings: Any = dataclasses.replace(step.settings, source="network", views="fixed")  # type: ignore[call-arg]
    images = images if images is not None else session.load_images(run)
    model = model if model is not None else session.load_model(run, run.newest)
    with Progress("ucl evaluate", common) as progress:
        stream = extract(images, model, settings, context, runtime, progress)
        sign(stream.head, dataclasses.replace(step, settings=settings), [images, model], context, runtime)
        return stream.collect()
