"""Loading what a stage of a pipe reads, and writing the labels it makes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ucl.context import Context
from ucl.errors import DataError
from ucl.front import session
from ucl.front.console import say
from ucl.front.listing import list_of
from ucl.front.options import Common
from ucl.front.streams import find_input, open_output, stdin_is_data
from ucl.rundir import RunDir


def load_input(given: str | None, run: RunDir | None, what: str, common: Common, *, joins: bool = False) -> tuple[Any, Context]:
    """(artifact, context) of a stage's input: a file, a stream, or the run directory's work/.

    Raises:
        DataError: not whole, not of this kind, stale, or of another run directory.
    """
    from ucl.store import load

    if run is not None and given is None and not stdin_is_data():
        run.next_turn()
    source, name = find_input(given, run, what)
    artifact = load(source, f"ucl/{what}", name)
    belongs = joins or artifact.foreign or bool(artifact.context.method)
    if run is not None and belongs and artifact.samples is not None and artifact.samples.digest != run.config.samples_digest:
        raise DataError(f"{name}: {artifact.samples.unlike(list_of(None, run)[0])}", "use its own; ucl align puts rows in its order, by name")
    context = session.context_of(artifact, run, common, name, joins=joins)
    if run is not None and context.method:
        if given is None and source != 0:
            session.fresh(run, context, name, piped=False)
        else:
            run.check(dataclasses.replace(context, generation=-1), name)
    return artifact, context


def write_labels(command: str, labels: Any, where: str, common: Common, as_json: bool, *, force: bool,
                 run: RunDir | None) -> int:
    """Write labels and say in one line what they are."""
    from ucl.store import save

    with open_output(where, force=force, run=run) as out:
        save(labels, out)
    info = labels.info
    if as_json:
        say(json.dumps({"schema": "ucl.labels/1", "k": labels.k, "images": len(labels.labels),
                        "labelled": int((labels.labels >= 0).sum()), **info}, sort_keys=True))
    elif not common.quiet:
        info = info | info.get("purify", {})
        extra = ", ".join(f"{k.replace('_', ' ')} {info[k]:.6g}" if isinstance(info[k], float) else f"{k.replace('_', ' ')} {info[k]}"
                          for k in ("objective", "empty", "kept", "cut_by_distance", "dropped_by_vote", "pulled_back", "dissolved") if k in info)
        say(f"{command}: {labels.title()}" + (f"; {extra}" if extra else "") + (f"; in {where}" if where != "-" else ""))
    return 0
