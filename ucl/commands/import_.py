"""ucl import: a checkpoint from weights of outside."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.front.options import Common, ForceOption, OutputOption, command

EXAMPLE = "ucl import moco.pth.tar --backbone resnet50 --head drop -o model.h5"


@command("import")
def main(file: Annotated[str, typer.Argument(metavar="FILE", help="Weights: .pt or .pth of torch.save, or .safetensors; - is standard input. "
                                             "Or torchvision's by their name, as IMAGENET1K_V2 or DEFAULT.")], *,
         backbone: Annotated[str, typer.Option("--backbone", metavar="NAME", help="The network that they are of; ucl doctor lists the names.")],
         output: OutputOption = None, force: ForceOption = False, given: dict[str, Any], common: Common) -> int:
    """Import weights."""
    from ucl.front.streams import find_output
    from ucl.front.weights import take
    from ucl.settings import ImportSettings

    where = find_output(output, None, "model")
    take(file, backbone, ImportSettings().override(given), where, common, force=force)
    return 0
