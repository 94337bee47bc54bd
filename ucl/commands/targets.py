"""ucl targets: true classes as a labels file, made on purpose."""

from __future__ import annotations

from typing import Annotated

import typer

from ucl.front.options import Common, ForceOption, OutputOption, command

EXAMPLE = "ucl targets photos/ > truth.h5"

TargetsOption = Annotated[str | None, typer.Option("--targets", metavar="FILE", help="Text file of lines path<tab>class. Default: the "
                                                   "class folders.")]


@command()
def main(images: Annotated[str | None, typer.Argument(metavar="IMAGES", help="images.h5, a folder or digits. Default: the run directory's "
                                                      "list.", show_default=False)] = None, *,
         targets: TargetsOption = None, output: OutputOption = None, force: ForceOption = False, common: Common) -> int:
    """Write true classes."""
    from ucl.evaluate.truth import truth_labels
    from ucl.front.labels import write_labels
    from ucl.front.listing import list_of
    from ucl.front.streams import find_output
    from ucl.rundir import RunDir

    run = RunDir.here()
    where = find_output(output, None, "labels")
    labels = truth_labels(list_of(images, run), targets)
    return write_labels("ucl targets", labels, where, common, False, force=force, run=None)
