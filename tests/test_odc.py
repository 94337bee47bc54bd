"""ucl.methods.odc: the schedule and the numbers of Online Deep Clustering, of the paper and of its released code."""

import dataclasses

import pytest

from ucl.errors import UsageError
from ucl.methods import odc
from ucl.methods.odc import OdcSettings
from ucl.objectives.online import Rules, check_least

ODC = OdcSettings()


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
    assert [odc.epochs(224), odc.epochs(224, fine_tuning=True), odc.epochs(32), odc.epochs(16, digits=True)] == [440, 120, 200, 30]


@pytest.mark.parametrize(("images", "k", "size", "least"), [
    (1_281_167, 10_000, 224, 20), (50_000, 500, 32, 15), (50_000, 1000, 32, 8), (10_000, 200, 32, 8), (10_000, 5000, 32, 1), (90_000, 1000, 224, 20),
    (10_000, 1000, 224, 5)])
def test_least_members(images: int, k: int, size: int, least: int) -> None:
    assert odc.least_members(images, k, size) == least
    assert odc.settled(ODC, images, k, size).least == least
    assert check_least(images, k, least) or images < 2 * k


def test_what_is_set_by_hand_is_kept_told_or_refused() -> None:
    assert odc.settled(OdcSettings(least=3), 50_000, 0, 32).least == 3
    assert not list(odc.advice(OdcSettings(least=25), 50_000, 1000, 32))
    assert "26 members may remain" in next(odc.advice(OdcSettings(least=26), 50_000, 1000, 32))
    with pytest.raises(UsageError, match="found 51, wanted 1 to 50"):
        odc.settled(OdcSettings(least=51), 50_000, 1000, 32)
    with pytest.raises(UsageError, match="k: found 200"):
        odc.settled(ODC, 100, 200, 32)


def test_views_are_the_released_codes() -> None:
    assert odc.views(224)["crop_scale"] == (0.08, 1.0)
    assert odc.views(32) | {"crop_scale": 0} == odc.VIEWS | {"crop_scale": 0}
    assert (odc.weight_decay(224), odc.weight_decay(32)) == (1e-5, 1e-4)


def test_rules_and_settings_agree() -> None:
    """The memories' own defaults are the paper's numbers too."""
    names = {"momentum": "memory_momentum"}
    for f in dataclasses.fields(Rules):
        if f.name not in ("least", "power"):
            assert getattr(ODC, names.get(f.name, f.name)) == f.default
    assert Rules.least == odc.LEAST
