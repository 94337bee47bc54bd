"""ucl view: which image is in which cluster."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from ucl.front.options import Common, command

EXAMPLE = "ucl view --cluster 3 --sort distance labels.h5"

_BLOCK = 65536


@command()
def main(file: Annotated[str | None, typer.Argument(metavar="FILE", help="Labels, features, neighbours, pairs, images or an evaluation; - is "
                                                    "standard input. Default: the run directory's newest labels, or where there are none its "
                                                    "image list.", show_default=False)] = None, *,
         columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="Columns to print. Default: all the file has.")] = None,
         cluster: Annotated[int | None, typer.Option("--cluster", metavar="N", help="Only this cluster; -1: rows in none.")] = None,
         bad: Annotated[bool, typer.Option("--bad", help="Only images that could not be used.")] = False,
         rows: Annotated[str | None, typer.Option("--rows", metavar="A:B", help="Only rows A to B-1.")] = None,
         head: Annotated[int | None, typer.Option("--head", metavar="N", help="Only the first N of what is left.")] = None,
         sort: Annotated[str | None, typer.Option("--sort", metavar="COLUMN", help="Sort by this column, smallest first.")] = None,
         no_header: Annotated[bool, typer.Option("--no-header", help="No line of column names.")] = False,
         json_: Annotated[bool, typer.Option("--json", help="JSON lines, one object a row.")] = False, common: Common) -> int:
    """List rows."""
    from ucl.front.table import select, table_of

    table = table_of(file)
    chosen = select(table, columns, cluster, bad, rows, head, sort)
    names = list(chosen)
    total = len(next(iter(chosen.values()))) if chosen else 0
    if not json_ and not no_header:
        sys.stdout.write("\t".join(names) + "\n")
    for start in range(0, total, _BLOCK):
        block = [_texts(chosen[name][start:start + _BLOCK], raw=json_) for name in names]
        for row in zip(*block, strict=True):
            sys.stdout.write((json.dumps(dict(zip(names, row, strict=True))) if json_ else "\t".join(row)) + "\n")
    sys.stdout.flush()
    return 0


def _texts(values: Any, *, raw: bool) -> list[Any]:
    """A column as text, or as JSON values."""
    from ucl.front.console import clean

    items = values.tolist()
    if values.dtype.kind == "S":
        items = [clean(v.decode("utf-8", "replace")) for v in items]
    if raw:
        return [None if isinstance(v, float) and v != v else v for v in items]
    return [f"{v:.6g}" if isinstance(v, float) else str(v) for v in items]


