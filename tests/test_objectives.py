"""ucl.objectives against the worked numbers of the papers' formulas, and against plain loops in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl.errors import DataError
from ucl.keys import Key
from ucl.objectives.bank import Bank, last_places
from ucl.objectives.mixed import MASS, PAIRS, Sets, draw, exact, sampled
from ucl.objectives.neighbourhood import Neighbourhoods, discover
from ucl.objectives.spreading import spreading_loss

MEMORY = ((1.0, 0.0), (0.8, 0.6), (0.0, 1.0), (-1.0, 0.0))
BATCH = ((0.6, 0.8), (1.0, 0.0), (0.0, 1.0))


def bank_of(values: Any, ok: Any = None) -> Bank:
    values = np.array(values, np.float32)
    return Bank.of(values, np.ones(len(values), bool) if ok is None else np.array(ok))


def own(n: int) -> Sets:
    return Sets.of(np.full(n, -1, np.int32))


def unit(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    x = rng.standard_normal((n, p))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow(v: np.ndarray, m: np.ndarray, labels: np.ndarray, ok: np.ndarray, rows: np.ndarray, tau: float, form: str) -> list[float]:
    """The loss as the papers write it, member by member."""
    found = []
    for x, i in zip(v, rows, strict=True):
        e = [math.exp(float(np.dot(m[j], x)) / tau) if ok[j] else 0.0 for j in range(len(m))]
        p = [value / sum(e) for value in e]
        members = [i] if labels[i] < 0 else [j for j in range(len(m)) if labels[j] == labels[i] and ok[j]]
        found.append(-math.log(sum(p[j] for j in members)) if form == MASS else sum(-math.log(p[j]) for j in members) / len(members))
    return found


# ---- the bank


def test_fresh_rows_are_uniform_keyed_and_do_not_depend_on_n() -> None:
    ok = np.ones(3000, bool)
    ok[[5, 2999]] = False
    bank = Bank.fresh(ok, 128, Key(3)).array()
    side = math.sqrt(3 / 128)
    assert side == pytest.approx(0.1531, abs=1e-4)
    assert np.abs(bank).max() < side
    assert (bank[ok] ** 2).sum(axis=1).mean() == pytest.approx(1, abs=0.005)
    assert bank[ok].mean() == pytest.approx(0, abs=1e-3)
    assert not bank[~ok].any()
    assert np.array_equal(Bank.fresh(ok[:100], 128, Key(3)).array(), bank[:100])
    assert not np.array_equal(Bank.fresh(ok, 128, Key(4)).array(), bank)


def test_a_bank_comes_back_from_its_array_or_is_refused() -> None:
    bank = Bank.fresh(np.array([True, False, True]), 4, Key(0))
    again = Bank.of(bank.array(), np.array([True, False, True]))
    assert torch.equal(again.rows, bank.rows)
    assert again.bad.tolist() == [1]
    with pytest.raises(DataError, match="expected \\(4, P\\)"):
        Bank.of(bank.array(), np.ones(4, bool))
    values = bank.array()
    values[2, 1] = np.nan
    with pytest.raises(DataError, match="row 2 is not finite"):
        Bank.of(values, np.ones(3, bool))


def test_update_moves_the_batch_alone() -> None:
    """The memory: rows outside the batch keep their bits, updated ones are of unit length; momentum 0 puts the embedding in, 1 only
    normalises."""
    rng = np.random.default_rng(0)
    bank = Bank.fresh(np.ones(50, bool), 8, Key(0))
    before = bank.rows.clone()
    rows = np.array([3, 40, 7])
    v = torch.from_numpy(unit(rng, 3, 8)).float().requires_grad_()
    bank.update(rows, v, 0.5)
    others = np.setdiff1d(np.arange(50), rows)
    assert torch.equal(bank.rows[others], before[others])                     # bit for bit
    assert bank.rows[rows].norm(dim=1).numpy() == pytest.approx(np.ones(3), abs=1e-6)
    wanted = 0.5 * before[rows] + 0.5 * v.detach()
    assert bank.rows[rows].numpy() == pytest.approx((wanted / wanted.norm(dim=1, keepdim=True)).numpy(), abs=1e-6)
    assert not bank.rows.requires_grad
    bank.update(rows, v, 0.0)
    assert bank.rows[rows].numpy() == pytest.approx(v.detach().numpy(), abs=1e-6)
    old = bank.rows[rows].clone() * 3
    bank.rows[rows] = old
    bank.update(rows, v, 1.0)
    assert bank.rows[rows].numpy() == pytest.approx((old / 3).numpy(), abs=1e-6)


def test_an_image_seen_twice_moves_once_by_its_last_place() -> None:
    assert last_places(np.array([4, 2, 4, 9, 2, 4])).tolist() == [3, 4, 5]
    bank, twin = (Bank.fresh(np.ones(10, bool), 4, Key(0)) for _ in range(2))
    v = torch.from_numpy(unit(np.random.default_rng(0), 4, 4)).float()
    bank.update(np.array([4, 2, 4, 4]), v)
    twin.update(np.array([2, 4]), v[[1, 3]])
    assert torch.equal(bank.rows, twin.rows)


def test_opposite_of_its_row_leaves_zeros_and_no_nan() -> None:
    bank = bank_of([(1, 0), (0, 1)])
    bank.update(np.array([0]), torch.tensor([[-1.0, 0.0]]))
    assert bank.rows.tolist() == [[0, 0], [0, 1]]


# ---- instance recognition


def test_worked_instance_loss() -> None:
    """Instance recognition by numbers: four images, the softmax of one view, its loss, its row afterwards."""
    bank = bank_of(MEMORY)
    v = torch.tensor([[0.6, 0.8]], requires_grad=True)
    p = [float(torch.exp(-exact(v, bank, np.array([[i]]), tau=0.5)).detach()) for i in range(4)]
    assert p == pytest.approx([0.215658, 0.443055, 0.321724, 0.019564], abs=1e-6)
    assert float(exact(v, bank, own(4).columns(np.array([0])), tau=0.5).detach()) == pytest.approx(1.534062, abs=1e-6)
    bank.update(np.array([0]), v)
    assert bank.rows[0].tolist() == pytest.approx([0.894427, 0.447214], abs=1e-6)


def test_equal_rows_lose_log_n() -> None:
    """A memory that knows nothing: log N for an image, log(N / size) for a cluster."""
    n = 40
    bank, rows = bank_of(np.tile([0.6, 0.8], (n, 1))), np.arange(5)
    v = torch.from_numpy(unit(np.random.default_rng(0), 5, 2)).float()
    assert exact(v, bank, own(n).columns(rows)).numpy() == pytest.approx(np.full(5, math.log(n)), abs=1e-5)
    labels = np.array([0] * 8 + [-1] * 32, np.int32)
    assert exact(v, bank, Sets.of(labels).columns(rows)).numpy() == pytest.approx(np.full(5, math.log(n / 8)), abs=1e-5)


# ---- the mixed loss


def test_worked_mixed_loss() -> None:
    """PCP's objective by numbers: a cluster of two and an image alone, loss by image and in the mean, gradient, memory afterwards."""
    bank, rows = bank_of(MEMORY), np.arange(3)
    v = torch.tensor(BATCH, requires_grad=True)
    columns = Sets.of(np.array([0, 0, -1, -1], np.int32)).columns(rows)
    each = exact(v, bank, columns, tau=0.5)
    assert each.tolist() == pytest.approx([0.417468, 0.088001, 0.542324], abs=1e-6)
    loss = each.mean()
    assert float(loss.detach()) == pytest.approx(0.349264, abs=1e-6)
    loss.backward()
    wanted = [[-0.209961, 0.122661], [-0.058347, 0.035943], [0.139327, -0.174575]]
    assert v.grad is not None
    assert v.grad.numpy() == pytest.approx(np.array(wanted), abs=1e-6)
    bank.update(rows, v)
    assert bank.rows.numpy() == pytest.approx(np.array([(0.894427, 0.447214), (0.948683, 0.316228), (0, 1), (-1, 0)]), abs=1e-6)


