"""`run`: start or go on, commit each epoch, say what was reached."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

from ucl import device, dist
from ucl.errors import DataError, InputMissing, PlanFinished
from ucl.front import session
from ucl.front.console import Progress, say
from ucl.front.create import Request, create, same_or_refuse
from ucl.front.options import Common
from ucl.front.training import chance, commit_turn, one_line
from ucl.methods.method import plan_length
from ucl.rundir import CONFIG, RunDir


def find(asked: Request | None, output: str | None, common: Common) -> RunDir | None:
    """The run directory that exists, checked against the command line; None if it is still to be made.

    Raises:
        UsageError: it was made with other settings.  InputMissing: there is none and nothing says how to make one.
    """
    where = Path(output) if output is not None else Path()
    if (where / CONFIG).is_file():
        run = RunDir(where)
        if asked is not None:
            same_or_refuse(asked, run)
        return run
    if asked is None:
        raise InputMissing(f"{where}: no {CONFIG} here, so no run directory", "ucl run METHOD IMAGES -o DIR starts one")
    return None


def go(asked: Request | None, output: str | None, common: Common, limit: int, *, through_disk: bool,
       stop_on_collapse: bool, as_json: bool, every: float) -> int:
    """Walk the plan to its end, or ``limit`` epochs of it; then a short table."""
    dist.world()
    run = find(asked, output, common)
    fresh_start = run is None
    if run is None:
        assert asked is not None
        assert output is not None
        device.set_thread_variables(asked.config.threads)
        run = create(asked, output, common)
    runtime = session.runtime_for(run, common, torch=True)
    began = time.monotonic()
    try:
        run.next_turn()
    except PlanFinished:
        if fresh_start or asked is None:
            raise
        run_table(run, common, runtime, as_json, 0.0)
        raise
    with run.lock():
        _walk(run, runtime, common, limit, through_disk=through_disk, stop_on_collapse=stop_on_collapse, every=every)
    run_table(run, common, runtime, as_json, time.monotonic() - began)
    return 0


def _walk(run: RunDir, runtime: device.Runtime, common: Common, limit: int, *, through_disk: bool,
          stop_on_collapse: bool, every: float) -> None:
    from ucl.run import walk

    safe = run.safe_points(every)
    context = run.next_turn()
    total = plan_length(context)
    slots = session.load_slots(run, context.generation) | {"agreed": session.load_agreed(run)}
    with Progress("ucl run", common) as progress:
        seen = [time.monotonic()]

        def commit(at: Any, made: dict[str, Any], metrics: dict[str, Any]) -> Any:
            metrics["seconds"] = round(time.monotonic() - seen[0], 3)
            following = commit_turn(run, at, made, metrics, safe)
            seen[0] = time.monotonic()
            progress("epochs", following.generation, total)
            if not common.quiet and progress.bar is None:
                say(f"ucl run: {one_line(following.generation, metrics)}")
            if stop_on_collapse and metrics.get("collapse"):
                raise DataError(f"{run.path}: the clusters collapsed in epoch {following.generation}: {metrics['clusters']} filled, the "
                                f"largest holds {metrics['largest_share']:.0%}", "fewer clusters, a smaller --set train-epoch.lr=...")
            return following

        with tempfile.TemporaryDirectory(prefix="ucl-run-") as folder:
            walk(context, slots, runtime, commit, limit=limit, report=progress, safe=safe,
                 exchange=_Exchange(Path(folder)) if through_disk else None)


class _Exchange:
    """Writes every artifact to a file and hands on what reads back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, artifact: Any) -> Any:
        from ucl.store import load, save

        path = self.folder / f"{name}.h5"
        path.unlink(missing_ok=True)
        with path.open("wb") as out:
            save(artifact, out)
        return load(path, artifact.kind)


def run_table(run: RunDir, common: Common, runtime: device.Runtime, as_json: bool, seconds: float) -> None:
    """What was reached, and what to look at next, on standard output."""
    metrics = run.metrics()
    last = metrics[-1]
    context = run.context()
    done, total = context.epoch, plan_length(context)
    rows: list[tuple[str, str]] = [("epochs", f"{done} of {total}"), ("time", f"{seconds:.1f} s")]
    facts: dict[str, Any] = {"schema": "ucl.run/1", "directory": str(run.path), "epochs": done, "of": total, "seconds": round(seconds, 2)}
    if "loss" in last:
        guessing, height = chance(last)
        rows.append(("loss", f"{last['loss']:.4f}  ({guessing} = {height:.4f})"))
        if "clusters" in last:
            rows.append(("clusters", f"{last['clusters']} of {last['k']} filled, the largest has {last['largest']} of {last['images']} images"))
        facts["last"] = last
    if "nmi_arithmetic" in last:
        rows.append(("NMI to the last labels", f"{last['nmi_arithmetic']:.3f}  (churn {last['churn']:.3f})"))
    if run.config.source == "digits" and done:
        measured = _digits(run, common, runtime)
        facts["evaluation"] = measured
        rows += [("kNN, leave one out", f"{measured['knn']:.4f}  (pixels {measured['knn_pixels']:.4f})"),
                 ("10 clusters, ACC", f"{measured['acc']:.4f}  (pixels {measured['acc_pixels']:.4f})")]
    if as_json:
        typer.echo(json.dumps(facts, sort_keys=True))
        return
    if common.quiet:
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")
    place = f"cd {run.path} && " if str(run.path) != "." else ""
    labelled = session.has_labels(run)
    clusters, file = ("ucl view --cluster 0; ", "labels.h5") if labelled else ("", "model.h5")
    typer.echo(f"\nnext: {place}ucl status; {clusters}ucl evaluate knn; h5ls -r {file}")


def _digits(run: RunDir, common: Common, runtime: device.Runtime) -> dict[str, float]:
    """The built-in digits come with their truth: learned features beside pixels."""
    import numpy as np

    from ucl.artifacts import Features
    from ucl.cluster import cluster
    from ucl.context import Context
    from ucl.evaluate.clusters import evaluate_clusters
    from ucl.evaluate.knn import evaluate_knn
    from ucl.front.extraction import features_now
    from ucl.settings import ClusterSettings, KnnSettings
    from ucl.targets import true_classes

    images = session.load_images(run)
    truth = true_classes(images.samples)[1]
    learned = features_now(run, common, runtime, images)
    flat = np.asarray(images.pixels)[..., 0].reshape(len(truth), -1).astype(np.float32)
    found: dict[str, float] = {}
    for name, features in (("", learned), ("_pixels", Features(flat, images.samples))):
        found[f"knn{name}"] = evaluate_knn(features, truth, KnnSettings(), test=None, threads=runtime.threads).value("knn_top1")
        settings = ClusterSettings(k=10, redo=10, pca=0, l2=not name)
        labels = cluster(features, settings, Context(seed=run.config.seed, stage="cluster"), threads=runtime.threads)
        found[f"acc{name}"] = evaluate_clusters(labels.labels, truth).value("acc_one_to_one")
    own = session.load_labels(run, run.newest)
    if own is not None and own.probs is not None:  # a classifier's ten clusters, where the method trains one
        found["acc"] = evaluate_clusters(own.labels, truth).value("acc_one_to_one")
    return found


def show_plan(asked: Request | None, output: str | None, common: Common, toml: bool) -> int:
    """Print what `run` would do."""
    from ucl.front.forecast import forecast

    run = find(asked, output, common)
    for line in forecast(run, asked, output or ".", toml):
        typer.echo(line)
    return 0
