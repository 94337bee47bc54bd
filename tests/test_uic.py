"""ucl.methods.uic: schedules and plan of UIC."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.uic import METHOD, final_epochs, learning_rate, settled, training
from ucl.objectives.self_labelled import FIXED, NONE, TRAINING
from ucl.settings import TrainSettings, UicSettings

SMALL = Context("uic", images=50_000, size=32)
LARGE = Context("uic", images=1_281_167, size=224)
SOBEL = replace(LARGE, overrides={"init.sobel": "true"})


def torchs(schedule: str, lr: float, epochs: int) -> list[float]:
    """What torch's own schedulers give, stepped once an epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
    if schedule == "cosine":
        scheduler: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    else:
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("lr", "epochs"), [(0.1, 500), (0.05, 200), (0.2, 7)])
def test_learning_rate(schedule: str, lr: float, epochs: int) -> None:
    """U11: a function of the epoch, so that it goes on where it stood."""
    s = UicSettings(epochs=epochs, lr=lr, schedule=schedule, final_share=0)
    assert [learning_rate(e, s) for e in range(epochs)] == pytest.approx(torchs(schedule, lr, epochs), abs=1e-9)
    assert learning_rate(epochs, s) == pytest.approx(0, abs=1e-15)
    assert learning_rate(epochs + 5, s) == pytest.approx(0, abs=1e-15)


def test_worked_learning_rates() -> None:
    s = UicSettings(epochs=200, lr=0.05)
    assert [learning_rate(e, s) for e in (0, 50, 100, 150)] == pytest.approx([0.05, 0.05 * (1 + math.sqrt(0.5)) / 2, 0.025, 0.0073223], abs=1e-7)
    s = UicSettings(epochs=500, lr=0.1, schedule="linear")
    assert [learning_rate(e, s) for e in (0, 250, 499)] == pytest.approx([0.1, 0.05, 0.0002])
    assert final_epochs(s) == 30
    assert [learning_rate(e, s) for e in (500, 515, 529, 530, 600)] == pytest.approx([0.01, 0.005, 0.01 / 30, 0, 0])


def plan(context: Context, epochs: int) -> list[TrainSettings]:
    found = []
    for e in range(epochs):
        (step,) = METHOD.steps(replace(context, epoch=e))
        assert step.verb == "train-epoch"
        assert step.writes == ("model", "labels")
        assert isinstance(step.settings, TrainSettings)
        found.append(step.settings)
    return found


def test_stages() -> None:
    """Labels move, then a pass over the fixed views gives those of the last stage, which stay."""
    assert METHOD.epochs(SMALL) == 212
    steps = plan(SMALL, 214)
    assert [s.relabel for s in steps] == [TRAINING] * 200 + [FIXED] + [NONE] * 13
    assert [s.fill_empty for s in steps] == [True] * 200 + [False] * 14
    assert all(a.lr > b.lr for a, b in pairwise(steps[:200]))
    assert steps[200].lr == 0.01
    assert all(s.sampler == "truncated" and s.momentum == 0.9 for s in steps)
    none = replace(SMALL, overrides={"uic.final_share": "0"})
    assert METHOD.epochs(none) == 200
    assert {s.relabel for s in plan(none, 201)} == {TRAINING}
    ablation = replace(SMALL, overrides={"uic.relabel": "fixed", "plan.epochs": "53"})
    assert [s.relabel for s in plan(ablation, 53)] == [FIXED] * 51 + [NONE] * 2
    assert [s.fill_empty for s in plan(ablation, 53)] == [True] * 50 + [False] * 3


@pytest.mark.parametrize(("named", "moving", "final"), [(530, 500, 30), (212, 200, 12), (100, 94, 6), (30, 28, 2), (10, 9, 1), (1, 1, 0)])
def test_the_plans_epochs_are_those_of_both_stages(named: int, moving: int, final: int) -> None:
    s = settled(replace(SMALL, overrides={"plan.epochs": str(named)}))
    assert (s.epochs, final_epochs(s)) == (moving, final)
    assert moving + final == named


def test_every_number_of_epochs_is_met() -> None:
    for share in ("0", "0.06", "0.5", "1"):
        for named in range(2, 600):
            s = settled(replace(SMALL, overrides={"plan.epochs": str(named), "uic.final_share": share}))
            assert s.epochs + final_epochs(s) == named, (share, named)


def test_presets() -> None:
    """32 px; ImageNet as the released code; behind a Sobel filter as the paper's AlexNet; digits."""
    small, large, sobel = (training(c, settled(c)) for c in (SMALL, LARGE, SOBEL))
    assert (small.batch, small.lr, small.weight_decay, small.k, small.crop_scale) == (256, 0.05, 5e-4, 250, (0.2, 1.0))
    assert (small.brightness, small.hue, small.jitter_p, small.grey_p) == (0.4, 0.1, 0.8, 0.2)
    assert (large.batch, large.lr, large.weight_decay, large.k, large.crop_scale) == (1024, 0.2, 1e-4, 3000, (0.08, 1.0))
    assert (large.contrast, large.saturation, large.hue, large.jitter_p, large.grey_p) == (0.8, 0.8, 0.2, 0.8, 0.2)
    assert (sobel.batch, sobel.lr, sobel.jitter_p, sobel.grey_p, sobel.flip) == (256, 0.1, 0, 0, 0.5)
    weak = replace(SMALL, overrides={"uic.views": "weak", "uic.k": "100", "uic.lr": "0.3"})
    made = training(weak, settled(weak))
    assert (made.jitter_p, made.grey_p, made.k, made.lr) == (0, 0, 100, 0.3)
    assert METHOD.epochs(LARGE) == 530
    digits = replace(SMALL, source="digits", images=1797, size=16)
    assert METHOD.epochs(digits) == 32
    made = training(digits, settled(digits))
    assert (made.flip, made.k, made.batch) == (0, 10, 64)
    assert METHOD.init(digits) == {"size": 16}
    assert settled(replace(SMALL, images=400)).k == 10


def test_what_the_plan_refuses_and_tells() -> None:
    with pytest.raises(UsageError, match="wanted 2 to 50000"):
        list(METHOD.steps(replace(SMALL, overrides={"uic.k": "50001"})))
    with pytest.raises(UsageError, match="leaves none of 1 epochs"):
        settled(replace(SMALL, overrides={"plan.epochs": "1", "uic.final_share": "2"}))
    with pytest.raises(UsageError, match=r"train-epoch\.k: the plan of uic decides it"):
        settled(replace(SMALL, overrides={"train-epoch.k": "7"}))
    assert list(METHOD.advice(SMALL)) == []
    short = replace(SMALL, overrides={"plan.epochs": "100", "uic.epochs": "200"})
    assert next(iter(METHOD.advice(short))) == "the plan ends after 100 epochs, of 200 with moving labels and 12 on fixed ones"
    assert "fewer than 10 images each" in next(iter(METHOD.advice(replace(SMALL, overrides={"uic.k": "9000"}))))


def test_what_other_objectives_do_not_read() -> None:
    relabel, classify = TrainSettings(objective="relabel"), TrainSettings()
    assert {"head", "tau"} <= relabel.unread
    assert not {"relabel", "k", "fill_empty", "sampler", "momentum"} & relabel.unread
    assert {"relabel", "k", "first_labels", "fill_empty", "mlp", "tau"} <= classify.unread
    with pytest.raises(UsageError, match="whose classifier is kept"):
        relabel.refuse_unread(["head-momentum"])
