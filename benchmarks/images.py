"""`extract` and `train-epoch`: against a DataLoader with PIL and torchvision, and against the bare loop on tensors in memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import bare
from benchmarks.commands import PYTHON, timed, ucl
from benchmarks.data import SIDE, Scale, folder, image_list, network, random_list, save
from benchmarks.table import Row, race
from ucl.batches import Batches
from ucl.context import Context
from ucl.device import Runtime
from ucl.run import silent
from ucl.settings import CIFAR_MEAN, CIFAR_STD, ExtractSettings, TrainSettings

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]

BATCH = ExtractSettings().batch
WORKERS = (0, 2)
"""DataLoader workers tried; the row takes the better number."""

ALIKE = 1e-3
"""Features of the two sides differ by no more; more would mean that they looked at other pixels."""


# -- from files ----------------------------------------------------------------------------------------------------------------------


def loader(scale: Scale, workers: int) -> Any:
    """torchvision's ImageFolder with the usual transform of an evaluation, in order."""
    from torch.utils.data import DataLoader
    from torchvision import transforms  # type: ignore[import-untyped]
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

    fixed = transforms.Compose([transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.ToTensor(),
                                transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])
    return DataLoader(ImageFolder(str(folder(scale)), fixed), BATCH, num_workers=workers)


def loaded(scale: Scale, workers: int, net: Any = None) -> Any:
    """Features of the folder through the DataLoader; without a network its batches alone are made."""
    import torch

    from ucl.networks.taps import Tap

    found = []
    read = Tap(net.eval(), SIDE, final_relu=False) if net is not None else None
    with torch.inference_mode():
        for x, _ in loader(scale, workers):
            found.append(read(x).numpy() if read is not None else x[:, 0, 0, 0].numpy())
    return np.concatenate(found)


@functools.cache
def best_workers(scale: Scale, net: Any = None) -> tuple[int, str]:
    """The number of workers that is faster here, and what was seen."""
    seen = {}
    for workers in WORKERS:
        loaded(scale, workers, net)
        began = time.perf_counter()
        loaded(scale, workers, net)
        seen[workers] = time.perf_counter() - began
    return min(seen, key=lambda w: seen[w]), "DataLoader with " + ", ".join(f"{w} workers {s:.3g} s" for w, s in seen.items())


def our_batches(images: Any, runtime: Runtime) -> Any:
    """The batches that `extract` gives its network, without a network: their first values (N,)."""
    batches = Batches(images, runtime, SIDE, CIFAR_MEAN, CIFAR_STD)
    count = len(images.samples)
    return np.concatenate([batches.evaluate(np.arange(start, min(start + BATCH, count)))[:, 0, 0, 0].cpu().numpy()
                           for start in range(0, count, BATCH)])


def _from_files(scale: Scale, name: str, *, packed: bool, net: bool, goal: float | None) -> Row:
    """``packed``: the list is made and holds its pixels; else the folder is listed and every file decoded within the time."""
    from ucl import models
    from ucl.extract import extract

    runtime, model = Runtime("cpu", scale.threads), network()
    runtime.prepare()
    module = models.restore(model) if net else None
    workers, seen = best_workers(scale, module)
    ready = image_list(scale)
    made: dict[str, Any] = {}

    def left() -> None:
        images = ready if packed else image_list(scale)
        made["ours"] = extract(images, model, ExtractSettings(), Context(), runtime, silent).collect().features if net else \
            our_batches(images, runtime)

    def right() -> None:
        made["other"] = loaded(scale, workers, module)

    pairs = race(left, right, scale.repeat)
    apart = float(np.abs(made["ours"] - made["other"]).max())
    what = f"{'packed pixels' if packed else 'folder'} to {'features' if net else 'batches'}"
    return Row(name, what, f"DataLoader, {workers} workers", pairs, kind="gain", goal=goal,
               faults=(f"values differ by {apart:.1e}",) if apart > ALIKE else (),
               note=f"{len(ready.samples)} JPEG files of {SIDE} px, {'convnet' if net else 'no network'}; {seen}")


def extract_files(scale: Scale) -> Row:
    """What ``ucl extract FOLDER --backbone convnet`` does once its modules are loaded."""
    return _from_files(scale, "extract-files", packed=False, net=True, goal=3)


