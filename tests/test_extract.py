"""ucl.extract: fact D2 of DeepCluster, rows that cannot be used, and the stream's blocks."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ucl import models, stop
from ucl.artifacts import MISSING, NOT_FINITE, OK, UNREADABLE, Checkpoint, Features, ImageList
from ucl.batches import Batches
from ucl.context import Context
from ucl.device import Runtime
from ucl.errors import DataError, Stopped, UsageError
from ucl.extract import FeatureStream, extract
from ucl.images import read_all
from ucl.keys import Key
from ucl.listing import list_images
from ucl.settings import ExtractSettings, ViewSettings

torch.set_num_threads(1)
RUNTIME = Runtime("cpu", 1)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def write_pngs(folder: Path, pixels: np.ndarray) -> Path:
    """(N, H, W, 3) uint8 as 0000.png, 0001.png, ... in a folder."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    return folder


def image_list(folder: Path, **options: Any) -> ImageList:
    return ImageList.made(read_all(list_images(folder), **({"size": 16} | options)))


def new_model(seed: int = 0, **config: Any) -> Checkpoint:
    """An untrained convnet, as init makes it."""
    net = models.build("convnet", Key(seed, stage="init"))
    tensors = {f"backbone.{k}": v for k, v in models.to_arrays(net).items()}
    return Checkpoint(tensors, config={"backbone": "convnet", "size": 16, "mean": list(MEAN), "std": list(STD), **config})


def noise(n: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), np.uint8)


def stream(images: ImageList, model: Checkpoint, report: Any = lambda *a: None, **settings: Any) -> FeatureStream:
    return extract(images, model, ExtractSettings(**settings), Context(epoch=3), RUNTIME, report)


def features(images: ImageList, model: Checkpoint, **settings: Any) -> np.ndarray:
    return stream(images, model, **settings).collect().features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pngs(tmp_path_factory.mktemp("photos"), noise(12))


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageList:
    return image_list(folder)


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """With running statistics of its own, so that evaluation mode differs from training mode and from the start."""
    made = new_model()
    rng = np.random.default_rng(0)
    for name in made.model:
        if name.endswith("running_mean"):
            made.model[name] = rng.normal(0, 0.2, made.model[name].shape).astype(np.float32)
        elif name.endswith("running_var"):
            made.model[name] = rng.uniform(0.5, 2, made.model[name].shape).astype(np.float32)
    return made


def by_hand(pixels: np.ndarray, model: Checkpoint) -> np.ndarray:
    """Normalised pixels through the network in evaluation mode, one image at a time."""
    net = models.restore(model).eval()
    x = (pixels.astype(np.float64) / 255 - MEAN) / STD
    with torch.no_grad():
        rows = [net.norm(net.fc(net.trunk(torch.from_numpy(one.astype(np.float32)).permute(2, 0, 1)[None]).mean((2, 3)))) for one in x]
    return torch.cat(rows).numpy()


# D2

def test_features_are_the_networks_in_the_lists_order(images: ImageList, model: Checkpoint) -> None:
    found = features(images, model)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(noise(12), model), rtol=0, atol=2e-5)
    gaps = np.linalg.norm(found[:, None] - found[None], axis=2)[~np.eye(12, dtype=bool)]
    assert gaps.min() > 1e-2                                             # so the order is really seen


def test_features_have_negative_values_and_the_final_relu_can_be_kept(images: ImageList, model: Checkpoint) -> None:
    plain, clipped = features(images, model), features(images, model, final_relu=True)
    assert 0.2 < (plain < 0).mean() < 0.8
    assert (clipped == np.maximum(plain, 0)).all()


def test_two_extractions_are_bit_equal_and_leave_the_model_alone(images: ImageList, model: Checkpoint) -> None:
    before = {k: v.copy() for k, v in model.model.items()}
    state = torch.get_rng_state()
    assert (features(images, model) == features(images, model)).all()
    assert all((model.model[k] == before[k]).all() for k in before)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_does_not_depend_on_its_batch(images: ImageList, model: Checkpoint) -> None:
    """Running statistics, no dropout: batch statistics would change everything."""
    whole = features(images, model)
    for batch in (1, 5, 12):
        np.testing.assert_allclose(features(images, model, batch=batch), whole, rtol=0, atol=2e-5)


