"""The run directory: a row of immutable generations.

    ucl.toml                  frozen by init: method, images, seed, threads, precision, what was set by hand
    images.h5                 the frozen image list, with packed pixels
    epochs/0000/model.h5      the untrained model
    epochs/0001/{model.h5, labels.h5, metrics.json}    after the first epoch; and so on
    work/                     what extract, cluster and purify write when they stand alone
    model.h5, labels.h5       symbolic links to the newest generation's, for people
    work/*.partial            what is finished of an extraction or an epoch that was stopped
    lock                      who is at work: an early refusal; correctness rests on the commit

A generation is written to a temporary directory, synced, and committed by one rename.  A rename onto a generation that
is there already fails: somebody was first.  Nothing committed is ever changed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucl.context import Context
from ucl.errors import (
    ConfigError,
    DataError,
    InputMissing,
    NotPermitted,
    OutputRefused,
    PlanFinished,
    StorageError,
    UsageError,
)
from ucl.methods.method import KEPT
from ucl.settings import MachineSettings, check_override

if TYPE_CHECKING:
    from ucl.artifacts import Stored
    from ucl.safepoints import SafePoints

CONFIG = "ucl.toml"
_held: set[Path] = set()
_GENERATION = re.compile(r"\d{4,}")
_PLAIN = {"method": str, "images": str, "files_from": str, "source": str, "n": int, "usable": int, "size": int, "seed": int, "threads": int,
          "precision": str, "compile": bool, "keep": str, "samples_digest": str}


@dataclass(frozen=True)
class RunConfig:
    """What ucl.toml says.

    Attributes:
        method: the method's name; images: the source as it was given; source: name of a built-in data set or empty.
        n: number of images; usable: of those that can be read; size: side of a view; samples_digest: digest of the image list.
        seed, threads, precision, compile: frozen because they decide the last bits.
        keep: generations kept, a number or "all".
        overrides: "verb.key" -> text, set by hand.
    """

    method: str
    images: str = ""
    files_from: str = ""
    source: str = ""
    n: int = 0
    usable: int = 0
    size: int = 32
    samples_digest: str = ""
    seed: int = 0
    threads: int = 1
    precision: str = "float32"
    compile: bool = False
    keep: str = "2"
    overrides: dict[str, str] = field(default_factory=dict)

    def to_toml(self) -> str:
        """As TOML, tables by verb."""
        lines = ["# Frozen by ucl init. A table such as [cluster] sets a verb's own settings."]
        for name in _PLAIN:
            value = getattr(self, name)
            lines.append(f"{name} = {_quote(value)}")
        tables: dict[str, dict[str, str]] = {}
        for key, value in self.overrides.items():
            verb, _, setting = key.partition(".")
            tables.setdefault(verb, {})[setting] = value
        for verb in sorted(tables):
            lines += ["", f"[{verb}]"]
            lines += [f"{k} = {_quote(v)}" for k, v in sorted(tables[verb].items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, where: str) -> RunConfig:
        """From TOML.

        Raises:
            ConfigError: not TOML, an unknown key (the nearest known one is named), or a value that does not fit.
        """
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where}: {error}") from error
        values: dict[str, Any] = {}
        overrides: dict[str, str] = {}
        for key, value in raw.items():
            if isinstance(value, dict):
                try:
                    check_override(key, value, f"{where}: [{key}]")
                except UsageError as error:
                    raise ConfigError(error.message, error.hint) from error
                overrides |= {f"{key}.{k.replace('-', '_')}": _text(v) for k, v in value.items()}
            elif key not in _PLAIN:
                import difflib

                near = difflib.get_close_matches(key, _PLAIN, n=1)
                raise ConfigError(f"{where}: unknown key {key!r}", f"did you mean {near[0]}?" if near else "")
            elif not isinstance(value, _PLAIN[key]):
                raise ConfigError(f"{where}: {key}: found {value!r}, wanted {_PLAIN[key].__name__}")
            else:
                values[key] = value
        if "method" not in values:
            raise ConfigError(f"{where}: method: missing", "ucl init METHOD IMAGES -o DIR writes a whole one")
        _check_values(values, where)
        return cls(**values, overrides=overrides)


def _check_values(values: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError unless the method is known and the machine's settings are in their ranges."""
    from ucl.methods.method import method_named

    try:
        method_named(values["method"])
        MachineSettings().override({k: values[k] for k in ("seed", "threads", "precision", "compile") if k in values})
    except UsageError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from error
    keep = values.get("keep", "all")
    if keep != "all" and not (keep.isdecimal() and int(keep) > 0):
        raise ConfigError(f"{where}: keep: found {keep!r}, wanted a number from 1, or all")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quote(text: Any) -> str:
    """A TOML value; JSON's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class RunDir:
    """A run directory on disk.

    Args:
        path: the directory that holds ucl.toml.

    Raises:
        InputMissing: no ucl.toml there.  ConfigError: it has a fault.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / CONFIG
        try:
            text = config.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise InputMissing(f"{path}: no {CONFIG} here, so no run directory",
                               "ucl init METHOD IMAGES -o DIR makes one") from error
        except PermissionError as error:
            raise NotPermitted(f"{config}: permission denied") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{config}: not UTF-8 text: {error.reason} at byte {error.start}") from error
        self.config = RunConfig.from_toml(text, str(config))

    @classmethod
    def here(cls) -> RunDir | None:
        """The run directory that is the working directory, or None."""
        return cls(Path()) if Path(CONFIG).is_file() else None

    @property
    def epochs(self) -> Path:
        return self.path / "epochs"

    def work(self, name: str) -> Path:
        """Where a verb that stands alone puts ``name``."""
        return self.path / "work" / f"{name}.h5"

    def partial(self, name: str) -> Path:
        """Where the unfinished part of ``name`` is kept."""
        return self.path / "work" / f"{name}.partial"

    def safe_points(self, every: float, *, strict: bool = False) -> SafePoints:
        """What keeps, every so many seconds, the unfinished part of a turn here (see `safepoints.SafePoints`)."""
        from ucl.safepoints import SafePoints

        return SafePoints(self.partial("train"), self.partial("train-labels"), (self.work("features"), self.partial("features")),
                          every=every, strict=strict)

    def file(self, generation: int, name: str) -> Path:
        """Path of a generation's model, labels or metrics."""
        return self.epochs / f"{generation:04d}" / (name if "." in name else f"{name}.h5")

    def generations(self) -> list[int]:
        """Numbers of all committed generations, ascending; of those that were pruned only the metrics are left."""
        try:
            names = [p.name for p in self.epochs.iterdir()]
        except OSError as error:
            raise InputMissing(f"{self.epochs}: {error.strerror}", "was ucl init stopped? run it again") from error
        found = sorted(int(n) for n in names if _GENERATION.fullmatch(n))
        if not found:
            raise InputMissing(f"{self.epochs}: no generation", "was ucl init stopped? run it again")
        return found

    @property
    def newest(self) -> int:
        """Number of the newest committed generation."""
        return self.generations()[-1]

    def context(self, generation: int | None = None) -> Context:
        """Where the directory stands: the context of the next turn, which starts from ``generation`` (the newest)."""
        from ucl.formats.reader import open_artifact

        number = self.newest if generation is None else generation
        path = self.file(number, "model")
        with open_artifact(path, "ucl/checkpoint") as model:
            digest = model.digest
        c = self.config
        return Context(method=c.method, epoch=number, generation=number, generation_digest=digest, seed=c.seed, images=c.usable or c.n,
                       size=c.size, source=c.source, samples_digest=c.samples_digest, overrides=dict(c.overrides))

    def next_turn(self) -> Context:
        """The context of the next turn.

        Raises:
            PlanFinished: the plan has none left.
        """
        from ucl.methods.method import plan_length

        context = self.context()
        if context.epoch >= plan_length(context):
            raise PlanFinished(f"{self.path}: all {plan_length(context)} epochs of the plan are done",
                               f"ucl evaluate knn, ucl view; {_more(context)}, in ucl.toml")
        return context

    def check(self, context: Context, where: str) -> None:
        """Refuse an artifact that does not belong to this directory.

        Raises:
            DataError: another method or image list, or a generation that is not there yet.
        """
        mine = self.config
        if context.samples_digest and mine.samples_digest and context.samples_digest != mine.samples_digest:
            raise DataError(f"{where}: made from another image list: found {context.samples_digest}, "
                            f"{self.path / 'images.h5'} has {mine.samples_digest}", "use this run directory's own features")
        if context.generation < 0:
            return
        if context.method != mine.method:
            raise DataError(f"{where}: method: found {context.method}, {self.path / CONFIG} has {mine.method}")
        if context.generation > self.newest:
            raise DataError(f"{where}: generation: found {context.generation}, the newest here is {self.newest}")

    def metrics(self) -> list[dict[str, Any]]:
        """metrics.json of every epoch that was ever committed, oldest first."""
        found = []
        for folder in sorted(self.epochs.iterdir(), key=lambda p: (len(p.name), p.name)):
            path = folder / "metrics.json"
            if _GENERATION.fullmatch(folder.name) and path.is_file():
                try:
                    found.append(json.loads(path.read_text(encoding="utf-8")))
                except ValueError as error:
                    raise DataError(f"{path}: not JSON: {error}") from error
        return found

    def commit(self, generation: int, artifacts: Mapping[str, Stored], metrics: Mapping[str, Any], unchanged: Iterable[str] = ()) -> None:
        """Commit a generation: write, sync, rename.

        Args:
            generation: its number.
            artifacts: slot -> artifact (model, classifier, labels, neighbors).
            metrics: what metrics.json says.
            unchanged: slots that go on as the generation before has them; linked, not written again.

        Raises:
            OutputRefused: that generation exists already; somebody was first.
            StorageError: the disk is full or failed; nothing is left behind.
        """
        self.sweep()
        final = self.epochs / f"{generation:04d}"
        temporary = self.epochs / f".{generation:04d}.{socket.gethostname()}.{os.getpid()}.tmp"
        try:
            temporary.mkdir()
            for name, artifact in artifacts.items():
                _write_synced(temporary / f"{name}.h5", artifact)
            for name in unchanged:
                _link(self.file(generation - 1, name), temporary / f"{name}.h5")
            text = json.dumps(dict(metrics), sort_keys=True, indent=1) + "\n"
            with (temporary / "metrics.json").open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            _sync(temporary)
            temporary.rename(final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise _commit_error(error, final) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(self.epochs)
        self.sweep()
        self._show(generation, [*artifacts, *unchanged])
        self.prune()

    def _show(self, generation: int, names: Iterable[str]) -> None:
        """Point the symbolic links for people at ``generation``."""
        for name in names:
            link, temporary = self.path / f"{name}.h5", self.path / f".{name}.{os.getpid()}.link"
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(Path("epochs") / f"{generation:04d}" / f"{name}.h5")
                temporary.replace(link)

    def prune(self) -> None:
        """Remove everything but the metrics of generations older than the newest ``keep``.

        The oldest go first, so that those that are left are always the last ones, and the first that is empty ends the search.
        """
        if self.config.keep == "all":
            return
        found = []
        for number in reversed(self.generations()[: -max(1, int(self.config.keep))]):
            files = [path for path in (self.file(number, name) for name in KEPT) if path.exists()]
            if not files:
                break
            found.append(files)
        for path in itertools.chain.from_iterable(reversed(found)):
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary directories that dead processes of this host left behind, and those of any host for a generation that
        is there already, since they can never be committed."""
        for path in self.epochs.glob(".*.tmp"):
            parts = path.name.split(".")
            dead = ".".join(parts[2:-2]) == socket.gethostname() and not _alive(parts[-2])
            if dead or (_GENERATION.fullmatch(parts[1]) and (self.epochs / parts[1]).exists()):
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory's lock; an early refusal, nothing more.

        Raises:
            OutputRefused: a living process of this host, or any of another host, holds it.
        """
        path = self.path / "lock"
        mine = f"{socket.gethostname()} {os.getpid()} {os.environ.get('SLURM_JOB_ID', '-')}\n"
        temporary = self.path / f".lock.{os.getpid()}"
        try:
            temporary.write_text(mine, encoding="utf-8")
            for _ in range(10):
                try:
                    os.link(temporary, path)
                    break
                except FileExistsError:
                    self._break_dead_lock(path)
            else:
                raise OutputRefused(f"{path}: could not be taken", "try again")
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            raise (NotPermitted if denied else StorageError)(f"{path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        _held.add(path.absolute())
        try:
            yield
        finally:
            _held.discard(path.absolute())
            with contextlib.suppress(OSError):
                if path.read_text(encoding="utf-8") == mine:
                    path.unlink()

    def _break_dead_lock(self, path: Path) -> None:
        try:
            host, pid, job = path.read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return
        same_host = host == socket.gethostname()
        same_job = job != "-" and job == os.environ.get("SLURM_JOB_ID")
        if path.absolute() in _held:
            raise OutputRefused(f"{path}: this process is at work here already")
        if (same_host and not _alive(pid)) or (not same_host and same_job):
            path.unlink(missing_ok=True)
            return
        raise OutputRefused(f"{path}: process {pid} on {host} is at work here (Slurm job {job})",
                            "wait for it; if that process is gone, remove the file")


def _more(context: Context) -> str:
    """How a plan goes on that is done."""
    from ucl.methods import rounds
    from ucl.settings import METHOD_TABLES, RoundSettings

    if "plan.epochs" in context.overrides:
        return "more epochs: set [plan] epochs"
    if context.method == "profeat":
        return "more iterations: set [profeat] iterations"
    if context.method == "scan":
        return "more epochs of self-labels: set [scan] self_epochs"
    kind = METHOD_TABLES.get(context.method)
    if kind is None or not issubclass(kind, RoundSettings):
        return "more epochs: set [plan] epochs"
    settings = rounds.settled(context, kind)
    return f"another round: set [{context.method}] epochs = {settings.epochs}, rounds = {settings.rounds + 1}, and no [plan] epochs"


def _alive(pid: str) -> bool:
    """Whether another process of that number lives; our own number is an earlier life's (a container restarts with the same).

    A killed process that its parent has not yet taken note of is dead.
    """
    if pid == str(os.getpid()) or _exiting(pid):
        return False
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _exiting(pid: str) -> bool:
    """Whether a process is a zombie, or on its way out (PF_EXITING), as far as the system tells: Linux does."""
    try:
        state, _, _, _, _, _, flags, *_ = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return state in ("Z", "X") or bool(int(flags) & 0x4)
    except (OSError, ValueError):
        return False


def _write_synced(path: Path, artifact: Stored) -> None:
    from ucl.store import save

    with path.open("wb") as out:
        save(artifact, out)
        out.flush()
        os.fsync(out.fileno())


def _link(old: Path, new: Path) -> None:
    """A second name for a file that is never changed; a copy where the file system knows no such names."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS):
            raise
        shutil.copyfile(old, new)
        with new.open("rb") as copied:
            os.fsync(copied.fileno())


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def _commit_error(error: OSError, final: Path) -> Exception:
    """What an OSError of a commit means to the user."""
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST) or final.exists():  # who was first may have swept our temporary directory away
        return OutputRefused(f"{final}: already committed by another process", "run the same line again: it goes on from there")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotPermitted(f"{final}: {error.strerror}")
    return StorageError(f"{final}: {error.strerror}", "free some space and run the same line again; nothing is lost")
