"""ucl.settings: values from text and TOML, what is refused and how it is said."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest

from ucl.errors import UsageError
from ucl.settings import (
    BESIDE,
    CHECKPOINT_EVERY,
    METHOD_TABLES,
    SETTINGS,
    ClusterSettings,
    ExtractSettings,
    ImportSettings,
    InitSettings,
    MachineSettings,
    PlanSettings,
    PurifySettings,
    Settings,
    TrainSettings,
    ViewSettings,
    check_override,
    default_k,
    parse,
    parse_assignments,
    seconds,
)

KNOWN = ("known: plan, init, extract, cluster, purify, train-epoch, neighbors, evaluate-knn, evaluate-linear, ir, is, and, pcp, "
         "odc, uic, simclr, scan, profeat")
EVERY = [*METHOD_TABLES.values(), *SETTINGS.values(), ViewSettings, MachineSettings, PlanSettings]
FIELDS = [pytest.param(cls, f, id=f"{cls.__name__}.{f.name}") for cls in EVERY for f in dataclasses.fields(cls)]
TRIPLE = tuple[float, float, float]


# every field

@pytest.mark.parametrize(("cls", "f"), FIELDS)
def test_a_field_has_help_and_a_default_that_reads_back(cls: type[Settings], f: dataclasses.Field[Any]) -> None:
    assert f.metadata["help"].strip()
    assert "\n" not in f.metadata["help"]
    text = "none" if f.default is None else ",".join(map(str, f.default)) if isinstance(f.default, tuple) else str(f.default)
    assert cls().override({f.name: text}) == cls()
    assert type(getattr(cls().override({f.name: text}), f.name)) is type(f.default)
    if f.metadata["choices"]:
        assert f.default in f.metadata["choices"]


@pytest.mark.parametrize(("cls", "f"), [p for p in FIELDS if p.values[1].metadata["low"] is not None])
def test_below_and_above_the_range_is_refused(cls: type[Settings], f: dataclasses.Field[Any]) -> None:
    low, high = f.metadata["low"], f.metadata["high"]
    pair = len(f.default) if isinstance(f.default, tuple) else 0
    with pytest.raises(UsageError, match=f"^{f.name}: found .*, wanted"):
        cls(**{f.name: (low - 1,) * pair if pair else low - 1})
    edge: Any = (float(low),) * pair if pair else low
    assert getattr(cls(**{f.name: edge}), f.name) == edge                # the bound itself is allowed
    if high is not None:
        with pytest.raises(UsageError, match=f"^{f.name}: found .*, wanted {low} to {high}"):
            cls(**{f.name: (high + 1,) * pair if pair else high + 1})
        edge = (float(high),) * pair if pair else high
        assert getattr(cls(**{f.name: edge}), f.name) == edge


@pytest.mark.parametrize(("cls", "f"), [p for p in FIELDS if p.values[1].metadata["choices"]])
def test_choices(cls: type[Settings], f: dataclasses.Field[Any]) -> None:
    for choice in f.metadata["choices"]:
        assert getattr(cls().override({f.name: choice}), f.name) == choice
    with pytest.raises(UsageError, match=f"{f.name}: found 'sideways', wanted one of {f.metadata['choices'][0]}, "):
        cls().override({f.name: "sideways"})


def test_papers_values() -> None:
    """DeepCluster section 4.1 and its released code."""
    train = TrainSettings()
    assert (train.batch, train.lr, train.momentum, train.weight_decay) == (256, 0.05, 0.9, 1e-5)
    assert (train.head, train.head_momentum, train.sampler, train.epoch_length, train.weights) == ("fresh", 0.0, "uniform", 1.0, "none")
    cluster = ClusterSettings()
    assert (cluster.pca, cluster.whiten, cluster.l2, cluster.iterations, cluster.redo) == (256, True, True, 20, 1)
    assert (cluster.spherical, cluster.max_points, cluster.warm_start) == (False, 0, False)
    assert ExtractSettings().final_relu is False
    assert PurifySettings() == PurifySettings(keep_nearest=1.0, min_size=1)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainSettings().lr = 1.0  # type: ignore[misc]


def test_default_k() -> None:
    assert [default_k(n) for n in (1, 50, 124, 125, 1797, 50_000, 499_999, 10**7)] == [2, 2, 2, 3, 36, 1000, 10_000, 10_000]


# parsing

@pytest.mark.parametrize(("value", "hint", "wanted"), [
    ("5", int, 5), (5, int, 5), ("1e4", int, 10_000), (3.0, int, 3), ("-2", int, -2), (" 7 ", int, 7),
    ("9007199254740993", int, 2**53 + 1), (2**53 + 1, int, 2**53 + 1), (str(10**30), int, 10**30),
    ("0.05", float, 0.05), (1, float, 1.0), ("1e-5", float, 1e-5),
    ("true", bool, True), ("Yes", bool, True), ("1", bool, True), ("on", bool, True), (True, bool, True), (1, bool, True),
    ("false", bool, False), ("NO", bool, False), ("0", bool, False), ("off", bool, False), (False, bool, False), (0, bool, False),
    ("word", str, "word"), (64, str, "64"),
    ("none", float | None, None), ("None", float | None, None), ("", float | None, None), (None, float | None, None),
    ("0.25", float | None, 0.25), (1, float | None, 1.0),
    ("1,2.5,3", TRIPLE, (1.0, 2.5, 3.0)), ("1 2.5 3", TRIPLE, (1.0, 2.5, 3.0)), ("1, 2.5, 3", TRIPLE, (1.0, 2.5, 3.0)),
    ([1, 2.5, 3], TRIPLE, (1.0, 2.5, 3.0)), ((1, 2, 3), TRIPLE, (1.0, 2.0, 3.0)),
])
def test_parse(value: Any, hint: Any, wanted: Any) -> None:
    found = parse(value, hint, "x")
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(("value", "hint"), [
    ("five", int), ("1.5", int), (1.5, int), (True, int), ("", int), ("nan", int), ("inf", int), (float("inf"), int), (None, int),
    ([1], int), ("9" * 5000, int), ("x", float), (True, float), (None, float), ("maybe", bool), ("2", bool), (2, bool), ("", bool), (None, bool),
    ("1,2", TRIPLE), ("1,2,3,4", TRIPLE), ("1,2,x", TRIPLE), (3, TRIPLE), (None, TRIPLE), ("x", float | None),
])
def test_parse_refuses(value: Any, hint: Any) -> None:
    with pytest.raises(UsageError, match=r"^cluster\.k: found .*, wanted "):
        parse(value, hint, "cluster.k")


def test_messages_name_what_where_found_and_wanted() -> None:
    with pytest.raises(UsageError) as e:
        ClusterSettings().override({"k": "many"}, "ucl.toml")
    assert e.value.message == "ucl.toml: k: found 'many', wanted int"
    with pytest.raises(UsageError) as e:
        ClusterSettings().override({"k": -1}, "ucl.toml")
    assert e.value.message == "ucl.toml: k: found -1, wanted at least 0"
    with pytest.raises(UsageError) as e:
        TrainSettings().override({"flip": "1.5"})
    assert e.value.message == "flip: found 1.5, wanted 0 to 1"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_only_finite_numbers(value: str) -> None:
    for name in ("lr", "epoch_length", "zoom", "brightness"):
        with pytest.raises(UsageError, match=f"{name}: found"):
            TrainSettings().override({name: f"{value},{value}" if name == "zoom" else value})


def test_override_changes_what_it_names_and_nothing_else() -> None:
    before = TrainSettings()
    after = before.override({"lr": "0.1", "crop-scale": "0.5 1", "grey_p": 0})
    assert after == dataclasses.replace(before, lr=0.1, crop_scale=(0.5, 1.0), grey_p=0.0)
    assert type(after) is TrainSettings
    assert before == TrainSettings()
    assert before.override({}) == before


def test_override_keeps_what_was_set_before() -> None:
    once = ClusterSettings().override({"k": 7})
    assert once.override({"pca": 0}) == ClusterSettings(k=7, pca=0)


@pytest.mark.parametrize(("name", "near"), [("iteratons", "iterations"), ("pac", "pca"), ("white", "whiten"), ("max-point", "max_points")])
def test_an_unknown_setting_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"^--set: unknown setting '{name}'$") as e:
        ClusterSettings().override({name: 1}, "--set")
    assert e.value.hint == f"did you mean {near}?"


def test_an_unknown_setting_that_is_near_nothing_lists_all() -> None:
    with pytest.raises(UsageError) as e:
        PurifySettings().override({"zzz": 1})
    assert e.value.hint == "known: " + ", ".join(sorted(f.name for f in dataclasses.fields(PurifySettings)))
    assert "keep_nearest, min_size" in e.value.hint


def test_as_dict_is_all_fields_in_order() -> None:
    found = TrainSettings(lr=0.5).as_dict()
    assert list(found) == [f.name for f in dataclasses.fields(TrainSettings)]
    assert found["lr"] == 0.5
    assert found["crop_scale"] == (0.2, 1.0)
    assert TrainSettings(**found) == TrainSettings(lr=0.5)


def test_batch_normalisation_cannot_train_on_one_image() -> None:
    with pytest.raises(UsageError, match="batch: found 1, wanted at least 2"):
        TrainSettings(batch=1)
    assert ExtractSettings(batch=1).batch == 1


def test_seeds_fit_the_file() -> None:
    assert MachineSettings().override({"seed": str(2**63 - 1)}).seed == 2**63 - 1
    with pytest.raises(UsageError, match="seed: found 9223372036854775808"):
        MachineSettings().override({"seed": str(2**63)})


def test_optional() -> None:
    assert InitSettings().override({"max-bad": "0.5"}).max_bad == 0.5
    assert InitSettings(max_bad=0.5).override({"max_bad": "none"}).max_bad is None
    with pytest.raises(UsageError, match=r"max_bad: found 2\.0, wanted 0 to 1"):
        InitSettings().override({"max_bad": 2})


def test_the_types_of_fields_are_those_parse_reads() -> None:
    for cls in EVERY:
        for name, hint in typing.get_type_hints(cls).items():
            kinds = set(typing.get_args(hint)) - {type(None)} or {hint}
            kinds = {inner for kind in kinds for inner in typing.get_args(kind) or (kind,)}
            assert kinds <= {int, float, bool, str}, (cls, name)


def test_a_tuple_or_nothing() -> None:
    assert ImportSettings().mean is None
    assert ImportSettings().override({"mean": "0.1,0.2,0.3"}).mean == (0.1, 0.2, 0.3)
    assert ImportSettings(mean=(1, 2, 3)).override({"mean": "none"}).mean is None
    with pytest.raises(UsageError, match="std: found 0"):
        ImportSettings().override({"std": "1,1,0"})


# --set

def test_assignments() -> None:
    found = parse_assignments(["cluster.k=100", "train-epoch.crop-scale=0.5,1", "cluster.whiten=no", "plan.epochs=3", "cluster.k=5"])
    assert found == {"cluster": {"k": "5", "whiten": "no"}, "train-epoch": {"crop_scale": "0.5,1"}, "plan": {"epochs": "3"}}
    assert parse_assignments([]) == {}


@pytest.mark.parametrize(("item", "message", "hint"), [
    ("cluster.k", "--set cluster.k: wanted VERB.KEY=VALUE, as in cluster.k=100", ""),
    ("k=5", "--set k=5: wanted VERB.KEY=VALUE, as in cluster.k=100", ""),
    ("", "--set : wanted VERB.KEY=VALUE, as in cluster.k=100", ""),
    ("clutser.k=5", "--set clutser.k=5: unknown verb 'clutser'", "did you mean cluster?"),
    ("train.lr=5", "--set train.lr=5: unknown verb 'train'", "did you mean train-epoch?"),
    ("zzz.k=5", "--set zzz.k=5: unknown verb 'zzz'", KNOWN),
    ("import.size=5", "--set import.size=5: unknown verb 'import'",
     KNOWN),
    ("train-epoch.lrr=5", "--set train-epoch.lrr=5: unknown setting 'lrr'", "did you mean lr?"),
    ("plan.epoch=5", "--set plan.epoch=5: unknown setting 'epoch'", "did you mean epochs?"),
    ("cluster.k=five", "--set cluster.k=five: k: found 'five', wanted int", ""),
    ("cluster.k=5=6", "--set cluster.k=5=6: k: found '5=6', wanted int", ""),
    ("cluster.k=-5", "--set cluster.k=-5: k: found -5, wanted at least 0", ""),
    ("cluster.empty=gone", "--set cluster.empty=gone: empty: found 'gone', wanted one of leave, relocate, error", ""),
])
def test_assignments_refused(item: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as e:
        parse_assignments([item])
    assert e.value.message == message
    assert e.value.hint == hint


def test_check_override_knows_every_verb() -> None:
    for verb, cls in SETTINGS.items():
        if verb in BESIDE:
            continue
        check_override(verb, cls().as_dict(), "here")
        with pytest.raises(UsageError, match=r"^here: unknown setting"):
            check_override(verb, {"no_such": 1}, "here")


@pytest.mark.parametrize(("text", "wanted"), [("0", 0), ("0s", 0), ("30s", 30), ("10m", 600), ("1.5h", 5400), (".5", 0.5), ("2d", 172_800),
                                              (" 7 ", 7), ("10M", 600), (CHECKPOINT_EVERY, 600)])
def test_durations(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "10x", "-1", "1e3", "inf", "nan", "10 m", "10mm", "1.", "m", "1m30s", "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"--checkpoint-every: found .*, wanted a duration"):
        seconds(text)
