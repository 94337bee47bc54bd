"""Where and how exactly numbers are computed: device, threads, precision, determinism.  The only user of torch.cuda."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ucl.errors import Unavailable, UsageError
from ucl.keys import Key

if TYPE_CHECKING:
    import torch


def machine_threads() -> int:
    """Threads this process may use: the Slurm task's, else those of the CPU affinity mask."""
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(slurm) if slurm.isdecimal() and int(slurm) > 0 else len(os.sched_getaffinity(0))


def set_thread_variables(threads: int) -> None:
    """Tell numerical libraries that are not yet loaded how many threads to use, and not to spin while they wait.

    Spinning gains 15 % on idle cores; beside another busy process it made an epoch of digits 30 times slower.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@dataclass(frozen=True)
class Runtime:
    """The machine a verb runs on.

    Attributes:
        device: "cpu" or "cuda:i".
        threads: CPU threads of matrix products and of image decoding.
        precision: "float32" or "tf32".
        memory: bytes that clustering keeps to; no result depends on it.
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    memory: int = 1 << 62

    def prepare(self) -> torch.device:
        """Set torch's switches for this runtime and return its device."""
        import torch

        torch.set_num_threads(self.threads)
        if self.device != "cpu":  # every kernel used here is deterministic on a CPU; the switch costs a second of imports
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        return torch.device(self.device)


def resolve(device: str, threads: int, precision: str = "float32") -> Runtime:
    """A Runtime from what was asked for.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:i".
        threads: 0 = those of the machine.
        precision: "float32" or "tf32".

    Raises:
        UsageError: not a device name.
        Unavailable: a device that was asked for is missing; never a silent fallback.
    """
    threads = threads or machine_threads()
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"--device: found {device!r}, wanted auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return Runtime("cpu", threads, precision)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch starts CUDA; makes cuBLAS repeatable
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return Runtime("cuda:0" if count else "cpu", threads, precision)
    number = int(index or 0)
    if number >= count:
        raise Unavailable(f"--device {device}: found {count} CUDA devices", "ucl doctor shows what torch sees; --device cpu works anywhere")
    return Runtime(f"cuda:{number}", threads, precision)


def generator(key: Key, operation: str) -> torch.Generator:
    """A CPU generator of its own for one keyed draw; the global stream is never touched."""
    import torch

    return torch.Generator().manual_seed(key.small(operation))


def describe() -> dict[str, Any]:
    """What torch sees, for `doctor`."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": cards, "cpu": torch.backends.cpu.get_cpu_capability()}
