"""ucl pack: an images.h5 of its own, with the images in it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from ucl.commands.init import FilesFromOption
from ucl.front.options import Common, ForceOption, OutputOption, SummaryJsonOption, command
from ucl.settings import InitSettings, ListSettings

EXAMPLE = "ucl pack photos/ -o photos.h5"
_LISTING = {field.name for field in dataclasses.fields(ListSettings)}


@command("init", threads=True, skip=tuple(f.name for f in dataclasses.fields(InitSettings) if f.name not in _LISTING))
def main(images: Annotated[str | None, typer.Argument(metavar="IMAGES", help="A folder, archive, data set, images.h5, or digits.",
                                                      show_default=False)] = None, *,
         files_from: FilesFromOption = None,
         form: Annotated[str, typer.Option("--as", metavar="encoded|pixels", help="The images' own bytes, or squares of pixels. Default: encoded.",
                                           show_default=False)] = "encoded",
         pack_size: Annotated[int, typer.Option("--pack-size", metavar="N", help="With --as pixels: side of the squares. Default: that of a data set "
                                                "whose images have one.", show_default=False)] = 0,
         output: OutputOption = None, force: ForceOption = False, json_: SummaryJsonOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Pack images into one file."""
    from ucl.front.packing import pack

    return pack(images, files_from, form, pack_size, ListSettings().override(given), output, common, json_, force=force)
