"""ucl export: a checkpoint's weights for other programs."""

from __future__ import annotations

from typing import Annotated

import typer

from ucl.front.options import Common, ForceOption, command

EXAMPLE = "ucl export model.h5 -o weights.safetensors"


@command()
def main(model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Checkpoint; - is standard input. Default: the newest of the run "
                                                     "directory.", show_default=False)] = None, *,
         output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Output file, written whole or not at all; its ending "
                                             "says the format: .pt, .pth, .safetensors or .onnx.")],
         layout: Annotated[str | None, typer.Option("--layout", metavar="auto|torchvision|timm|deepcluster|ucl", help="How the tensors are "
                                                    "named. Default: auto, as the network's own authors do.")] = None,
         head: Annotated[bool | None, typer.Option("--head/--no-head", help="Whether the classifier over the clusters goes along. Default: if "
                                                   "there is one.", show_default=False)] = None,
         force: ForceOption = False, common: Common) -> int:
    """Export weights."""
    from ucl.front.weights import give
    from ucl.rundir import RunDir

    give(model, RunDir.here(), output, layout, head, common, force=force)
    return 0
