"""ucl targets: true classes as a labels file, made on purpose."""

from __future__ import annotations

from typing import Annotated

import typer

from ucl.front.listing import ClassesOption, SplitOption
from ucl.front.options import Common, ForceOption, OutputOption, command

EXAMPLE = "ucl targets photos/ > truth.h5"

TargetsOption = Annotated[str | None, typer.Option("--targets", metavar="FILE", help="Text file of lines path<tab>class, or a released data "
                                                   "set. Default: the data set's own, or the class folders.")]
LabelsOption = Annotated[str | None, typer.Option("--labels", metavar="fine|coarse", help="Which classes, of CIFAR-100. Default: fine.")]


@command()
def main(images: Annotated[str | None, typer.Argument(metavar="IMAGES", help="images.h5, folder, archive, data set or digits. "
                                                      "Default: the run directory's list.", show_default=False)] = None, *,
         split: SplitOption = None, classes: ClassesOption = None, targets: TargetsOption = None, labels: LabelsOption = None,
         output: OutputOption = None, force: ForceOption = False, common: Common) -> int:
    """Write true classes."""
    from ucl.evaluate.truth import truth_labels
    from ucl.front.evaluation import known_labels
    from ucl.front.labels import write_labels
    from ucl.front.listing import list_of
    from ucl.front.streams import find_output
    from ucl.rundir import RunDir
    from ucl.settings import ListSettings

    known_labels(labels)
    run = RunDir.here()
    where = find_output(output, None, "labels")
    samples, origin = list_of(images, run, ListSettings(split=split, classes=classes))
    made = truth_labels(samples, targets, labels, origin)
    return write_labels("ucl targets", made, where, common, False, force=force, run=None)
