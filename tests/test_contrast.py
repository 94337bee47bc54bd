"""SimCLR's and ProFeat's contrastive losses against worked numbers, plain loops in float64, and what skipping a batch must not touch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ucl import models
from ucl.agree import pruned
from ucl.confidence import confident_labels
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.networks.projector import new_projector, projector
from ucl.objectives.contrast import ALL, FIRST, PAIR_MEAN, ROW_MEAN, SUM, multi_positive, nt_xent, positives
from ucl.objectives.steps import Steps, whole_batches

torch.set_num_threads(1)
ONE = torch.tensor([(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)])
TWO = torch.tensor([(0.96, 0.28), (0.6, 0.8), (-0.6, 0.8)])
FORMS = (ROW_MEAN, SUM, PAIR_MEAN)


def slow(x: np.ndarray, positive: np.ndarray, tau: float) -> list[list[float]]:
    """-log of the softmax for every ordered pair of positives, row by row, in float64."""
    found = []
    for r, row in enumerate(x):
        denominator = sum(math.exp(float(row @ u) / tau) for s, u in enumerate(x) if s != r)
        found.append([-math.log(math.exp(float(row @ x[s]) / tau) / denominator) for s in np.flatnonzero(positive[r])])
    return found


def unit(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    x = rng.standard_normal((n, p))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ---- SimCLR


def test_worked_loss_of_three_images() -> None:
    """C1: all anchors, and the first views alone."""
    assert nt_xent(ONE, TWO, tau=0.5).item() == pytest.approx(1.008188, abs=1e-6)
    assert nt_xent(ONE, TWO, tau=0.5, anchors=FIRST).item() == pytest.approx(1.081961, abs=1e-6)


@pytest.mark.parametrize("b", [1, 2, 7, 64])
@pytest.mark.parametrize("anchors", [ALL, FIRST])
def test_equal_rows_cost_log_of_all_other_views(b: int, anchors: str) -> None:
    """C2."""
    x = torch.tensor([[0.6, 0.8]]).repeat(b, 1)
    assert nt_xent(x, x, anchors=anchors).item() == pytest.approx(math.log(2 * b - 1), abs=1e-5)


@pytest.mark.parametrize("b", [0, 1])
@pytest.mark.parametrize("form", ["simclr", *FORMS])
def test_one_image_or_none_costs_nothing_and_moves_nothing(b: int, form: str) -> None:
    """C3, and A-PFs-4: exactly 0, with a gradient of exact zeros."""
    x, y = ONE[:b].clone().requires_grad_(), TWO[:b].clone().requires_grad_()
    loss = nt_xent(x, y) if form == "simclr" else multi_positive(x, y, torch.zeros(b, dtype=torch.int64), form=form)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()
    assert y.grad is None or not y.grad.any()


def test_order_of_views_and_of_images_does_not_matter() -> None:
    """C4; with first views as anchors swapping does."""
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(unit(rng, 9, 4)).float() for _ in range(2))
    mixed = torch.from_numpy(rng.permutation(9))
    assert nt_xent(y, x).item() == pytest.approx(nt_xent(x, y).item(), abs=1e-6)
    assert nt_xent(x[mixed], y[mixed]).item() == pytest.approx(nt_xent(x, y).item(), abs=1e-6)
    assert nt_xent(x[mixed], y[mixed], anchors=FIRST).item() == pytest.approx(nt_xent(x, y, anchors=FIRST).item(), abs=1e-6)
    assert abs(nt_xent(y, x, anchors=FIRST).item() - nt_xent(x, y, anchors=FIRST).item()) > 1e-3


def test_length_of_the_inputs_does_not_matter() -> None:
    """C5."""
    scale = torch.tensor([[3.0], [0.01], [400.0]])
    assert nt_xent(ONE * scale, TWO / scale, tau=0.5).item() == pytest.approx(1.008188, abs=1e-6)
    same = torch.tensor([0, 0, 2])
    assert multi_positive(ONE * scale, TWO / scale, same, tau=0.5).item() == pytest.approx(1.164632, abs=1e-6)


def test_a_temperature_that_overflows_exponentials_does_not_overflow_the_loss() -> None:
    """exp(1 / 0.001) is no float; a row of zeros is no direction and no NaN."""
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(unit(rng, 8, 4)).float().requires_grad_() for _ in range(2))
    for loss in (nt_xent(x, y, tau=0.001), multi_positive(x, y, torch.arange(8) % 2, tau=0.001), nt_xent(x * 0, y)):
        assert loss.isfinite()
        x.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("form", ["simclr", *FORMS])
def test_half_precision_is_worked_in_float32(form: str) -> None:
    """Also inside autocast: the loss of bfloat16 rows is that of the same rows in float32."""
    rng = np.random.default_rng(2)
    x, y = (torch.from_numpy(unit(rng, 16, 8)).bfloat16() for _ in range(2))
    labels = torch.arange(16) % 5

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nt_xent(a, b) if form == "simclr" else multi_positive(a, b, labels, form=form)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(x, y)
    assert found.dtype == torch.float32
    assert found.item() == loss(x.float(), y.float()).item()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.1, 2))
def test_loss_is_the_papers_sum(seed: int, b: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    x = unit(rng, 2 * b, 5)
    positive = np.roll(np.eye(2 * b, dtype=bool), b, axis=1)
    wanted = [row[0] for row in slow(x, positive, tau)]
    one, two = torch.from_numpy(x[:b]), torch.from_numpy(x[b:])
    assert nt_xent(one, two, tau=tau).item() == pytest.approx(np.mean(wanted), rel=1e-4, abs=1e-5)
    assert nt_xent(one, two, tau=tau, anchors=FIRST).item() == pytest.approx(np.mean(wanted[:b]), rel=1e-4, abs=1e-5)


# ---- several positives


def test_unique_labels_are_simclr() -> None:
    """A-PFs-1: row and pair means; and the gradient."""
    for form in (ROW_MEAN, PAIR_MEAN):
        x, z = ONE.clone().requires_grad_(), ONE.clone().requires_grad_()
        loss, wanted = multi_positive(x, TWO, torch.tensor([7, 1, 4]), tau=0.5, form=form), nt_xent(z, TWO, tau=0.5)
        assert loss.item() == pytest.approx(1.008188, abs=1e-6)
        loss.backward()  # type: ignore[no-untyped-call]
        wanted.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert z.grad is not None
        assert x.grad.numpy() == pytest.approx(z.grad.numpy(), abs=1e-6)


def test_worked_loss_of_two_images_alike_and_a_third() -> None:
    """A-PFs-2: rows, their mean, the sum over 14 ordered pairs, its mean, and first views alone."""
    same = torch.tensor([0, 0, 2])
    x = torch.cat([ONE, TWO]).double().numpy()
    rows = [np.mean(row) for row in slow(x, positives(same).numpy(), 0.5)]
    assert rows == pytest.approx([1.223661, 1.320413, 1.171141, 1.224094, 1.508476, 0.540008], abs=1e-6)
    assert positives(same).sum().item() == 14
    for form, wanted in ((ROW_MEAN, 1.164632), (SUM, 17.541081), (PAIR_MEAN, 1.252934)):
        assert multi_positive(ONE, TWO, same, tau=0.5, form=form).item() == pytest.approx(wanted, abs=2e-5 if form == SUM else 1e-6)
    assert multi_positive(ONE, TWO, same, tau=0.5, anchors=FIRST).item() == pytest.approx(1.238405, abs=1e-6)


def test_without_negatives_the_loss_stays_above_log_of_the_others() -> None:
    """A-PFs-3, and A-PFe-10: all images alike."""
    same = torch.zeros(2, dtype=torch.int64)
    x = torch.cat([ONE[:2], TWO[:2]]).double().numpy()
    rows = [np.mean(row) for row in slow(x, positives(same).numpy(), 0.5)]
    assert rows == pytest.approx([1.140971, 1.108216, 1.108216, 1.140971], abs=1e-6)
    assert multi_positive(ONE[:2], TWO[:2], same, tau=0.5).item() == pytest.approx(1.124593, abs=1e-6)
    rng = np.random.default_rng(3)
    for m in (2, 5, 20):
        a, b = (torch.from_numpy(unit(rng, m, 3)).float() for _ in range(2))
        assert multi_positive(a, b, torch.zeros(m, dtype=torch.int64)).item() >= math.log(2 * m - 1) - 1e-5
    equal = torch.tensor([[0.6, 0.8]]).repeat(5, 1)
    assert multi_positive(equal, equal, torch.zeros(5, dtype=torch.int64)).item() == pytest.approx(math.log(9), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5))
def test_every_form_is_its_sum_over_pairs_and_names_of_clusters_mean_nothing(seed: int, m: int, k: int) -> None:
    """A-PFs-6 and 12: by labels, by renamed labels, and by the pairs themselves."""
    rng = np.random.default_rng(seed)
    x, y = unit(rng, 2 * m, 4), rng.integers(0, k, m)
    labels = torch.from_numpy(y)
    renamed = torch.from_numpy(rng.permutation(k + 3)[y])
    pairs = labels[:, None] == labels
    positive = positives(labels).numpy()
    count = positive.sum(axis=1)
    assert count.tolist() == [2 * int((y == c).sum()) - 1 for c in (*y, *y)]
    each = slow(x, positive, 0.3)
    wanted = {ROW_MEAN: np.mean([np.mean(row) for row in each]), SUM: sum(map(sum, each)), PAIR_MEAN: sum(map(sum, each)) / count.sum()}
    one, two = torch.from_numpy(x[:m]), torch.from_numpy(x[m:])
    for form in FORMS:
        for same in (labels, renamed, pairs, pairs & ~torch.eye(m, dtype=torch.bool)):
            assert multi_positive(one, two, same, tau=0.3, form=form).item() == pytest.approx(wanted[form], rel=1e-4, abs=1e-5)


def test_pairs_that_are_no_clusters() -> None:
    """Of three images the middle one is like both others, which are not alike: 2 * 2 + 1 positives for it, 3 for them."""
    pairs = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.bool)
    assert positives(pairs).sum(dim=1).tolist() == [3, 5, 3, 3, 5, 3]
    x = torch.cat([ONE, TWO]).double().numpy()
    wanted = np.mean([np.mean(row) for row in slow(x, positives(pairs).numpy(), 0.5)])
    assert multi_positive(ONE, TWO, pairs, tau=0.5).item() == pytest.approx(wanted, abs=1e-6)


# ---- the batch of confident images


def test_batches_without_a_confident_image_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A-PFs-7 and A-PFe-7: at a threshold of 1 nothing is confident, and it is told; that nothing moves is in test_contrastive."""
    probabilities = np.random.default_rng(5).dirichlet(np.ones(4), 12).astype(np.float32)
    labels, counted = confident_labels(probabilities, 1.0), Steps()
    for start in (0, 6):
        assert not counted.record(6, int((labels[start:start + 6] >= 0).sum()), least=2)
    assert counted.summary() == {"steps": 0, "skipped": 2, "one_group": 0, "confident_share": 0.0}
    assert "the network stays as it is" in caplog.text


