"""ucl train-epoch: one epoch on pseudo-labels; in a run directory it commits the next generation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.front.listing import ClassesOption, SplitOption
from ucl.front.options import Common, EveryOption, ForceOption, ResumeOption, StageOption, SummaryJsonOption, command
from ucl.settings import CHECKPOINT_EVERY, seconds

TrainedOption = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="In a run directory: also write the labels that "
                                                   "were trained on, or that the epoch made. Outside: the checkpoint. - is standard output.")]
EXAMPLE = "ucl extract | ucl cluster -k 100 | ucl train-epoch"


@command("train-epoch", machine=True, seed=True, compute=True)
def main(labels: Annotated[str | None, typer.Argument(metavar="LABELS", help="Labels, or neighbours for scan and selflabel; - is standard "
                                                         "input.", show_default=False)] = None, *,
         images: Annotated[str | None, typer.Option("--images", metavar="IMAGES", help="images.h5, folder, archive, data set or digits. "
                                                    "Default: the run directory's.")] = None,
         split: SplitOption = None, classes: ClassesOption = None,
         model: Annotated[str | None, typer.Option("--model", metavar="CKPT", help="Checkpoint to go on from. Default: the generation's.")] = None,
         stage: StageOption = "", output: TrainedOption = None, force: ForceOption = False, resume: ResumeOption = False,
         every: EveryOption = CHECKPOINT_EVERY, json_: SummaryJsonOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Train one epoch."""
    from ucl import dist
    from ucl.errors import UsageError
    from ucl.front import session, training
    from ucl.rundir import RunDir

    dist.world()
    pause = seconds(every)
    run = RunDir.here()
    runtime = session.runtime_for(run, common, torch=True)
    if images is None and (split or classes):
        raise UsageError("--split and --classes choose from --images, which is not given", "--images FOLDER --split test")
    if run is not None and not (images or model):
        return training.commit_epoch(run, labels, stage, output, given, common, runtime, json_, force=force, every=pause, resume=resume)
    return training.loose_epoch(run, labels, images, {"split": split, "classes": classes}, model, output, given, common, runtime, json_,
                                force=force, every=pause, resume=resume)
