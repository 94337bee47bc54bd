"""ucl extract: features of all images."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.commands.init import FilesFromOption
from ucl.front.listing import ClassesOption, SplitOption
from ucl.front.options import Common, ForceOption, OutputOption, ResumeOption, StageOption, command

EXAMPLE = "ucl extract | ucl cluster -k 100 > labels.h5"


@command("extract", machine=True, seed=True, compute=True)
def main(images: Annotated[str | None, typer.Argument(metavar="IMAGES", help="A folder, archive, data set, digits, or an images.h5. "
                                                      "Default: the run directory's list.", show_default=False)] = None, *,
         files_from: FilesFromOption = None, split: SplitOption = None, classes: ClassesOption = None,
         model: Annotated[str | None, typer.Option("--model", metavar="CKPT", help="Checkpoint. Default: the newest generation's.")] = None,
         backbone: Annotated[str | None, typer.Option("--backbone", metavar="NAME", help="An untrained network instead.")] = None,
         weights: Annotated[str | None, typer.Option("--weights", metavar="FILE|NAME", help="With --backbone: its weights, a file as ucl "
                                                     "import takes it, or torchvision's by their name.")] = None,
         size: Annotated[int | None, typer.Option("--size", metavar="N", help="With --backbone: side of a view in pixels.")] = None,
         sobel: Annotated[bool, typer.Option("--sobel", help="With --backbone: DeepCluster's Sobel filter in front.")] = False,
         on_error: Annotated[str | None, typer.Option("--on-error", metavar="fail|skip", help="An unreadable image stops, or is a "
                                                      "flagged row. Default: fail.")] = None,
         max_bad: Annotated[float | None, typer.Option("--max-bad", metavar="X", help="Largest share of unreadable images that skip lets "
                                                       "pass.")] = None,
         stage: StageOption = "", output: OutputOption = None, force: ForceOption = False, resume: ResumeOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Extract features."""
    from ucl.front import session
    from ucl.front.extraction import sources, write_features
    from ucl.front.streams import find_output
    from ucl.rundir import RunDir

    run = RunDir.here()
    where = find_output(output, run, "features")
    runtime = session.runtime_for(run, common, torch=True)
    shown = {"size": size, "split": split, "classes": classes, "on_error": on_error, "max_bad": max_bad, "sobel": sobel or None}
    image_list, checkpoint, context = sources(run, images, files_from, model, backbone, weights,
                                              {k: v for k, v in shown.items() if v is not None}, given, common, runtime)
    step = session.step_of(context, "extract", stage, given)
    context = session.with_flags(context, "extract", given)
    write_features(step, image_list, checkpoint, context, runtime, where, common, force=force, run=run, resume=resume)
    return 0