def test_worked_pairs() -> None:
    """The paper's sum over pairs by numbers, and its bound on the released code's loss."""
    columns = Sets.of(np.array([0, 0, -1, -1], np.int32)).columns(np.arange(3))
    v = torch.tensor(BATCH)
    pairs, mass = (exact(v, bank_of(MEMORY), columns, tau=0.5, form=form)[0] for form in (PAIRS, MASS))
    assert float(pairs) == pytest.approx(1.174062, abs=1e-6)
    assert 2 * float(pairs) == pytest.approx(2.348125, abs=1e-6)
    assert float(mass) <= float(pairs) - math.log(2) == pytest.approx(0.480915, abs=1e-6)


def test_a_cluster_of_all_images_loses_nothing_and_moves_nothing() -> None:
    bank = Bank.fresh(np.ones(30, bool), 8, Key(0))
    v = torch.from_numpy(unit(np.random.default_rng(0), 6, 8)).float().requires_grad_()
    loss = exact(v, bank, Sets.of(np.zeros(30, np.int32)).columns(np.arange(6))).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert v.grad is not None
    assert v.grad.numpy() == pytest.approx(np.zeros((6, 8)), abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 8), st.sampled_from((MASS, PAIRS)), st.sampled_from((0.07, 0.1, 0.5)),
       st.sampled_from((7, 16, 1000)))
