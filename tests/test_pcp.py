"""ucl.methods.pcp: PCP's schedules against the numbers of the paper and its released code."""

from dataclasses import replace
from fractions import Fraction

import pytest

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.pcp import METHOD, cluster_count, pull_back_from, purification, warm_up_weight
from ucl.methods.rounds import learning_rate
from ucl.settings import PcpSettings, PurifySettings

PCP = PcpSettings(epochs=200, vote_history=15)


@pytest.mark.parametrize(("images", "epoch", "k"), [
    (50_000, 0, 50_000), (50_000, 1, 47_366), (50_000, 10, 29_108), (50_000, 20, 16_946), (50_000, 40, 5743), (50_000, 50, 3343),
    (50_000, 72, 1017), (10_000, 50, 1000), (10_000, 100, 100), (10_000, 150, 10)])
def test_clusters_of_an_epoch(images: int, epoch: int, k: int) -> None:
    """The log-linear schedule, for 50,000 and 10,000 images."""
    assert cluster_count(epoch, images, 2) == k


@pytest.mark.parametrize(("floor", "first"), [(1000, 73), (500, 86), (100, 115), (10, 156)])
def test_the_floor_is_reached(floor: int, first: int) -> None:
    counts = [cluster_count(t, 50_000, floor) for t in range(200)]
    assert counts == sorted(counts, reverse=True)
    assert counts[first - 1] > floor == counts[first] == min(counts)


def test_the_count_is_the_exact_floor() -> None:
    """k**T <= N**(T - t) < (k + 1)**T, in integers."""
    for images in (4096, 5000, 10_000, 50_000):
        for t in range(0, 60, 1):
            k = cluster_count(t, images, 1, epochs=60)
            assert k**60 <= images ** (60 - t) < (k + 1) ** 60, (images, t)


def test_the_other_counts_have_names() -> None:
    """The released code's 49,999 clusters of 50,000 images, its N - 5 of ImageNet-100, and the paper's epochs from 1."""
    context = Context("pcp", images=50_000, size=32)

    def counts(*epochs: int, **settings: str) -> list[int]:
        overrides = {f"pcp.{name}": value for name, value in settings.items()}
        steps = [list(METHOD.steps(replace(context, epoch=e, overrides=overrides))) for e in epochs]
        return [turn[1].settings.as_dict()["k"] for turn in steps]

    assert counts(0, 1, 40) == [50_000, 47_366, 5743]
    assert counts(0, 1, 40, first_k="49999") == [49_999, int(49_999 ** 0.995), int(49_999 ** 0.8)]
    assert counts(0, first_k="49995") == [49_995]
    assert counts(0, 39, count_from="1") == [47_366, 5743]
    assert counts(0, first_k="60000") == [50_000]


def test_counts_stay_between_the_floor_and_the_images() -> None:
    assert cluster_count(0, 50_000, 60_000) == cluster_count(150, 50_000, 60_000) == 50_000     # no schedule
    assert cluster_count(300, 50_000, 10) == 10
    assert [cluster_count(t, 50_000, 1000, round_=1) for t in (0, 50, 199)] == [1000] * 3
    assert cluster_count(0, 800, 1000, round_=1) == 800
    assert [cluster_count(t, 50_000, 1000, epochs=100) for t in range(100)] == [cluster_count(2 * t, 50_000, 1000) for t in range(100)]


def test_weight_of_the_two_views() -> None:
    """The warm-up at epochs 0, 90, 179 and 180 of 200, and which rounds have it."""
    assert [warm_up_weight(t, PCP) for t in (0, 90, 179, 180, 199)] == pytest.approx([0.8, 0.65, 0.501667, 0, 0], abs=1e-6)
    half = replace(PCP, epochs=100)
    assert [warm_up_weight(t, half) for t in range(100)] == pytest.approx([warm_up_weight(2 * t, PCP) for t in range(100)])
    assert 1 - warm_up_weight(180, replace(PCP, warm_up_end=0.55, warm_up_until=1.0)) == pytest.approx(0.425)
    for rounds, weights in (("first", (0.8, 0, 0)), ("all", (0.8, 0.8, 0.8)), ("none", (0, 0, 0))):
        assert tuple(warm_up_weight(0, replace(PCP, warm_up=rounds), round_=r) for r in range(3)) == weights


def test_learning_rates() -> None:
    """Drops at epochs 120 and 160 of 200, and at the same shares of 60."""
    assert [learning_rate(t, PCP) for t in (0, 119, 120, 159, 160, 199)] == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    assert learning_rate(199, replace(PCP, lr_factor=(0.1, 0.05))) == pytest.approx(0.0015)      # ImageNet-100
    assert [t for t in range(1, 60) if learning_rate(t, replace(PCP, epochs=60)) < learning_rate(t - 1, replace(PCP, epochs=60))] == [36, 48]


def test_phases_of_the_first_round() -> None:
    early, middle, late = (purification(t, PCP) for t in (0, 100, 115))
    assert early == purification(99, PCP) == PurifySettings(keep_nearest=0.5, min_size=2, whole_up_to=5)
    assert middle == purification(114, PCP) == PurifySettings(keep_nearest=0.5, min_size=2)
    assert late == purification(199, PCP) == PurifySettings(keep_nearest=0.5, min_size=2, votes=True)
    assert (late.vote_history, late.vote_decay, late.drop_below, late.pull_back_from) == (15, 0.8, 0.0, 3.0)


def test_phases_of_later_rounds() -> None:
    assert purification(0, PCP, round_=1) == purification(19, PCP, round_=4) == PurifySettings(keep_nearest=0.5, min_size=2)
    assert purification(20, PCP, round_=1) == PurifySettings(keep_nearest=0.5, min_size=2, votes=True)


def test_what_the_released_code_did_is_named() -> None:
    code = replace(PCP, keep_nearest=0.7, keep_cap=0.5, early_return=True)
    assert (purification(50, code).keep_cap, purification(50, code).early_return) == (1.0, True)
    assert (purification(100, code).keep_cap, purification(100, code).early_return) == (0.5, False)
    paper = replace(PCP, whole_up_to=0)
    assert purification(0, paper) == purification(100, paper)
    assert not purification(199, replace(PCP, votes=False)).votes


def test_the_threshold_follows_the_length_of_the_history() -> None:
    assert pull_back_from(15) == 3.0
    assert pull_back_from(5) == pytest.approx(2.2777, abs=1e-4)
    for n in (2, 5, 14, 30):
        highest = float(sum(Fraction(4, 5) ** k for k in range(n + 1)))
        assert pull_back_from(n) == pytest.approx(0.61738 * highest, abs=1e-4)
        assert pull_back_from(n) < highest
    scaled = replace(PCP, epochs=60, vote_history=5)
    assert next(t for t in range(60) if purification(t, scaled).votes) == 35
    assert purification(40, scaled).pull_back_from == pytest.approx(2.2777, abs=1e-4)
    for n, decay in ((1, 0.8), (15, 0.5)):
        with pytest.raises(UsageError, match="drop nobody"):
            pull_back_from(n, decay)
        with pytest.raises(UsageError, match="drop nobody"):
            purification(0, replace(PCP, vote_history=n, vote_decay=decay))
        assert not purification(199, replace(PCP, votes=False, vote_history=n, vote_decay=decay)).votes