def test_all_images_pruned_is_a_step_skipped() -> None:
    """A-PFe-7."""
    keep, same = pruned(np.array([0, 1, 2, -1]), None, 5, 1)
    counted = Steps()
    assert not counted.record(4, len(keep), least=8)
    assert len(same) == 0
    assert counted == Steps(skipped=1, drawn=4)


def test_steps_are_counted_kept_and_told(caplog: pytest.LogCaptureFixture) -> None:
    counted = Steps()
    assert counted.record(8, 8, least=8)
    assert counted.record(8, 8, least=8, one_group=True)
    assert not counted.record(8, 7, least=8)
    assert Steps.of(counted.arrays()) == counted
    assert Steps.of({}) == Steps()
    assert counted.summary() == {"steps": 2, "skipped": 1, "one_group": 1, "confident_share": 16 / 24}
    assert "in 1 of 2 steps all images were of one cluster" in caplog.text


def test_fewer_images_than_a_batch_are_refused() -> None:
    """L10: no silent epoch of no steps."""
    assert whole_batches(1000, 128) == 7
    assert whole_batches(128, 128) == 1
    with pytest.raises(UsageError, match="found 128 for 127 images"):
        whole_batches(127, 128)


# ---- the projection


def test_projection_is_that_of_the_released_code() -> None:
    """512 to 512 to 128, with biases: 328,320 parameters, which make 11,497,152 of a trunk of 11,168,832."""
    made = new_projector(512, 128, Key(1))
    assert sum(p.numel() for p in made.parameters()) == 328_320 == 11_497_152 - 11_168_832
    assert [type(layer) for layer in made] == [nn.Linear, nn.ReLU, nn.Linear]
    side = 512**-0.5
    for p in made.parameters():
        assert p.abs().max().item() < side
        assert p.abs().mean().item() == pytest.approx(side / 2, rel=0.15)
    again = new_projector(512, 128, Key(1))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    assert not torch.equal(new_projector(512, 128, Key(2))[0].weight, made[0].weight)
    he = new_projector(400, 128, Key(1), width=64, init="he")
    assert he[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    assert he[2].weight.shape == (128, 64)
    assert not he[0].bias.any()


def test_projection_comes_back_from_its_arrays_or_is_refused() -> None:
    made = new_projector(6, 3, Key(1), width=5)
    arrays = models.to_arrays(made)
    again = projector(arrays, 6)
    assert again is not None
    x = torch.ones(2, 6)
    assert torch.equal(again(x), made(x))
    assert projector({"weight": arrays["0.weight"], "bias": arrays["0.bias"]}, 6) is None  # a projection of one layer is another module
    with pytest.raises(DataError, match=r"expected 0\.weight"):
        projector({"0.weight": arrays["0.weight"]}, 6)
    with pytest.raises(DataError, match="wrong shape"):
        projector(arrays, 7)