def extract_packed(scale: Scale) -> Row:
    """What ``ucl extract`` does in a run directory."""
    return _from_files(scale, "extract-packed", packed=True, net=True, goal=10)


def batches_files(scale: Scale) -> Row:
    """The data path alone: a network that costs nothing."""
    return _from_files(scale, "batches-files", packed=False, net=False, goal=3)


def batches_packed(scale: Scale) -> Row:
    """The data path alone, pixels packed."""
    return _from_files(scale, "batches-packed", packed=True, net=False, goal=10)


# -- against the bare loop -----------------------------------------------------------------------------------------------------------


def float_views(images: Any, device: str = "cpu") -> torch.Tensor:
    """All images as the network wants them, (N, 3, S, S) float32."""
    import torch

    x = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
    mean, std = (torch.tensor(v)[:, None, None] for v in (CIFAR_MEAN, CIFAR_STD))
    return ((x - mean) / std).to(device)


def extract_against_bare(scale: Scale, name: str, count: int, backbone: str = "convnet", device: str = "cpu") -> Row:
    """`extract` against `bare.extract`; the same network and batch."""
    from ucl import models
    from ucl.extract import extract

    images, model, runtime = random_list(count), network(backbone), Runtime(device, scale.threads)
    runtime.prepare()
    views, net = float_views(images, device), models.restore(model).to(device)
    made: dict[str, Any] = {}

    def left() -> None:
        made["ours"] = extract(images, model, ExtractSettings(), Context(), runtime, silent).collect().features

    def right() -> None:
        made["other"] = bare.extract(net, views, BATCH)

    pairs = race(left, right, scale.repeat)
    apart = float(np.abs(made["ours"] - made["other"]).max())
    row = Row(name, "extract", "bare loop, tensors in memory", pairs, goal=1.15,
              faults=(f"features differ by {apart:.1e}",) if apart > ALIKE else ())
    return _with_speed(row, count, backbone, BATCH)


def _with_speed(row: Row, count: int, backbone: str, batch: int) -> Row:
    from dataclasses import replace

    speeds = [f"{count / row.median(side):,.0f}" for side in (0, 1)]
    return replace(row, note=f"{backbone}, batch {batch}, {count} images: {speeds[0]} and {speeds[1]} images a second")


