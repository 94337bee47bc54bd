"""ucl doctor: what this machine offers."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from typing import Any

import typer

from ucl.front.options import Common, JsonOption, command

EXAMPLE = "ucl doctor"


@command()
def main(*, json_: JsonOption = False, common: Common) -> int:
    """Show versions, GPU and threads."""
    from ucl import __version__, device, store
    from ucl.formats.reader import hdf5_version
    from ucl.models import BACKBONES
    from ucl.networks.zoo import names as torchvisions

    spool = tempfile.gettempdir()
    facts: dict[str, Any] = {"schema": "ucl.doctor/1", "ucl": __version__, "system": platform.platform(), **store.versions(),
                             "hdf5": hdf5_version(), **device.describe(), "threads": device.machine_threads(),
                             "tmpdir": spool, "tmpdir free bytes": shutil.disk_usage(spool).free,
                             "backbones": list(BACKBONES), "torchvision models": list(torchvisions()),
                             "SLURM_JOB_ID": os.environ.get("SLURM_JOB_ID")}
    if json_:
        typer.echo(json.dumps(facts, sort_keys=True))
        return 0
    for name, value in facts.items():
        if name != "schema" and value is not None:
            typer.echo(f"{name:<18} {', '.join(map(str, value)) or 'none' if isinstance(value, list) else value}")
    return 0
