"""ucl completion: the script with which a shell completes ucl's command lines."""

from __future__ import annotations

from typing import Annotated

import typer

from ucl.front.options import Common, command

EXAMPLE = 'eval "$(ucl completion bash)"'


@command()
def main(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")], *, common: Common) -> int:
    """Print a completion script."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    from ucl.front.completion import SHELLS
    from ucl.front.options import among

    among("SHELL", shell, SHELLS)
    typer.echo(get_completion_script(**{"prog_name": "ucl", "complete_var": "_UCL_COMPLETE", "shell": shell}))
    return 0
