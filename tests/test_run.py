"""ucl.run: a plan walked in memory is its steps one by one, and the same through files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_extract import RUNTIME, image_list, new_model, noise, write_pngs

import ucl
from ucl import run, stop, store
from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.cluster import cluster
from ucl.context import Context
from ucl.errors import Stopped, UsageError
from ucl.extract import extract
from ucl.methods.method import Step, plan
from ucl.settings import PurifySettings
from ucl.train_epoch import train_epoch

OVERRIDES = {"cluster.k": "3", "cluster.pca": "4", "cluster.iterations": "5", "train-epoch.batch": "8", "plan.epochs": "3"}
SLOTS = ("labels", "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(24)))


def context(images: ImageList, method: str = "deepcluster", **overrides: str) -> Context:
    return Context(method, generation=0, seed=4, images=24, size=16, samples_digest=images.samples.digest, overrides=OVERRIDES | overrides)


def start(images: ImageList) -> dict[str, Any]:
    return {"images": images, "model": new_model()}


class Log:
    """A commit that notes what it was given, as the digests of the slots."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.digests: list[tuple[str, ...]] = []
        self.metrics: list[dict[str, Any]] = []

    def __call__(self, at: Context, slots: dict[str, Any], metrics: dict[str, Any]) -> Context:
        self.contexts.append(at)
        self.digests.append(tuple(store.content_of(slots[s]) if s in slots else "" for s in SLOTS))
        self.metrics.append({k: v for k, v in metrics.items() if "second" not in k})
        return run.after(at, slots, metrics)


def walked(images: ImageList, at: Context, slots: dict[str, Any] | None = None, **options: Any) -> Log:
    log = Log()
    run.walk(at, start(images) if slots is None else slots, RUNTIME, log, **options)
    return log


@pytest.fixture(scope="module")
def whole(images: ImageList) -> Log:
    return walked(images, context(images))


@pytest.mark.parametrize("method", ["deepcluster", "persistent"])
def test_a_walk_is_its_verbs_one_by_one(images: ImageList, method: str) -> None:
    """The plan by hand: the verbs themselves, with the settings that the plan names and the last labels as previous."""
    walk: list[tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]] = []
    passed: list[dict[str, np.ndarray]] = []

    def commit(at: Context, slots: dict[str, Any], metrics: dict[str, Any]) -> Context:
        walk.append(({s: slots[s].arrays() for s in SLOTS} | {"features": passed.pop()}, metrics))
        return run.after(at, slots, metrics)

    def exchange(slot: str, artifact: Any) -> Any:
        if slot == "features":
            passed.append(artifact.arrays())
        return artifact

    run.walk(context(images, method), start(images), RUNTIME, commit, exchange=exchange)
    at, model, labels = context(images, method), new_model(), None
    assert len(walk) == 3
    for epoch, (arrays, metrics) in enumerate(walk):
        settings = {s.verb: s.settings for s in plan(at)}
        found = extract(images, model, settings["extract"], dataclasses.replace(at, stage="extract"), RUNTIME, run.silent).collect()
        made = cluster(found, settings["cluster"], dataclasses.replace(at, stage="cluster"), previous=labels, threads=1)
        trained = train_epoch(images, model, made, settings["train-epoch"], dataclasses.replace(at, stage="train-epoch"), RUNTIME,
                              run.silent, labels)
        model, labels = trained.model, trained.labels
        assert [metrics[n] for n in ("loss", "objective", "steps")] == [trained.metrics[n] for n in ("loss", "objective", "steps")]
        for slot, artifact in (("features", found), ("labels", labels), ("model", model)):
            wanted = artifact.arrays()
            assert set(arrays[slot]) == set(wanted)
            assert all(arrays[slot][k].tobytes() == wanted[k].tobytes() for k in wanted), (epoch, slot)
        at = run.after(at, {"model": model}, {})


def test_two_walks_are_equal_and_another_seed_is_not(images: ImageList, whole: Log) -> None:
    again = walked(images, context(images))
    assert again.digests == whole.digests
    assert again.metrics == whole.metrics
    other = walked(images, dataclasses.replace(context(images), seed=5), limit=1)
    assert other.digests[0] != whole.digests[0]


def test_commit_is_given_growing_epochs(images: ImageList, whole: Log) -> None:
    assert [c.epoch for c in whole.contexts] == [0, 1, 2]
    assert [c.generation for c in whole.contexts] == [0, 1, 2]
    assert [c.generation_digest for c in whole.contexts] == ["", whole.digests[0][1], whole.digests[1][1]]
    assert [m["epoch"] for m in whole.metrics] == [0, 1, 2]
    assert ["churn" in m for m in whole.metrics] == [False, True, True]  # fact D11
    assert len({d for each in whole.digests for d in each}) == 6


def test_through_files_is_the_same(images: ImageList, whole: Log, tmp_path: Path) -> None:
    seen: list[str] = []

    def exchange(slot: str, artifact: Any) -> Any:
        seen.append(slot)
        path = tmp_path / f"{len(seen)}.h5"
        with path.open("wb") as out:
            store.save(artifact, out)
        return store.load(path)

    assert walked(images, context(images), exchange=exchange).digests == whole.digests
    assert seen == ["features", "labels", "model"] * 3


