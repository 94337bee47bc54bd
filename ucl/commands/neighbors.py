"""ucl neighbors: exact nearest neighbours of features, and near duplicates."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.front.options import Common, ForceOption, OutputOption, StageOption, SummaryJsonOption, command

EXAMPLE = "ucl neighbors features.h5 -k 20 -o neighbors.h5"


@command("neighbors", machine=True, memory=True)
def main(features: Annotated[str | None, typer.Argument(metavar="FEATURES", help="Features; - is standard input.", show_default=False)] = None,
         among: Annotated[str | None, typer.Argument(metavar="OTHERS", help="Features of the images to search, a file. Default: FEATURES.",
                                                     show_default=False)] = None, *,
         stage: StageOption = "", output: OutputOption = None, force: ForceOption = False, json_: SummaryJsonOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Find neighbours."""
    from ucl.front.neighbors import find

    return find(features, among, stage, output, given, common, force=force, as_json=json_)
