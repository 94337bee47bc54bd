"""ucl cluster: pseudo-labels from features."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ucl.front.options import Common, ForceOption, OutputOption, StageOption, SummaryJsonOption, command

EXAMPLE = "ucl extract | ucl cluster -k 10000 --pca 256 > labels.h5"


@command("cluster", machine=True, seed=True, memory=True)
def main(features: Annotated[str | None, typer.Argument(metavar="FEATURES", help="Features; - is standard input.", show_default=False)] = None,
         *, previous: Annotated[str | None, typer.Option("--previous", metavar="LABELS", help="The last labels, for --warm-start and the "
                                                         "history. Default: the generation's.")] = None,
         assign: Annotated[str | None, typer.Option("--assign", metavar="LABELS", help="No clustering: put each image in the nearest cluster "
                                                    "of these labels.")] = None,
         model: Annotated[str | None, typer.Option("--model", metavar="CKPT", help="argmax: the model whose classifier labels the images. Default: "
                                                   "the generation's.")] = None,
         stage: StageOption = "", output: OutputOption = None, force: ForceOption = False, json_: SummaryJsonOption = False,
         given: dict[str, Any], common: Common) -> int:
    """Cluster features."""
    import dataclasses
    from pathlib import Path

    from ucl import memory
    from ucl.errors import UsageError
    from ucl.front import session
    from ucl.front.labels import features_reader, load_input, write_labels
    from ucl.front.streams import find_output
    from ucl.run import perform
    from ucl.rundir import RunDir
    from ucl.store import load

    run = RunDir.here()
    where = find_output(output, run, "labels")
    runtime = session.runtime_for(run, common, torch=False)
    if assign:
        from ucl.cluster import assign as nearest

        reference = load(Path(assign), "ucl/labels")
        reader = features_reader(runtime.memory, lambda head, n, d, path: memory.need_of_assigning(
            n, d, d if reference.pca is None else reference.pca.components.shape[1], reference.k, path=path))
        x, context = load_input(features, run, "features", common, reader=reader)
        labels = nearest(x, reference, context, threads=runtime.threads, memory=runtime.memory)
        labels.provenance = reference.provenance
        return write_labels("ucl cluster", labels, where, common, json_, force=force, run=run)

    def needed(head: Any, n: int, d: int, path: int) -> memory.Need:
        context = session.context_of(head, run, common, "features", joins=False)
        settings = session.step_of(context, "cluster", stage, given).settings
        found = memory.need(n, d, settings, path=path)  # type: ignore[arg-type]
        if settings.method != "argmax" or not settings.probs:  # type: ignore[attr-defined]
            return found
        return dataclasses.replace(found, least=found.least + 4 * n * _classes(classifier or _model(model, run)), less="--no-probs")

    asked = given.get("method") == "argmax"
    classifier = _model(model, run) if asked or model is not None else None  # told before anything is read
    x, context = load_input(features, run, "features", common, reader=features_reader(runtime.memory, needed))
    step = session.step_of(context, "cluster", stage, given)
    context = session.with_flags(context, "cluster", given, step)
    if step.settings.method != "argmax" and model is not None:  # type: ignore[attr-defined]
        raise UsageError(f"--model {model}: is of argmax only, the method is {step.settings.method}", "leave it out, or --method argmax")  # type: ignore[attr-defined]
    if step.settings.method == "argmax":  # type: ignore[attr-defined]
        step = dataclasses.replace(step, reads=("features", "model", "previous"))
        classifier = classifier or _model(model, run)
    last = load(Path(previous), "ucl/labels") if previous else None
    if last is None and run is not None and context.method:
        last = session.load_labels(run, context.generation)
    made = perform(step, {"features": x, "previous": last, "model": classifier}, context, runtime)
    return write_labels("ucl cluster", made["labels"], where, common, json_, force=force, run=run)


def _classes(classifier: Any) -> int:
    """How many probabilities it gives each image."""
    from ucl.argmax import Head

    return Head.of(classifier).k


def _model(path: str | None, run: Any) -> Any:
    """The model whose classifier is asked: the one named, or the run directory's newest."""
    from pathlib import Path

    from ucl.errors import UsageError
    from ucl.front import session
    from ucl.store import load

    if path is not None:
        return load(Path(path), "ucl/checkpoint")
    if run is None:
        raise UsageError("argmax: no model, whose classifier is to label the images", "--model CKPT")
    return session.load_model(run, run.newest)