def test_mixed_loss_and_gradient_against_the_sum_over_members(seed: int, n: int, k: int, form: str, tau: float, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    ok = rng.random(n) > 0.15
    ok[:2] = True
    labels = np.where(ok, rng.integers(-2, k, n).clip(-1), -1).astype(np.int32)
    rows = rng.choice(np.flatnonzero(ok), min(n, 9))                          # images may stand twice
    bank = Bank.of(unit(rng, n, 5).astype(np.float32), ok)
    bank.rows = bank.rows.double()
    v = torch.from_numpy(unit(rng, len(rows), 5)).requires_grad_()
    columns = Sets.of(labels, ok).columns(rows)
    each = exact(v, bank, columns, tau=tau, form=form, chunk=chunk)
    assert each.tolist() == pytest.approx(slow(v.detach().numpy(), bank.rows.numpy(), labels, ok, rows, tau, form), abs=1e-9)
    weight = torch.from_numpy(rng.random(len(rows)))                          # each image's own gradient, by its own weight
    (each * weight).sum().backward()
    w = v.detach().clone().requires_grad_()
    logits = (w @ bank.rows.T / tau)[:, torch.from_numpy(np.flatnonzero(ok))]
    ids = np.where(labels < 0, 100 + np.arange(n), labels)[ok]
    mask = torch.from_numpy(ids[None] == np.where(labels < 0, 100 + np.arange(n), labels)[rows][:, None])
    inside = logits.masked_fill(~mask, -torch.inf).logsumexp(1) if form == MASS else (logits * mask).sum(1) / mask.sum(1)
    ((logits.logsumexp(1) - inside) * weight).sum().backward()
    assert v.grad is not None
    assert w.grad is not None
    assert v.grad.numpy() == pytest.approx(w.grad.numpy(), abs=1e-8)
    estimate = sampled(v, bank, columns, np.flatnonzero(ok), tau=tau, form=form)
    assert estimate.tolist() == pytest.approx(each.tolist(), abs=1e-9)        # all drawn: exact


def test_bad_images_are_in_no_softmax_whatever_their_row_holds() -> None:
    rng = np.random.default_rng(0)
    ok = np.ones(20, bool)
    ok[[3, 11]] = False
    bank = Bank.of(unit(rng, 20, 4).astype(np.float32), ok)
    labels = np.where(ok, np.arange(20) % 3, -1).astype(np.int32)
    rows, v = np.array([0, 1, 5]), torch.from_numpy(unit(rng, 3, 4)).float()
    columns = Sets.of(labels, ok).columns(rows)
    assert not np.isin(columns, [3, 11]).any()
    before = [exact(v, bank, columns, chunk=c) for c in (6, 100)]
    bank.rows[[3, 11]] = 1e3
    for c, kept in zip((6, 100), before, strict=True):
        assert torch.equal(exact(v, bank, columns, chunk=c), kept)
    with pytest.raises(ValueError, match="bad image"):
        Sets.of(labels, ok).columns(np.array([0, 3]))
    with pytest.raises(ValueError, match="bad image"):
        bank.update(np.array([0, 3]), v[:2])
    assert not np.isin(draw(ok, 15, Key(0), 0), [3, 11]).any()


def test_small_temperatures_do_not_underflow() -> None:
    v = torch.tensor([[1.0, 0.0]], requires_grad=True)
    each = exact(v, bank_of([(-1, 0), (1, 0), (0, 1)]), np.array([[0]]), tau=0.005)
    assert float(each.detach()) == pytest.approx(400, rel=1e-6)
    each.sum().backward()
    assert v.grad is not None
    assert torch.isfinite(v.grad).all()


def test_ids_of_clusters_mean_nothing_and_sets_hold_the_images_of_a_label() -> None:
    labels = np.array([2, -1, 0, 2, -1, 0, 2], np.int32)
    s = Sets.of(labels)
    assert s.columns(np.array([3, 1, 5])).tolist() == [[0, 3, 6], [1, -1, -1], [2, 5, -1]]
    renamed = Sets.of(np.array([0, -1, 9, 0, -1, 9, 0], np.int32))
    assert np.array_equal(np.sort(renamed.columns(np.arange(7))), np.sort(s.columns(np.arange(7))))
    assert Sets.of(np.zeros(0, np.int32)).order.size == 0


def test_the_sampled_sum_is_right_on_average_and_keyed() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    bank, ok = Bank.of(unit(rng, n, 16).astype(np.float32), np.ones(n, bool)), np.ones(n, bool)
    labels = rng.integers(-1, 50, n).astype(np.int32)
    rows, v = np.arange(8), torch.from_numpy(unit(rng, 8, 16)).float()
    columns = Sets.of(labels).columns(rows)
    true = exact(v, bank, columns)
    draws = [draw(ok, 400, Key(1), step) for step in range(60)]
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[1], draw(ok, 400, Key(1), 1))
    assert all(len(np.unique(d)) == len(d) for d in draws)
    found = torch.stack([sampled(v, bank, columns, d) for d in draws])
    # the sum itself is unbiased; its logarithm hardly
    inside = v.new_tensor([float(torch.logsumexp((v[i] @ bank.rows[c[c >= 0]].T) / 0.1, 0)) for i, c in enumerate(columns)])
    mean = (found + inside).exp().mean(0)
    assert mean.numpy() == pytest.approx((true + inside).exp().numpy(), rel=0.08)
    spread = float((found - true).abs().mean())
    assert spread < 0.3
    assert float((torch.stack([sampled(v, bank, columns, draw(ok, 1500, Key(1), s)) for s in range(10)]) - true).abs().mean()) < spread


