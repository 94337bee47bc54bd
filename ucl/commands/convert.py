"""ucl convert: features and labels from NumPy, CSV and foreign HDF5 files, and back."""

from __future__ import annotations

from typing import Annotated

import typer

from ucl.front.options import Common, ForceOption, OutputOption, command

EXAMPLE = "ucl convert embeddings.npy --images photos/ -o features.h5"

_FORMATS = ("h5", "npy", "npz", "csv", "tsv")
_KINDS = ("features", "labels")


@command()
def main(source: Annotated[str | None, typer.Argument(metavar="INPUT", help="npy, npz, CSV, TSV or HDF5, told by content; - is standard input.",
                                                      show_default=False)] = None, *,
         from_: Annotated[str | None, typer.Option("--from", metavar="|".join(_FORMATS), help="Format of INPUT; "
                                                   "needed for a pipe of anything but HDF5.")] = None,
         to: Annotated[str | None, typer.Option("--to", metavar="|".join(_FORMATS), help="Format of the output. "
                                                "Default: by its ending; HDF5 to standard output.")] = None,
         as_: Annotated[str | None, typer.Option("--as", metavar="|".join(_KINDS), help="What the array is. Default: "
                                                 "labels if it is one column of whole numbers.")] = None,
         array: Annotated[str | None, typer.Option("--array", metavar="NAME", help="Which array of an npz, or dataset of an HDF5 file.")] = None,
         paths: Annotated[str | None, typer.Option("--paths", metavar="FILE", help="Names of the rows, one per line, where INPUT has none.")] = None,
         images: Annotated[str | None, typer.Option("--images", metavar="IMAGES", help="The same from an images.h5, a folder or digits.")] = None,
         narrow: Annotated[bool, typer.Option("--narrow", help="Round numbers that float32 does not hold, instead of refusing them.")] = False,
         all_: Annotated[bool, typer.Option("--all", help="Labels to npz or CSV: also flag, distance, score and weight.")] = False,
         no_header: Annotated[bool, typer.Option("--no-header", help="CSV without a line of column names.")] = False,
         output: OutputOption = None, force: ForceOption = False, common: Common) -> int:
    """Convert."""
    from ucl.convert import provenance, write_hdf5, write_table
    from ucl.errors import UsageError
    from ucl.front.console import say
    from ucl.front.conversion import attach, form_of, opened, settings_of, table_of
    from ucl.front.options import among
    from ucl.front.streams import find_output, open_output

    among("--from", from_, _FORMATS)
    among("--to", to, _FORMATS)
    among("--as", as_, _KINDS)
    labelled = None if as_ is None else as_ == "labels"
    named = None if output in (None, "-") else form_of(str(output))
    if output not in (None, "-") and to is None and named is None:
        raise UsageError(f"-o {output}: the ending tells no format", "--to " + "|".join(_FORMATS))
    with opened(source, from_) as (form, file, name):
        wanted = to or named or ("h5" if form != "h5" else None)
        if wanted is None:
            raise UsageError("what to convert HDF5 to?", "--to npy, or -o FILE.npy")
        where = "-" if wanted in ("csv", "tsv") and output is None else find_output(output, None, "features")
        with table_of(form, file, name, labelled, array, narrow=narrow) as (table, foreign):
            attach(table, paths, images)
            if wanted == "h5" and not foreign:
                raise UsageError(f"{name}: is a ucl file already", "cp copies it; ucl select takes rows of it")
            bad = 0
            with open_output(where, force=force) as out:
                if wanted == "h5":
                    steps = provenance(table, settings_of(**{"from": form, "as": as_, "array": array, "narrow": narrow}))
                    bad = write_hdf5(table, out, steps)
                else:
                    write_table(table, wanted, out, header=not no_header, everything=all_)
    if not common.quiet:
        shape = " x ".join(map(str, table.rows.shape))
        say(f"ucl convert: {shape} {table.kind.removeprefix('ucl/')}, {table.rows.dtype.name}" + (f", {bad} rows not finite" if bad else "")
            + (f"; in {where}" if where != "-" else ""))
    return 0
