"""Rank, world, shard, gather, ordered sums, broadcast: identities while one process works alone.

Verbs call these from the first day, so that several processes will change this module and nothing else.  Variables of
torchrun win over those of a Slurm step; a half-set environment, and for the time being any world of more than one
process, is refused.
"""

from __future__ import annotations

import os
from typing import TypeVar

from ucl.errors import Unavailable, UsageError

T = TypeVar("T")


def world() -> tuple[int, int]:
    """(rank, number of processes) of this job step.

    Raises:
        UsageError: torchrun's variables are half set, no numbers, or do not fit each other.
        Unavailable: more than one process.
    """
    torchrun = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    given = [name for name, value in torchrun.items() if value is not None]
    if len(given) == 1:
        missing = next(name for name in torchrun if name not in given)
        raise UsageError(f"environment: {given[0]} is set, {missing} is not", "set both (torchrun does) or neither")
    names = ("RANK", "WORLD_SIZE") if given else ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    try:
        rank, size = int(os.environ.get(names[0]) or 0), int(os.environ.get(names[1]) or 1)
    except ValueError as error:
        raise UsageError(f"environment: {names[0]}, {names[1]}: {error}", "whole numbers, or neither of them") from error
    if size > 1:
        raise Unavailable(f"{size} processes: this version of ucl works in one process",
                          "start one task (srun --ntasks=1, or without torchrun)")
    if rank != 0 or size != 1:
        raise UsageError(f"environment: {names[0]} is {rank}, {names[1]} {size}, wanted 0 and 1", "unset them to work alone")
    return rank, size


def shard(n: int) -> range:
    """This process's rows of n: a contiguous range, never padded."""
    rank, size = world()
    return range(n * rank // size, n * (rank + 1) // size)


def gather(rows: T) -> T:
    """All processes' rows in rank order."""
    return rows


def ordered_sum(value: T) -> T:
    """The sum over processes, taken in rank order."""
    return value


def broadcast(value: T) -> T:
    """Rank 0's value."""
    return value
