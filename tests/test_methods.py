"""ucl.methods: the plans of deepcluster and persistent, and how a command finds its step in them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ucl.context import Context
from ucl.errors import ConfigError, UsageError
from ucl.methods import METHODS, load
from ucl.methods.method import Method, Step, method_named, plan, plan_length, step_for
from ucl.settings import METHOD_TABLES, SETTINGS, ClusterSettings, ExtractSettings, KnnSettings, PurifySettings, TrainSettings

DIGITS = Context("deepcluster", images=1797, size=16, source="digits")
SMALL = Context("deepcluster", images=50_000, size=32)
FEW = Context("deepcluster", images=10_000, size=32)
LARGE = Context("deepcluster", images=1_281_167, size=224)
EVERY = [dataclasses.replace(c, method=name) for name in METHODS for c in (DIGITS, SMALL, FEW, LARGE)]


def on(context: Context, **changes: Any) -> Context:
    return dataclasses.replace(context, **changes)


def by_verb(context: Context) -> dict[str, Any]:
    return {step.verb: step.settings for step in plan(context)}


# plans

@pytest.mark.parametrize("context", [c for c in EVERY if c.method not in METHOD_TABLES], ids=lambda c: f"{c.method}-{c.source or c.images}")
def test_a_turn_is_extract_cluster_train(context: Context) -> None:
    found = plan(context)
    assert [(s.verb, s.reads, s.writes) for s in found] == [
        ("extract", ("images", "model"), ("features",)),
        ("cluster", ("features", "previous"), ("labels",)),
        ("train-epoch", ("images", "model", "labels", "previous"), ("model", "labels"))]
    assert [s.stage for s in found] == ["extract", "cluster", "train-epoch"]
    for step in found:
        assert type(step.settings) is SETTINGS[step.verb]
    assert plan(context) == found                                        # a plan is a pure function of the context


def test_small_views() -> None:
    assert by_verb(SMALL) == {
        "extract": ExtractSettings(), "cluster": ClusterSettings(k=1000),
        "train-epoch": TrainSettings(weight_decay=1e-4, crop_scale=(0.2, 1.0))}
    assert plan_length(SMALL) == 100


def test_few_images_get_small_batches() -> None:
    assert by_verb(FEW)["train-epoch"] == TrainSettings(batch=64, weight_decay=1e-4, crop_scale=(0.2, 1.0))
    assert by_verb(FEW)["cluster"].k == 200
    assert by_verb(on(SMALL, images=49_999))["train-epoch"].batch == 64
    assert by_verb(on(LARGE, images=49_999))["train-epoch"] == TrainSettings(batch=64, crop_scale=(0.08, 1.0))


def test_large_views_are_the_papers() -> None:
    assert by_verb(LARGE) == {
        "extract": ExtractSettings(), "cluster": ClusterSettings(k=10_000), "train-epoch": TrainSettings(crop_scale=(0.08, 1.0))}
    assert plan_length(LARGE) == 200
    assert by_verb(on(LARGE, size=64))["train-epoch"].crop_scale == (0.2, 1.0)
    assert by_verb(on(LARGE, size=65))["train-epoch"].crop_scale == (0.08, 1.0)
    assert plan_length(on(LARGE, size=64)) == 100
    assert plan_length(on(LARGE, size=65)) == 200


def test_digits() -> None:
    found = by_verb(DIGITS)
    assert found["cluster"] == ClusterSettings(k=60, pca=64)
    train = found["train-epoch"]
    assert (train.batch, train.flip, train.jitter_p, train.grey_p, train.crop_scale) == (64, 0.0, 0.0, 0.0, (1.0, 1.0))
    assert (train.rotate, train.translate, train.zoom, train.shear) == (10.0, 0.08, (0.9, 1.1), 10.0)
    assert plan_length(DIGITS) == 30
    for name in METHODS:
        projection = {"projection": 128} if name in METHOD_TABLES else {}
        assert method_named(name).init(DIGITS) == projection | {"size": 16}
        assert method_named(name).init(SMALL) == projection


def test_deepcluster_is_the_same_in_every_epoch() -> None:
    for context in (DIGITS, SMALL, LARGE):
        assert plan(on(context, epoch=17)) == plan(context)


@pytest.mark.parametrize("context", [DIGITS, SMALL, FEW, LARGE], ids=["digits", "small", "few", "large"])
def test_persistent_is_deepcluster_but_for_what_it_names(context: Context) -> None:
    base, first, later = by_verb(context), by_verb(on(context, method="persistent")), by_verb(on(context, method="persistent", epoch=1))
    assert first["cluster"] == dataclasses.replace(base["cluster"], warm_start=True)
    assert first["cluster"].iterations == 20
    assert later["cluster"] == dataclasses.replace(base["cluster"], warm_start=True, iterations=5)
    assert first["train-epoch"] == later["train-epoch"] == dataclasses.replace(base["train-epoch"], head="kept")
    assert first["extract"] == base["extract"]
    assert plan_length(on(context, method="persistent")) == plan_length(context)
    assert plan(on(context, method="persistent", epoch=50)) == plan(on(context, method="persistent", epoch=1))


def test_every_method_is_listed_with_its_paper() -> None:
    for name, (module, line) in METHODS.items():
        assert module.rstrip("_") == f"ucl.methods.{name}"                 # is and and are words of Python
        assert line
        assert isinstance(load(name), Method)
        assert load(name).paper
        assert method_named(name) is load(name)


def test_an_unknown_method_names_the_known() -> None:
    with pytest.raises(UsageError, match="unknown method 'depcluster'") as e:
        method_named("depcluster")
    assert e.value.hint == "known: deepcluster, persistent, onepass, ir, is, and, pcp"
    with pytest.raises(UsageError):
        plan(Context("depcluster"))


# by hand

def test_what_is_set_by_hand_wins_in_its_own_step_only() -> None:
    found = by_verb(on(DIGITS, overrides={"cluster.k": "20", "train-epoch.lr": "0.1", "train-epoch.zoom": "1,1", "extract.batch": "8"}))
    base = by_verb(DIGITS)
    assert found["cluster"] == dataclasses.replace(base["cluster"], k=20)
    assert found["train-epoch"] == dataclasses.replace(base["train-epoch"], lr=0.1, zoom=(1.0, 1.0))
    assert found["extract"] == ExtractSettings(batch=8)


def test_by_hand_beats_the_schedule() -> None:
    set_by_hand = {"cluster.iterations": "7", "cluster.warm_start": "no", "train-epoch.head": "fresh"}
    for epoch in (0, 1, 5):
        found = by_verb(on(SMALL, method="persistent", epoch=epoch, overrides=set_by_hand))
        assert (found["cluster"].iterations, found["cluster"].warm_start, found["train-epoch"].head) == (7, False, "fresh")


def test_plan_length_by_hand() -> None:
    assert plan_length(on(SMALL, overrides={"plan.epochs": "3"})) == 3
    assert plan_length(on(SMALL, overrides={"plan.epochs": "0"})) == 100


@pytest.mark.parametrize("key", ["cluster.kk", "train-epoch.learning"])
def test_a_wrong_key_says_where_it_stands(key: str) -> None:
    with pytest.raises(UsageError, match=r"^ucl\.toml: unknown setting"):
        plan(on(SMALL, overrides={key: "1"}))


# a command finds its step

@pytest.mark.parametrize("context", [on(c, epoch=e, overrides=o) for c in EVERY for e in (0, 3) for o in ({}, {"cluster.k": "9"})],
                         ids=lambda c: f"{c.method}-{c.source or c.images}-{c.epoch}-{len(c.overrides)}")
def test_a_command_finds_the_very_step_that_run_walks(context: Context) -> None:
    for step in plan(context):
        assert step_for(context, step.verb) == step
        assert step_for(context, step.verb, step.stage) == step


def test_precedence_is_flag_then_toml_then_plan_then_default() -> None:
    assert step_for(Context(), "cluster").settings.pca == 256                                    # the verb's default
    assert step_for(DIGITS, "cluster").settings.pca == 64                                        # the plan
    toml = on(DIGITS, overrides={"cluster.pca": "32"})
    assert step_for(toml, "cluster").settings.pca == 32                                          # ucl.toml
    flagged = step_for(toml, "cluster", overrides={"pca": 8})
    assert flagged.settings.pca == 8                                                             # the flag
    assert flagged == dataclasses.replace(step_for(DIGITS, "cluster"), settings=ClusterSettings(k=60, pca=8))


def test_outside_a_run_directory_a_verb_has_its_own_defaults() -> None:
    for verb, cls in SETTINGS.items():
        assert step_for(Context(), verb) == Step(verb, cls(), (), ())
    assert step_for(Context(), "train-epoch", overrides={"lr": "1"}).settings == TrainSettings(lr=1.0)
    assert step_for(Context(overrides={"cluster.k": "5"}), "cluster").settings.k == 0


@pytest.mark.parametrize("method", ["deepcluster", "persistent", "onepass"])
@pytest.mark.parametrize("size", [32, 224])
def test_behind_a_sobel_filter_there_is_no_jitter(method: str, size: int) -> None:
    """DeepCluster's views are cropped and mirrored only; without the filter colour is a shortcut, and the jitter hides it."""
    large = Context(method, images=1_281_167, size=size)
    with_colour = step_for(large, "train-epoch").settings
    assert (with_colour.jitter_p, with_colour.grey_p, with_colour.batch, with_colour.lr) == (0.8, 0.2, 256, 0.05)
    assert step_for(large, "cluster").settings.k == 10_000
    for text, grey in (("true", 0.0), ("True", 0.0), ("1", 0.0), ("false", 0.2)):
        found = step_for(on(large, overrides={"init.sobel": text}), "train-epoch").settings
        assert (found.jitter_p, found.grey_p) == (0.8 if grey else 0.0, grey)
        assert (found.crop_scale, found.flip) == (with_colour.crop_scale, 0.5)
    by_hand = on(large, overrides={"init.sobel": "true", "train-epoch.grey_p": "0.5"})
    assert step_for(by_hand, "train-epoch").settings.grey_p == 0.5
    if size == 224:
        assert (with_colour.crop_scale, with_colour.weight_decay) == ((0.08, 1.0), 1e-5)


