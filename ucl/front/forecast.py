"""`run --dry-run`: the plan as shell lines, with memory and time."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from ucl.context import Context
from ucl.fields import own_first
from ucl.front.create import Request, settings_of
from ucl.front.listing import listing_of
from ucl.front.options import flags_of
from ucl.methods.method import Step, plan, plan_length
from ucl.rundir import RunConfig, RunDir
from ucl.settings import METHOD_TABLES, ExtractSettings, InitSettings, Settings, TrainSettings, tables


def forecast(run: RunDir | None, asked: Request | None, where: str, toml: bool) -> list[str]:
    """The lines of a dry run; opens no GPU and decodes no image."""
    if run is not None:
        context, config = run.context(), run.config
    else:
        assert asked is not None
        config = _counted(asked.config)
        context = Context(config.method, seed=config.seed, images=config.usable or config.n, size=config.size, source=config.source,
                          overrides=config.overrides)
    init = settings_of(config)
    steps, total = plan(context), plan_length(context)
    differing, left = changing(context, total), max(total - context.epoch, 0)
    if toml:
        return _toml(config, steps, init, differing)
    lines = [f"# {config.method}: {config.n} images at {config.size} px, {init.backbone}; epoch {context.epoch} of {total}, "
             f"{config.threads} threads, seed {config.seed}"]
    if run is None:
        assert asked is not None
        lines.append(f"{_init_line(asked, where)} && cd {shlex.quote(where)}")
    turns = _kinds_of_turns(context, total)
    if len(turns) < 3:
        lines += [f"{_pipe(steps, differing)} || exit"] if len(turns) == 2 else []
        lines += ["until ucl status --done; do", f"    {_pipe(turns[-1][2] if turns else steps, differing)} || exit", "done"]
    else:
        lines.append('until ucl status --done; do line=$(ucl status --next) && eval "$line" || exit; done')
        lines += [f"# epoch{'' if last == first else 's'} {first + 1}{'' if last == first else f' to {last + 1}'}: {_pipe(kind, differing)}"
                  for first, last, kind in turns]
    if differing:
        lines.append("# the plan's, from epoch to epoch: " + ends_text(differing))
    if not left:
        lines.append("# the plan is done")
    return [*lines, *_costs(run, config, init, steps, left)]


def _kinds_of_turns(context: Context, total: int) -> list[tuple[int, int, list[Step]]]:
    """The epochs that are left, in runs of the same pipe: (first, last, steps of the first)."""
    found: list[tuple[int, int, list[Step]]] = []
    for epoch in range(context.epoch, total):
        steps = plan(dataclasses.replace(context, epoch=epoch))
        if found and [(s.verb, s.stage) for s in found[-1][2]] == [(s.verb, s.stage) for s in steps]:
            found[-1] = (found[-1][0], epoch, found[-1][2])
        else:
            found.append((epoch, epoch, steps))
    return found


def next_line(run: RunDir) -> str:
    """The next turn as a line of shell; the commands find their settings in the plan."""
    from ucl.front.session import unfinished

    verbs = [step.verb for step in plan(run.next_turn())]
    return " | ".join(f"ucl {verb}" for verb in (["train-epoch"] if "train-epoch" in unfinished(run) else verbs))


def _pipe(steps: list[Step], differing: Collection[tuple[str, str]]) -> str:
    """A turn as one line of shell."""
    return " | ".join(shell_line(step, {name for stage, name in differing if stage == step.stage}) for step in steps)


def _init_line(asked: Request, where: str) -> str:
    """The `ucl init` that a new run would start with, with everything the command line says."""
    given = asked.given
    words = ["ucl", "init", asked.config.method, *([given["images"]] if "images" in given else [])]
    for name in ("files_from", "seed", "threads", "precision", "keep"):
        words += [f"--{name.replace('_', '-')}", str(given[name])] if name in given else []
    words += [f"--{'' if given['compile'] else 'no-'}compile"] if "compile" in given else []
    for key, value in asked.config.overrides.items():
        words += ["--epochs", value] if key == "plan.epochs" else ["--set", f"{key}={value}"]
    return " ".join(shlex.quote(w) for w in [*words, "-o", where])


def changing(context: Context, total: int) -> dict[tuple[str, str], tuple[str, str]]:
    """(stage, setting) -> (in the first epoch, in the last one), of all settings that the plan changes from epoch to epoch."""
    turns = [{step.stage: step.settings.as_dict() for step in plan(dataclasses.replace(context, epoch=epoch))} for epoch in range(total)]
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for stage in dict.fromkeys(stage for turn in turns for stage in turn):
        every = [turn[stage] for turn in turns if stage in turn]
        found |= {(stage, name): (_text(value), _text(every[-1][name])) for name, value in every[0].items()
                  if any(settings[name] != value for settings in every)}
    return found


def ends_text(differing: Mapping[tuple[str, str], tuple[str, str]]) -> str:
    """What `changing` found, as text."""
    return "; ".join(f"{stage} {name} {first} " + (f"... {last}" if last != first else "at both ends")
                     for (stage, name), (first, last) in differing.items())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def shell_line(step: Step, leave_out: Collection[str] = ()) -> str:
    """A step as the command that performs it, with the settings that differ from the verb's own defaults; but those to leave out."""
    words = ["ucl", step.verb]
    for field in own_first(type(step.settings)):
        value = getattr(step.settings, field.name)
        if value == field.default or field.name in step.settings.unread or field.name in leave_out:
            continue
        flags = flags_of(field)[0].split("/")
        if isinstance(value, bool):
            words.append(flags[0] if value else flags[-1])
        else:
            words += [flags[0], ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value}"]
    return " ".join(words)


