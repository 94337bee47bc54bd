"""SCAN's losses and label-free choice against worked numbers, the released code's formulas in torch's own words, and plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ucl import confidence
from ucl.confidence import confident_labels, held_out, lowest, selection_score
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives.scan import class_weights, confident, draw_neighbors, scan_loss, self_label_loss

torch.set_num_threads(1)
ANCHORS = torch.tensor([(0.9, 0.1), (0.2, 0.8), (0.6, 0.4)])
NEIGHBORS = torch.tensor([(0.8, 0.2), (0.3, 0.7), (0.5, 0.5)])
WEAK = torch.tensor([(0.995, 0.003, 0.002), (0.001, 0.998, 0.001), (0.992, 0.004, 0.004), (0.5, 0.3, 0.2)])
STRONG = torch.tensor([(0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.4, 0.5, 0.1), (0.2, 0.2, 0.6)])


def released(anchors: torch.Tensor, neighbors: torch.Tensor, weight: float) -> torch.Tensor:
    """The released code's loss: binary cross-entropy of the similarity against 1, minus the entropy of the anchors' mean."""
    a, n = anchors.softmax(dim=1), neighbors.softmax(dim=1)
    similarity = (a[:, None] @ n[:, :, None]).squeeze()
    consistency = functional.binary_cross_entropy(similarity, torch.ones_like(similarity))
    mean = a.mean(dim=0).clamp(min=1e-8)
    return consistency + weight * (mean * mean.log()).sum()


# ---- the loss


@pytest.mark.parametrize(("weight", "total"), [(5.0, -2.930396), (2.0, -0.877701), (1.0, -0.193469)])
def test_worked_loss_of_three_images(weight: float, total: float) -> None:
    """L1."""
    found = scan_loss(ANCHORS.log(), NEIGHBORS.log(), entropy_weight=weight)
    assert [v.item() for v in found] == pytest.approx([total, 0.490763, 0.684232], abs=2e-6)


def test_worked_loss_of_one_image() -> None:
    """L2."""
    found = scan_loss(ANCHORS[:1].log(), NEIGHBORS[:1].log())
    assert [v.item() for v in found] == pytest.approx([-1.324310, 0.301105, 0.325083], abs=2e-6)


@pytest.mark.parametrize(("k", "perfect", "uniform"), [(10, -11.512925, -9.210340), (20, -14.978661, None), (2, -3.465736, -2.772589)])
def test_perfect_uniform_and_collapsed_clusters(k: int, perfect: float, uniform: float | None) -> None:
    """L3, L4, L5: lambda log K below 0, (1 - lambda) log K, and about 0, which is the worst."""
    sure = 200 * torch.eye(k)
    assert scan_loss(sure, sure).total.item() == pytest.approx(perfect, abs=1e-5)
    start = scan_loss(torch.zeros(k, k), torch.zeros(k, k)).total.item()
    assert start == pytest.approx(-4 * math.log(k), abs=1e-5)
    if uniform is not None:
        assert start == pytest.approx(uniform, abs=1e-5)
    collapsed = sure[:1].repeat(k, 1)
    assert scan_loss(collapsed, collapsed).total.item() == pytest.approx(0, abs=1e-4)   # shares of 1e-8 cost a little
    assert start < scan_loss(collapsed, collapsed).total.item()


def test_without_entropy_a_collapse_is_the_least() -> None:
    """L6: nothing is below its 0."""
    collapsed = torch.tensor([[200.0, 0, 0]]).repeat(4, 1)
    assert scan_loss(collapsed, collapsed, entropy_weight=0).total.item() == pytest.approx(0, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, n = (torch.from_numpy(rng.normal(0, 3, (4, 3))).float() for _ in range(2))
        assert scan_loss(a, n, entropy_weight=0).total.item() >= 0


def test_names_of_clusters_mean_nothing_and_a_swap_changes_the_entropy_alone() -> None:
    """L7, L8."""
    rng = np.random.default_rng(1)
    a, n = (torch.from_numpy(rng.normal(0, 2, (30, 6))).float() for _ in range(2))
    order = torch.from_numpy(rng.permutation(6))
    assert [v.item() for v in scan_loss(a[:, order], n[:, order])] == pytest.approx([v.item() for v in scan_loss(a, n)], abs=1e-5)
    there, back = scan_loss(a, n), scan_loss(n, a)
    assert back.consistency.item() == pytest.approx(there.consistency.item(), abs=1e-6)
    assert abs(back.entropy.item() - there.entropy.item()) > 1e-3
    assert there.total.item() == pytest.approx((there.consistency - 5 * there.entropy).item(), abs=1e-5)


def test_no_similarity_costs_exactly_100() -> None:
    """L9: not inf; with probabilities of 0 and with logits that far apart; the gradient is finite."""
    zero = torch.tensor([(1.0, 0.0)]).log(), torch.tensor([(0.0, 1.0)]).log()
    assert scan_loss(*zero).consistency.item() == 100
    far = torch.tensor([[300.0, 0.0]], requires_grad=True)
    loss = scan_loss(far, torch.tensor([[0.0, 300.0]]))
    assert loss.consistency.item() == 100
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None
    assert far.grad.isfinite().all()


def assigned(entropy: float, similarity: float, n: int = 50_000, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Sure assignments of n images whose mean has that entropy, and of neighbours that are that similar to them."""
    half = np.tile([1.0, -1.0], k // 2)
    steps = np.arange(n // k)
    shares = 1 / k + half * steps[:, None] / n
    with np.errstate(divide="ignore", invalid="ignore"):
        d = int(np.argmin(np.abs(-np.nansum(shares * np.log(shares), axis=1) - entropy)))
    cluster = np.repeat(np.arange(k), (n // k + half * d).astype(int))
    near = np.full((n, k), (1 - similarity) / (k - 1))
    near[np.arange(n), cluster] = similarity
    return np.eye(k)[cluster], near


def test_the_published_log() -> None:
    """L11: the last lines of STL-10, in training with a weight of 5, in choosing with 1."""
    anchors, near = assigned(2.2927, math.exp(-0.54953))
    found = scan_loss(torch.from_numpy(anchors).log(), torch.from_numpy(near).log())
    assert [v.item() for v in found] == pytest.approx([-10.914, 0.54953, 2.2927], abs=1e-3)
    anchors, near = assigned(2.29822, math.exp(-0.47445))
    n = len(anchors)
    score = selection_score(np.concatenate([anchors, near]), np.arange(2 * n)[:, None] + n * (np.arange(2 * n) < n)[:, None], np.arange(n))
    assert score == pytest.approx((-1.82377, 0.47445, 2.29822), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 12), st.floats(0, 8))
def test_loss_and_gradient_are_the_released_codes(seed: int, b: int, k: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.normal(0, 2, (b, k)) for _ in range(2)]
    mine = [torch.from_numpy(v).float().requires_grad_() for v in values]
    theirs = [torch.from_numpy(v).requires_grad_() for v in values]
    found, wanted = scan_loss(*mine, entropy_weight=weight).total, released(theirs[0], theirs[1], weight)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    for a, z in zip(mine, theirs, strict=True):
        assert a.grad is not None
        assert z.grad is not None
        assert a.grad.numpy() == pytest.approx(z.grad.numpy(), abs=1e-4)


# ---- neighbours


def test_neighbours_are_drawn_uniformly_and_the_image_itself_is_one_of_21() -> None:
    n, m = 50, 21
    listed = (np.arange(n)[:, None] + np.arange(m)) % n                       # the first column is the image itself
    rows = np.tile(np.arange(n), 400)
    found = draw_neighbors(listed, rows, 0, Key(1))
    offset = (found - rows) % n
    assert offset.max() == m - 1
    share = np.bincount(offset, minlength=m) / len(rows)
    assert share == pytest.approx(np.full(m, 1 / m), abs=0.008)
    assert np.array_equal(draw_neighbors(listed, rows[100:300], 100, Key(1)), found[100:300])  # whatever the batches
    assert (draw_neighbors(listed, rows[:100], 100, Key(1)) != found[:100]).any()             # drawn again, another neighbour
    others = draw_neighbors(listed, rows, 0, Key(1), own=False)
    assert (others != rows).all()
    assert np.bincount((others - rows) % n, minlength=m)[1:] / len(rows) == pytest.approx(np.full(m - 1, 1 / 20), abs=0.008)


def test_missing_neighbours_are_never_drawn() -> None:
    """A search that finds fewer says -1, which must not be the last image."""
    listed = np.array([[0, -1, 2], [-1, 1, -1], [2, 0, 1]])
    found = draw_neighbors(listed, np.tile([0, 1, 2], 50), 0, Key(2))
    assert set(found[0::3]) == {0, 2}
    assert set(found[1::3]) == {1}
    with pytest.raises(DataError, match="row 1 has no neighbour"):
        draw_neighbors(listed, np.array([0, 1]), 0, Key(2), own=False)


# ---- self-labels


def test_worked_self_labels() -> None:
    """F1: three are confident; of two of one cluster each weighs half."""
    found = self_label_loss(WEAK.log(), STRONG.log())
    assert found.confident == 3
    assert found.loss is not None
    assert found.loss.item() == pytest.approx(0.573654, abs=1e-6)
    assert class_weights(torch.tensor([0, 1, 0]), 3).tolist() == [1.5, 3.0, 1.0]
    plain = self_label_loss(WEAK.log(), STRONG.log(), balanced=False).loss
    assert plain is not None
    assert plain.item() == pytest.approx(0.594597, abs=1e-6)


def test_exactly_the_threshold_is_not_confident() -> None:
    """F2, in float32 where 0.99 is a little more; and alike for the labels of a whole data set."""
    p = torch.tensor([(0.99, 0.01), (0.9901, 0.0099), (0.01, 0.99)])
    assert confident(p, 0.99).tolist() == [False, True, False]
    assert confident_labels(p.numpy(), 0.99).tolist() == [-1, 0, -1]
    assert confident_labels(p.numpy().astype(np.float64), 0.98).tolist() == [0, 0, 1]


def test_an_unsure_image_alone_is_no_update() -> None:
    """F3, and F8: at a threshold of 1 nothing ever is confident, not even a probability of 1."""
    assert self_label_loss(WEAK[3:].log(), STRONG[3:].log()) == (None, 0)
    assert self_label_loss(torch.tensor([[1000.0, 0.0]]), torch.zeros(1, 2), threshold=1) == (None, 0)


def test_one_cluster_alone_is_balanced_already() -> None:
    """F4; and F7: at a threshold of 0 all are confident."""
    strong = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 4))).float()
    weak = torch.tensor([[9.0, 0, 0, 0]]).repeat(6, 1)
    one, plain = self_label_loss(weak, strong, threshold=0.9).loss, self_label_loss(weak, strong, threshold=0.9, balanced=False).loss
    assert one is not None
    assert plain is not None
    assert one.item() == pytest.approx(plain.item(), abs=1e-6)
    assert self_label_loss(strong, strong, threshold=0).confident == 6


