"""Weights in and out of checkpoints, for `import`, `export`, `init --weights` and `extract --weights`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ucl import pretrained, store
from ucl.errors import DataError, UsageError
from ucl.front import session
from ucl.front.console import clean, say
from ucl.front.options import Common
from ucl.front.streams import open_output, standard_input, stdin_is_data
from ucl.rundir import RunDir
from ucl.settings import ImportSettings, InitSettings


def speaker(common: Common) -> pretrained.Say:
    """Says a line on standard error in the command's name; nothing with -q."""
    return (lambda text: None) if common.quiet else lambda text: say(f"{common.command}: {clean(text)}")


def absolute(weights: str) -> str:
    """Weights as ucl.toml names them: a file by its absolute path, torchvision's by their name."""
    return weights if weights == "none" or pretrained.is_name(weights) else str(Path(weights).absolute())


def initial(settings: InitSettings, by_hand: frozenset[str], common: Common) -> tuple[InitSettings, Any, dict[str, Any]]:
    """The model that `init --weights` starts from.

    Args:
        settings: of `init`; ``weights`` is not "none".
        by_hand: names of the settings that the command line or ucl.toml names.
        common: for messages.

    Returns:
        The settings, with the normalisation that the weights came with unless it was set by hand; the checkpoint, with the
        provenance of the run that it is of, if it is of one; and what the provenance says of the weights.

    Raises:
        DataError: they do not fit, or have another projection than was asked for.  InputMissing, Unavailable: they cannot be had.
    """
    from ucl.front.listing import is_hdf5

    speak = speaker(common)
    before, remark = None, ""
    if is_hdf5(settings.weights):
        found, before, remark = pretrained.of_run(Path(settings.weights), settings.weights, projection=settings.projection > 0)
        told = pretrained.known(found, settings.backbone)
    else:
        found, told = pretrained.start(settings.backbone, settings.weights, speak)
    if told.get("sobel") and not (settings.sobel or settings.fold_sobel):  # the plan's views depend on it: not taken over in silence
        raise DataError(f"{found.name}: the network has DeepCluster's Sobel filter in front, init.sobel is off",
                        "--sobel, or --fold-sobel for a network that takes colours")
    settings = settings.override({k: told[k] for k in ("mean", "std") if k in told and k not in by_hand}, found.name)
    model, fitted = pretrained.checkpoint(settings.backbone, found, told, settings.size, settings.mean, settings.std, head="drop",
                                          sobel=settings.sobel, fold=settings.fold_sobel)
    notes = [remark, *fitted.notes[1:]] if remark else fitted.notes  # the first note is the layout
    if told.get("size", settings.size) != settings.size:
        notes.append(f"its views were of {told['size']} px, here they are of {settings.size}: --size")
    speak(f"{found.name}: {'; '.join(notes)}")
    if before is not None and settings.projection:
        settings = _with_projection(settings, model, before, by_hand)
    model.config["weights"] = f"sha256:{model.weights_digest()}"  # of the tensors: the same from any file that holds them
    model.provenance = list(before.provenance) if before is not None else []
    return settings, model, {"weights": Path(settings.weights).name, "weights-sha256": found.sha256}


def _with_projection(settings: InitSettings, model: Any, before: Any, by_hand: frozenset[str]) -> InitSettings:
    """Put the projection of a run's network on top, if it has one; returns the settings that say which.

    Raises:
        DataError: another width or depth was asked for by hand.
    """
    kept = {name: v for name, v in before.model.items() if name.startswith("projection.")}
    if not kept:
        return settings
    model.model |= kept
    model.config["projection"] = int(before.config["projection"])
    found = {"projection": model.config["projection"], "projection_layers": 2 if "projection.0.weight" in kept else 1}
    for name in by_hand & set(found):
        if getattr(settings, name) != found[name]:
            raise DataError(f"{Path(settings.weights).name}: {name} {found[name]}, asked for {getattr(settings, name)}",
                            f"leave init.{name} out; ucl export and ucl import the weights alone for a new projection")
    return settings.override(found)


def with_weights(backbone: str, weights: str, size: int | None, common: Common, *, sobel: bool) -> Any:
    """The checkpoint that `extract --backbone NAME --weights FILE` extracts with."""
    speak = speaker(common)
    found, told = pretrained.start(backbone, weights, speak)
    settings = ImportSettings(size=size or 0, head="drop")
    made, fitted = pretrained.checkpoint(backbone, found, told, *view_of(settings, backbone, told), head="drop", sobel=sobel or "sobel" in told)
    speak(f"{found.name}: {'; '.join(fitted.notes)}")
    made.config["weights"] = f"sha256:{made.weights_digest()}"
    noted = {"backbone": backbone, "weights": Path(weights).name, "weights-sha256": found.sha256}
    made.recipe = store.recipe(made.kind, "import", {"backbone": backbone, "weights": made.config["weights"]}, 0, [])
    made.provenance = store.chain("import", noted, 0, [], "cpu", 1)
    return made


