"""ucl select: some rows of features, labels or an image list, as a file or as a list of paths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ucl.commands.targets import TargetsOption
from ucl.front.options import Common, ForceOption, OutputOption, command

EXAMPLE = "ucl select photos/ --long-tail 64 -o long-tail.txt"

_ORDERS = ("name", "size", "random")


@command(seed=True)
def main(source: Annotated[str | None, typer.Argument(metavar="INPUT", help="Features, labels or an images.h5, a folder or digits; - is standard "
                                                      "input. Default: the run directory's list.", show_default=False)] = None, *,
         rows: Annotated[str | None, typer.Option("--rows", metavar="A:B", help="Rows A to B-1; several ranges or numbers with commas.")] = None,
         paths: Annotated[str | None, typer.Option("--paths", metavar="FILE", help="The images that this text file names, one per line.")] = None,
         glob: Annotated[list[str] | None, typer.Option("--glob", metavar="PATTERN", help="Paths that match, as 'ant/*'; may be repeated.")] = None,
         cluster: Annotated[list[int] | None, typer.Option("--cluster", metavar="N", help="Members of this cluster; -1: of none; may be "
                                                           "repeated.")] = None,
         flag: Annotated[list[str] | None, typer.Option("--flag", metavar="NAME", help="Labels with this flag, as "
                                                        "KEPT; may be repeated.")] = None,
         ok: Annotated[bool, typer.Option("--ok", help="Only images that could be used.")] = False,
         per_class: Annotated[int | None, typer.Option("--per-class", metavar="N", help="N images of each class; with --long-tail, of the "
                                                       "first.", min=1)] = None,
         long_tail: Annotated[float | None, typer.Option("--long-tail", metavar="RATIO", help="Exponentially fewer images from class to class; "
                                                         "the first has RATIO times the last.")] = None,
         class_order: Annotated[str, typer.Option("--class-order", metavar="|".join(_ORDERS), show_default=False,
                                                  help="Which class is first: by name, largest first, or random. Default: name.")] = "name",
         targets: TargetsOption = None,
         sample: Annotated[int | None, typer.Option("--sample", metavar="N", help="N of what is left, at random.", min=1)] = None,
         list_: Annotated[bool, typer.Option("--list", help="Print paths, one per line, instead of HDF5; so does -o FILE.txt.")] = False,
         output: OutputOption = None, force: ForceOption = False, common: Common) -> int:
    """Select rows."""
    from ucl.formats.layout import FLAG
    from ucl.front.listing import is_hdf5
    from ucl.front.options import among
    from ucl.front.selection import Choice, of_file, of_folder, run_list
    from ucl.keys import Key
    from ucl.rundir import RunDir

    among("--class-order", class_order, _ORDERS)
    for name in flag or []:
        among("--flag", name, tuple(FLAG))
    key = Key(common.seed or 0, stage="select")
    choice = Choice(rows, paths, glob or [], cluster or [], [FLAG[f] for f in flag or []], ok, sample, key)
    profile = None
    if per_class is not None or long_tail is not None:
        profile = _profile(per_class, long_tail, class_order, targets, key)
    source = run_list(source, RunDir.here())
    text = list_ or (output is not None and Path(output).suffix == ".txt")
    if source != "-" and not is_hdf5(source):
        return of_folder(source, choice, profile, output, common, force=force)
    return of_file(source, choice, profile, output, common, force=force, text=text)


def _profile(per_class: int | None, long_tail: float | None, order: str, targets: str | None, key: Any) -> Any:
    """A function that draws a class profile from rows."""
    from ucl.errors import UsageError
    from ucl.evaluate.profile import draw_profile

    if long_tail is not None and not 1 <= long_tail < float("inf"):
        raise UsageError(f"--long-tail: found {long_tail}, wanted a ratio of at least 1", "--long-tail 64")
    return lambda samples, rows: draw_profile(samples, rows, targets, per_class=per_class, ratio=long_tail or 1.0, order=order, key=key)
