"""ucl.methods.odc: the schedule, the numbers and the plan of Online Deep Clustering, of the paper and of its released code."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods import odc
from ucl.methods.method import Step, advise, plan
from ucl.objectives.online import LEAST, Rules, check_least
from ucl.objectives.online_epoch import POWER
from ucl.settings import OdcSettings, TrainSettings

ODC = OdcSettings()
SMALL = Context("odc", images=50_000, size=32)
LARGE = Context("odc", images=1_281_167, size=224)
DIGITS = Context("odc", images=1797, size=16, source="digits")


def by_hand(context: Context, **settings: str) -> Context:
    return replace(context, overrides={key.replace("__", ".", 1).replace("train.", "train-epoch."): value for key, value in settings.items()})


def trained(context: Context, epoch: int = 0) -> TrainSettings:
    settings = plan(replace(context, epoch=epoch))[-1].settings
    assert isinstance(settings, TrainSettings)
    return settings


def test_learning_rate() -> None:
    """0.06 for 400 epochs, a tenth for the last 40; 0.4 of it in the released code."""
    rates = [odc.learning_rate(t, 440, ODC) for t in range(440)]
    assert rates[:400] == [0.06] * 400
    assert rates[400:] == pytest.approx([0.006] * 40)
    assert odc.learning_rate(400, 440, OdcSettings(lr_factor=0.4)) == pytest.approx(0.024)
    small = [odc.learning_rate(t, 200, ODC, batch=256, size=32) for t in range(200)]
    assert small.index(pytest.approx(0.003)) == 182
    assert small[0] == pytest.approx(0.03)
    assert odc.learning_rate(0, 440, ODC, batch=256) == 0.06


def test_epochs() -> None:
    found = [odc.epochs(c) for c in (LARGE, by_hand(LARGE, init__weights="w.h5"), SMALL, by_hand(SMALL, init__weights="w.h5"), DIGITS)]
    assert found == [440, 120, 200, 120, 30]


@pytest.mark.parametrize(("images", "k", "size", "least"), [
    (1_281_167, 10_000, 224, 20), (50_000, 500, 32, 15), (50_000, 1000, 32, 8), (10_000, 200, 32, 8), (10_000, 5000, 32, 1), (90_000, 1000, 224, 20),
    (10_000, 1000, 224, 5)])
def test_least_members(images: int, k: int, size: int, least: int) -> None:
    context = by_hand(replace(SMALL, images=images, size=size), cluster__k=str(k))
    assert odc.least_members(images, k, size) == least
    assert odc.settled(context).least == least
    assert trained(context).least == 0                                     # the epoch's own rule, by the clusters there are
    assert check_least(images, k, least) or images < 2 * k


def test_what_is_set_by_hand_is_kept_told_or_refused() -> None:
    assert trained(by_hand(SMALL, odc__least="3")).least == 3
    assert not list(odc.advice(by_hand(SMALL, odc__least="25")))
    assert "26 members may remain" in next(odc.advice(by_hand(SMALL, odc__least="26")))
    assert advise(by_hand(SMALL, odc__least="26", plan__epochs="3"))
    for settings, said in (({"odc__least": "51"}, "found 51, wanted 1 to 50"), ({"cluster__k": "60000"}, "k: found 60000"),
                           ({"train__least": "4"}, "train-epoch.least: the plan of odc checks it")):
        with pytest.raises(UsageError, match=said):
            plan(by_hand(SMALL, **settings))
    with pytest.raises(UsageError, match=r"\[odc\]: the method is pcp"):
        plan(by_hand(replace(SMALL, method="pcp"), odc__least="3"))


def test_the_plan() -> None:
    """Clusters of the neck's output once; from then on training alone, which reads no labels and makes them."""
    first, later = plan(SMALL), plan(replace(SMALL, epoch=1))
    assert [(s.verb, s.reads, s.writes) for s in first] == [
        ("extract", ("images", "model"), ("features",)), ("cluster", ("features", "previous"), ("labels",)),
        ("train-epoch", ("images", "model", "labels", "previous"), ("model", "labels"))]
    assert (first[0].settings.layer, first[0].settings.final_relu, first[0].settings.views) == ("neck", True, "fixed")  # type: ignore[attr-defined]
    assert (first[1].settings.k, first[1].settings.pca, first[1].settings.l2) == (1000, 0, True)  # type: ignore[attr-defined]
    assert later == [Step("train-epoch", first[2].settings, ("images", "model", "previous"), ("model", "labels"))]
    assert plan(by_hand(SMALL, init__neck="0"))[0].settings.layer == ""  # type: ignore[attr-defined]
    assert odc.METHOD.init(SMALL) == {"neck": 256}
    assert odc.METHOD.init(DIGITS) == {"neck": 256, "size": 16}


def test_presets() -> None:
    """The released code's views; the learning rate follows the batch, also one that is set by hand."""
    large, small, few, digits = (trained(c) for c in (LARGE, SMALL, replace(SMALL, images=10_000), DIGITS))
    assert (large.batch, large.lr, large.weight_decay, large.crop_scale, large.least) == (512, 0.06, 1e-5, (0.08, 1.0), 0)
    assert (small.batch, small.lr, small.weight_decay, small.crop_scale) == (256, 0.03, 1e-4, (0.2, 1.0))
    assert (few.batch, few.lr) == (64, 0.0075)
    assert (trained(by_hand(SMALL, train__batch="512")).batch, trained(by_hand(SMALL, train__batch="512")).lr) == (512, 0.06)
    assert (small.rotate, small.brightness, small.contrast, small.saturation, small.hue) == (2, 0.4, 0.4, 1, 0.5)
    assert (small.jitter_p, small.grey_p) == (1, 0.2)
    assert (small.momentum, small.head_momentum, small.weights, small.replacement) == (0.9, 0.0, "inverse-sqrt", True)
    assert (digits.flip, digits.rotate, digits.batch) == (0.0, 10.0, 64)
    assert trained(SMALL, 181).lr == 0.03
    assert trained(SMALL, 182).lr == pytest.approx(0.003)


def test_rules_and_settings_agree() -> None:
    """The memories' own defaults are the verb's, and the paper's numbers."""
    verb, names = TrainSettings(), {"momentum": "memory_momentum"}
    for f in dataclasses.fields(Rules):
        if f.name not in ("power", "least"):
            assert getattr(verb, names.get(f.name, f.name)) == f.default
    assert Rules.least == LEAST
    assert POWER[trained(SMALL).weights] == Rules.power
    assert set(POWER) == {"none", "inverse", "inverse-sqrt"}
