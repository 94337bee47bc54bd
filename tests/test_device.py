"""ucl.device: what was asked for is what is used, or an error; torch's switches; keyed generators."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from ucl import device
from ucl.device import Runtime, resolve
from ucl.errors import Unavailable, UsageError
from ucl.keys import Key


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


@pytest.fixture
def switches() -> Iterator[None]:
    yield
    Runtime("cpu", 1).prepare()


def test_cpu() -> None:
    assert resolve("cpu", 3) == Runtime("cpu", 3, "float32")
    assert resolve("cpu", 2, "tf32") == Runtime("cpu", 2, "tf32")


def test_auto_is_what_is_there() -> None:
    assert resolve("auto", 1).device == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:7", "cuda:64"])
def test_a_missing_device_is_never_replaced(name: str) -> None:
    if torch.cuda.is_available() and torch.cuda.device_count() > int(name[5:]):
        pytest.skip("this machine has it")
    with pytest.raises(Unavailable, match=f"--device {name}: found {torch.cuda.device_count()} CUDA devices") as e:
        resolve(name, 1)
    assert "--device cpu" in e.value.hint


def test_cuda_without_a_number_is_the_first() -> None:
    if torch.cuda.is_available():
        assert resolve("cuda", 1).device == "cuda:0"
    else:
        with pytest.raises(Unavailable, match="--device cuda: found 0"):
            resolve("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1.0", "cuda:\u00b2", "cpu:0", "auto:0", "mps", "cuda 0"])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(UsageError, match=r"--device: found .* wanted auto, cpu, cuda or cuda:N"):
        resolve(name, 1)


def test_threads_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = len(os.sched_getaffinity(0))
    assert resolve("cpu", 0).threads == mask
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "13")
    assert resolve("cpu", 0).threads == 13
    assert resolve("cpu", 5).threads == 5
    for odd in ("0", "", "many"):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", odd)
        assert device.machine_threads() == mask


def test_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "99")
    device.set_thread_variables(3)
    assert [os.environ[name] for name in names] == ["3", "3", "3"]


@pytest.mark.usefixtures("switches")
def test_prepare_sets_every_switch() -> None:
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(False)
    assert Runtime("cpu", 2, "tf32").prepare() == torch.device("cpu")
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32 is True
    Runtime("cpu", 1).prepare()
    assert torch.get_num_threads() == 1
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.benchmark is False
    assert not torch.are_deterministic_algorithms_enabled()  # a CPU needs no switch; test_parity holds it to that


def test_generators_are_keyed_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    a = torch.rand(4, generator=device.generator(Key(1), "init/x"))
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(a, torch.rand(4, generator=device.generator(Key(1), "init/x")))
    for other in (device.generator(Key(2), "init/x"), device.generator(Key(1), "init/y")):
        assert not torch.equal(a, torch.rand(4, generator=other))


def test_describe_is_what_torch_says() -> None:
    found = device.describe()
    assert found["torch"] == torch.__version__
    assert len(found["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