def test_an_exchange_that_changes_nothing_and_one_that_does(images: ImageList, whole: Log) -> None:
    assert walked(images, context(images), exchange=lambda slot, artifact: artifact).digests == whole.digests

    def nudge(slot: str, artifact: Any) -> Any:
        if slot == "labels":
            artifact.labels = (artifact.labels + 1) % 3
        return artifact

    assert walked(images, context(images), exchange=nudge, limit=1).digests[0][1] != whole.digests[0][1]


def test_a_walk_in_two_parts_is_the_walk(images: ImageList, whole: Log) -> None:
    log, slots = Log(), start(images)
    assert run.walk(context(images), slots, RUNTIME, log, limit=1) == 1
    assert run.walk(run.after(log.contexts[-1], slots, {}), slots, RUNTIME, log) == 2
    assert log.digests == whole.digests
    assert log.metrics == whole.metrics


def test_limit_and_the_end_of_the_plan(images: ImageList) -> None:
    assert run.walk(context(images), start(images), RUNTIME, limit=2) == 2
    assert run.walk(dataclasses.replace(context(images), epoch=3), {}, RUNTIME) == 0
    assert run.walk(context(images, **{"plan.epochs": "1"}), start(images), RUNTIME, limit=5) == 1


def test_slots_hold_what_the_last_turn_made(images: ImageList, whole: Log) -> None:
    slots = start(images)
    run.walk(context(images), slots, RUNTIME, limit=2)
    assert isinstance(slots["model"], Checkpoint)
    assert isinstance(slots["labels"], Labels)
    assert store.digest_of(slots["model"]) == whole.digests[1][1]
    assert slots["model"].progress["epoch"] == 2
    assert slots["labels"].history_epoch.tolist() == [0, 1]
    assert (slots["labels"].history[0] == slots["previous"].labels).all()
    assert (slots["labels"].history[1] == slots["labels"].labels).all()
    assert slots["labels"].context.stage == "train-epoch"
    assert slots["labels"].context.epoch == 1
    assert "features" not in slots  # of a million images they are gigabytes


def test_recipes_and_provenance(images: ImageList) -> None:
    slots = start(images)
    run.walk(context(images), slots, RUNTIME, limit=2)
    verbs = [json.loads(p)["verb"] for p in slots["model"].provenance]
    assert verbs[-1] == "train-epoch"
    assert sorted(verbs) == sorted(["extract", "cluster", "train-epoch"] * 2)
    assert [json.loads(p)["verb"] for p in slots["labels"].provenance][-1] == "cluster"
    by_verb = {json.loads(p)["verb"]: json.loads(p) for p in slots["model"].provenance}
    assert by_verb["cluster"]["settings"]["k"] == 3
    assert by_verb["train-epoch"]["seed"] == 4
    assert len({slots[s].recipe for s in SLOTS}) == 2
    assert all(len(slots[s].recipe) == 64 for s in SLOTS)


def test_purify_in_a_plan(images: ImageList) -> None:
    slots = start(images)
    run.turn(slots, context(images), RUNTIME)
    before = slots["labels"].labels.copy()
    made = run.perform(Step("purify", PurifySettings(keep_nearest=0.5), ("labels",), ("labels",)), slots, context(images), RUNTIME)
    kept = made["labels"].labels >= 0
    assert 0 < kept.sum() <= 12
    assert (made["labels"].labels[kept] == before[kept]).all()
    assert json.loads(made["labels"].provenance[-1])["verb"] == "purify"


def test_progress(images: ImageList) -> None:
    told: list[tuple[str, int, int]] = []
    run.walk(context(images), start(images), RUNTIME, limit=1, report=lambda *a: told.append(a))
    assert told == [("extract", 24, 24), ("train-epoch", 8, 24), ("train-epoch", 16, 24), ("train-epoch", 24, 24)]


def test_a_signal_ends_the_walk_after_the_last_commit(images: ImageList, whole: Log) -> None:
    log, slots = Log(), start(images)

    def report(what: str, done: int, total: int) -> None:
        if log.digests and what == "train-epoch":
            stop._pending.append(10)

    try:
        with pytest.raises(Stopped):
            run.walk(context(images), slots, RUNTIME, log, report=report)
    finally:
        stop._pending.clear()
    assert log.digests == whole.digests[:1]
    assert store.digest_of(slots["model"]) == whole.digests[0][1]        # the epoch in the making left no trace in the model


def test_more_clusters_than_images_stops_before_training(images: ImageList) -> None:
    """Fact D7."""
    log = Log()
    with pytest.raises(UsageError, match="k"):
        run.walk(context(images, **{"cluster.k": "25"}), start(images), RUNTIME, log, report=lambda what, *a: what == "extract" or pytest.fail(what))
    assert not log.digests


def test_walk_is_the_public_one() -> None:
    assert ucl.walk is run.walk
