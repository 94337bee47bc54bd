"""A checkpoint that starts from trained weights: a file of outside, torchvision's by their name, or a checkpoint of another run.

torchvision's are taken from torch hub's cache, and fetched into it where they are not there yet and were asked for by name.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl import store
from ucl.artifacts import Checkpoint
from ucl.errors import DataError, InputMissing, Unavailable
from ucl.layouts import Names
from ucl.weights import FILTER, NOTED, Fitted, Weights, fit, plain, read

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


def of_run(path: Path, name: str, *, projection: bool = False) -> tuple[Weights, Checkpoint, str]:
    """The backbone of a checkpoint of ucl as weights.

    Args:
        projection: whether the caller takes that too, of a checkpoint that has one.

    Returns:
        The weights; the checkpoint; one line that says what of it was left behind.

    Raises:
        DataError: another artifact, or a broken file.
    """
    found = store.load(path, "ucl/checkpoint", name)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    state = {k: v for k, v in found.model.items() if k.startswith("backbone.")}
    left = list(dict.fromkeys(k.partition(".")[0] for k in found.model if k not in state))
    both = " and the projection" if projection and "projection" in left else ""
    left = [part for part in left if not (both and part == "projection")]
    left = [{"mlp": "hidden layers"}.get(part, part) for part in left] + [f"memory of {part}" for part in found.memory]
    left += ["optimizer state"] if found.optimizer else []
    taken = f"the backbone{both} of {found.title()}" + (f" of {found.context.method}" if found.context and found.context.method else "")
    return (Weights(name, state, sha256, {k: found.config[k] for k in NOTED if k in found.config}), found,
            f"{taken}; left behind: {', '.join(left) or 'nothing'}")


def is_name(given: str) -> bool:
    """Whether ``--weights`` means weights of torchvision, and no file."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*", given) is not None and not Path(given).exists()


def known(weights: Weights, backbone: str) -> dict[str, Any]:
    """Size, mean, std and Sobel filter, as far as the file itself tells.

    ``sobel`` = the network stands behind the filter: the filter is in the file, or the first convolution takes two channels.
    ``fold_sobel`` = the filter is folded into the first convolution: it takes three, and its kernel is two larger than the backbone's.

    Raises:
        DataError: it was exported from another backbone, or states something else than numbers.
    """
    told = dict(weights.meta)
    of = told.pop("backbone", backbone)
    if of != backbone:
        raise DataError(f"{weights.name}: exported from {of}, wanted {backbone}", f"--backbone {of}")
    told |= dict.fromkeys(_front(weights, backbone), True)
    size = told.get("size", 1)
    numbers = [*told.get("mean", ()), *told.get("std", ())] if all(isinstance(told.get(k, []), list) for k in ("mean", "std")) else [None]
    if not isinstance(size, int) or not all(isinstance(x, (int, float)) for x in numbers) or len(numbers) not in (0, 6):
        raise DataError(f"{weights.name}: ucl.size, ucl.mean, ucl.std: found {told}, expected a number and three numbers each")
    return told


def _front(weights: Weights, backbone: str) -> list[str]:
    """"sobel", "fold_sobel" or nothing, by the names and the shape of the first convolution."""
    from ucl.networks import zoo
    from ucl.networks.build import empty
    from ucl.networks.fold import GROWS

    if any(key.endswith(FILTER[0]) for key in weights.state):
        return ["sobel"]
    path, first = zoo.first_convolution(empty(backbone, sobel=False, size=0))
    width, _, high, wide = first.weight.shape
    shapes = {v.shape for k, v in weights.state.items() if f".{plain(k)}".endswith(f".{path}.weight")}
    return ["sobel"] if (width, 2, high, wide) in shapes else ["fold_sobel"] if (width, 3, high + GROWS, wide + GROWS) in shapes else []


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