def test_no_gradient_reaches_the_fixed_views() -> None:
    """F5."""
    weak, strong = WEAK.log().requires_grad_(), STRONG.log().requires_grad_()
    loss = self_label_loss(weak, strong).loss
    assert loss is not None
    loss.backward()  # type: ignore[no-untyped-call]
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad[:3].abs().sum(dim=1).gt(0).all()
    assert not strong.grad[3].any()                                           # nor the image that is not confident


def test_a_batch_without_sure_images_leaves_weights_but_not_the_statistics() -> None:
    """F6: the fixed views are seen in training mode, which moves the running means of batch normalisation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=0.1)
    before = {name: v.clone() for name, v in net.state_dict().items()}
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(8, 6))).float()
    with torch.no_grad():
        weak = net(x)
    loss = self_label_loss(weak, net(x + 0.1), threshold=1).loss
    if loss is not None:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert not torch.equal(net.state_dict()["1.running_mean"], before["1.running_mean"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 8))
def test_balanced_loss_is_the_mean_of_the_clusters_means(seed: int, b: int, k: int) -> None:
    """By plain loops, with the released code's strict threshold."""
    rng = np.random.default_rng(seed)
    weak, strong = (torch.from_numpy(rng.normal(0, 3, (b, k))) for _ in range(2))
    p = weak.float().softmax(dim=1)
    each: dict[int, list[float]] = {}
    for i in range(b):
        if p[i].max().item() > 0.7:
            target = int(p[i].argmax())
            each.setdefault(target, []).append(-strong[i].log_softmax(dim=0)[target].item())
    found = self_label_loss(weak, strong, threshold=0.7)
    assert found.confident == sum(map(len, each.values()))
    if found.loss is None:
        assert not each
    else:
        assert found.loss.item() == pytest.approx(np.mean([np.mean(v) for v in each.values()]), rel=1e-4, abs=1e-5)


