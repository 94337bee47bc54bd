"""ucl status: where a run directory stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ucl.front.options import Common, JsonOption, command

EXAMPLE = "until ucl status --done; do line=$(ucl status --next) && eval \"$line\" || exit; done"

_COLUMNS = (("epoch", "generation", "{:d}"), ("loss", "loss", "{:.4f}"), ("NMI last", "nmi_arithmetic", "{:.3f}"),
            ("churn", "churn", "{:.3f}"), ("K", "k", "{:d}"), ("empty", "empty", "{:d}"), ("largest", "largest", "{:d}"),
            ("kept", "kept", "{:d}"), ("img/s", "images_per_second_train", "{:.0f}"), ("seconds", "seconds", "{:.1f}"))


@command()
def main(directories: Annotated[list[str] | None, typer.Argument(metavar="DIR...", help="Run directory, several with --lowest. Default: this "
                                                                 "one.", show_default=False)] = None, *,
         done: Annotated[bool, typer.Option("--done", help="Print nothing; exit 0 if the plan is done, 1 if not.")] = False,
         midway: Annotated[bool, typer.Option("--midway", help="Print nothing; exit 0 if train-epoch alone goes on inside an epoch, 1 if "
                                                       "not.")] = False,
         next_: Annotated[bool, typer.Option("--next", help="Print the next turn as a line of shell, and nothing else.")] = False,
         lowest: Annotated[str | None, typer.Option("--lowest", metavar="METRIC", help="Print which of the directories has the lowest value of a "
                                                    "metric in its newest epoch, as score, and nothing else.")] = None,
         json_: JsonOption = False, common: Common) -> int:
    """Show where a run directory stands."""
    from ucl.errors import UsageError
    from ucl.front.session import unfinished
    from ucl.methods.method import plan_length
    from ucl.run import next_input
    from ucl.rundir import RunDir

    if lowest is not None:
        typer.echo(_lowest(directories or ["."], lowest))
        return 0
    if directories is not None and len(directories) > 1:
        raise UsageError(f"found {len(directories)} directories, wanted one", "name one, or --lowest METRIC, which compares them")
    run = RunDir(Path(directories[0] if directories else "."))
    newest = run.newest
    context = run.context(newest)
    total = plan_length(context)
    if done:
        return 0 if newest >= total else 1
    kept = unfinished(run) if newest < total else {}
    needs = next_input(context) if newest < total else ""
    if midway:
        return 0 if "train-epoch" in kept else 1
    if next_:
        from ucl.front.forecast import next_line

        typer.echo(next_line(run))
        return 0
    metrics = run.metrics()
    if json_:
        typer.echo(json.dumps({"schema": "ucl.status/1", "method": run.config.method, "epoch": newest, "epochs": total,
                               "done": newest >= total, "images": run.config.n, "metrics": metrics,
                               "needs": needs, "unfinished": kept}, sort_keys=True))
        return 0
    typer.echo(f"{run.config.method} on {run.config.n} images: epoch {newest} of {total}" + (", done" if newest >= total else ""))
    if needs == "agreed" and not run.work("agreed").exists():
        typer.echo(f"epoch {newest + 1} waits for {run.work('agreed')}, what the models of the ensemble agree on: ucl purify --rule agree")
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


def _lowest(directories: list[str], metric: str) -> str:
    """The run directory of the lowest value of a metric in its newest epoch; the first of equals.

    Raises:
        DataError: one has no such metric, or is at another epoch than the first.
    """
    from ucl.confidence import lowest
    from ucl.errors import DataError
    from ucl.rundir import RunDir

    values, epochs = [], []
    for name in directories:
        last = RunDir(Path(name)).metrics()[-1]
        found = last.get(metric)
        if not isinstance(found, (int, float)):
            numbers = ", ".join(k for k, v in last.items() if isinstance(v, (int, float)) and not isinstance(v, bool))
            raise DataError(f"{name}: epoch {last.get('generation')}: no metric {metric!r}", f"there are {numbers}")
        values.append(float(found))
        epochs.append(last.get("generation"))
    if len(set(epochs)) > 1:
        other = next(i for i, epoch in enumerate(epochs) if epoch != epochs[0])
        raise DataError(f"{directories[0]} is at epoch {epochs[0]}, {directories[other]} at {epochs[other]}; expected runs of one length",
                        "let them all end")
    return directories[lowest(values)]
