"""How networks run: the Sobel filter is never trained, dropout is keyed, bf16 and compiled networks do what float32 ones do."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import image_list, noise, write_pngs
from test_train_epoch import CONTEXT, equal, labels, same
from torch.nn import functional

from ucl import device, models, train_epoch
from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.context import Context
from ucl.device import Runtime
from ucl.errors import Unavailable
from ucl.extract import extract
from ucl.keys import Key
from ucl.run import perform
from ucl.settings import ExtractSettings, TrainSettings
from ucl.store import chain
from ucl.train_epoch import Trained

torch.set_num_threads(1)
N = 24
FLOAT32, BF16, COMPILED = Runtime("cpu", 1), Runtime("cpu", 1, "bf16"), Runtime("cpu", 1, compile=True)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    return image_list(write_pngs(tmp_path_factory.mktemp("photos"), noise(N)))


@pytest.fixture(scope="module")
def y() -> Labels:
    return labels(np.arange(N) % 3)


def untrained(name: str, *, sobel: bool = False) -> Checkpoint:
    net = models.build(name, Key(1, stage="init"), sobel=sobel)
    return Checkpoint({f"backbone.{k}": v for k, v in models.to_arrays(net).items()},
                      config={"backbone": name, "sobel": sobel, "size": 16, "mean": [0.5] * 3, "std": [0.25] * 3})


def train(images: ImageList, model: Checkpoint, y: Labels, context: Context = CONTEXT, runtime: Runtime = FLOAT32, **settings: Any) -> Trained:
    return train_epoch.train_epoch(images, model, y, TrainSettings(**({"batch": 8} | settings)), context, runtime, lambda *a: None)


def features(images: ImageList, model: Checkpoint, runtime: Runtime = FLOAT32, **settings: Any) -> np.ndarray:
    return extract(images, model, ExtractSettings(**settings), Context(), runtime, lambda *a: None).collect().features


# Sobel

@pytest.mark.parametrize("name", ["convnet", "alexnet-32"])
def test_training_leaves_the_sobel_filter_alone(images: ImageList, y: Labels, name: str) -> None:
    """D10, with a weight decay that would show in one step."""
    model = untrained(name, sobel=True)
    after = train(images, model, y, weight_decay=0.1, lr=0.1).model
    filters = [k for k in model.model if k.startswith("backbone.sobel.")]
    assert len(filters) == 4
    assert all((after.model[k] == model.model[k]).all() for k in filters)
    moved = [k for k in model.model if k.endswith("weight") and k not in filters and (after.model[k] != model.model[k]).any()]
    assert len(moved) == len([k for k in model.model if k.endswith("weight")]) - 2
    assert not any("sobel" in k for k in after.optimizer)
    assert after.config["sobel"] is True
    again = train(images, after, y)
    assert equal(again.model, train(images, after, y).model)


# dropout

@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Which inputs each step's first dropout lets pass."""
    found: list[np.ndarray] = []
    step = train_epoch._State.step

    def watched(self: Any, *args: Any) -> Any:
        ones: list[torch.Tensor] = []
        handle = self.backbone.classifier[0].register_forward_hook(lambda m, given, out: ones.append(functional.dropout(
            torch.ones_like(given[0]), 0.0) * (out != 0)))
        after = step(self, *args)
        handle.remove()
        found.append(ones[0].numpy())
        return after

    monkeypatch.setattr(train_epoch._State, "step", watched)
    return found


def test_dropout_is_a_function_of_its_key(images: ImageList, y: Labels, masks: list[np.ndarray]) -> None:
    """A batch's masks depend on seed, epoch and place, not on what was drawn before or on the weights."""
    model = untrained("alexnet-32")
    model.model = {k: np.abs(v) if k.startswith("backbone.features.14") or k == "backbone.features.12.bias" else v for k, v in model.model.items()}
    torch.manual_seed(1)
    one = train(images, model, y, **{"lr": 0.0})
    stream = torch.get_rng_state()
    torch.manual_seed(2)
    torch.rand(1000)
    two = train(images, model, y, **{"lr": 0.0})
    assert equal(one.model, two.model)
    assert len(masks) == 6
    for a, b in zip(masks[:3], masks[3:], strict=True):
        assert (a == b).all()
    assert not (masks[0] == masks[1]).all()
    torch.manual_seed(1)
    assert torch.equal(stream, torch.get_rng_state())                    # nothing was drawn from the global stream
    for other in (dataclasses.replace(CONTEXT, epoch=3), dataclasses.replace(CONTEXT, seed=6)):
        masks.clear()
        train(images, model, y, other, lr=0.0)
        assert not (masks[0] == a).all()


def test_dropout_is_off_in_extraction(images: ImageList) -> None:
    model = untrained("alexnet-32")
    assert (features(images, model) == features(images, model)).all()
    np.testing.assert_allclose(features(images, model, batch=5), features(images, model), atol=1e-5)


def test_resuming_twice_is_equal(images: ImageList, y: Labels) -> None:
    model = untrained("alexnet-32", sobel=True)
    first = train(images, model, y).model
    later = dataclasses.replace(CONTEXT, epoch=3)
    assert equal(train(images, first, y, later).model, train(images, first, y, later).model)


