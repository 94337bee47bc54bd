"""ucl diff: what differs between two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ucl.front.options import Common, JsonOption, command

EXAMPLE = "ucl diff runs/a/labels.h5 runs/b/labels.h5"


@command()
def main(first: Annotated[str, typer.Argument(metavar="FIRST", help="A file; - is standard input.")],
         second: Annotated[str, typer.Argument(metavar="SECOND", help="A file of the same kind.")], *,
         tolerance: Annotated[float | None, typer.Option("--tolerance", metavar="X", help="Numbers that differ by no more than this are equal. "
                                                         "Default: bits are compared.", min=0)] = None,
         json_: JsonOption = False, common: Common) -> int:
    """Compare two files."""
    from ucl.diff import compare
    from ucl.formats.reader import open_artifact
    from ucl.front.console import clean
    from ucl.front.streams import standard_input

    source: Path | int = standard_input() if first == "-" else Path(first)
    name = "stdin" if first == "-" else first
    with open_artifact(Path(second)) as b, open_artifact(source, name=name) as a:
        found = compare(a, b, tolerance)
        digests = (a.digest, b.digest)
    if json_:
        typer.echo(json.dumps(_document(found, name, second, digests), sort_keys=True))
    elif not found.equal and not common.quiet:
        for line in _lines(found, name, second):
            typer.echo(clean(line))
    return 0 if found.equal else 1


def _document(found: Any, first: str, second: str, digests: tuple[str, str]) -> dict[str, Any]:
    datasets = {d.path: {"what": str(d), "rows": d.rows, "of": d.of, "first": d.first if d.rows else None, "name": d.name or None,
                         "largest": _finite(d.largest), "relative": _finite(d.relative), "values": d.values or None} for d in found.datasets}
    return {"schema": "ucl.diff/1", "files": [first, second], "kind": found.kind, "equal": found.equal, "same_recipe": found.same_recipe,
            "digests": list(digests), "datasets": datasets, "attributes": found.attrs,
            "notes": {k: [str(v) for v in pair] for k, pair in found.notes.items()},
            "labels": {k: _finite(v) for k, v in found.labels.items()},
            "renumbering": found.renumbering and {str(k): v for k, v in found.renumbering.items()}}


def _finite(x: float | None) -> float | None:
    return x if x is not None and abs(x) < float("inf") else None


def _lines(found: Any, first: str, second: str) -> list[str]:
    """What differs, for people."""
    lines = [f"{first} and {second}: {found.kind}: the contents differ"]
    lines += [f"  {d.path:<24} {d}" for d in found.datasets]
    lines += [f"  {name:<24} {a}, {b}" for name, (a, b) in found.attrs.items()]
    if found.labels:
        lines.append("  " + ", ".join(f"{name} {value:.4f}" for name, value in found.labels.items()))
    if found.renumbering is not None:
        pairs = [f"{a}->{b}" for a, b in found.renumbering.items() if a != b]
        more = f" and {len(pairs) - 12} more" if len(pairs) > 12 else ""
        lines.append("  the same clusters under other numbers: " + " ".join(pairs[:12]) + more)
    if found.same_recipe:
        lines.append("  the recipe is the same: made from the same input by the same settings, with another result")
    notes = [name for name in ("creator", "model", "weights-sha256", "layer", "transform", "context") if name in found.notes]
    if notes:
        lines.append(f"  also different, though no content: {', '.join(notes)}; ucl info shows them")
    return lines
