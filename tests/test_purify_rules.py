"""ucl purify by confidence and by agreement, and the probabilities they need, against plain loops and worked numbers."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agree import PRED, some_predictions
from test_relabel import classifier

from ucl import store
from ucl.agree import agree, tuple_groups
from ucl.argmax import Head, argmax, label_by_head
from ucl.artifacts import (
    BAD_IMAGE,
    CUT_BY_DISTANCE,
    DISSOLVED,
    DROPPED_BY_VOTE,
    FLAGS,
    KEPT,
    NOT_CONFIDENT,
    OK,
    UNREADABLE,
    Features,
    Labels,
    Samples,
    replace,
)
from ucl.confidence import confident_labels
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.formats.layout import FLAG
from ucl.formats.reader import validate
from ucl.labelled import as_labels
from ucl.purify import joined, purify
from ucl.settings import ClusterSettings, PurifySettings

HERE = Context(images=7)


def samples(n: int, bad: tuple[int, ...] = ()) -> Samples:
    status = np.zeros(n, np.uint8)
    status[list(bad)] = UNREADABLE
    return Samples(np.array([f"{i}.png".encode() for i in range(n)]), status)


def asked(seed: int, n: int, k: int, bad: tuple[int, ...] = ()) -> Labels:
    """What `cluster --method argmax --probs` makes, of drawn probabilities."""
    probs = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), n).astype(np.float32)
    top, y = probs.max(axis=1), probs.argmax(axis=1).astype(np.int32)
    for row in bad:
        probs[row], top[row], y[row] = np.nan, np.nan, -1
    return as_labels(y, k, samples(n, bad), HERE, {"method": "argmax"}, score=top, probs=probs)


def confident(threshold: float, min_size: int = 1) -> PurifySettings:
    return PurifySettings(rule="confident", threshold=threshold, min_size=min_size)


def same(a: Labels, b: Labels) -> bool:
    return store.content_of(a) == store.content_of(b)


# ---- confident


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6), st.sampled_from([0, 0.3, 0.5, 0.8, 0.95, 1]), st.integers(1, 4))
def test_confident_is_a_plain_loop(seed: int, n: int, k: int, threshold: float, least: int) -> None:
    labels = asked(seed, n, k, (0,))
    found = purify(labels, confident(threshold, least), HERE)
    top = [max(row) if labels.labels[i] >= 0 else 0 for i, row in enumerate(labels.probs.tolist())]
    kept = [i for i in range(n) if labels.labels[i] >= 0 and np.float32(top[i]) > np.float32(threshold)]
    count = {c: sum(labels.labels[i] == c for i in kept) for c in range(k)}
    flag, y = [], []
    for i in range(n):
        c = int(labels.labels[i])
        flag.append(BAD_IMAGE if i == 0 else NOT_CONFIDENT if i not in kept else KEPT if count[c] >= least else DISSOLVED)
        y.append(c if flag[-1] == KEPT else -1)
    assert found.labels.tolist() == y
    assert found.flag.tolist() == flag
    assert found.info["purify"] == {"rule": "confident", "threshold": threshold, "min_size": least, "members": n - 1, "kept": flag.count(KEPT),
                                    "not_confident": flag.count(NOT_CONFIDENT), "dissolved": flag.count(DISSOLVED),
                                    "clusters": len(set(labels.labels[1:].tolist())), "clusters_left": len(set(y) - {-1})}
    if least == 1:
        assert found.labels.tolist() == confident_labels(labels.probs, threshold, labels.samples.ok).tolist()
    for name in ("probs", "score", "size", "history", "weight"):
        assert np.array_equal(getattr(found, name), getattr(labels, name), equal_nan=True), name
    assert same(purify(found, confident(threshold, least), HERE), found)               # the same settings twice
    assert same(purify(purify(labels, confident(0.9), HERE), confident(threshold, least), HERE), found)


def test_exactly_at_the_threshold_is_below() -> None:
    probs = np.array([[1, 0], [0.99, 0.01], [0.9901, 0.0099], [0.5, 0.5]], np.float32)
    labels = as_labels(np.array([0, 0, 0, 1], np.int32), 2, None, HERE, {}, probs=probs)
    assert purify(labels, confident(0.99), HERE).labels.tolist() == [0, -1, 0, -1]
    assert purify(labels, confident(1), HERE).labels.tolist() == [-1] * 4
    assert purify(labels, confident(0.4), HERE).labels.tolist() == [0, 0, 0, 1]          # of two equal ones the label counts


def test_low_thresholds_and_none_left_are_told(caplog: pytest.LogCaptureFixture) -> None:
    labels = asked(0, 20, 4)
    for threshold, said in ((0.4, "two clusters may be above"), (1.0, "no image is above the threshold 1: the largest probability is 0.99")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            purify(labels, confident(threshold), HERE)
        assert said in caplog.text
    caplog.clear()
    purify(labels, confident(0.5), HERE)
    assert not caplog.text


def test_a_score_stands_for_probabilities() -> None:
    labels = asked(1, 30, 3, (4,))
    bare = replace(labels, probs=None)
    wanted = purify(labels, confident(0.7), HERE)
    found = purify(bare, confident(0.7), HERE)
    assert np.array_equal(found.labels, wanted.labels)
    assert np.array_equal(found.flag, wanted.flag)
    other = bare.score.copy()
    other[7] = np.nan
    for wrong, said in ((replace(bare, score=None), "found none"), (replace(bare, score=other), "found none"),
                        (replace(bare, score=np.where(bare.score > 0.5, 4.2, 0).astype(np.float32)), "a score outside of 0 to 1"),
                        (replace(bare, info={"purify": {"voted": True}}), "found none")):
        with pytest.raises(DataError, match=said) as e:
            purify(wrong, confident(0.7), HERE)
        assert e.value.hint == "ucl cluster --method argmax --probs keeps them"


def test_scores_come_back_when_nobody_votes_any_more() -> None:
    """The last settings alone count, also for scores; those of a distance are as before."""
    labels = asked(2, 12, 3)
    labels = replace(labels, history=np.tile(labels.labels, (3, 1)), history_epoch=np.arange(3, dtype=np.int32), anchor=np.array(
        [np.flatnonzero(labels.labels == c)[0] if (labels.labels == c).any() else -1 for c in range(3)]))
    voted = purify(labels, PurifySettings(votes=True, vote_history=2), HERE)
    assert voted.score.max() > 2
    assert np.array_equal(purify(voted, PurifySettings(), HERE).score, labels.score)
    assert np.array_equal(purify(voted, confident(0.5), HERE).score, labels.score)
    assert np.isnan(purify(replace(voted, probs=None), PurifySettings(), HERE).score).all()
    assert same(purify(voted, confident(0.5), HERE), purify(labels, confident(0.5), HERE))
    small = purify(labels, PurifySettings(min_size=5), HERE)
    assert np.array_equal(small.probs, labels.probs)
    assert "rule" not in small.info["purify"]


def test_probabilities_that_do_not_belong_are_refused() -> None:
    labels = asked(3, 10, 4)
    swapped, odd = labels.probs[:, [1, 0, 2, 3]], labels.probs.copy()
    odd[3, 1] = np.nan
    for probs, said in ((swapped, "most probable in"), (labels.probs[:, :1], "/probs: 1 classes, expected at least 4"),
                        (odd, "/probs: row 3: not finite")):
        with pytest.raises(DataError, match=said):
            purify(replace(labels, probs=probs), confident(0.3), HERE)


# ---- agree


def members(pred: np.ndarray, bad: tuple[int, ...] = ()) -> list[Labels]:
    return [as_labels(np.where(np.isin(np.arange(len(y)), bad), -1, y).astype(np.int32), 5, samples(len(y), bad),
                      Context("profeat", epoch=6, seed=e, generation=3), {"method": "argmax"}) for e, y in enumerate(pred)]


def names(e: int) -> list[str]:
    return [f"m{i}/labels.h5" for i in range(1, e + 1)]


def test_worked_agreement() -> None:
    """A-PFe-1 as a file: one group of three, the rest without a label."""
    found = joined(members(PRED), names(3), PurifySettings(rule="agree"), Context("profeat", seed=4, epoch=6))
    assert found.labels.tolist() == [0, 0, 0, -1, -1, -1, -1]
    assert found.flag.tolist() == [KEPT] * 3 + [DROPPED_BY_VOTE] * 4
    assert found.weight.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert (found.size.tolist(), found.k) == ([3], 1)
    assert np.array_equal(found.pred, PRED)
    assert found.info["purify"] == {"rule": "agree", "agree": 3, "models": 3, "groups": 1, "largest": 3, "labelled": 3, "labelled_share": 3 / 7}
    assert (found.history.tolist(), found.history_epoch.tolist()) == ([found.labels.tolist()], [6])
    assert np.array_equal(found.raw(), found.labels)
    assert found.context == Context(stage="purify", images=7, samples_digest=samples(7).digest)   # of no plan
    two = joined(members(PRED), names(3), PurifySettings(rule="agree", agree=2), HERE)
    assert two.info["purify"]["agree"] == 2
    assert np.array_equal(two.pred, PRED)
    assert np.array_equal(two.labels, agree(list(PRED), 2).labels)
    with pytest.raises(UsageError, match="agree: found 4, wanted 1 to 3"):
        joined(members(PRED), names(3), PurifySettings(rule="agree", agree=4), HERE)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 50), st.integers(1, 4), st.booleans())
def test_joined_are_the_raw_labels(seed: int, e: int, n: int, k: int, purified: bool) -> None:
    """Whatever each file was purified by; a bad image of one list is bad in what is joined."""
    pred = some_predictions(seed, e, n, k)
    given = members(pred)
    if purified:
        given = [purify(one, PurifySettings(min_size=4), one.context) for one in given]
    assert same(joined(given, names(e), PurifySettings(rule="agree"), HERE), joined(members(pred), names(e), PurifySettings(rule="agree"), HERE))
    bad = members(pred, (0,))[:1] + given[1:]
    found = joined(bad, names(e), PurifySettings(rule="agree"), HERE)
    wanted = pred.copy()
    wanted[0, 0] = -1
    assert np.array_equal(found.pred, wanted)
    groups = tuple_groups(wanted)
    assert ((found.labels >= 0) == (np.bincount(groups[groups >= 0], minlength=n + 1)[groups] > 1) & (groups >= 0)).all()
    assert found.samples.status.tolist() == [UNREADABLE] + [OK] * (n - 1)
    assert found.flag[0] == BAD_IMAGE
    assert found.info["images"] == n - 1


def test_what_is_not_of_one_list_is_refused() -> None:
    first, second = members(PRED[:2])
    moved = Samples(samples(7).path[[1, 0, 2, 3, 4, 5, 6]], np.zeros(7, np.uint8))
    rule = PurifySettings(rule="agree")
    for wrong, said in ((replace(second, samples=moved), "m2/labels.h5: row 0 is 1.png, expected 0.png as in m1/labels.h5 .the same images in an"),
                        (members(PRED[:, :5])[0], "m2/labels.h5: 5 rows, expected 7 as in m1/labels.h5"),
                        (joined([first, second], names(2), rule, HERE), "m2/labels.h5: what 2 models agree on, expected the labels of one model")):
        with pytest.raises(DataError, match=said):
            joined([first, wrong], names(2), rule, HERE)
    lost = replace(second, info={"purify": {}}, history=None)
    with pytest.raises(DataError, match="purified already, and no /history"):
        joined([first, lost], names(2), rule, HERE)
    nameless = Labels(PRED[1])
    assert joined([nameless, first], names(2), rule, HERE).samples is first.samples
    with pytest.raises(DataError, match="what 2 models agree on"):
        purify(joined([first, second], names(2), rule, HERE), PurifySettings(), HERE)
    with pytest.raises(UsageError, match="wanted those of at least 2"):
        purify(first, rule, HERE)


def test_one_model_taken_twice_and_no_agreement_are_told(caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = members(PRED)
    with caplog.at_level(logging.WARNING):
        joined([a, b, a], ["a", "b", "c"], PurifySettings(rule="agree"), HERE)
    assert "a and c give every image the same cluster" in caplog.text
    caplog.clear()
    alone = members(np.arange(14).reshape(2, 7) % 7)
    with caplog.at_level(logging.WARNING):
        found = joined([alone[0], replace(c, labels=c.labels[::-1].copy())], names(2), PurifySettings(rule="agree"), HERE)
    assert "no two images are in one cluster of all 2 models" in caplog.text
    assert (found.k, found.labels.tolist()) == (0, [-1] * 7)
    _whole(found)
    assert b.pred is None


def _whole(labels: Labels) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.h5"
        with path.open("wb") as out:
            store.save(labels, out)
        assert validate(path, full=True) == []
        assert same(store.load(path), labels)


def test_files_of_both_are_whole() -> None:
    _whole(purify(asked(0, 20, 4, (3,)), confident(0.8, 2), HERE))
    _whole(joined(members(PRED, (2,)), names(3), PurifySettings(rule="agree"), HERE))
    _whole(joined(members(PRED, (2,)), names(3), PurifySettings(rule="agree", agree=2), HERE))


def test_five_models_of_half_a_million_images_are_joined_in_seconds() -> None:
    pred = some_predictions(0, 5, 500_000, 10)
    began = time.perf_counter()
    found = joined([Labels(y) for y in pred], names(5), PurifySettings(rule="agree", agree=4), HERE)
    assert time.perf_counter() - began < 20
    assert found.pred.nbytes == 5 * 500_000 * 4


# ---- settings


def test_what_another_rule_reads_is_refused() -> None:
    for rule, name, said in (("distance", "threshold", "threshold: is of confident only, the rule is distance"),
                             ("agree", "min-size", "min-size: is of distance and confident only, the rule is agree"),
                             ("confident", "agree", "agree: is of agree only, the rule is confident"),
                             ("confident", "votes", "votes: is of distance only, the rule is confident")):
        with pytest.raises(UsageError, match=said):
            PurifySettings(rule=rule).refuse_unread([name])
    PurifySettings(rule="confident").refuse_unread(["threshold", "min_size", "rule"])
    PurifySettings().refuse_unread(["keep_nearest", "votes", "min_size"])
    with pytest.raises(UsageError, match="probs: is of argmax only, the method is kmeans"):
        ClusterSettings().refuse_unread(["probs"])
    ClusterSettings(method="argmax").refuse_unread(["probs", "history"])
    for wrong in ({"rule": "sure"}, {"threshold": 1.01}, {"threshold": -0.1}, {"agree": -1}):
        with pytest.raises(UsageError):
            PurifySettings(**wrong)  # type: ignore[arg-type]


# ---- probabilities


def test_probabilities_are_torchs_softmax() -> None:
    model, module = classifier(6, 9)
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    x[7] = np.nan
    features = Features(x, samples(50, (7,)), weights=model.weights_digest(), layer="last")
    made = label_by_head(features, model, HERE, threads=1, probs=True)
    ok = features.samples.ok
    with torch.no_grad():
        wanted = module(torch.from_numpy(x[ok])).softmax(1).numpy()
    np.testing.assert_allclose(made.probs[ok], wanted, rtol=1e-5, atol=1e-7)
    assert (made.probs.dtype, made.probs.shape) == (np.float32, (50, 9))
    assert np.isnan(made.probs[7]).all()
    assert np.isnan(made.score[7])
    assert np.array_equal(made.score[ok], made.probs[ok].max(axis=1))
    plain = label_by_head(features, model, HERE, threads=1)
    assert plain.probs is None
    assert np.isnan(plain.score).all()
    assert same(replace(made, probs=None, score=plain.score), plain)
    assert (made.probs[ok, made.labels[ok]] == made.score[ok]).all()
    _whole(made)


def test_large_logits_are_probabilities_and_rows_come_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    x = np.array([[1e30, -1e30, 0], [0, 0, 0], [88, 89, -1000], [3e38, 3e38, 3e38]], np.float32)
    probs = np.empty((4, 3), np.float32)
    assert argmax([x], head, np.zeros(4, np.uint8), probs=probs).tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(probs, [[1, 0, 0], [1 / 3] * 3, [0.26894143, 0.7310586, 0], [1 / 3] * 3], rtol=1e-6)
    monkeypatch.setattr("ucl.argmax._MOST_ROWS", 32)
    x, status = np.random.default_rng(0).standard_normal((101, 3)).astype(np.float32), np.zeros(101, np.uint8)
    whole = np.empty((101, 3), np.float32)
    argmax([x], head, status, threads=1, probs=whole)
    for size in (1, 50, 101):
        parts = np.empty((101, 3), np.float32)
        argmax((x[a:a + size] for a in range(0, 101, size)), head, status, threads=1, probs=parts)
        assert parts.tobytes() == whole.tobytes()


# ---- in files


def test_predictions_that_are_none_are_refused(tmp_path: Path) -> None:
    for number, (name, value, said) in enumerate((
            ("probs", np.zeros((3, 0), np.float32), "/probs: float32 .3, 0., expected numbers of shape .3, C."),
            ("pred", np.zeros((0, 3), np.int32), "/pred: int32 .0, 3., expected integers of shape .E, 3."),
            ("pred", np.array([[0, -2, 1]]), "/pred: values -2 to 1, expected clusters"),
            ("probs", np.zeros((2, 4), np.float32), "/probs: N = 2, but /labels has N = 3"),
            ("pred", np.zeros((2, 4), np.int32), "/pred: N = 4, but /labels has N = 3"))):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["labels"], file[name] = np.arange(3), value
        with pytest.raises(DataError, match=said):
            store.load(path, "ucl/labels")


def test_validate_looks_at_both(tmp_path: Path) -> None:
    labels = asked(0, 6, 3, (2,))
    labels.probs[4, 0] = 1.5
    path = tmp_path / "l.h5"
    with path.open("wb") as out:
        store.save(labels, out)
    assert validate(path, full=True) == [f"{path}: /probs[4]: no probabilities, but its status is OK"]
    with path.open("wb") as out:
        store.save(Labels(np.zeros(2, np.int32), pred=np.array([[0, -5]], np.int32)), out)
    assert validate(path, full=True) == [f"{path}: /pred: -5, the least is -1, for none"]


def test_flags_of_older_files_are_sound(tmp_path: Path) -> None:
    """The values have the names that they had; files from before one was added know fewer."""
    assert list(FLAG) == list(FLAGS)
    assert [*FLAG.values()] == [KEPT, CUT_BY_DISTANCE, DROPPED_BY_VOTE, 3, DISSOLVED, BAD_IMAGE, NOT_CONFIDENT] == [*range(7)]
    older = {name: value for name, value in FLAG.items() if value < 6}
    for number, (enum, fine) in enumerate(((older, True), (older | {"OTHER": 6}, False), ({"CUT_BY_DISTANCE": 0, "KEPT": 1}, False))):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["labels"] = np.array([0, 1], "i4")
            file.create_dataset("flag", data=np.array([0, 1], "u1"), dtype=h5py.enum_dtype(enum, "u1"))
        assert (validate(path, full=True) == []) is fine