def view_of(settings: ImportSettings, backbone: str, told: dict[str, Any]) -> tuple[int, Any, Any]:
    """(size, mean, std) of a checkpoint from outside: as set, else as the file says, else as the backbone's images are."""
    from ucl import models

    usual: dict[str, Any] = models.view_defaults(backbone)
    return (settings.size or int(told.get("size", usual["size"])), settings.mean or told.get("mean", usual["mean"]),
            settings.std or told.get("std", usual["std"]))


def take(file: str, backbone: str, settings: ImportSettings, where: str, common: Common, *, force: bool) -> None:
    """What `import` does: read, fit, write a checkpoint.

    Raises:
        UsageError, InputMissing, DataError: see `weights.read` and `weights.fit`.
    """
    from ucl import models, weights

    models.known(backbone)
    speak = speaker(common)
    if file == "-":
        found = weights.read(standard_input("weights"), "stdin")
        told = pretrained.known(found, backbone)
    else:
        found, told = pretrained.start(backbone, file, speak)
    view = view_of(settings, backbone, told)
    made, fitted = pretrained.checkpoint(backbone, found, told, *view, settings.layout, settings.head, sobel="sobel" in told,
                                         fold=settings.fold_sobel)
    done = dataclasses.replace(settings, size=view[0], mean=tuple(view[1]), std=tuple(view[2])).as_dict() | {"backbone": backbone}
    made.recipe = store.recipe(made.kind, "import", done | {"weights": f"sha256:{found.sha256}"}, 0, [])
    made.provenance = store.chain("import", done | {"weights": Path(file).name, "weights-sha256": found.sha256}, 0, [], "cpu", 1)
    with open_output(where, force=force) as out:
        store.save(made, out)
    head = f", head of {made.config['k']} clusters" if "k" in made.config else ", no head"
    speak(f"{found.name}: {'; '.join(fitted.notes)}")
    speak(f"{backbone}, {len(made.model)} tensors{head}" + (f" in {where}" if where != "-" else ""))


def model_of(given: str | None, run: RunDir | None) -> Any:
    """The checkpoint that `export` writes out: a file, standard input, or the newest of the run directory.

    Raises:
        UsageError: none of them.
    """
    if given == "-" or (given is None and stdin_is_data()):
        return store.load(standard_input("a checkpoint"), "ucl/checkpoint", "stdin")
    if given is not None:
        return store.load(Path(given), "ucl/checkpoint")
    if run is None:
        raise UsageError("no model: found no run directory and no MODEL", "ucl export model.h5 -o weights.pt")
    return session.load_model(run, run.newest)


def give(given: str | None, run: RunDir | None, output: str, layout: str | None, head: bool | None, common: Common, *, force: bool) -> None:
    """What `export` does: load a checkpoint and write it as the output's ending says.

    Raises:
        UsageError: an ending or a layout that there is not.  Unavailable: the package of that format is missing.
    """
    from ucl import export, weights
    from ucl.layouts import LAYOUTS

    kind = export.ENDINGS.get(Path(output).suffix.lower(), "")
    if not kind:
        raise UsageError(f"-o {output}: the ending says the format: found {Path(output).suffix or 'none'}, wanted one of "
                         f"{', '.join(export.ENDINGS)}")
    if layout is not None and layout not in ("auto", *LAYOUTS):
        raise UsageError(f"--layout: found {layout!r}, wanted one of auto, {', '.join(LAYOUTS)}")
    if layout is not None and kind == "onnx":
        raise UsageError(f"--layout {layout}: a graph has no key layout", "leave it out, or write .pt or .safetensors")
    for package in {"torch": (), "safetensors": ("safetensors",), "onnx": ("onnx", "onnxscript")}[kind]:
        weights.needs(package, f"-o {output}", kind)
    model = model_of(given, run)
    speak = speaker(common)
    made = None
    if kind != "onnx":
        made = export.state_dict(model, pretrained.names_of(model), layout or "auto", head)
    with open_output(output, force=force) as out:
        if made is None:
            export.write_onnx(model, head, out)
        else:
            (export.write_torch if kind == "torch" else export.write_safetensors)(made, model, out)
    what = "ONNX" if made is None else f"{len(made.state)} tensors in the {made.layout} layout"
    speak(f"{model.config.get('backbone')}, {what}, in {output}")
    if made is not None and made.remark:
        speak(made.remark)