def test_a_keyed_stream_is_put_back() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    with device.keyed_stream(Key(1), "a"):
        one = torch.rand(4)
    assert torch.equal(torch.rand(4), wanted)
    with device.keyed_stream(Key(1), "a"):
        assert torch.equal(torch.rand(4), one)
    with device.keyed_stream(Key(1), "b"):
        assert not torch.equal(torch.rand(4), one)


# bf16

@pytest.mark.parametrize("name", ["convnet", "alexnet-32"])
def test_bf16_features_are_close(images: ImageList, name: str) -> None:
    model = untrained(name, sobel=True)
    plain, half = features(images, model), features(images, model, BF16)
    assert half.dtype == np.float32
    assert not (plain == half).all()
    spread = plain - plain.mean(0)
    assert np.linalg.norm(half - plain) < 0.03 * np.linalg.norm(spread)
    assert (half == features(images, model, BF16)).all()


def test_bf16_training_is_close_and_kept_in_float32(images: ImageList, y: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    real = functional.cross_entropy
    monkeypatch.setattr(functional, "cross_entropy", lambda logits, *a, **k: seen.append(logits.dtype) or real(logits, *a, **k))
    model = untrained("convnet")
    plain, half = train(images, model, y, lr=0.01), train(images, model, y, runtime=BF16, lr=0.01)
    assert set(seen) == {torch.float32}
    assert half.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=0.02)
    assert not same(plain.model.model, half.model.model)
    for name, array in half.model.model.items():
        assert array.dtype == plain.model.model[name].dtype
        if array.dtype == np.float32 and array.ndim > 1:
            moved = plain.model.model[name] - model.model.get(name, 0)
            assert np.linalg.norm(array - plain.model.model[name]) < 0.3 * np.linalg.norm(moved) + 1e-4, name
    assert equal(half.model, train(images, model, y, runtime=BF16, lr=0.01).model)


def test_the_runtime_is_noted() -> None:
    assert FLOAT32.numerics == {}
    assert Runtime("cpu", 1, "bf16", True).numerics == {"precision": "bf16", "compile": True}


def test_provenance_and_recipe_tell_the_precision(images: ImageList) -> None:
    from ucl.methods.method import step_for

    model, step = untrained("convnet"), step_for(Context(), "extract")
    slots = {"images": images, "model": model}
    plain, half = (perform(step, dict(slots), Context(), runtime)["features"] for runtime in (FLOAT32, BF16))
    assert '"precision": "bf16"' in half.provenance[-1]
    assert '"precision"' not in plain.provenance[-1]
    assert plain.recipe != half.recipe
    assert chain("x", {}, 0, [], "cpu", 1)


# torch.compile

@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_compiled_features_are_the_uncompiled_ones(images: ImageList) -> None:
    """Also of a second network, which shares what was compiled, and for a last batch of another size."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    assert COMPILED.compiled(features) is not features
    assert FLOAT32.compiled(features) is features
    for seed in (1, 2):
        net = models.build("convnet", Key(seed), sobel=True)
        model = untrained("convnet", sobel=True)
        model.model = {f"backbone.{k}": v for k, v in models.to_arrays(net).items()}
        plain, compiled = features(images, model, batch=16), features(images, model, COMPILED, batch=16)
        np.testing.assert_allclose(compiled, plain, atol=1e-4, rtol=1e-3)
    assert counters["stats"]["unique_graphs"] == 2                       # one a shape, whatever the network
    assert not counters["graph_break"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["convnet", "alexnet-32"])
def test_compiled_training_is_the_uncompiled_one(images: ImageList, y: Labels, name: str) -> None:
    """Names in the checkpoint are the network's own; dropout draws the same masks."""
    model = untrained(name, sobel=True)
    plain, compiled = train(images, model, y, lr=0.01), train(images, model, y, runtime=COMPILED, lr=0.01)
    assert set(compiled.model.model) == set(plain.model.model)
    assert set(compiled.model.optimizer) == set(plain.model.optimizer)
    assert compiled.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-4)
    for key, array in plain.model.model.items():
        np.testing.assert_allclose(compiled.model.model[key], array, atol=2e-3, rtol=1e-2, err_msg=key)
    assert equal(compiled.model, train(images, model, y, runtime=COMPILED, lr=0.01).model)


def test_batches_of_many_sizes_are_not_compiled(images: ImageList, y: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contrast leaves out images without a label: a refining step of a million images would compile a network for each of a hundred sizes."""
    asked: list[bool] = []
    monkeypatch.setattr(Runtime, "compiled", lambda self, function: asked.append(True) or function)
    options = {"objective": "contrast", "lr": 0.01, "least_batch": 2}
    train(images, untrained("convnet"), y, runtime=COMPILED, **options)
    assert not asked
    train(images, untrained("convnet"), None, runtime=COMPILED, **options)
    assert asked


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler"):
        device.resolve("cpu", 1, "float32", True)
    assert device.resolve("cpu", 1) == FLOAT32