# ---- labels of sure images


def test_a_threshold_of_nothing_keeps_all_and_of_1_none() -> None:
    """A-PFs-7; bad images have no label at any."""
    p = np.random.default_rng(0).dirichlet(np.ones(5), 200).astype(np.float32)
    assert np.array_equal(confident_labels(p, 0.0), p.argmax(axis=1))
    assert np.array_equal(confident_labels(p, 0.19), p.argmax(axis=1))        # below 1 / K
    assert (confident_labels(np.eye(5, dtype=np.float32), 1.0) == -1).all()
    ok = np.arange(200) % 3 > 0
    some = confident_labels(p, 0.5, ok)
    assert (some[~ok] == -1).all()
    assert np.array_equal(some[ok] >= 0, p[ok].max(axis=1) > 0.5)
    p[3] = np.nan                                                             # a bad image's row may be anything
    assert confident_labels(p, 0.5, ok)[3] == -1
    p[4] = np.nan
    with pytest.raises(DataError, match="row 4: not finite"):
        confident_labels(p, 0.5, ok)


def test_from_a_half_on_equal_labels_are_the_papers_pairs() -> None:
    """Some k for which both are above t_s."""
    p = np.random.default_rng(1).dirichlet(np.full(3, 0.3), 60)
    for t in (0.5, 0.6, 0.9):
        y = confident_labels(p, t)
        pairs = ((p[:, None] > t) & (p[None] > t)).any(axis=2)
        assert np.array_equal(pairs, (y[:, None] == y) & (y >= 0))


