"""ucl validate: are files whole and sound?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ucl.front.options import Common, JsonOption, command

EXAMPLE = "ucl validate --full runs/digits/*.h5"


@command()
def main(files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files; all are tried.")], *,
         full: Annotated[bool, typer.Option("--full", help="Read everything: checksums, finite values, labels below K, sizes.")] = False,
         json_: JsonOption = False, common: Common) -> int:
    """Check files."""
    from ucl.errors import UclError
    from ucl.formats.reader import validate
    from ucl.front.console import clean

    worst, found = 0, {}
    for name in files:
        try:
            problems = [problem.removeprefix(f"{name}: ") for problem in validate(Path(name), full)]
            code = 65 if problems else 0
        except UclError as error:
            problems, code = [error.message.removeprefix(f"{name}: ")], error.exit_code
        worst = worst or code
        found[name] = problems
        if not json_:
            typer.echo(f"{clean(name)}: {clean('; '.join(problems)) if problems else 'ok'}")
    if json_:
        typer.echo(json.dumps({"schema": "ucl.validate/1", "files": found}, sort_keys=True))
    return worst