def _counted(config: RunConfig) -> RunConfig:
    init = settings_of(config)
    listing = listing_of(config.images, config.files_from, init)
    return dataclasses.replace(config, n=len(listing.paths), size=init.size, source="digits" if config.images == "digits" else "")


def _costs(run: RunDir | None, config: RunConfig, init: InitSettings, steps: list[Step], left: int) -> list[str]:
    """Memory from the sizes of what is held; time from the epochs already done here."""
    from ucl import models

    n, row = config.n, models.facts(init.backbone)
    extraction = next((s.settings for s in steps if isinstance(s.settings, ExtractSettings) and s.settings.layer), None)
    dim = models.check(init.backbone, sobel=init.sobel, size=config.size, settings=extraction,
                       tops={"projection": init.projection, "neck": init.neck}) if extraction else row.dim
    cluster: Any = next((s.settings for s in steps if s.verb == "cluster"), None)
    features = n * dim * 4 if cluster is not None else 0
    pixels = n * config.size * config.size * 3
    pixels = pixels if pixels <= init.pack_budget else 0
    held = [f"{_bytes(features)} of features, x {3 if cluster.pca else 2} while they are clustered"] if cluster is not None else []
    told_apart = any(isinstance(s.settings, TrainSettings) and s.settings.objective in ("instance", "online") and s.settings.spread < 1
                     for s in steps)
    held += [f"{_bytes(n * (init.projection or init.neck or row.dim) * 4)} of past embeddings"] if told_apart else []
    held += [f"{_bytes(pixels)} of packed pixels ({'images.h5, mapped' if pixels else 'images are decoded on every pass'})"]
    lines = ["# memory: " + "; ".join(held),
             f"# disk: {_bytes(pixels + features)} for images.h5" + (" and, if kept, one epoch's features" if features else "")]
    seconds = [m["seconds"] for m in (run.metrics() if run is not None else []) if "seconds" in m]
    trained = [m["seconds_train"] for m in (run.metrics() if run is not None else []) if "seconds_train" in m]
    if seconds or trained:
        each = sum(seconds[-5:]) / len(seconds[-5:]) if seconds else 1.5 * sum(trained[-5:]) / len(trained[-5:])
        lines.append(f"# time: {each:.1f} s an epoch as measured here, {_duration(each * left)} for the {left} left")
    else:
        per_image = row.cpu_seconds * (config.size / 32) ** 2
        each = 0.5 + per_image * n * 2 / max(config.threads, 1)
        lines.append(f"# time: about {each:.1f} s an epoch on a CPU of {config.threads} threads, {_duration(each * left)} for {left} "
                     "(a rule of thumb; measured after the first epoch)")
    return lines


def _bytes(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _toml(config: RunConfig, steps: list[Step], init: InitSettings, differing: Collection[tuple[str, str]]) -> list[str]:
    """Every effective setting, as tables that ucl.toml would take.  Of a method with a table of its own, which decides what its verbs are
    told, that table, and of the verbs what was set by hand."""
    lines = [line for line in dataclasses.replace(config, overrides={}).to_toml().splitlines() if not line.startswith("#")]
    by_hand: dict[str, dict[str, str]] = {}
    for key, value in config.overrides.items():
        by_hand.setdefault(key.partition(".")[0], {})[key.partition(".")[2].replace("-", "_")] = value
    whole: dict[str, Settings] = {"init": init}
    if config.method in METHOD_TABLES:
        whole[config.method] = METHOD_TABLES[config.method]().override(by_hand.get(config.method, {}))
    else:
        whole |= {step.verb: step.settings for step in steps}
    for name in [*whole, *(n for n in by_hand if n not in whole)]:
        settings = whole[name] if name in whole else tables()[name]().override(by_hand[name])
        lines += ["", f"[{name}]"]
        for key, value in settings.as_dict().items():
            told = key not in settings.unread and (name, key) not in differing if name in whole else key in by_hand[name]
            if value is not None and told:
                lines.append(f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    return lines


