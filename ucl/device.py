"""Where and how exactly numbers are computed: device, threads, precision, determinism.  The only user of torch.cuda."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ucl.errors import Unavailable, UsageError
from ucl.keys import Key

if TYPE_CHECKING:
    import torch

F = TypeVar("F", bound=Callable[..., Any])


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
        precision: "float32", "tf32" or "bf16".
        compile: networks are compiled by torch.compile.
        memory: bytes that clustering keeps to; no result depends on it.
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    compile: bool = False
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

    @property
    def numerics(self) -> dict[str, Any]:
        """What else than device and threads changes results here; empty as things are by default."""
        return ({"precision": self.precision} if self.precision != "float32" else {}) | ({"compile": True} if self.compile else {})

    def autocast(self) -> AbstractContextManager[Any]:
        """For forward passes: with precision bf16, matrix products and convolutions in bfloat16, reductions in float32
        (torch.autocast); else nothing."""
        import torch

        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")

    def compiled(self, function: F) -> F:
        """``function``, compiled where this runtime says so: a network, or a function of one, that takes one tensor.

        Each shape is compiled for itself, so that a batch's result does not depend on which batches came before it; dropout draws
        what it draws uncompiled.  Networks of one kind share what was compiled.  A module's state dict is best taken from the
        module itself.
        """
        if not self.compile:
            return function
        import torch
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # never go on uncompiled in silence
        return cast("F", torch.compile(function, dynamic=False, options={"fallback_random": True}))


def resolve(device: str, threads: int, precision: str = "float32", compile: bool = False) -> Runtime:
    """A Runtime from what was asked for.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:i".
        threads: 0 = those of the machine.
        precision: "float32", "tf32" or "bf16".
        compile: compile networks.

    Raises:
        UsageError: not a device name.
        Unavailable: a device or a compiler that was asked for is missing; never a silent fallback.
    """
    threads = threads or machine_threads()
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"--device: found {device!r}, wanted auto, cpu, cuda or cuda:N")
    if compile:
        _need_compiler()
    if kind == "cpu":
        return Runtime("cpu", threads, precision, compile)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch starts CUDA; makes cuBLAS repeatable
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return Runtime("cuda:0" if count else "cpu", threads, precision, compile)
    number = int(index or 0)
    if number >= count:
        raise Unavailable(f"--device {device}: found {count} CUDA devices", "ucl doctor shows what torch sees; --device cpu works anywhere")
    return Runtime(f"cuda:{number}", threads, precision, compile)


def _need_compiler() -> None:
    """Raise Unavailable unless there is the C++ compiler that torch.compile calls, on a GPU too."""
    name = os.environ.get("CXX") or "g++"
    if not any(shutil.which(one) for one in (name, "g++", "clang++")):
        raise Unavailable(f"compile: no C++ compiler ({name}), which torch.compile needs", "install g++, or leave compilation off")


def generator(key: Key, operation: str) -> torch.Generator:
    """A CPU generator of its own for one keyed draw; the global stream is never touched."""
    import torch

    return torch.Generator().manual_seed(key.small(operation))


@contextmanager
def keyed_stream(key: Key, operation: str, device: str = "cpu") -> Iterator[None]:
    """For code that can only draw from torch's global stream (dropout, torchvision's constructors): the stream starts anew from
    the key, and is afterwards where it was before, as if nothing had been drawn.

    Args:
        key: what the draws belong to.  operation: their name.
        device: whose stream, beside the CPU's.
    """
    import torch

    where = torch.device(device)
    with torch.random.fork_rng(devices=[] if where.type == "cpu" else [where]):
        torch.default_generator.manual_seed(key.small(operation))
        if where.type == "cuda":
            with torch.cuda.device(where):
                torch.cuda.manual_seed(key.small(operation))
        yield


def describe() -> dict[str, Any]:
    """What torch sees, for `doctor`."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": cards, "cpu": torch.backends.cpu.get_cpu_capability()}