# ---- IS

VIEWS = ((1.0, 0.0), (0.0, 1.0), (0.8, 0.6), (0.6, 0.8))


def test_worked_spreading_loss() -> None:
    """IS by numbers: two images, both parts of the loss, and the gradient that flows through the row alone."""
    first, second = (torch.tensor(VIEWS[i:i + 2], requires_grad=True) for i in (0, 2))
    loss = spreading_loss(first, second, tau=0.5)
    assert float(loss.detach()) == pytest.approx(1.574229, abs=1e-6)
    assert float(spreading_loss(first, second, tau=0.5, negative=0.0).detach()) == pytest.approx(3.482855 / 4, abs=1e-6)
    assert float((spreading_loss(first, second, tau=0.5, negative=2.0) - loss).detach()) == pytest.approx(2.814062 / 4, abs=1e-6)
    loss.backward()
    wanted = [(-0.129493, 0.098386), (0.098386, -0.129493), (-0.284558, 0.439830), (0.439830, -0.284558)]
    assert first.grad is not None
    assert second.grad is not None
    assert torch.cat([first.grad, second.grad]).numpy() == pytest.approx(np.array(wanted), abs=1e-6)


def test_spreading_of_equal_rows_and_of_one_image() -> None:
    x = torch.tensor([[0.6, 0.8]]).repeat(2, 1)
    assert float(spreading_loss(x, x)) == pytest.approx(math.log(3) - 2 * math.log(2 / 3), abs=1e-6) == pytest.approx(1.909543, abs=1e-6)
    alone = torch.tensor([[0.6, 0.8]], requires_grad=True)
    loss = spreading_loss(alone, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert alone.grad is not None
    assert not alone.grad.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7))
