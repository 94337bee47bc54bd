"""ucl info: what a file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ucl.front.options import Common, JsonOption, command

EXAMPLE = "ucl info labels.h5"


@command()
def main(files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files; - is standard input.")], *,
         json_: JsonOption = False, common: Common) -> int:
    """Describe files."""
    from ucl.front.console import clean

    found = [_facts(name) for name in files]
    if json_:
        typer.echo(json.dumps({"schema": "ucl.info/1", "files": found}, sort_keys=True))
        return 0
    for facts in found:
        typer.echo(f"{clean(facts['file'])}: {facts['kind']}: {clean(str(facts['title']))}")
        for name, text in facts["datasets"].items():
            typer.echo(f"  {clean(name):<24} {text}")
        for key in ("samples-digest", "recipe-id", "digest", "creator", "bad"):
            if facts.get(key) not in (None, ""):
                typer.echo(f"  {key:<24} {clean(str(facts[key]))}")
        context = facts["context"]
        if context.get("method"):
            typer.echo(f"  {'made in':<24} {context['method']}, epoch {context['epoch']}, seed {context['seed']}")
        for key, value in facts["clusters"].items():
            typer.echo(f"  {key:<24} {value}")
        for key in ("flags", "scores"):
            if facts[key]:
                typer.echo(f"  {key:<24} {', '.join(f'{name} {value}' for name, value in facts[key].items())}")
        for step in facts["steps"]:
            typer.echo(f"  {'step':<24} {clean(step)}")
    return 0


def _facts(name: str) -> dict[str, Any]:
    from ucl.formats.reader import open_artifact
    from ucl.front.streams import standard_input

    source: Path | int = standard_input() if name == "-" else Path(name)
    with open_artifact(source, name="stdin" if name == "-" else name) as file:
        datasets = {path: "x".join(str(n) for n in file.shape(path)) + f" {file.dtype(path)}" for path in file.names
                    if not path.startswith("/integrity")}
        context = json.loads(file.attrs.get("context") or "{}")
        steps = [" ".join(json.loads(text).get("argv", [])) for text in file.provenance]
        flags, scores = _flags(file), _scores(file)
        bad = int((file.read("/samples/status") != 0).sum()) if "/samples/status" in file.names else None
        clusters = json.loads(file.read("/clusters/info")[0]) if "/clusters/info" in file.names else {}
        attrs = file.attrs
        if source == 0:
            file.drain()
        return {"file": name, "kind": file.kind, "title": attrs.get("title", ""), "datasets": datasets, "context": context,
                "steps": steps, "bad": bad, "digest": file.digest, "clusters": clusters,
                "flags": flags, "scores": scores,
                **{k: attrs.get(k) for k in ("samples-digest", "recipe-id", "creator")}}


def _flags(file: Any) -> dict[str, int]:
    """How many rows have each flag, those that none has left out."""
    import numpy as np

    from ucl.artifacts import FLAGS

    if "/flag" not in file.names:
        return {}
    count = np.bincount(np.minimum(file.read("/flag"), len(FLAGS)), minlength=len(FLAGS) + 1)
    return {name: int(n) for name, n in zip((*FLAGS, "unknown"), count, strict=True) if n}


def _scores(file: Any) -> dict[str, float]:
    """Number, lowest, median and highest of the scores; nothing where no row has one."""
    import numpy as np

    score = file.read("/score") if "/score" in file.names else np.zeros(0)
    score = score[~np.isnan(score)]
    if not len(score):
        return {}
    low, middle, high = (round(float(x), 6) for x in np.percentile(score, (0, 50, 100)))
    return {"rows": len(score), "lowest": low, "median": middle, "highest": high}