def test_training_mode_would_be_seen(images: ImageList, model: Checkpoint) -> None:
    net = models.restore(model).train()
    x = torch.from_numpy(((noise(12) / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        trained = net.norm(net.fc(net.trunk(x).mean((2, 3)))).numpy()
    assert np.abs(trained - features(images, model)).max() > 0.1


# the stream

def test_blocks_are_contiguous_batches(images: ImageList, model: Checkpoint) -> None:
    seen: list[tuple[str, int, int]] = []
    found = stream(images, model, lambda *a: seen.append(a), batch=5)
    assert (found.n, found.d) == (12, 256)
    assert seen == []                                                    # nothing is made before it is read
    blocks = list(found.blocks)
    assert [len(b) for b in blocks] == [5, 5, 2]
    assert all(b.flags.c_contiguous and b.dtype == np.float32 for b in blocks)
    assert seen == [("extract", 5, 12), ("extract", 10, 12), ("extract", 12, 12)]
    assert (np.concatenate(blocks) == features(images, model, batch=5)).all()


def test_what_the_artifact_says(images: ImageList, model: Checkpoint) -> None:
    made = stream(images, model).collect()
    assert isinstance(made, Features)
    assert (made.model, made.layer, made.weights) == ("convnet", "last, before its ReLU", model.weights_digest())
    assert json.loads(made.transform) == {"size": 16, "mean": list(MEAN), "std": list(STD)}
    assert made.context == Context(epoch=3)
    assert made.samples is not None
    assert made.samples.digest == images.samples.digest
    assert made.samples.status.tolist() == [OK] * 12
    assert stream(images, model, final_relu=True).head.layer == "last"


def test_a_signal_stops_between_batches(images: ImageList, model: Checkpoint) -> None:
    found = stream(images, model, batch=5)
    try:
        next(found.blocks)
        stop._pending.append(15)
        with pytest.raises(Stopped):
            next(found.blocks)
    finally:
        stop._pending.clear()


# random views and the projection

SHAKEN: dict[str, Any] = {"views": "train", "crop_scale": (0.3, 1.0), "rotate": 15.0, "jitter_p": 1.0, "final_relu": True}


def evaluated(images: ImageList, model: Checkpoint, settings: ExtractSettings, epoch: int, seed: int = 0) -> np.ndarray:
    """Random views of all rows through the network in evaluation mode; the draw position of a row is its number."""
    rows = np.arange(len(images.samples))
    x = Batches(images, RUNTIME, 16, MEAN, STD).train(rows, rows, Key(seed, stage="extract", epoch=epoch), settings)
    with torch.no_grad():
        found: np.ndarray = models.restore(model).eval()(x).numpy()
    return found


def test_random_views_are_keyed_by_epoch_and_row(images: ImageList, model: Checkpoint) -> None:
    """Views as in training, the network as in evaluation; the same again for the same seed and epoch, whatever the batches."""
    found = features(images, model, **SHAKEN)
    np.testing.assert_allclose(found, evaluated(images, model, ExtractSettings(**SHAKEN), 3), rtol=0, atol=2e-5)
    assert (features(images, model, **SHAKEN) == found).all()
    np.testing.assert_allclose(features(images, model, batch=5, **SHAKEN), found, rtol=0, atol=2e-5)
    for at in (Context(epoch=4), Context(epoch=3, seed=1), Context(epoch=3, round=1), Context(epoch=3, stage="again")):
        other = extract(images, model, ExtractSettings(**SHAKEN), at, RUNTIME, lambda *a: None).collect().features
        assert not np.isclose(other, found, atol=1e-3).all(1).any()
    assert not np.isclose(features(images, model, final_relu=True), found, atol=1e-3).all(1).any()
    still = features(images, model, views="train", crop_scale=(1.0, 1.0), flip=0.0, jitter_p=0.0, grey_p=0.0)
    np.testing.assert_allclose(still, features(images, model), rtol=0, atol=2e-5)


def test_random_views_of_an_image_do_not_depend_on_bad_ones(images: ImageList, model: Checkpoint) -> None:
    status = images.samples.status.copy()
    status[[0, 6]] = UNREADABLE
    some = features(dataclasses.replace(images, samples=dataclasses.replace(images.samples, status=status, _digest=[])), model, batch=5, **SHAKEN)
    good = status == OK
    np.testing.assert_allclose(some[good], features(images, model, **SHAKEN)[good], rtol=0, atol=2e-5)
    assert np.isnan(some[~good]).all()


def test_an_unpacked_list_gives_the_same_random_views(folder: Path, model: Checkpoint) -> None:
    packed, unpacked = (features(image_list(folder, pack=p), model, **SHAKEN | {"crop_scale": (1.0, 1.0)}) for p in ("auto", "none"))
    assert (packed == unpacked).all()


def test_what_random_views_say_of_themselves(images: ImageList, model: Checkpoint) -> None:
    said = json.loads(stream(images, model, **SHAKEN).head.transform)
    assert said.pop("views") == {f.name: list(v) if isinstance(v := getattr(ExtractSettings(**SHAKEN), f.name), tuple) else v
                                 for f in dataclasses.fields(ViewSettings)}
    assert said == json.loads(stream(images, model).head.transform)


def test_settings_of_random_views_are_not_read_of_fixed_ones() -> None:
    with pytest.raises(UsageError, match="flip: is of random views, and views is fixed") as e:
        ExtractSettings().refuse_unread(["batch", "flip"])
    assert e.value.hint == "leave it out, or --views train"
    ExtractSettings(views="train").refuse_unread([f.name for f in dataclasses.fields(ViewSettings)])


def test_the_projection_is_of_unit_length_and_stands_on_the_features(images: ImageList, model: Checkpoint) -> None:
    linear = models.new_projection(256, 8, Key(1))
    projected = dataclasses.replace(model, config=model.config | {"projection": 8}, model=model.model | {
        f"projection.{k}": v for k, v in models.to_arrays(linear).items()})
    for more in ({}, {k: v for k, v in SHAKEN.items() if k != "final_relu"}):
        found = features(images, projected, layer="projection", **more)
        assert found.shape == (12, 8)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        wanted = features(images, model, final_relu=True, **more).astype(np.float64) @ linear.weight.detach().numpy().T.astype(np.float64)
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)
    assert stream(images, projected, layer="projection").head.layer == "projection"
    assert (features(images, projected) == features(images, model)).all()         # another layer does not see it


def test_a_projection_that_is_not_there_or_is_no_map(images: ImageList, model: Checkpoint) -> None:
    with pytest.raises(UsageError, match="layer: this checkpoint has no projection") as e:
        stream(images, model, layer="projection")
    assert "init.projection=128" in e.value.hint
    with pytest.raises(UsageError, match="map: the projection is a vector"):
        stream(images, model, layer="projection", map="max")


# rows that cannot be used

def test_bad_images_keep_their_rows(tmp_path: Path, model: Checkpoint) -> None:
    write_pngs(tmp_path, noise(12))
    for row in (0, 5, 6, 7, 8, 9):                                       # rows 5..9 are a whole batch
        (tmp_path / f"{row:04d}.png").write_bytes(b"no image")
    listed = image_list(tmp_path, on_error="skip")
    bad = np.array([0, 5, 6, 7, 8, 9])
    made = stream(listed, model, batch=5).collect()
    assert made.samples is not None
    assert np.flatnonzero(made.samples.status == UNREADABLE).tolist() == bad.tolist()
    assert np.isnan(made.features[bad]).all()
    good = np.setdiff1d(np.arange(12), bad)
    np.testing.assert_allclose(made.features[good], by_hand(noise(12), model)[good], rtol=0, atol=2e-5)
    assert (listed.samples.status[good] == OK).all()


def test_no_usable_image_is_an_error(images: ImageList, model: Checkpoint) -> None:
    none = dataclasses.replace(images.samples, status=np.full(12, MISSING, np.uint8), _digest=[])
    with pytest.raises(DataError, match="images: found no readable image"):
        stream(dataclasses.replace(images, samples=none), model)


def test_what_comes_out_not_finite_is_flagged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Huge weights overflow for every picture but the black one, which is 0 everywhere."""
    pixels = noise(6)
    pixels[2] = 0
    listed = image_list(write_pngs(tmp_path, pixels))
    model = new_model(mean=[0, 0, 0], std=[1, 1, 1])
    for name in ("backbone.trunk.0.weight", "backbone.trunk.3.weight", "backbone.trunk.6.weight"):
        model.model[name] = model.model[name] * np.float32(1e30)
    with caplog.at_level(logging.WARNING):
        made = stream(listed, model, batch=4).collect()
    assert made.samples is not None
    assert made.samples.status.tolist() == [NOT_FINITE, NOT_FINITE, OK, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    assert np.isnan(made.features[[0, 1, 3, 4, 5]]).all()
    assert np.isfinite(made.features[2]).all()
    assert "features of 3 images are not finite, the first: row 0" in caplog.text
    assert "features of 2 images are not finite, the first: row 4" in caplog.text
    assert listed.samples.status.tolist() == [OK] * 6                    # the list itself is not touched


def test_non_finite_weights_flag_every_row(images: ImageList, caplog: pytest.LogCaptureFixture) -> None:
    model = new_model()
    model.model["backbone.fc.weight"] = np.full_like(model.model["backbone.fc.weight"], np.nan)
    with caplog.at_level(logging.WARNING):
        made = stream(images, model).collect()
    assert made.samples is not None
    assert made.samples.status.tolist() == [NOT_FINITE] * 12
    assert np.isnan(made.features).all()
    assert "features of 12 images are not finite" in caplog.text


# lists without packed pixels

@pytest.mark.parametrize(("height", "width", "pack"), [(16, 16, "auto"), (20, 27, "auto"), (20, 27, "16")])
def test_an_unpacked_list_gives_the_same_bits(tmp_path: Path, model: Checkpoint, height: int, width: int, pack: str) -> None:
    write_pngs(tmp_path, noise(7, height, width))
    packed, unpacked = image_list(tmp_path, pack=int(pack) if pack.isdigit() else pack), image_list(tmp_path, pack="none")
    assert packed.pixels is not None
    assert unpacked.pixels is None
    assert (features(packed, model, batch=3) == features(unpacked, model, batch=3)).all()


def test_a_file_that_changed_since_init_is_noticed(tmp_path: Path, model: Checkpoint) -> None:
    write_pngs(tmp_path, noise(4))
    unpacked = image_list(tmp_path, pack="none")
    features(unpacked, model)
    (tmp_path / "0001.png").write_bytes((tmp_path / "0002.png").read_bytes())
    with pytest.raises(DataError, match=r"0001\.png: the file is not the one that was listed"):
        features(unpacked, model)
    (tmp_path / "0001.png").unlink()
    with pytest.raises(DataError, match=r"0001\.png"):
        features(unpacked, model)


# checkpoints that do not fit

def test_an_unknown_backbone(images: ImageList) -> None:
    with pytest.raises(DataError, match="backbone: found 'alexnot', expected one of convnet"):
        stream(images, new_model(backbone="alexnot"))


def test_a_missing_and_a_foreign_tensor(images: ImageList) -> None:
    model = new_model()
    weight = model.model.pop("backbone.fc.weight")
    with pytest.raises(DataError, match=r"'fc\.weight' is missing"):
        stream(images, model)
    model.model["backbone.fc.weight"] = weight[:, :5]
    with pytest.raises(DataError, match=r"'fc\.weight' has the wrong shape"):
        stream(images, model)


def test_a_head_is_no_part_of_the_backbone(images: ImageList, model: Checkpoint) -> None:
    with_head = dataclasses.replace(model, model=model.model | {"head.weight": np.zeros((3, 256), np.float32)})
    assert (features(images, with_head) == features(images, model)).all()