def test_spreading_row_by_row_and_its_symmetries(seed: int, b: int) -> None:
    """Row by row; swapped views and permuted images lose the same."""
    rng = np.random.default_rng(seed)
    x = unit(rng, 2 * b, 4)
    total = 0.0
    for r in range(2 * b):
        e = [0.0 if s == r else math.exp(float(x[r] @ x[s]) / 0.3) for s in range(2 * b)]
        q = [value / sum(e) for value in e]
        total += -math.log(q[(r + b) % (2 * b)]) - sum(math.log(1 - q[s]) for s in range(2 * b) if s not in (r, (r + b) % (2 * b)))
    f, g = torch.from_numpy(x[:b]), torch.from_numpy(x[b:])
    loss = float(spreading_loss(f, g, tau=0.3))
    assert loss == pytest.approx(total / (2 * b), abs=1e-9)
    assert float(spreading_loss(g, f, tau=0.3)) == pytest.approx(loss, abs=1e-12)
    order = torch.from_numpy(rng.permutation(b))
    assert float(spreading_loss(f[order], g[order], tau=0.3)) == pytest.approx(loss, abs=1e-12)


def test_a_certain_wrong_match_stays_finite() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = spreading_loss(x, torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), tau=0.01)
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


# ---- AND


def test_the_first_round_is_instance_recognition() -> None:
    """AND without anchors."""
    bank = Bank.fresh(np.ones(20, bool), 8, Key(0))
    found = discover(bank, share=0.0)
    rows, v = np.arange(6), torch.from_numpy(unit(np.random.default_rng(0), 6, 8)).float()
    assert len(found.anchors) == 0
    assert torch.equal(exact(v, bank, found.columns(rows)), exact(v, bank, own(20).columns(rows)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(0, 4), st.integers(1, 3), st.sampled_from((3, 256)))
def test_anchors_and_neighbours_against_a_loop(seed: int, n: int, r: int, size: int, block: int) -> None:
    """AND: floor(0.25 r N) anchors of lowest entropy, none its own neighbour, and no anchor loses more than on its own."""
    rng = np.random.default_rng(seed)
    ok = rng.random(n) > 0.1
    ok[:4] = True
    bank = Bank.of(unit(rng, n, 6).astype(np.float32), ok)
    bank.rows = bank.rows.double()
    found = discover(bank, share=0.25 * r, size=size, tau=0.1, block=block)
    usable = np.flatnonzero(ok)
    m = bank.rows.numpy()
    entropy = {}
    for i in usable:
        p = np.exp(m[usable] @ m[i] / 0.1)
        p /= p.sum()
        entropy[i] = -(p * np.log(p)).sum()
    chosen = sorted(usable, key=lambda i: (round(entropy[i], 12), i))[:int(0.25 * r * len(usable))]
    assert found.anchors.tolist() == sorted(chosen)
    for i in chosen:
        near = sorted((j for j in usable if j != i), key=lambda j: -float(m[i] @ m[j]))[:size]
        assert found.neighbor[i].tolist() == near
        assert i not in near
    assert (found.neighbor[np.setdiff1d(np.arange(n), chosen)] == -1).all()
    v = torch.from_numpy(unit(rng, len(usable), 6))
    merged, alone = exact(v, bank, found.columns(usable)), exact(v, bank, Sets.of(np.full(n, -1, np.int32), ok).columns(usable))
    anchor = np.isin(usable, found.anchors)
    assert (merged <= alone + 1e-12).all()
    assert (merged[anchor] < alone[anchor]).all()
    assert torch.equal(merged[~anchor], alone[~anchor])
    p = torch.softmax((v @ bank.rows.T / 0.1).masked_fill(torch.from_numpy(~ok), -torch.inf), 1).numpy()
    for place, i in enumerate(usable):
        mass = p[place, i] + (p[place, found.neighbor[i]].sum() if anchor[place] else 0)
        assert float(merged[place]) == pytest.approx(-math.log(mass), abs=1e-9)


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 neighbours of 3"):
        discover(Bank.fresh(np.ones(3, bool), 4, Key(0)), share=1.0, size=3)
    assert isinstance(discover(Bank.fresh(np.ones(3, bool), 4, Key(0)), share=1.0, size=2), Neighbourhoods)
