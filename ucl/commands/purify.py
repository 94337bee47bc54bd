"""ucl purify: which pseudo-labels are kept."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.front.options import Common, ForceOption, OutputOption, StageOption, SummaryJsonOption, command

EXAMPLE = "ucl purify --keep-nearest 0.7 labels.h5 -o pure.h5"


@command("purify")
def main(labels: Annotated[list[str] | None, typer.Argument(metavar="LABELS...", help="Labels, for --rule agree of two models or more; "
                                                            "- is standard input.", show_default=False)] = None, *,
         stage: StageOption = "", output: OutputOption = None, force: ForceOption = False, json_: SummaryJsonOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Purify labels."""
    import dataclasses

    from ucl.context import Context
    from ucl.front import session
    from ucl.front.labels import fitting, labels_to_purify, load_members, write_labels
    from ucl.front.streams import find_output
    from ucl.run import perform
    from ucl.rundir import RunDir

    run = RunDir.here()
    where = find_output(output, run, "labels")
    runtime = session.runtime_for(run, common, torch=False)
    files = labels or []
    fitting(files, given.get("rule"))
    found, context = labels_to_purify(files[0] if files else None, run, common)
    step = session.step_of(context, "purify", stage, given)
    if fitting(files, step.settings.rule):  # type: ignore[attr-defined]
        members = load_members(files, found, step.settings.agree, run, common)  # type: ignore[attr-defined]
        made = perform(dataclasses.replace(step, reads=("members",)), {"members": members}, Context(), runtime)
    else:
        context = session.with_flags(context, "purify", given)
        made = perform(step, {"labels": found}, context, runtime)
    return write_labels("ucl purify", made["labels"], where, common, json_, force=force, run=run)
