"""ucl.methods: the plans, and how a command finds its step in them."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest

from ucl.context import Context
from ucl.errors import ConfigError, UsageError
from ucl.methods import METHODS, load, simclr
from ucl.methods.method import Method, Step, advise, method_named, plan, plan_length, step_for
from ucl.settings import METHOD_TABLES, SETTINGS, ClusterSettings, ExtractSettings, KnnSettings, PurifySettings, TrainSettings, ViewSettings

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
        own = {"odc": {"neck": 256}, "uic": {}, **dict.fromkeys(("simclr", "scan", "profeat"), simclr.PROJECTION)}
        projection = own.get(name, {"projection": 128}) if name in METHOD_TABLES else {}
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
    assert e.value.hint == "known: deepcluster, persistent, onepass, ir, is, and, pcp, odc, uic, simclr, scan, profeat"
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
        reads = {"extract": ("images", "model"), "cluster": ("features", "previous"), "purify": ("labels",),
                 "train-epoch": ("images", "model", "labels"), "neighbors": ("features", "among")}
        assert step_for(Context(), verb) == Step(verb, cls(), reads.get(verb, ()), ())
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
    assert step_for(SMALL, "purify") == Step("purify", PurifySettings(), ("labels",), ())
    context = on(SMALL, overrides={"purify.keep_nearest": "0.5", "evaluate-knn.neighbors": "3"})
    assert step_for(context, "purify", overrides={"min_size": 4}).settings == PurifySettings(keep_nearest=0.5, min_size=4)
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


# methods that tell images apart: rounds of epochs

PCP, IR, IS, AND = (dataclasses.replace(SMALL, method=name) for name in ("pcp", "ir", "is", "and"))
ALONE = [("train-epoch", ("images", "model"), ("model",))]


def course(context: Context, verb: str, name: str, epochs: int | None = None) -> list[Any]:
    """A setting of a verb in every epoch of the plan."""
    return [getattr(turn[verb], name) for turn in _turns(json.dumps(dataclasses.asdict(context)))[:epochs]]


@functools.cache
def _turns(context: str) -> list[dict[str, Any]]:
    """All turns of a plan, from its context as JSON."""
    at = Context(**json.loads(context))
    return [by_verb(on(at, epoch=t)) for t in range(plan_length(at))]


def turns(values: list[Any]) -> list[tuple[int, Any]]:
    """(epoch, value) wherever a value is another one than before."""
    return [(t, v) for t, v in enumerate(values) if not t or v != values[t - 1]]


def test_a_turn_of_pcp() -> None:
    for context in (PCP, on(DIGITS, method="pcp")):
        for epoch in (0, 3, 500):
            assert [(s.verb, s.reads, s.writes) for s in plan(on(context, epoch=epoch))] == [
                ("extract", ("images", "model"), ("features",)), ("cluster", ("features", "previous"), ("labels",)),
                ("purify", ("labels",), ("labels",)), ("train-epoch", ("images", "model", "labels", "previous"), ("model", "labels"))]
    assert by_verb(PCP)["train-epoch"] == TrainSettings(objective="instance", batch=128, lr=0.03, weight_decay=5e-4, hue=0.4, jitter_p=1.0,
                                                        crop_scale=(0.2, 1.0), spread=0.8)


def test_pcp_over_a_round() -> None:
    """The timeline of a round of 200 epochs on 50,000 images: clusters 50,000 to 1000 at 73, all sizes cut from 100, votes from 115, learning
    rate down at 120 and 160, one view from 180 on."""
    assert plan_length(PCP) == 200
    k = course(PCP, "cluster", "k")
    assert [k[t] for t in (0, 1, 50, 72, 73, 199)] == [50_000, 47_366, 3343, 1017, 1000, 1000]
    assert turns(k[73:]) == [(0, 1000)]
    assert turns(course(PCP, "purify", "whole_up_to")) == [(0, 5), (100, 0)]
    assert turns(course(PCP, "purify", "votes")) == [(0, False), (115, True)]
    assert turns(course(PCP, "train-epoch", "lr")) == [(0, 0.03), (120, pytest.approx(0.003)), (160, pytest.approx(0.0003))]
    spread = course(PCP, "train-epoch", "spread")
    assert [spread[t] for t in (0, 90, 179)] == pytest.approx([0.8, 0.65, 0.501667], abs=1e-6)
    assert turns(spread[179:])[1:] == [(1, 0.0)]
    for name, value in (("keep_nearest", 0.5), ("min_size", 2), ("vote_history", 15), ("vote_decay", 0.8), ("pull_back_from", 3.0),
                        ("keep_cap", 1.0), ("early_return", False), ("drop_below", 0.0)):
        assert turns(course(PCP, "purify", name)) == [(0, value)]
    assert turns(course(PCP, "cluster", "history")) == [(0, 16)]             # 15 past epochs and the present one
    assert turns(course(PCP, "cluster", "pca")) == [(0, 0)]
    assert turns(course(PCP, "extract", "layer")) == [(0, "projection")]
    assert turns(course(PCP, "extract", "views")) == [(0, "train")]


def test_pcp_over_later_rounds() -> None:
    """Five rounds: as many clusters as at the end throughout, all sizes cut, votes from a tenth on, no warm-up; the learning rate starts again."""
    five = on(PCP, overrides={"pcp.rounds": "5"})
    assert plan_length(five) == 1000
    assert turns(course(five, "cluster", "k")[73:]) == [(0, 1000)]
    assert turns(course(five, "purify", "whole_up_to")) == [(0, 5), (100, 0)]
    flips = [(115, True), *((200 * r + t, t > 0) for r in (1, 2, 3, 4) for t in (0, 20))]
    assert turns(course(five, "purify", "votes")) == [(0, False), *flips]
    assert [t for t, _ in turns(course(five, "train-epoch", "lr"))] == [200 * r + t for r in range(5) for t in (0, 120, 160)]
    assert turns(course(five, "train-epoch", "spread"))[-1] == (180, 0.0)
    always = course(on(five, overrides=five.overrides | {"pcp.warm_up": "all"}), "train-epoch", "spread")
    assert always[200:400] == always[:200] == course(PCP, "train-epoch", "spread")
    assert turns(course(on(PCP, overrides={"pcp.warm_up": "none"}), "train-epoch", "spread")) == [(0, 0.0)]


def test_pcp_in_fewer_epochs_keeps_its_shape() -> None:
    """Every turning point is a share of the round; the history is shorter, and the threshold for coming back in proportion."""
    sixty = on(PCP, images=5000, overrides={"plan.epochs": "60"})
    assert plan_length(sixty) == 60
    k = course(sixty, "cluster", "k")
    assert (k[0], k[1], k[59]) == (5000, int(5000 ** (59 / 60)), 100)
    assert k == sorted(k, reverse=True)
    assert turns(course(sixty, "cluster", "history")) == [(0, 6)]
    assert turns(course(sixty, "purify", "whole_up_to")) == [(0, 5), (30, 0)]
    assert turns(course(sixty, "purify", "votes")) == [(0, False), (35, True)]
    assert turns(course(sixty, "purify", "pull_back_from")) == [(0, pytest.approx(2.2777, abs=1e-4))]
    assert [t for t, _ in turns(course(sixty, "train-epoch", "lr"))] == [0, 36, 48]
    assert turns(course(sixty, "train-epoch", "spread"))[-1] == (54, 0.0)
    two = on(PCP, overrides={"plan.epochs": "60", "pcp.rounds": "2"})           # the plan's epochs over the rounds
    assert plan_length(two) == 60
    assert [t for t, _ in turns(course(two, "train-epoch", "lr"))] == [0, 18, 24, 30, 48, 54]
    named = on(PCP, overrides={"pcp.epochs": "40", "pcp.rounds": "3"})          # or named for each round
    assert plan_length(named) == 120
    assert [t for t, _ in turns(course(named, "train-epoch", "lr"))] == [40 * r + t for r in range(3) for t in (0, 24, 32)]
    longer = on(PCP, overrides={"pcp.epochs": "40", "plan.epochs": "50"})       # the last round has no end
    assert plan_length(longer) == 50
    assert turns(course(longer, "train-epoch", "lr"))[-1][0] == 32


def test_pcp_on_digits() -> None:
    digits = on(DIGITS, method="pcp")
    assert plan_length(digits) == 30
    assert by_verb(digits)["cluster"] == ClusterSettings(k=1797, pca=0, history=3)
    assert turns(course(digits, "purify", "votes")) == [(0, False), (17, True)]
    train, other = by_verb(digits)["train-epoch"], by_verb(DIGITS)["train-epoch"]
    assert [getattr(train, n) for n in ("flip", "rotate", "translate", "zoom", "shear", "jitter_p", "grey_p", "crop_scale")] == [
        getattr(other, n) for n in ("flip", "rotate", "translate", "zoom", "shear", "jitter_p", "grey_p", "crop_scale")]
    assert (train.batch, train.weight_decay) == (128, 5e-4)


def test_what_a_methods_table_says() -> None:
    """Numbers of [pcp] move the schedule; what is set for a verb holds in every epoch."""
    said = {"final_k": "100", "keep_nearest": "0.3", "whole_up_to": "0", "vote_history": "4", "vote_decay": "0.9", "lr": "0.1", "lr_drops": "0.5,0.9",
            "lr_factor": "0.2,0.05", "keep_cap": "0.4", "early_return": "1", "warm_up_start": "0.6", "warm_up_until": "0.5", "warm_up_end": "0.6"}
    found = on(PCP, overrides={f"pcp.{name}": value for name, value in said.items()})
    assert course(found, "cluster", "k")[-1] == 100
    assert turns(course(found, "cluster", "history")) == [(0, 5)]
    assert turns(course(found, "purify", "keep_nearest")) == [(0, 0.3)]
    assert turns(course(found, "purify", "whole_up_to")) == [(0, 0)]
    assert turns(course(found, "purify", "votes")) == [(0, False), (104, True)]
    assert turns(course(found, "purify", "keep_cap")) == [(0, 1.0), (100, 0.4)]
    assert turns(course(found, "purify", "early_return")) == [(0, True), (100, False)]
    assert turns(course(found, "train-epoch", "lr")) == [(0, 0.1), (100, pytest.approx(0.02)), (180, pytest.approx(0.005))]
    assert turns(course(found, "train-epoch", "spread")) == [(0, pytest.approx(0.6)), (100, 0.0)]
    by_hand = on(PCP, overrides={"cluster.k": "7", "train-epoch.lr": "0.5", "purify.votes": "no", "train-epoch.spread": "0.25"})
    for verb, name, value in (("cluster", "k", 7), ("train-epoch", "lr", 0.5), ("purify", "votes", False), ("train-epoch", "spread", 0.25)):
        assert turns(course(by_hand, verb, name, 130)) == [(0, value)]
    dc = on(PCP, overrides={"cluster.k": "100", "pcp.keep_nearest": "1", "pcp.votes": "no", "pcp.warm_up": "none"})      # rows of the ablation
    assert turns(course(dc, "purify", "votes")) == [(0, False)]
    assert turns(course(dc, "purify", "keep_nearest")) == [(0, 1.0)]
    no_votes = on(PCP, overrides={"pcp.votes": "no", "pcp.vote_history": "1"})                                          # then any history will do
    assert turns(course(no_votes, "purify", "votes")) == [(0, False)]


@pytest.mark.parametrize(("context", "key"), [(SMALL, "pcp.final_k"), (IR, "pcp.epochs"), (PCP, "ir.lr"), (AND, "is.rounds")])
def test_another_methods_table_is_refused(context: Context, key: str) -> None:
    table = key.partition(".")[0]
    with pytest.raises(UsageError, match=rf"^ucl\.toml: \[{table}\]: the method is {context.method}, which does not read it") as e:
        plan(on(context, overrides={key: "5"}))
    assert e.value.hint == f"leave out {key}"


def test_a_wrong_key_of_a_methods_table_says_where_it_stands() -> None:
    for key, said in (("pcp.finalk", r"^ucl\.toml: \[pcp\]: unknown setting 'finalk'"), ("pcp.lr", r"^ucl\.toml: \[pcp\]: lr: found 'x'")):
        with pytest.raises(UsageError, match=said):
            plan(on(PCP, overrides={key: "x"}))
    with pytest.raises(UsageError, match="drop nobody"):
        plan(on(PCP, overrides={"pcp.vote_history": "1"}))


def test_views_of_training_are_those_that_are_clustered() -> None:
    """Whatever the method, the data or the user says of them; a user may also say of extraction alone."""
    names = [f.name for f in dataclasses.fields(ViewSettings)]

    def views(settings: Any) -> list[Any]:
        return [getattr(settings, name) for name in names]

    for context in (PCP, on(DIGITS, method="pcp"),
                    on(PCP, overrides={"train-epoch.flip": "0", "train-epoch.crop_scale": "0.5,1", "train-epoch.lr": "1"})):
        found = by_verb(context)
        assert views(found["extract"]) == views(found["train-epoch"])
    assert by_verb(on(PCP, overrides={"train-epoch.crop_scale": "0.5,1"}))["extract"].crop_scale == (0.5, 1.0)
    apart = by_verb(on(PCP, overrides={"extract.flip": "0.25", "train-epoch.hue": "0"}))
    assert (apart["extract"].flip, apart["train-epoch"].flip, apart["extract"].hue) == (0.25, 0.5, 0.0)
    fixed = by_verb(on(PCP, overrides={"pcp.views": "fixed"}))["extract"]
    assert fixed == ExtractSettings(final_relu=True, layer="projection")
    with pytest.raises(UsageError, match="flip: is of random views"):
        plan(on(PCP, overrides={"pcp.views": "fixed", "extract.flip": "0.5"}))


def test_without_a_projection_the_features_are_clustered() -> None:
    assert by_verb(on(PCP, overrides={"init.projection": "0"}))["extract"].layer == ""
    assert by_verb(on(PCP, overrides={"init.projection": "64"}))["extract"].layer == "projection"


@pytest.mark.parametrize("context", [IR, IS, AND], ids=["ir", "is", "and"])
def test_a_method_without_clusters_trains_alone(context: Context) -> None:
    for at in (context, on(DIGITS, method=context.method), on(context, epoch=700)):
        assert [(s.verb, s.reads, s.writes) for s in plan(at)] == ALONE
        assert by_verb(at)["train-epoch"].objective == "instance"
    assert plan_length(on(context, overrides={"plan.epochs": "7"})) == 7
    assert step_for(context, "extract") == Step("extract", ExtractSettings(layer="projection", final_relu=True), ("images", "model"), ())
    assert step_for(on(context, overrides={"extract.layer": "layer4"}), "extract").settings.layer == "layer4"
    assert step_for(on(context, overrides={"init.projection": "0"}), "extract") == Step("extract", ExtractSettings(), ("images", "model"), ())
    assert step_for(context, "cluster") == Step("cluster", ClusterSettings(), ("features", "previous"), ())


@pytest.mark.parametrize(("overrides", "said"), [
    ({"purify.vote_history": "4"}, "purify.vote_history"), ({"purify.vote_decay": "0.9"}, "purify.vote_decay"),
    ({"train-epoch.objective": "classify"}, "tells images apart"), ({"pcp.rounds": "5", "plan.epochs": "4"}, "found 4 for 5 rounds"),
    ({"cluster.k": "50001"}, "50001 clusters in epoch 1, the list has 50000 usable images"), ({"pcp.lr_drops": "0.8,0.6"}, "the earlier drop first"),
    ({"ir.lr": "1"}, "does not read it")])
def test_what_contradicts_pcps_plan_is_refused_before_anything_is_made(overrides: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        advise(on(PCP, overrides=overrides))


def test_a_setting_that_a_later_epoch_refuses_is_told_at_once() -> None:
    crowded = on(AND, images=100, overrides={"and.neighbors": "100", "and.epochs": "1"})
    with pytest.raises(UsageError, match="fewer than the 100 usable images"):
        advise(crowded)
    assert advise(on(AND, overrides={"train-epoch.cluster_loss": "pairs"})) == []          # read with anchors too


def test_advice() -> None:
    for context in EVERY:
        assert advise(context) == (["without --from the neighbours are those of an untrained network"] if context.method == "scan" else [])
    never = advise(on(PCP, overrides={"plan.epochs": "5"}))
    assert never == ["past epochs never vote: 2 of them are there from epoch 6 on, after the plan's end"]
    assert advise(on(PCP, overrides={"plan.epochs": "5", "pcp.votes": "no"})) == []
    assert advise(on(PCP, overrides={"plan.epochs": "6"})) == []
    assert advise(on(AND, overrides={"plan.epochs": "12"})) == ["2 epochs follow the 5 rounds of 2, at the last learning rate"]
    assert advise(on(IR, overrides={"plan.epochs": "50", "ir.epochs": "200"})) == ["the plan ends after 50 epochs, before the 1 rounds of 200 do"]


def test_ir_and_is() -> None:
    assert plan_length(IR) == plan_length(IS) == 200
    assert plan_length(on(DIGITS, method="ir")) == plan_length(on(DIGITS, method="is")) == 30
    base = dataclasses.replace(by_verb(PCP)["train-epoch"], spread=0.0)
    assert by_verb(IR)["train-epoch"] == base
    assert by_verb(IS)["train-epoch"] == dataclasses.replace(base, spread=1.0)
    assert turns(course(IR, "train-epoch", "lr")) == [(0, 0.03), (120, pytest.approx(0.003)), (160, pytest.approx(0.0003))]
    assert turns(course(IS, "train-epoch", "lr")) == [(0, 0.03), (120, pytest.approx(0.003))]
    assert turns(course(IS, "train-epoch", "spread")) == [(0, 1.0)]
    assert by_verb(on(IR, overrides={"train-epoch.sampled": "4096", "train-epoch.flip": "0"}))["train-epoch"] == dataclasses.replace(
        base, sampled=4096, flip=0.0)
    rounds = on(IR, overrides={"ir.rounds": "2", "ir.epochs": "10"})
    assert [t for t, _ in turns(course(rounds, "train-epoch", "lr"))] == [0, 6, 8, 10, 16, 18]


def test_and_in_rounds() -> None:
    """0, a quarter, a half, three quarters, all: neighbours are looked for in the first epoch of a round, and kept to its end.  The first
    round is instance recognition."""
    assert plan_length(AND) == 1000
    assert turns(course(AND, "train-epoch", "anchors")) == [(0, 0.0), (200, 0.25), (400, 0.5), (600, 0.75), (800, 1.0)]
    assert [t for t, found in enumerate(course(AND, "train-epoch", "discover")) if found] == [200, 400, 600, 800]
    assert turns(course(AND, "train-epoch", "neighbors")) == [(0, 1)]
    assert [t for t, _ in turns(course(AND, "train-epoch", "lr"))] == [200 * r + t for r in range(5) for t in (0, 120, 160)]
    for epoch in (0, 130, 199):
        first, ir = (by_verb(on(c, epoch=epoch))["train-epoch"] for c in (AND, IR))
        assert first == dataclasses.replace(ir, nesterov=True)
    one_off = on(AND, overrides={"and.rounds": "2", "and.neighbors": "5"})
    assert plan_length(one_off) == 400
    assert turns(course(one_off, "train-epoch", "anchors")) == [(0, 0.0), (200, 1.0)]
    assert [t for t, found in enumerate(course(one_off, "train-epoch", "discover")) if found] == [200]
    assert turns(course(one_off, "train-epoch", "neighbors")) == [(0, 5)]
    one = on(AND, overrides={"and.rounds": "1"})
    assert turns(course(one, "train-epoch", "anchors")) == [(0, 0.0)]
    ten = on(AND, overrides={"plan.epochs": "10"})
    assert turns(course(ten, "train-epoch", "anchors")) == [(0, 0.0), (2, 0.25), (4, 0.5), (6, 0.75), (8, 1.0)]
    assert plan_length(on(DIGITS, method="and")) == 150
