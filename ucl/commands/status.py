"""ucl status: where a run directory stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ucl.front.options import Common, JsonOption, command

EXAMPLE = "until ucl status --done; do ucl extract | ucl cluster | ucl train-epoch || exit; done"

_COLUMNS = (("epoch", "generation", "{:d}"), ("loss", "loss", "{:.4f}"), ("NMI last", "nmi_arithmetic", "{:.3f}"),
            ("churn", "churn", "{:.3f}"), ("K", "k", "{:d}"), ("empty", "empty", "{:d}"), ("largest", "largest", "{:d}"),
            ("kept", "kept", "{:d}"), ("img/s", "images_per_second_train", "{:.0f}"), ("seconds", "seconds", "{:.1f}"))


@command()
def main(directory: Annotated[str, typer.Argument(metavar="DIR", help="Run directory. Default: this one.", show_default=False)] = ".", *,
         done: Annotated[bool, typer.Option("--done", help="Print nothing; exit 0 if the plan is done, 1 if not.")] = False,
         midway: Annotated[bool, typer.Option("--midway", help="Print nothing; exit 0 if train-epoch alone goes on inside an epoch, 1 if "
                                                       "not.")] = False,
         json_: JsonOption = False, common: Common) -> int:
    """Show where a run directory stands."""
    from ucl.front.session import unfinished
    from ucl.methods.method import plan_length
    from ucl.rundir import RunDir

    run = RunDir(Path(directory))
    newest = run.newest
    context = run.context(newest)
    total = plan_length(context)
    if done:
        return 0 if newest >= total else 1
    kept = unfinished(run) if newest < total else {}
    if midway:
        return 0 if "train-epoch" in kept else 1
    metrics = run.metrics()
    if json_:
        typer.echo(json.dumps({"schema": "ucl.status/1", "method": run.config.method, "epoch": newest, "epochs": total,
                               "done": newest >= total, "images": run.config.n, "metrics": metrics,
                               "unfinished": kept}, sort_keys=True))
        return 0
    typer.echo(f"{run.config.method} on {run.config.n} images: epoch {newest} of {total}" + (", done" if newest >= total else ""))
    if "train-epoch" in kept:
        typer.echo("epoch {epoch}: {batches} of {of} batches done ({file})".format(**kept["train-epoch"], file=run.partial("train")))
    elif "extract" in kept:
        typer.echo("epoch {}: features of {rows} of {of} images done ({file})".format(newest + 1, **kept["extract"], file=run.partial("features")))
    rows = [[title for title, _, _ in _COLUMNS]]
    rows += [[form.format(m[key]) if m.get(key) is not None else "-" for _, key, form in _COLUMNS] for m in metrics if "loss" in m]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for row in rows if len(rows) > 1 else []:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return 0