def test_a_verb_the_method_does_not_use() -> None:
    assert step_for(SMALL, "purify") == Step("purify", PurifySettings(), (), ())
    context = on(SMALL, overrides={"purify.keep_nearest": "0.5", "evaluate-knn.neighbors": "3"})
    assert step_for(context, "purify", overrides={"min_size": 4}).settings == PurifySettings(0.5, 4)
    assert step_for(context, "evaluate-knn").settings == KnnSettings(neighbors=3)


def test_a_stage_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="deepcluster: no step 'refine' with verb cluster") as e:
        step_for(SMALL, "cluster", "refine")
    assert e.value.hint == "steps: extract, cluster, train-epoch"


def test_a_turn_with_two_steps_of_a_verb_asks_for_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(context: Context) -> list[Step]:
        return [Step("cluster", ClusterSettings(k=5), (), (), "coarse"), Step("cluster", ClusterSettings(k=50), (), (), "fine")]

    import ucl.methods.method as module

    monkeypatch.setattr(module, "method_named", lambda name: Method("none", steps, lambda context: 1))
    with pytest.raises(UsageError, match="cluster stands 2 times") as e:
        step_for(Context("two"), "cluster")
    assert e.value.hint == "name one: --stage coarse|fine"
    assert step_for(Context("two"), "cluster", "fine", {"pca": 0}).settings == ClusterSettings(k=50, pca=0)


def test_a_flag_is_checked() -> None:
    with pytest.raises(UsageError, match="k: found -3"):
        step_for(SMALL, "cluster", overrides={"k": -3})
    with pytest.raises(UsageError, match="unknown setting 'kay'"):
        step_for(SMALL, "cluster", overrides={"kay": 3})