def checkpoint(backbone: str, weights: Weights, told: dict[str, Any], size: int, mean: Any, std: Any, layout: str = "auto",
               head: str = "keep", *, sobel: bool = False, fold: bool = False) -> tuple[Checkpoint, Fitted]:
    """A checkpoint of a backbone with weights of outside.

    Args:
        backbone: a name in `models.BACKBONES`.
        weights: as `weights.read`.
        told: what `known` says of them.
        size, mean, std: side of a view, and normalisation of its channels.
        layout, head: as in `weights.fit`.
        sobel: with DeepCluster's Sobel filter in front.
        fold: with the filter of the weights folded into the first convolution (`ucl.networks.fold`), unless it is so already.

    Returns:
        The checkpoint, before its first epoch and with the number of clusters in its config if it has a head; and what was
        taken and left.

    Raises:
        DataError: the weights do not fit, or have another front than is asked for.
    """
    behind, folded = bool(told.get("sobel")), bool(told.get("fold_sobel"))
    if sobel and folded:
        raise DataError(f"{weights.name}: the Sobel filter is folded into the first convolution; --sobel would filter twice", "leave --sobel out")
    if fold and not (behind or folded):
        raise DataError(f"{weights.name}: the network has no Sobel filter in front, there is nothing to fold", "leave --fold-sobel out")
    sobel = sobel or (fold and behind)
    names, wanted, dim = shapes(backbone, size, sobel=sobel, folded=folded)
    fitted = fit(weights, names, wanted, dim, layout, head, _filter() if sobel else None)
    config: dict[str, Any] = {"backbone": backbone, "sobel": sobel, "size": size, "mean": list(mean), "std": list(std)}
    config |= {"fold_sobel": True} if folded else {}
    if "head.weight" in fitted.tensors:
        config["k"] = len(fitted.tensors["head.weight"])
    made = Checkpoint(fitted.tensors, config=config, progress={"world_size": 1})
    if fold and behind:
        made = without_filter(made, weights.name)
        fitted.notes.append("the Sobel filter is folded into the first convolution")
    return made, fitted


def _filter() -> dict[str, NDArray[Any]]:
    from ucl.networks.build import sobel_filter

    return {f"sobel.{k}": v.numpy() for k, v in sobel_filter().state_dict().items()}


def without_filter(model: Checkpoint, name: str) -> Checkpoint:
    """A checkpoint behind the Sobel filter as one of the same network that takes colours, the filter folded into its first convolution.

    Raises:
        DataError: the filter adds a constant, which only a convolution with a bias could take, or has another shape.
    """
    from ucl.networks import zoo
    from ucl.networks.build import empty
    from ucl.networks.fold import folded_kernel

    grey, grey_bias, derivatives, bias = (model.model[f"backbone.{part}"] for part in FILTER)
    if np.any(grey_bias) or np.any(bias):
        raise DataError(f"{name}: the Sobel filter has a bias, expected none, as in DeepCluster's", "--sobel keeps it in front")
    path, _ = zoo.first_convolution(empty(str(model.config["backbone"]), sobel=True, size=int(model.config["size"])))
    key = f"backbone.{path}.weight"
    tensors = {k: v for k, v in model.model.items() if k.removeprefix("backbone.") not in FILTER}
    tensors[key] = folded_kernel(tensors[key], grey, derivatives)
    return Checkpoint(tensors, config=model.config | {"sobel": False, "fold_sobel": True}, progress=dict(model.progress))


def shapes(backbone: str, size: int, *, sobel: bool, folded: bool = False) -> tuple[Names, dict[str, tuple[tuple[int, ...], str]], int]:
    """(names for key maps, state-dict key -> (shape, dtype), dimension of the features) of a backbone for views of ``size``."""
    from ucl.networks.build import empty

    network = empty(backbone, sobel=sobel, size=size, folded=folded)
    wanted = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in network.state_dict().items()}
    return _names(backbone, network, sobel=sobel, folded=folded), wanted, network.feature_dim


def names_of(model: Checkpoint) -> Names:
    """What a key map must know of a checkpoint's backbone.

    Raises:
        DataError: it names no known backbone, or its tensors do not fit it.
    """
    from ucl import models

    return _names(str(model.config["backbone"]), models.restore(model), sobel=bool(model.config.get("sobel")),
                  folded=bool(model.config.get("fold_sobel")))


def _names(backbone: str, network: Any, *, sobel: bool, folded: bool) -> Names:
    from ucl.networks.table import BACKBONES

    own = backbone in BACKBONES and BACKBONES[backbone].builder
    return Names(backbone, "" if own else network.final, sobel, folded)
