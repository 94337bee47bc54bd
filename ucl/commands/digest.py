"""ucl digest: what a file holds, in one word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ucl.front.options import Common, command

EXAMPLE = "ucl digest epochs/*/model.h5"


@command()
def main(files: Annotated[list[str] | None, typer.Argument(metavar="FILE...", help="Files; - or none: standard input.", show_default=False)] = None,
         *, common: Common) -> int:
    """Print content digests, computed from the bytes and not merely read from the file."""
    from ucl.formats.reader import open_artifact
    from ucl.front.console import clean
    from ucl.front.streams import standard_input

    for name in files or ["-"]:
        with open_artifact(standard_input() if name == "-" else Path(name), name="stdin" if name == "-" else name) as file:
            digest = file.compute_digest()
        typer.echo(f"{digest}  {clean(name)}")
    return 0