# ---- choosing without labels


def test_worked_score() -> None:
    """L1 with a weight of 1, each anchor with one neighbour; 0.74 instead of 0.62 among them lowers it."""
    p = np.concatenate([ANCHORS.numpy(), NEIGHBORS.numpy()]).astype(np.float64)
    found = selection_score(p, np.array([[3], [4], [5], [-1], [-1], [-1]]), np.arange(3))
    assert found == pytest.approx((-0.193469, 0.490763, 0.684232), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.integers(1, 7))
def test_score_is_a_loop_over_pairs(seed: int, n: int, k: int, m: int) -> None:
    """Any number of missing neighbours, any chunk, and no truth."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, 0.5), n)
    near = rng.integers(-1, n, (n, m))
    near[:, 0] = np.arange(n)
    rows = np.flatnonzero(rng.random(n) < 0.7)
    rows = rows if len(rows) else np.arange(n)
    each = [min(100.0, -math.log(max(float(p[i] @ p[j]), 1e-300))) for i in rows for j in near[i] if j >= 0]
    mean = p[rows].mean(axis=0)
    entropy = -sum(v * math.log(v) for v in mean)
    wanted = (np.mean(each) - 2 * entropy, np.mean(each), entropy)
    kept = confidence._FLOATS
    try:
        for floats in (1, kept):
            confidence._FLOATS = floats
            assert selection_score(p, near, rows, entropy_weight=2) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    finally:
        confidence._FLOATS = kept


def test_score_prefers_clusters_that_neighbours_share() -> None:
    """Sure and shared beats uniform beats collapse beats sure and not shared."""
    near = np.array([[0, 1], [1, 0], [2, 3], [3, 2]])
    shared, unshared = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 0, 1]]
    scores = [selection_score(p, near).total for p in (shared, np.full((4, 2), 0.5), np.eye(2)[[0, 0, 0, 0]], unshared)]
    assert scores[0] == pytest.approx(-math.log(2))
    assert scores[1] == pytest.approx(0, abs=1e-9)
    assert scores[2] == pytest.approx(0, abs=1e-6)
    assert scores[3] == pytest.approx(50 - math.log(2))                       # of an image with itself 0, with its neighbour 100
    assert lowest(scores) == 0
    assert lowest([1.0, -2.0, -2.0]) == 1
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(DataError, match="one number for each candidate"):
            lowest(bad)


def test_score_refuses_what_it_cannot_be_taken_on() -> None:
    p = np.full((3, 2), 0.5)
    with pytest.raises(DataError, match="expected 3 rows of images 0 to 2"):
        selection_score(p, np.zeros((4, 1), np.int64))
    with pytest.raises(DataError, match="up to image 3"):
        selection_score(p, np.full((3, 1), 3))
    with pytest.raises(DataError, match="0 pairs"):
        selection_score(p, np.full((3, 2), -1))
    p[1] = np.nan
    with pytest.raises(DataError, match="finite"):
        selection_score(p, np.arange(3)[:, None])


def test_images_held_out_are_each_ones_own_draw() -> None:
    ok = np.ones(4000, bool)
    ok[::7] = False
    found = held_out(ok, 0.1, Key(3))
    assert found[ok].mean() == pytest.approx(0.1, abs=0.015)
    assert not found[~ok].any()
    assert np.array_equal(held_out(ok[:1000], 0.1, Key(3)), found[:1000])
    assert not np.array_equal(held_out(ok, 0.1, Key(4)), found)
    for share in (0.0, 1.0):
        with pytest.raises(UsageError, match="holds out"):
            held_out(ok, share, Key(3))
