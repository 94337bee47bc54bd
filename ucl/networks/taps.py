"""Taps: features from any layer of a network, and what shape they have.

A layer is named by the network's own short names (conv1, layer3, fc6; the table lists them) or by the path of any module
(``layer4.1.conv2``).  The forward pass stops there, so layers above cost nothing and cannot overwrite what was read.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ucl.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    class Network(nn.Module):
        """What a backbone is: (B, 3, S, S) views in, (B, feature_dim) features out, after the final ReLU if there is one.

        Attributes:
            points: short name -> where in the network.
            before_relu: where the features are before the final ReLU; None where the outline has to tell.
            width_last: maps of its ``features`` and ``norm`` are (B, H, W, C), as Swin's.
        final: of torchvision's models only: path of the last layer, which is left out.
        """

        feature_dim: int
        points: dict[str, Point]
        before_relu: Point | None
        width_last: bool
        final: str


@dataclass(frozen=True)
class Point:
    """Where features are read.

    Attributes:
        path: the module's path; "" = the network, that is its output.
        inputs: read what the module is given at its last call, instead of what it returns.
    """

    path: str
    inputs: bool = False


@dataclass
class Outline:
    """What one image meets on its way.

    Attributes:
        shapes: path -> shape of each call's output, without the batch; None where it is no tensor.
        given: path -> shape of the last call's input.
        leaves: paths of the modules without children, in the order of their calls.
    """

    shapes: dict[str, list[tuple[int, ...] | None]] = field(default_factory=dict)
    given: dict[str, tuple[int, ...]] = field(default_factory=dict)
    leaves: list[str] = field(default_factory=list)


class _Reached(Exception):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value


def outline(network: nn.Module, size: int) -> Outline:
    """Send one black image through a network in evaluation mode, on the CPU, and note every module's shapes.

    Raises:
        UsageError: the network cannot take views of this size.
    """
    import torch

    found, handles = Outline(), []

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else None
            found.shapes.setdefault(path, []).append(shape)
            if args and isinstance(args[0], torch.Tensor):
                found.given[path] = tuple(args[0].shape[1:])
            if not any(True for _ in module.children()):
                found.leaves.append(path)
        return hook

    training = network.training
    try:
        handles = [module.register_forward_hook(note(path)) for path, module in network.named_modules()]
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"size: the network cannot take views of {size} pixels: {str(error).splitlines()[0]}",
                         "a larger --size (init.size), or a network for small views") from error
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
    return found


class Tap:
    """Rows of features from one layer; ``tap(views)`` is (B, dim).

    Args:
        network: on the CPU; a hook stays on it, which does nothing but in ``tap(views)``.
        size: side of the views.
        layer: "" = the last one, or a name.
        how: what a map becomes: mean, max, flatten, grid-S, max-S; see `ucl.settings.ExtractSettings`.
        final_relu: of the last layer only: keep its ReLU.

    Attributes:
        dim: number of features.
        text: what is read, for the features file.

    Raises:
        UsageError: no such layer (the layers are named), one that makes no features, or a map that its shape does not have.
    """

    def __init__(self, network: Network, size: int, layer: str = "", how: str = "mean", *, final_relu: bool = True) -> None:
        seen = outline(network, size)
        point = _named(network, seen, layer) if layer else _last(network, seen, final_relu)
        self.network, self.how = network, how
        self.width_last = network.width_last and point.path.partition(".")[0] in ("features", "norm")
        shape = _shape(network, seen, point, layer)
        self.dim = _dim(shape if layer else (network.feature_dim,), how, layer or "the last layer", self.width_last)
        self.text = (layer + (f", {how}" if len(shape) > 1 else "")) if layer else "last, before its ReLU" if point.path else "last"
        self._point, self._calls, self._seen, self._active = point, len(seen.shapes[point.path]), 0, False
        if point.path:
            module = network.get_submodule(point.path)
            if point.inputs:
                module.register_forward_pre_hook(self._before)
            else:
                module.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._meet(args[0])

    def _after(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self._meet(output)

    def _meet(self, value: torch.Tensor) -> None:
        if self._active:
            self._seen += 1
            if self._seen == self._calls:
                raise _Reached(value)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) views as (B, dim) features, of the network's dtype."""
        if not self._point.path:
            return rows(self.network(x), self.how, self.width_last)
        self._seen, self._active = 0, True
        try:
            self.network(x)
        except _Reached as reached:
            return rows(reached.value, self.how, self.width_last)
        finally:
            self._active = False
        raise AssertionError(f"{self._point.path} was not reached")


PROJECTION, NECK = "projection", "neck"
TOPS = (PROJECTION, NECK)
"""Names of what may stand on top of the last layer, where a checkpoint has it."""


