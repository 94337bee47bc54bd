"""What `ucl neighbors` reads, writes and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ucl import memory
from ucl.artifacts import Features, Neighbors
from ucl.errors import UsageError
from ucl.front import session
from ucl.front.console import say
from ucl.front.labels import features_reader, load_input
from ucl.front.options import Common
from ucl.front.streams import find_output, open_output
from ucl.neighbors import check
from ucl.run import perform
from ucl.rundir import RunDir
from ucl.settings import NeighborsSettings
from ucl.store import save

WORK = "searching"


def find(features: str | None, others: str | None, stage: str, output: str | None, given: dict[str, Any], common: Common, *, force: bool,
         as_json: bool) -> int:
    """Search, write, and say in one line what was found."""
    if others == "-":
        raise UsageError("OTHERS: found -, wanted a file: it is read more than once", "ucl neighbors - OTHERS reads FEATURES from the pipe")
    run = RunDir.here()
    where = find_output(output, run, "pairs" if given.get("duplicates") is not None else "neighbors")
    runtime = session.runtime_for(run, common, torch=False)
    among = None if others is None else _others(others, runtime.memory)

    def needed(head: Features, n: int, d: int, path: int) -> memory.Need:
        """What the search takes; refuses what cannot be compared, before rows are read."""
        context = session.context_of(head, run, common, "features", joins=False)
        settings = session.step_of(context, "neighbors", stage, given).settings
        assert isinstance(settings, NeighborsSettings)
        if among is not None:
            check(settings, head, d, among)
        return memory.need_of_neighbors(n, d, settings, among=0 if among is None else len(among.features), path=path)

    x, context = load_input(features, run, "features", common, reader=features_reader(runtime.memory, needed, WORK))
    step = session.step_of(context, "neighbors", stage, given)
    context = session.with_flags(context, "neighbors", given, step)
    with open_output(where, force=force, run=run) as out:               # first: a name that is taken is told before the search
        made = perform(step, {"features": x, "among": among}, context, runtime)["neighbors"]
        save(made, out)
    if as_json:
        say(json.dumps({"schema": f"{made.kind.replace('/', '.')}/1", **_facts(made)}, sort_keys=True))
    elif not common.quiet:
        say(f"ucl neighbors: {made.title()}" + (f"; in {where}" if where != "-" else ""))
    return 0


def _others(name: str, limit: int) -> Features:
    """The second file; its rows stay in it."""
    read = features_reader(limit, lambda _, n, d, path: memory.Need(memory.BASE + n * (100 + 3 * path), 4 * n * d, 0), WORK)
    found: Features = read(Path(name), "ucl/features", name)
    return found


def _facts(made: Any) -> dict[str, Any]:
    others = {} if made.among is None else {"among": len(made.among)}
    if isinstance(made, Neighbors):
        n, k = made.neighbors.shape
        return {"images": n, "neighbors": k, "without": int((made.neighbors[:, 0] < 0).sum()), "metric": made.metric,
                "self_included": made.self_included, **others}
    return {"pairs": len(made.pairs), "threshold": made.threshold, **others}
