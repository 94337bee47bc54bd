"""ucl.keys: a draw is a pure function of its key, uniform, independent, and the same for ever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from ucl.keys import Key

KEY = Key(seed=7, round=1, stage="train-epoch", epoch=3)
OTHERS = [KEY.at(seed=8), KEY.at(round=2), KEY.at(stage="cluster"), KEY.at(epoch=4), Key()]


def test_the_stream_never_changes() -> None:
    """Written down once: a change here changes every model ever made with this seed."""
    assert KEY.word("crop-x") == 0xBDF6B25DBA18FCF5
    assert KEY.small("kmeans") == 1902111370
    assert KEY.bits("flip", np.arange(3), 1).tolist() == [0xB11FA672122E37C2, 0xA96B5247424AACFD, 0xEDD3B5CBA16367EE]
    assert KEY.permutation("order", 10).tolist() == [5, 1, 4, 9, 2, 7, 3, 8, 6, 0]
    assert Key().word("") == 1619414977999714388
    assert Key().bits("", np.arange(3)).tolist() == [4095916175856148006, 10492497247405916407, 933310407131414000]
    assert KEY.uniform("flip", np.arange(3)) == pytest.approx([0.39010976, 0.45077738, 0.96220993], abs=1e-8)


def test_the_counter_is_splitmix64() -> None:
    """The published outputs for the seed 1234567."""

    class Fixed(Key):
        def word(self, operation: str) -> int:
            return 1234567

    assert Fixed().bits("", np.arange(5)).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_bits_are_splitmix64_in_plain_integers() -> None:
    mask = 2**64 - 1

    def one(key: Key, operation: str, position: int, view: int) -> int:
        z = (key.word(operation) + view * 0xD1B54A32D192ED03 + (position + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    positions = [0, 1, 2, 999, 2**31, 2**40 + 5]
    for view in (0, 1, 17):
        assert KEY.bits("hue", np.array(positions), view).tolist() == [one(KEY, "hue", p, view) for p in positions]


def test_equal_keys_draw_equal_bits() -> None:
    again = Key(7, 1, "train-epoch", 3)
    assert (KEY.bits("flip", np.arange(1000)) == again.bits("flip", np.arange(1000))).all()
    assert (KEY.permutation("order", 1000) == again.permutation("order", 1000)).all()
    assert KEY.at() == KEY
    assert KEY.at(epoch=9).at(epoch=3) == KEY


def test_each_field_the_operation_and_the_view_change_every_number() -> None:
    positions = np.arange(1000)
    streams = [KEY.bits("flip", positions), KEY.bits("flop", positions), KEY.bits("flip", positions, 1), KEY.bits("flip", positions, 2)]
    streams += [other.bits("flip", positions) for other in OTHERS]
    for a, b in itertools.combinations(streams, 2):
        assert not np.intersect1d(a, b).size                             # no number in common, at no position
    words = {key.word(operation) for key in (KEY, *OTHERS) for operation in ("flip", "flop")}
    assert len(words) == 12


def test_fields_do_not_run_into_each_other() -> None:
    assert Key(1, 11).word("") != Key(11, 1).word("")
    assert Key(stage="a", epoch=0).word("b") != Key(stage="", epoch=0).word("ab")
    assert Key(seed=1, epoch=2).word("") != Key(seed=2, epoch=1).word("")


def test_position_and_batching_are_all_that_counts() -> None:
    whole = KEY.bits("flip", np.arange(500))
    assert len(np.unique(whole)) == 500                                  # another number at every position
    mixed = np.random.default_rng(0).permutation(500)
    assert (KEY.bits("flip", mixed) == whole[mixed]).all()
    parts = [KEY.bits("flip", np.arange(start, min(start + 64, 500))) for start in range(0, 500, 64)]
    assert (np.concatenate(parts) == whole).all()
    assert (KEY.uniform("flip", mixed, 1) == KEY.uniform("flip", np.arange(500), 1)[mixed]).all()
    assert KEY.bits("flip", np.array([], np.int64)).tolist() == []


def test_all_bits_are_fair() -> None:
    bits = KEY.bits("flip", np.arange(100_000))
    ones = np.array([int(((bits >> np.uint64(i)) & np.uint64(1)).sum()) for i in range(64)])
    assert np.abs(ones - 50_000).max() < 5 * np.sqrt(100_000) / 2
    for shift in (0, 28, 56):
        counts = np.bincount(((bits >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("operation", ["flip", "crop-x", "hue"])
def test_uniform_is_uniform(operation: str) -> None:
    u = KEY.uniform(operation, np.arange(100_000))
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.chisquare(np.bincount((u * 1000).astype(int), minlength=1000)).pvalue > 1e-4
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    v = KEY.uniform(operation, np.arange(100_000), low=-3.0, high=5.0)
    assert v == pytest.approx(8 * u - 3)


def test_draws_are_uncorrelated() -> None:
    positions = np.arange(50_000)
    columns = [KEY.uniform("flip", positions), KEY.uniform("flip", positions, 1), KEY.uniform("flop", positions),
               *(other.uniform("flip", positions) for other in OTHERS), KEY.uniform("flip", positions + 1)]
    r = np.corrcoef(columns)
    off = r[~np.eye(len(columns), dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(50_000)


def test_small_fits_a_c_int() -> None:
    found = [KEY.at(epoch=e).small("kmeans") for e in range(2000)]
    assert min(found) >= 0
    assert max(found) < 2**31
    assert len(set(found)) == 2000
    assert max(found) > 2**30                                            # the high bits are used


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_is_one(n: int) -> None:
    found = KEY.permutation("order", n)
    assert found.dtype == np.int64
    assert np.sort(found).tolist() == list(range(n))


def test_permutations_of_five_are_equally_likely() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for epoch in range(6000):
        order = tuple(KEY.at(epoch=epoch).permutation("order", 5).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 120
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


def test_permutation_has_nothing_of_the_order_it_started_from() -> None:
    a, b = KEY.permutation("order", 10_000), KEY.at(epoch=4).permutation("order", 10_000)
    assert abs(np.corrcoef(a, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
