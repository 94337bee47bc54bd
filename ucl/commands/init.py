"""ucl init: a run directory from images, with the list frozen and the model drawn."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.front.options import Common, CompileOption, PrecisionOption, SummaryJsonOption, command
from ucl.methods import METHODS

EXAMPLE = "ucl init deepcluster digits -o runs/digits"

SetOption = Annotated[list[str], typer.Option("--set", metavar="VERB.KEY=VALUE", help="Set a verb's or the method's setting for the "
                                                       "whole run; repeatable.")]
KeepOption = Annotated[str | None, typer.Option("--keep", metavar="N|all", help="Generations whose model and labels are kept. Default: 2.")]
FilesFromOption = Annotated[str | None, typer.Option("--files-from", metavar="FILE", help="List of image paths, one per line; - is "
                                                     "standard input. The order is kept.")]
MethodArgument = Annotated[str, typer.Argument(metavar="METHOD", help=f"{', '.join(METHODS)}; see ucl-methods(7).")]
ImagesArgument = Annotated[str | None, typer.Argument(metavar="IMAGES", help="A folder of images, an archive (tar), a released data "
                                                      "set, an images.h5, or digits, the built-in data set.",
                                                      show_default=False)]


@command("init", threads=True, seed=True)
def main(method: MethodArgument, images: ImagesArgument = None, *,
         output: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="The run directory to make.")],
         files_from: FilesFromOption = None, assignments: SetOption = [],  # noqa: B006
         epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Epochs of the plan. Default: the method's.")] = None,
         keep: KeepOption = None, precision: PrecisionOption = None, compile_: CompileOption = None, json_: SummaryJsonOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Make a run directory."""
    from ucl.front.create import create, request

    asked = request(method, images, files_from, assignments, epochs, keep, precision, compile_, given, common)
    create(asked, output, common, json_)
    return 0
