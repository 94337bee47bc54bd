"""ucl run: the plan from where the directory stands to its end, in one process."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.commands.init import FilesFromOption, KeepOption, SetOption
from ucl.front.options import Common, CompileOption, EveryOption, JsonOption, PrecisionOption, command
from ucl.methods import METHODS
from ucl.settings import CHECKPOINT_EVERY, seconds

EXAMPLE = "ucl run deepcluster digits -o runs/digits"


@command("init", machine=True, seed=True, memory=True)
def main(method: Annotated[str | None, typer.Argument(metavar="METHOD", help=f"For a new run: {', '.join(METHODS)}; see ucl-methods(7).",
                                                      show_default=False)] = None,
         images: Annotated[str | None, typer.Argument(metavar="IMAGES", help="A folder, archive, data set, images.h5, or digits.",
                                                      show_default=False)] = None, *,
         output: Annotated[str | None, typer.Option("-o", "--output", metavar="DIR", help="The run directory. Default: this one.")] = None,
         files_from: FilesFromOption = None, assignments: SetOption = [],  # noqa: B006
         epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Epochs of the plan. Default: the method's.")] = None,
         keep: KeepOption = None, precision: PrecisionOption = None, compile_: CompileOption = None,
         limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most so many epochs now; 0: all.", show_default=False)] = 0,
         dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Print the plan as shell lines, with memory and time; do nothing.")] = False,
         toml: Annotated[bool, typer.Option("--toml", help="With --dry-run: print the effective settings as TOML.")] = False,
         through_disk: Annotated[bool, typer.Option("--through-disk", help="Write and read back every artifact between steps (the result is the "
                                                    "same).")] = False,
         stop_on_collapse: Annotated[bool, typer.Option("--stop-on-collapse", help="Stop with exit 65 when the clusters collapse.")] = False,
         every: EveryOption = CHECKPOINT_EVERY, json_: JsonOption = False, given: dict[str, Any], common: Common) -> int:
    """Walk the plan."""
    from ucl.errors import UsageError
    from ucl.front import walking
    from ucl.front.create import request

    pause = seconds(every)
    if limit < 0:
        raise UsageError(f"--limit: found {limit}, wanted at least 0")
    asked = None
    if method is not None:
        if output is None:
            raise UsageError("a new run needs a place", "ucl run METHOD IMAGES -o DIR")
        asked = request(method, images, files_from, assignments, epochs, keep, precision, compile_, given, common)
    elif assignments or epochs is not None or keep or precision or compile_ is not None or given or common.seed is not None or files_from:
        raise UsageError("settings belong to a new run (ucl run METHOD IMAGES -o DIR)", "a run that exists has them in ucl.toml")
    if dry_run:
        return walking.show_plan(asked, output, common, toml)
    return walking.go(asked, output, common, limit, through_disk=through_disk, stop_on_collapse=stop_on_collapse, as_json=json_,
                      every=pause)
