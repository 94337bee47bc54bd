"""Stages and learning rates of SimCLR, SCAN and ProFeat against the papers' numbers, and the settings they come from."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods import iterations
from ucl.methods.iterations import CONTRAST, REFINE, SCAN, SELF, Place, at, contrast_rate, cosine, learning_rate, least_connections, length, totals
from ucl.methods.method import Step, plan, plan_length
from ucl.profeat_settings import ProfeatSettings, ScanSettings, SimclrSettings

CIFAR10 = ProfeatSettings()
CIFAR20 = ProfeatSettings(k=20, scan_epochs=100, scan_batch=512)
STL10 = ProfeatSettings(iterations=100, scan_epochs=100, self_epochs=0, threshold=0.95)


def walk(of: SimclrSettings | ScanSettings) -> list[Place]:
    return [at(e, of) for e in range(length(of))]


# ---- stages


@pytest.mark.parametrize(("of", "contrast", "scan", "self_"), [(CIFAR10, 950, 500, 2000), (CIFAR20, 950, 1000, 2000), (STL10, 5450, 10_000, 0)])
def test_epochs_are_the_papers(of: ProfeatSettings, contrast: int, scan: int, self_: int) -> None:
    found = totals(of)
    assert (found[CONTRAST] + found[REFINE], found[SCAN], found.get(SELF, 0)) == (contrast, scan, self_)
    assert length(of) == contrast + scan + self_


def test_an_ensembles_stl10_has_three_times_the_iterations() -> None:
    assert length(dataclasses.replace(STL10, iterations=300)) == 500 + 299 * 50 + 300 * 100


def test_stages_follow_each_other() -> None:
    places = walk(CIFAR10)
    runs = [(i, s, len(list(g))) for (i, s), g in itertools.groupby(places, lambda p: (p.iteration, p.stage))]
    assert runs == [(0, CONTRAST, 500), (0, SCAN, 50), (0, SELF, 200),
                    *((i, s, n) for i in range(1, 10) for s, n in ((REFINE, 50), (SCAN, 50), (SELF, 200)))]
    for place, after in itertools.pairwise(places):
        assert after.first is place.last
        assert after.epoch == (0 if place.last else place.epoch + 1)
    assert places[0].first
    assert places[-1].last
    assert at(length(CIFAR10) + 3, CIFAR10) == Place(9, SELF, 203, 200)      # a longer plan goes on in the last stage


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def test_every_epoch_of_the_plan_is_in_one_stage(r: int, contrast: int, refine: int, scan: int, self_: int) -> None:
    of = ProfeatSettings(iterations=r, contrast_epochs=contrast, refine_epochs=refine, scan_epochs=scan, self_epochs=self_)
    wanted = [Place(i, s, e, n) for i in range(r)
              for s, n in ((REFINE, refine) if i else (CONTRAST, contrast), (SCAN, scan), (SELF, self_)) for e in range(n)]
    assert walk(of) == wanted
    assert sum(totals(of).values()) == len(wanted)


def test_one_iteration_is_scan() -> None:
    """A-PFs-10: SimCLR's stage, then SCAN's, with the learning rates they have alone."""
    one, simclr, scan = ProfeatSettings(iterations=1), SimclrSettings(), ScanSettings()
    assert walk(one) == walk(simclr) + walk(scan)
    rates = [learning_rate(p, one) for p in walk(one)]
    assert rates == [learning_rate(p, simclr) for p in walk(simclr)] + [learning_rate(p, scan) for p in walk(scan)]
    assert {p.stage for p in walk(dataclasses.replace(scan, self_epochs=0))} == {SCAN}


# ---- learning rates


def test_simclrs_learning_rates() -> None:
    """C6."""
    found = [contrast_rate(at(e, SimclrSettings()), SimclrSettings()) for e in (0, 125, 250, 375, 499)]
    assert found == pytest.approx([0.4, 0.34148, 0.2002, 0.05892, 0.000404], abs=1e-6)
    assert SimclrSettings().contrast_lr_end == pytest.approx(0.4 * 0.1**3)


def test_refining_starts_its_own_cosine_every_time() -> None:
    """C7; in every iteration alike."""
    for iteration in range(1, 10):
        found = [contrast_rate(Place(iteration, REFINE, e, 50), CIFAR10) for e in (0, 25, 49)]
        assert found == pytest.approx([0.4, 0.2002, 0.000794], abs=1e-6)
    assert contrast_rate(Place(0, CONTRAST, 250, 500), CIFAR10) == pytest.approx(0.2002)


def test_refining_at_a_constant_rate_is_a_cosine_between_equals() -> None:
    constant = dataclasses.replace(CIFAR10, refine_lr=(0.0004, 0.0004))
    assert {contrast_rate(Place(3, REFINE, e, 50), constant) for e in range(50)} == {0.0004}
    assert contrast_rate(Place(0, CONTRAST, 0, 500), constant) == 0.4         # SimCLR's own is not touched


def test_one_decay_over_all_iterations() -> None:
    whole = dataclasses.replace(CIFAR10, refine_schedule="whole")
    places = [p for p in walk(whole) if p.stage in (CONTRAST, REFINE)]
    found = [contrast_rate(p, whole) for p in places]
    assert len(found) == 950
    assert found == [cosine(e, 950, 0.4, 0.0004) for e in range(950)]
    assert all(a > b for a, b in itertools.pairwise(found))
    assert "refine_lr" in whole.unread


def test_clustering_has_a_constant_rate() -> None:
    of = dataclasses.replace(CIFAR10, scan_lr=3e-4, self_lr=2e-4)
    assert {learning_rate(p, of) for p in walk(of) if p.stage == SCAN} == {3e-4}
    assert {learning_rate(p, of) for p in walk(of) if p.stage == SELF} == {2e-4}
    with pytest.raises(ValueError, match="not a stage"):
        learning_rate(Place(0, SCAN, 0, 1), SimclrSettings())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_cosine_falls_between_its_ends(epochs: int, a: float, b: float) -> None:
    start, end = max(a, b), min(a, b)
    found = [cosine(e, epochs, start, end) for e in range(epochs + 2)]
    assert found[0] == pytest.approx(start)
    assert found[-2:] == pytest.approx([end, end])
    assert all(x >= y - 1e-12 for x, y in itertools.pairwise(found))
    assert found[epochs // 2] == pytest.approx(end + (start - end) * (1 + math.cos(math.pi * (epochs // 2) / epochs)) / 2)


# ---- settings


def test_connections_follow_the_rule_unless_told() -> None:
    assert least_connections(CIFAR10) == 20
    assert least_connections(CIFAR20) == 10
    assert least_connections(dataclasses.replace(STL10, connections=1)) == 1
    assert least_connections(dataclasses.replace(STL10, connections=0)) == 0  # the ablation without t_c


@pytest.mark.parametrize("kind", [SimclrSettings, ScanSettings, ProfeatSettings])
def test_numbers_of_the_papers_name_their_source(kind: type) -> None:
    fields = dataclasses.fields(kind)
    assert all(f.metadata["help"] for f in fields)
    assert [f.name for f in fields if not f.metadata["source"] and f.name != "held_out"] == []  # a share that no paper has


def test_what_is_not_read_is_refused() -> None:
    for of, name in ((ScanSettings(), "held_out"), (ScanSettings(self_epochs=0), "self_batch"),
                     (CIFAR10, "agree"), (CIFAR10, "connections"), (dataclasses.replace(CIFAR10, rule="agree"), "threshold"),
                     (ProfeatSettings(iterations=1), "refine_lr")):
        with pytest.raises(UsageError, match=name):
            of.refuse_unread([name])
        assert name in {f.name for f in dataclasses.fields(of)}
    assert not {"threshold", "refine_lr", "positives"} & CIFAR10.unread
    assert not {"agree", "connections"} & dataclasses.replace(CIFAR10, rule="agree").unread
    for of in (SimclrSettings(), ScanSettings(), CIFAR10, ProfeatSettings(iterations=1, rule="agree", self_epochs=0, refine_schedule="whole")):
        assert of.unread <= {f.name for f in dataclasses.fields(of)}


def test_text_becomes_settings_or_is_refused() -> None:
    assert CIFAR10.override({"refine-lr": "0.0004,0.0004", "threshold": "0.95"}).refine_lr == (0.0004, 0.0004)
    with pytest.raises(UsageError, match="least_batch: found 600, wanted at most 512"):
        iterations.refuse(CIFAR10.override({"least_batch": 600}), 50000)
    with pytest.raises(UsageError, match="wanted 0 to 1"):
        CIFAR10.override({"threshold": 1.5})
    few = Context("scan", images=50_000, size=32, overrides={"scan.neighbors": "3"})
    assert iterations.settled(few, ScanSettings).select_neighbors == 3  # the default goes with it, what was set by hand is refused
    for table, found in (({"own": "false", "neighbors": 5, "held_out": 0.2}, "neighbors: found 5, with 0.2 of 50000"),
                         ({"select_neighbors": 21}, "select_neighbors: found 21, wanted at most the 20")):
        with pytest.raises(UsageError, match=found):
            iterations.refuse(ScanSettings(select="held-out").override(table), 50000)
    iterations.refuse(ScanSettings(select="held-out", own=False), 50000)
    iterations.refuse(ScanSettings(select="held-out").override({"neighbors": 5, "held_out": 0.2}), 50000)
    together = CIFAR10.override({"rule": "agree", "connections": 511})
    iterations.refuse(together, 50000)
    with pytest.raises(UsageError, match="connections: found 512, wanted fewer than the 512 images of a batch"):
        iterations.refuse(together.override({"connections": 512}), 50000)


def test_advice_names_what_will_not_happen() -> None:
    def said(**changes: object) -> str:
        settings = CIFAR10.override(changes)
        return " ".join(iterations.advice_of(settings, length(settings)))

    assert said() == ""
    assert "fewer than 10 for each of 20" in said(k=20)
    assert "self-labels change nothing" in said(self_threshold=1)
    assert "nothing is refined" in said(threshold=1)                          # A-PFs-7: allowed, and the run goes on
    assert "more probable one alone" in said(threshold=0.4)
    assert said(rule="agree", connections=511) == ""
    assert "nothing is refined" not in said(threshold=1, iterations=1)


def test_a_batch_larger_than_the_data_is_told_before_anything_starts() -> None:
    """L10, in the plan."""
    iterations.refuse(CIFAR10, 1000)
    iterations.refuse(SimclrSettings(), 512)
    iterations.refuse(ScanSettings(self_epochs=0), 128)
    for of, images, name in ((SimclrSettings(), 511, "contrast_batch"), (CIFAR10, 999, "self_batch"),
                             (ScanSettings(self_epochs=0), 127, "scan_batch"),
                             (ScanSettings(self_epochs=0, select="held-out"), 140, "scan_batch"), (CIFAR10, 10, "k")):
        with pytest.raises(UsageError, match=f"{name}: found"):
            iterations.refuse(of, images)


def turn(method: str, epoch: int, size: int = 32, **table: object) -> list[Step]:
    overrides = {f"{method}.{name}": str(value) for name, value in table.items()}
    return plan(Context(method, images=50_000, size=size, epoch=epoch, overrides=overrides))


def has(step: Step, **wanted: object) -> None:
    assert {name: getattr(step.settings, name) for name in wanted} == wanted


STRONG = {"crop_scale": (1.0, 1.0), "flip": 0.5, "jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0, "strong_ops": 4, "optimizer": "adam", "lr": 1e-4,
          "weight_decay": 1e-4, "score_neighbors": 5, "score_entropy": 1.0}


@pytest.mark.parametrize(("size", "hole"), [(32, 16), (96, 32)])
@pytest.mark.parametrize(("method", "before"), [("scan", 0), ("profeat", 500)])
def test_the_plan_of_scan_has_the_released_numbers(method: str, before: int, size: int, hole: int) -> None:
    """Both later stages of SCAN: views, batches, Adam begun anew in each stage, weights of the entropy, which epoch is kept."""
    mined, nearest, first = turn(method, before, size)
    has(mined, layer="projection")
    has(nearest, neighbors=21, include_self=True)
    common = STRONG | {"cutout": hole}
    has(first, **common, objective="scan", batch=128, k=10, entropy_weight=5.0, trains="all", restart=True, best="note", held_out=0.0)
    for epoch in (1, 48):
        (later,) = turn(method, before + epoch, size)
        has(later, **common, objective="scan", batch=128, entropy_weight=5.0, restart=False, best="note")
    (last,) = turn(method, before + 49, size)
    has(last, **common, objective="scan", restart=False, best="take")
    (first,) = turn(method, before + 50, size)
    has(first, **common, objective="selflabel", batch=1000, sure=0.99, balanced=True, restart=True, best="off")
    (last,) = turn(method, before + 249, size)
    has(last, **common, objective="selflabel", batch=1000, sure=0.99, balanced=True, restart=False)


def test_the_plan_of_refining_has_the_papers_numbers() -> None:
    """Section 9.1's fourth step: the confident images, 50 epochs of SimCLR's views, momentum and learning rate begun anew each time."""
    simclr = {"objective": "contrast", "optimizer": "sgd", "batch": 512, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "tau": 0.1,
              "crop_scale": (0.2, 1.0), "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "jitter_p": 0.8,
              "grey_p": 0.2, "blur_p": 0.0, "strong_ops": 0, "cutout": 0}
    for start in (750, 1050, 3150):
        purified, first = turn("profeat", start)
        has(purified, rule="confident", threshold=0.99)
        has(first, **simclr, restart=True, lr=0.4, positives="row-mean", least_batch=8, connections=0)
        assert first.reads[:3] == ("images", "model", "labels")
        assert first.writes == ("model",)
        (middle,) = turn("profeat", start + 25)
        has(middle, **simclr, restart=False, lr=pytest.approx(0.2002), positives="row-mean")
        assert turn("profeat", start + 50)[-1].settings.objective == "scan"
    (first,) = turn("profeat", 750, rule="agree", positives="sum", least_batch=9)
    has(first, **simclr, restart=True, connections=20, positives="sum", least_batch=9)
    assert first.reads[2] == "agreed"
    (later,) = turn("profeat", 751, rule="agree", connections=0)
    has(later, restart=False, connections=1)
    assert later.reads[2] == "labels"


def test_one_iteration_is_simclr_then_scan() -> None:
    """A-PFs-10: the same steps with the same settings; in profeat the clustering is of a copy beside the network."""
    def turns(method: str, **table: object) -> list[list[Step]]:
        context = Context(method, images=50_000, size=32, overrides={f"{method}.{name}": str(value) for name, value in table.items()})
        return [plan(dataclasses.replace(context, epoch=epoch)) for epoch in range(plan_length(context))]

    both = turns("simclr") + turns("scan")
    whole = turns("profeat", iterations=1)
    assert len(whole) == len(both) == 750
    assert [[(s.verb, s.settings) for s in turn] for turn in whole] == [[(s.verb, s.settings) for s in turn] for turn in both]
    assert {s.trained for turn in whole for s in turn if s.verb == "train-epoch"} == {("model", "model"), ("model", "classifier"),
                                                                                      ("classifier", "classifier")}
    assert {s.trained for turn in both for s in turn if s.verb == "train-epoch"} == {("model", "model")}
    together = turns("profeat", iterations=1, apart="false")
    assert [[(s.settings, s.writes) for s in turn] for turn in together[500:]] == [[(s.settings, s.writes) for s in turn] for turn in both[500:]]
