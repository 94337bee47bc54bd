"""ucl.dist: identities while alone; a half-set environment and more than one process are refused."""

from __future__ import annotations

import numpy as np
import pytest

from ucl import dist
from ucl.errors import Unavailable, UsageError

NAMES = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_alone_everything_is_the_identity() -> None:
    assert dist.world() == (0, 1)
    for n in (0, 1, 1797):
        assert dist.shard(n) == range(n)
    rows = np.arange(6.0).reshape(3, 2)
    assert dist.gather(rows) is rows
    assert dist.ordered_sum(rows) is rows
    assert dist.broadcast(rows) is rows


@pytest.mark.parametrize("values", [{"RANK": "0", "WORLD_SIZE": "1"}, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_PROCID": "0"},
                                    {"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}])
def test_one_process_by_name_is_alone_and_torchrun_wins(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    put(monkeypatch, **values)
    assert dist.world() == (0, 1)
    assert dist.shard(10) == range(10)


@pytest.mark.parametrize(("given", "missing"), [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")])
def test_half_set(monkeypatch: pytest.MonkeyPatch, given: str, missing: str) -> None:
    put(monkeypatch, **{given: "1"})
    with pytest.raises(UsageError, match=f"environment: {given} is set, {missing} is not"):
        dist.world()
    with pytest.raises(UsageError):
        dist.shard(10)


@pytest.mark.parametrize("values", [{"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "1", "WORLD_SIZE": "2"},
                                    {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}])
def test_two_processes(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    put(monkeypatch, **values)
    with pytest.raises(Unavailable, match="2 processes: this version of ucl works in one process"):
        dist.world()


@pytest.mark.parametrize("values", [{"RANK": "one", "WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "x"}, {"RANK": "3", "WORLD_SIZE": "1"},
                                    {"RANK": "-1", "WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "0"}, {"SLURM_PROCID": "2"}])
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    """A rank outside the world would take rows that are not there."""
    put(monkeypatch, **values)
    with pytest.raises(UsageError, match="environment"):
        dist.world()
