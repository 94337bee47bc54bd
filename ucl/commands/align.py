"""ucl align: the rows of one file in the order of another."""

from __future__ import annotations

from typing import Annotated

import typer

from ucl.front.options import Common, ForceOption, OutputOption, command

EXAMPLE = "ucl align labels.h5 --to features.h5 -o aligned.h5"


@command()
def main(source: Annotated[str | None, typer.Argument(metavar="FILE", help="Features or labels; - is standard input.", show_default=False)] = None, *,
         to: Annotated[str | None, typer.Option("--to", metavar="LIST", help="Whose order: features, labels, an images.h5, a folder or digits. "
                                                "Default: the run directory's list.")] = None,
         fill: Annotated[bool, typer.Option("--fill", help="Images of LIST that FILE lacks get NaN features, or label -1, and the status "
                                            "MISSING.")] = False,
         output: OutputOption = None, force: ForceOption = False, common: Common) -> int:
    """Align."""
    from ucl.align import rows_in_order
    from ucl.formats.reader import open_artifact
    from ucl.front.console import say
    from ucl.front.listing import names_in
    from ucl.front.streams import find_input, find_output, open_output
    from ucl.rows import samples_of, write_rows
    from ucl.rundir import RunDir

    run = RunDir.here()
    where = find_output(output, None, "labels")
    path, name = find_input(source, None, "features or labels")
    wanted = names_in(to, run)
    of = to or "images.h5"
    with open_artifact(path, ("ucl/features", "ucl/labels"), name=name) as file:
        rows = rows_in_order(samples_of(file).path, wanted.path, name, of, fill=fill)
        with open_output(where, force=force) as out:
            write_rows(file, rows, out, "align", {"fill": fill, "to": wanted.digest}, names=wanted.path)
    if not common.quiet:
        filled = int((rows < 0).sum())
        say(f"ucl align: {len(rows)} rows" + (f", {filled} of them filled in" if filled else "") + (f"; in {where}" if where != "-" else ""))
    return 0