class Topped(Tap):
    """A tap on what stands on top of the last layer: (B, dim) rows, of unit length behind a projection.

    Args:
        network: on the CPU.  size: side of the views.
        top: it is put in evaluation mode, and moved to where the network is.
        name: one of `TOPS`.
        dim: of its output.
    """

    def __init__(self, network: Network, size: int, top: nn.Module, name: str, dim: int) -> None:
        super().__init__(network, size)
        self.top, self.dim, self.text = top.eval(), dim, name

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) views as (B, dim) float32."""
        import torch
        from torch.nn import functional

        out = super().__call__(x)
        with torch.autocast(out.device.type, enabled=False):  # as in training
            values: torch.Tensor = self.top.to(out.device)(out.float())
            return functional.normalize(values, dim=1) if self.text == PROJECTION else values


def rows(values: torch.Tensor, how: str, width_last: bool = False) -> torch.Tensor:
    """A layer's output as rows.

    Args:
        values: (B, D) is left as it is; (B, T, C) tokens; (B, C, H, W) maps, or (B, H, W, C) with ``width_last``.
        how: mean, max (over tokens or places), flatten (channels first), grid-S (averages of S x S parts), max-S (their maxima).
    """
    from torch.nn import functional

    if values.ndim == 2:
        return values
    if values.ndim == 4 and width_last:
        values = values.permute(0, 3, 1, 2)
    if how == "flatten":
        return values.flatten(1)
    if "-" in how:
        name, _, side = how.partition("-")
        pool = functional.adaptive_avg_pool2d if name == "grid" else functional.adaptive_max_pool2d
        return pool(values, int(side)).flatten(1)
    over = (1,) if values.ndim == 3 else (2, 3)
    return values.mean(over) if how == "mean" else values.amax(over)


def _dim(shape: tuple[int, ...], how: str, layer: str, width_last: bool) -> int:
    if len(shape) == 1:
        if how != "mean":
            raise UsageError(f"map: {layer} is a vector of {shape[0]}, there is no map to reduce by {how!r}",
                             "--layer names one that is a map, as conv5 or layer4")
        return shape[0]
    if len(shape) == 2 and "-" in how:
        raise UsageError(f"map: {layer} is a row of {shape[0]} tokens and has no grid", "mean, max or flatten")
    if how == "flatten":
        whole = 1
        for n in shape:
            whole *= n
        return whole
    channels = shape[-1] if len(shape) == 2 or width_last else shape[0]
    return channels * int(how.partition("-")[2]) ** 2 if "-" in how else channels


def _shape(network: nn.Module, seen: Outline, point: Point, layer: str) -> tuple[int, ...]:
    calls = seen.shapes.get(point.path)
    shape = None if not calls else seen.given.get(point.path) if point.inputs else calls[-1]
    if shape is None or not 1 <= len(shape) <= 3:
        found = "is not called" if not calls else "makes no features" if shape is None else f"makes an array of {len(shape) + 1} axes"
        raise UsageError(f"layer: {layer!r} {found}", _hint(network, layer))
    return shape


def _named(network: Network, seen: Outline, layer: str) -> Point:
    if layer in network.points:
        return network.points[layer]
    if layer not in seen.shapes and layer not in dict(network.named_modules()):
        raise UsageError(f"layer: the network has none called {layer!r}", _hint(network, layer))
    return Point(layer)


def _hint(network: nn.Module, layer: str) -> str:
    points: dict[str, Point] = getattr(network, "points", {})
    paths = [path for path, _ in network.named_modules() if path]
    near = difflib.get_close_matches(layer, [*points, *paths], n=3)
    said = [f"did you mean {' or '.join(near)}?"] if near else []
    return " ".join([*said, f"one of {', '.join(points)}, or a module's path, as {paths[-1]}" if points
                     else f"a module's path, as {paths[0]} or {paths[-1]}"])


def _last(network: Network, seen: Outline, final_relu: bool) -> Point:
    """The last layer, before its ReLU where it has one and that is asked for."""
    if final_relu:
        return Point("")
    return network.before_relu or _before_relu(network, seen) or Point("")


def _before_relu(network: Network, seen: Outline) -> Point | None:
    """What the last ReLU is given, if nothing but averaging and dropout stands between it and the features."""
    from torch import nn

    modules = dict(network.named_modules())
    harmless = (nn.Identity, nn.Dropout, nn.AdaptiveAvgPool2d, nn.Flatten)
    for path in reversed(seen.leaves):
        if isinstance(modules[path], nn.ReLU | nn.ReLU6):
            channels = seen.given[path][0]
            return Point(path, inputs=True) if channels == network.feature_dim else None
        if not isinstance(modules[path], harmless):
            return None
    return None
