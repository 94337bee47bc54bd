"""A checkpoint that starts from weights of outside: a file, or torchvision's by their name.

torchvision's are taken from torch hub's cache, and fetched into it where they are not there yet and were asked for by name.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ucl.artifacts import Checkpoint
from ucl.errors import DataError, InputMissing, Unavailable
from ucl.layouts import Names
from ucl.weights import Fitted, Weights, fit, read

CENTRED = ("googlenet", "inception_v3")
"""torchvision's networks that, with published weights, change ImageNet's normalisation to mean and deviation 0.5 by themselves
(``transform_input``); our views come normalised so."""

PATIENCE = 30.0
"""Seconds without an answer after which a download is given up."""

Say = Callable[[str], None]


def start(backbone: str, given: str, say: Say) -> tuple[Weights, dict[str, Any]]:
    """The weights that ``--weights`` names, and what is known of the images they were trained on.

    Args:
        backbone: a name in `models.BACKBONES`.
        given: path of a file, or one of torchvision's names ("DEFAULT", "IMAGENET1K_V2").
        say: told before something is fetched.

    Returns:
        The tensors, and mean and std (for torchvision's weights and files of `ucl export`), else nothing.

    Raises:
        InputMissing: neither a file nor a name.  Unavailable: the network allows no download.  DataError: see `weights.read`.
    """
    if not is_name(given):
        found = read(Path(given), given)
        return found, known(found, backbone)
    path, preset = named(backbone, given, say)
    return read(path, f"{given} ({path})"), preset


def is_name(given: str) -> bool:
    """Whether ``--weights`` means weights of torchvision, and no file."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*", given) is not None and not Path(given).exists()


def known(weights: Weights, backbone: str) -> dict[str, Any]:
    """Size, mean, std and Sobel filter, as far as the file itself tells.

    Raises:
        DataError: it was exported from another backbone, or states something else than numbers.
    """
    told = dict(weights.meta)
    if any(key.endswith("sobel.0.weight") for key in weights.state):
        told["sobel"] = True
    of = told.pop("backbone", backbone)
    if of != backbone:
        raise DataError(f"{weights.name}: exported from {of}, wanted {backbone}", f"--backbone {of}")
    size = told.get("size", 1)
    numbers = [*told.get("mean", ()), *told.get("std", ())] if all(isinstance(told.get(k, []), list) for k in ("mean", "std")) else [None]
    if not isinstance(size, int) or not all(isinstance(x, (int, float)) for x in numbers) or len(numbers) not in (0, 6):
        raise DataError(f"{weights.name}: ucl.size, ucl.mean, ucl.std: found {told}, expected a number and three numbers each")
    return told


def named(backbone: str, given: str, say: Say) -> tuple[Path, dict[str, Any]]:
    """torchvision's weights of that name: (file in torch hub's cache, {"mean", "std"}).

    Raises:
        InputMissing: torchvision has no weights of that name for this backbone.  Unavailable: they cannot be fetched.
    """
    from torch import hub
    from torchvision import models as zoo  # type: ignore[import-untyped]

    kinds: Any = zoo.get_model_weights(backbone) if backbone in zoo.list_models(module=zoo) else ()
    if given not in getattr(kinds, "__members__", ()):
        names = ", ".join(sorted(getattr(kinds, "__members__", ())))
        raise InputMissing(f"--weights {given}: no such file, and torchvision has no weights of that name for {backbone}",
                           f"of torchvision: {names}, DEFAULT" if names else "give a file")
    chosen = kinds[given]
    preset = chosen.transforms()
    path = Path(hub.get_dir()) / "checkpoints" / os.path.basename(chosen.url)  # noqa: PTH119 (a URL)
    if not path.exists():
        _fetch(chosen.url, path, given, say)
    if backbone in CENTRED:
        return path, {"mean": [0.5] * 3, "std": [0.5] * 3}
    return path, {"mean": list(preset.mean), "std": list(preset.std)}


def _fetch(url: str, path: Path, given: str, say: Say) -> None:
    """Fetch a file of torchvision's into the cache, whole or not at all, checked by the digest in its name."""
    from torch import hub

    say(f"fetching {url} to {path}")
    digest = re.search(r"-([a-f0-9]{8,})\.", path.name)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; another digest is a RuntimeError
        raise Unavailable(f"--weights {given}: cannot fetch {url}: {error}",
                          f"fetch it where the network allows, and give the file: --weights {path.name}") from error
    finally:
        socket.setdefaulttimeout(patience)


def checkpoint(backbone: str, weights: Weights, size: int, mean: Any, std: Any, layout: str = "auto",
               head: str = "keep", *, sobel: bool = False) -> tuple[Checkpoint, Fitted]:
    """A checkpoint of a backbone with weights of outside.

    Args:
        backbone: a name in `models.BACKBONES`.
        weights: as `weights.read`.
        size, mean, std: side of a view, and normalisation of its channels.
        layout, head: as in `weights.fit`.
        sobel: with DeepCluster's Sobel filter in front.

    Returns:
        The checkpoint, before its first epoch and with the number of clusters in its config if it has a head; and what was
        taken and left.

    Raises:
        DataError: the weights do not fit.
    """
    names, wanted, dim = shapes(backbone, size, sobel=sobel)
    fitted = fit(weights, names, wanted, dim, layout, head)
    config: dict[str, Any] = {"backbone": backbone, "sobel": sobel, "size": size, "mean": list(mean), "std": list(std)}
    if "head.weight" in fitted.tensors:
        config["k"] = len(fitted.tensors["head.weight"])
    return Checkpoint(fitted.tensors, config=config, progress={"world_size": 1}), fitted


def shapes(backbone: str, size: int, *, sobel: bool) -> tuple[Names, dict[str, tuple[tuple[int, ...], str]], int]:
    """(names for key maps, state-dict key -> (shape, dtype), dimension of the features) of a backbone for views of ``size``."""
    from ucl.networks.build import empty

    network = empty(backbone, sobel=sobel, size=size)
    wanted = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in network.state_dict().items()}
    return _names(backbone, network, sobel=sobel), wanted, network.feature_dim


def names_of(model: Checkpoint) -> Names:
    """What a key map must know of a checkpoint's backbone.

    Raises:
        DataError: it names no known backbone, or its tensors do not fit it.
    """
    from ucl import models

    return _names(str(model.config["backbone"]), models.restore(model), sobel=bool(model.config.get("sobel")))


def _names(backbone: str, network: Any, *, sobel: bool) -> Names:
    from ucl.networks.table import BACKBONES

    own = backbone in BACKBONES and BACKBONES[backbone].builder
    return Names(backbone, "" if own else network.final, sobel)