def random_labels(count: int) -> NDArray[np.int32]:
    """Labels (N,) with 50 images a cluster."""
    return np.asarray(np.random.default_rng(1).permutation(count) % max(2, count // 50), np.int32)


def train_against_bare(scale: Scale, name: str, count: int, batch: int, backbone: str = "convnet", device: str = "cpu") -> Row:
    """`train-epoch` with all its views against `bare.train` without any."""
    import torch

    from ucl import models
    from ucl.artifacts import Labels
    from ucl.keys import Key
    from ucl.train_epoch import train_epoch

    images, model, runtime = random_list(count), network(backbone), Runtime(device, scale.threads)
    runtime.prepare()
    y = random_labels(count)
    views, labels, settings = float_views(images, device), Labels(y, samples=images.samples), TrainSettings(batch=batch)
    target = torch.from_numpy(y.astype(np.int64)).to(device)

    def left() -> None:
        train_epoch(images, model, labels, settings, Context(), runtime, silent)

    def right() -> None:
        net = models.restore(model).to(device)
        bare.train(net, models.new_head(int(net.feature_dim), labels.k, Key()).to(device), views, target, settings)

    pairs = race(left, right, scale.repeat)
    return _with_speed(Row(name, "train-epoch, with its views", "bare loop, no views", pairs, goal=1.25), count, backbone, batch)


def train_augmented(scale: Scale) -> Row:
    """The same views drawn by torchvision's v2 transforms, image by image as they are meant to be used, in this process."""
    import torch
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    from ucl import models
    from ucl.artifacts import Labels
    from ucl.keys import Key
    from ucl.train_epoch import train_epoch

    count, batch = scale.of(10_000, 320), 64
    images, model, runtime = random_list(count), network(), Runtime("cpu", scale.threads)
    runtime.prepare()
    y, settings = random_labels(count), TrainSettings(batch=batch)
    labels = Labels(y, samples=images.samples)
    assert images.pixels is not None
    pixels, target = torch.from_numpy(images.pixels).permute(0, 3, 1, 2), torch.from_numpy(y.astype(np.int64))
    s = settings
    view = v2.Compose([v2.RandomResizedCrop(SIDE, s.crop_scale, s.crop_ratio), v2.RandomHorizontalFlip(s.flip),
                       v2.RandomApply([v2.ColorJitter(s.brightness, s.contrast, s.saturation, s.hue)], s.jitter_p),
                       v2.RandomGrayscale(s.grey_p), v2.ToDtype(torch.float32, scale=True), v2.Normalize(CIFAR_MEAN, CIFAR_STD)])

    class Drawn:
        """Batches of views that are made when they are asked for."""

        def __len__(self) -> int:
            return count

        def __getitem__(self, part: slice) -> torch.Tensor:
            return torch.stack([view(image) for image in pixels[part]])

    def left() -> None:
        train_epoch(images, model, labels, settings, Context(), runtime, silent)

    def right() -> None:
        net = models.restore(model)
        bare.train(net, models.new_head(int(net.feature_dim), labels.k, Key()), Drawn(), target, settings)  # type: ignore[arg-type]

    row = Row("train-augmented", "train-epoch, with its views", "bare loop, torchvision v2 views", race(left, right, scale.repeat), goal=1.0)
    return _with_speed(row, count, "convnet", batch)


def extract_bare(scale: Scale) -> Row:
    """The function in this process."""
    return extract_against_bare(scale, "extract-bare", scale.of(10_000, 320))


def train_bare(scale: Scale) -> list[Row]:
    """The function in this process, at both batch sizes that plans choose for small views."""
    return [train_against_bare(scale, f"train-bare-{batch}", scale.of(10_000, 320), batch) for batch in (256, 64)]


# -- as commands ---------------------------------------------------------------------------------------------------------------------


def _command_files(scale: Scale, count: int) -> tuple[Any, Any]:
    """The place where the files of both commands are, and the labels in them."""
    from ucl.artifacts import Labels

    place = scale.work / "command"
    y = random_labels(count)
    if not place.is_dir():
        place.mkdir()
        images = random_list(count)
        save(images, place / "images.h5")
        save(network(), place / "model.h5")
        save(Labels(y, samples=images.samples), place / "labels.h5")
        np.save(place / "views.npy", float_views(images).numpy())
        np.save(place / "labels.npy", y)
    return place, y


def extract_command(scale: Scale) -> Row:
    """``ucl extract images.h5 --model model.h5 -o features.h5`` against a script that loads float tensors and saves an array."""
    count = scale.of(10_000, 320)
    place, _ = _command_files(scale, count)

    def left() -> float:
        return ucl("extract", "images.h5", "--model", "model.h5", "-o", "features.h5", "-f", cwd=place)

    def right() -> float:
        return timed([PYTHON, "-m", "benchmarks.bare", "extract", "views.npy", "model.h5", "out.npy", str(BATCH)], place)

    row = Row("extract-command", "ucl extract", "python bare.py", race(left, right, scale.repeat), goal=1.15)
    return _with_speed(row, count, "convnet", BATCH)


def train_command(scale: Scale) -> Row:
    """``ucl train-epoch labels.h5 --images images.h5 --model model.h5 -o trained.h5`` against a script that trains and saves."""
    count, batch = scale.of(10_000, 320), 64
    place, _ = _command_files(scale, count)

    def left() -> float:
        return ucl("train-epoch", "labels.h5", "--images", "images.h5", "--model", "model.h5", "--batch", str(batch), "-o", "trained.h5", "-f",
                   cwd=place)

    def right() -> float:
        return timed([PYTHON, "-m", "benchmarks.bare", "train", "views.npy", "model.h5", "out.pt", str(batch), "labels.npy"], place)

    row = Row("train-command", "ucl train-epoch", "python bare.py", race(left, right, scale.repeat), goal=1.25)
    return _with_speed(row, count, "convnet", batch)


ROWS: dict[str, Callable[[Scale], Row | list[Row]]] = {
    "extract-files": extract_files, "extract-packed": extract_packed, "batches-files": batches_files, "batches-packed": batches_packed,
    "extract-bare": extract_bare, "train-bare": train_bare, "train-augmented": train_augmented, "extract-command": extract_command,
    "train-command": train_command}
