"""ucl evaluate: how good are clusters or features, by true classes, and which are better.  The only place where truth enters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ucl.commands.targets import LabelsOption, TargetsOption
from ucl.front.options import Common, ForceOption, JsonOption, OutputOption, command

EXAMPLE = "ucl evaluate knn"
PARTS = {"clusters": "Compare pseudo-labels with true classes: ACC, purity, NMI, AMI, ARI.",
         "knn": "Classify each image by its nearest neighbours: leave-one-out, or a test set.",
         "linear": "Classify each image by a linear layer on its features: cross-validation, or a test set.",
         "compare": "Compare two reports of knn or linear image by image: the difference with its interval."}
PART_EXAMPLES = {"clusters": "ucl extract --model model.h5 | ucl cluster -k 10 | ucl evaluate clusters",
                 "knn": "ucl evaluate knn --test photos/test",
                 "linear": "ucl evaluate linear --test photos/test --c auto",
                 "compare": "ucl evaluate compare dc.h5 pcp.h5"}


@command()
def clusters(labels: Annotated[str | None, typer.Argument(metavar="LABELS", help="Labels; - is standard input.", show_default=False)] = None,
             *, targets: TargetsOption = None, classes: LabelsOption = None, output: OutputOption = None, force: ForceOption = False,
             json_: JsonOption = False, common: Common) -> int:
    """Compare pseudo-labels with true classes."""
    import numpy as np

    from ucl.errors import DataError
    from ucl.evaluate.clusters import evaluate_clusters
    from ucl.front import session
    from ucl.front.evaluation import known_labels, open_report, origin_of, signed
    from ucl.front.streams import find_input, stdin_is_data
    from ucl.rundir import RunDir
    from ucl.store import load
    from ucl.targets import true_classes

    known_labels(classes)
    run = RunDir.here()
    runtime = session.runtime_for(run, common, torch=False)
    if labels is None and run is not None and not stdin_is_data():
        found = session.load_labels(run, run.newest)
        if found is None:
            if run.newest:
                raise DataError(f"{run.path}: no labels: found the method {run.config.method!r}, which trains without any",
                                "ucl extract --model model.h5 | ucl cluster | ucl evaluate clusters")
            raise DataError(f"{run.path}: no labels yet: no epoch is done", "ucl extract | ucl cluster | ucl evaluate clusters")
    else:
        source, name = find_input(labels, run, "labels")
        found = load(source, "ucl/labels", name)
    samples = found.samples
    if samples is None:
        if run is None:
            raise DataError("labels: no /samples/path, so no image names", "work in the run directory they belong to")
        samples = session.load_images(run).samples
        if len(samples) != len(found.labels):
            raise DataError(f"labels: {len(found.labels)} rows, the run directory has {len(samples)} images")
    names, truth = true_classes(samples, targets, classes, origin_of(run, samples))
    usable = np.where(samples.ok, found.labels, -1).astype(np.int32)
    raw = found.raw() if found.purified else None
    with open_report(output, force=force) as write:
        made = evaluate_clusters(usable, truth, raw=raw, flag=found.flag)
        write(signed(made, "evaluate-clusters", {}, 0, [(found, truth)], names, runtime))
    return _show(made, output, json_)


FeaturesArgument = Annotated[str | None, typer.Argument(metavar="FEATURES", help="Features; - is standard input. Default in a run directory: "
                                                        "the newest model's.", show_default=False)]
TestOption = Annotated[str | None, typer.Option("--test", metavar="FOLDER|FEATURES", help="Test images (in a run directory) or their "
                                                "features. Default: leave one out; linear: cross-validation.")]
TestSplitOption = Annotated[str | None, typer.Option("--test-split", metavar="NAME", help="Part of a released data set, for --test. Default: "
                                                     "its test part.")]
TestTargetsOption = Annotated[str | None, typer.Option("--test-targets", metavar="FILE", help="As --targets, for --test.")]


@command("evaluate-knn", machine=True)
def knn(features: FeaturesArgument = None, *, test: TestOption = None, test_split: TestSplitOption = None, targets: TargetsOption = None,
        test_targets: TestTargetsOption = None, labels: LabelsOption = None,
        output: OutputOption = None, force: ForceOption = False, json_: JsonOption = False,
        given: dict[str, Any], common: Common) -> int:
    """Classify by nearest neighbours."""
    from ucl.evaluate.knn import evaluate_knn
    from ucl.front.evaluation import open_report

    with open_report(output, force=force) as write:
        frozen = _frozen("evaluate-knn", features, test, test_split, targets, test_targets, labels, given, common)
        found = evaluate_knn(frozen.train, frozen.truth, frozen.settings, test=frozen.test, threads=frozen.runtime.threads)
        write(frozen.sign(found, "evaluate-knn"))
    return _show(found, output, json_)


@command("evaluate-linear", machine=True, seed=True)
def linear(features: FeaturesArgument = None, *, test: TestOption = None, test_split: TestSplitOption = None,
           targets: TargetsOption = None, test_targets: TestTargetsOption = None, labels: LabelsOption = None,
           output: OutputOption = None, force: ForceOption = False, json_: JsonOption = False,
           given: dict[str, Any], common: Common) -> int:
    """Classify by a linear layer."""
    from ucl.evaluate.linear import evaluate_linear
    from ucl.front.evaluation import open_report

    with open_report(output, force=force) as write:
        frozen = _frozen("evaluate-linear", features, test, test_split, targets, test_targets, labels, given, common)
        found = evaluate_linear(frozen.train, frozen.truth, frozen.settings, test=frozen.test, seed=frozen.seed, runtime=frozen.runtime)
        write(frozen.sign(found, "evaluate-linear"))
    return _show(found, output, json_)


@command("evaluate-compare", seed=True)
def compare(reports: Annotated[list[str], typer.Argument(metavar="REPORT...", help="Two reports, A and B; or those of A, the word vs, and those "
                                                         "of B. One of them may be -, standard input.")], *,
            json_: JsonOption = False, given: dict[str, Any], common: Common) -> int:
    """Compare two reports."""
    from ucl.evaluate.compare import compare as paired
    from ucl.front.evaluation import read_reports
    from ucl.keys import Key
    from ucl.rundir import RunDir
    from ucl.settings import CompareSettings

    settings = CompareSettings().override(given)
    run = RunDir.here()
    seed = common.seed if common.seed is not None else run.context().seed if run is not None else 0
    a, b = read_reports(reports)
    found = paired(a, b, settings, Key(seed, stage="evaluate-compare"))
    if json_:
        facts = {"schema": "ucl.comparison/1", "metric": found.metric, "images": found.images, "metrics": _table(found.rows()),
                 "resamples": found.resamples, "seed": seed}
        for side, named, values, protocols in zip("ab", (a, b), found.values, found.protocols, strict=True):
            facts[side] = {"files": [name for name, _ in named], "values": values, "protocols": protocols}
        typer.echo(json.dumps(facts, sort_keys=True))
    else:
        _print(found.rows())
    return 0


@dataclass
class _Frozen:
    """Frozen features with their classes, the test set if there is one, and how to evaluate them."""

    train: Any
    truth: Any
    test: tuple[Any, Any] | None
    classes: list[str]
    settings: Any
    seed: int
    runtime: Any

    def sign(self, found: Any, verb: str) -> Any:
        """The evaluation with its class names and where it comes from."""
        from ucl.front.evaluation import signed

        pairs = [(self.train, self.truth), *([self.test] if self.test is not None else [])]
        return signed(found, verb, self.settings.as_dict(), self.seed, pairs, self.classes, self.runtime)


def _frozen(verb: str, features: str | None, test: str | None, test_split: str | None, targets: str | None, test_targets: str | None,
            labels: str | None, given: dict[str, Any], common: Common) -> _Frozen:
    """What knn and linear are about: features given or extracted now, classes under one numbering."""
    from ucl.context import Context
    from ucl.front import session
    from ucl.front.evaluation import frozen_inputs, known_labels, origin_of, truth_of
    from ucl.front.streams import stdin_is_data
    from ucl.rundir import RunDir
    from ucl.targets import join

    known_labels(labels)
    run = RunDir.here()
    from_run = features is None and run is not None and not stdin_is_data()
    context = run.context() if run is not None else Context()
    settings: Any = session.step_of(context, verb, "", given).settings
    runtime = session.runtime_for(run, common, torch=from_run or getattr(settings, "solver", "") == "sgd")
    seed = common.seed if common.seed is not None else context.seed
    train, tested, of_test = frozen_inputs(run, features, test, test_split, from_run, common, runtime)
    known = truth_of(train, targets, labels, origin_of(run, train.samples))
    if tested is None:
        return _Frozen(train, known[1], None, known[0], settings, seed, runtime)
    classes, a, b = join(known, truth_of(tested, test_targets, labels, of_test))
    return _Frozen(train, a, (tested, b), classes, settings, seed, runtime)


def _show(found: Any, output: str | None, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps({"schema": "ucl.evaluation/1", "metrics": _table(found.rows)}, sort_keys=True))
    elif output is None or output != "-":
        _print(found.rows)
    return 0


def _table(rows: list[tuple[str, float, float, float, int, str]]) -> dict[str, dict[str, Any]]:
    return {r[0]: {"value": r[1], "low": _number(r[2]), "high": _number(r[3]), "n": r[4], "protocol": r[5]} for r in rows}


def _print(rows: list[tuple[str, float, float, float, int, str]]) -> None:
    for name, value, low, high, n, protocol in rows:
        interval = f"  [{low:.4f}, {high:.4f}]" if low == low else ""
        shown = f"{value:.4f}" if not float(value).is_integer() or abs(value) <= 1 else f"{value:.0f}"
        if name in ("only_a", "only_b", "mcnemar_p"):  # counts, and what may be very small
            shown = f"{value:.4g}" if name == "mcnemar_p" else f"{value:.0f}"
        typer.echo(f"{name:<18} {shown:>8}{interval}  n={n}  {protocol}")


def _number(x: float) -> float | None:
    return x if x == x else None


def subcommands() -> dict[str, tuple[Any, str, str]]:
    """Part -> (function, help, example)."""
    return {name: (globals()[name], PARTS[name], PART_EXAMPLES[name]) for name in PARTS}


