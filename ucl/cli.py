"""The table of commands, and main(), the only catcher of UclError.

A command's module is imported when that command is called: ``ucl --help`` and completion import none of them.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ucl import __version__, stop
from ucl.errors import EXIT_STATUS, DataError, NotPermitted, PlanFinished, Stopped, StorageError, UclError

COMMANDS: dict[str, tuple[str, str, str]] = {  # name -> (module, help, group); the only place a command is registered
    "init": ("init", "Make a run directory: freeze the image list, decode every image once, draw the model.", "Runs"),
    "pack": ("pack", "Pack images into one file: their own bytes, or squares of pixels.", "Runs"),
    "run": ("run", "Walk the plan in one process: start, or go on from where the directory stands.", "Runs"),
    "status": ("status", "Show where a run directory stands; --done for loops.", "Runs"),
    "extract": ("extract", "Extract the features of all images; the head of a pipe.", "The alternation"),
    "cluster": ("cluster", "Cluster features into pseudo-labels: PCA, whitening, L2, k-means or another method.", "The alternation"),
    "purify": ("purify", "Purify pseudo-labels: by distance, confidence, and votes of past epochs or of several models.", "The alternation"),
    "neighbors": ("neighbors", "Find the nearest neighbours of every image by its features, or near duplicates; exact.", "The alternation"),
    "train-epoch": ("train_epoch", "Train one epoch, on pseudo-labels or to tell images apart; in a run directory, commit the next generation.",
                    "The alternation"),
    "evaluate": ("evaluate", "Measure clusters or features against true classes: clusters, knn, linear; compare two.", "Measuring"),
    "targets": ("targets", "Write the true classes as a labels file, for a supervised topline.", "Measuring"),
    "import": ("import_", "Make a checkpoint of weights from outside: PyTorch or safetensors.", "Files in and out"),
    "export": ("export", "Write a checkpoint's weights for other programs: PyTorch, safetensors, ONNX.", "Files in and out"),
    "convert": ("convert", "Convert features and labels from and to NumPy, CSV and foreign HDF5.", "Files in and out"),
    "select": ("select", "Take some rows: by number, name, cluster, flag, at random, or with a long tail over the classes.", "Files in and out"),
    "align": ("align", "Put the rows of features or labels in the order of another list, by name.", "Files in and out"),
    "view": ("view", "List rows as TSV or JSON lines: which image is in which cluster, at what distance.", "Looking at files"),
    "info": ("info", "Describe ucl files: type, sizes, how they were made.", "Looking at files"),
    "diff": ("diff", "Say what differs between two files: datasets, rows, labels up to renumbering.", "Looking at files"),
    "validate": ("validate", "Check files: header, schema, sizes, end mark; --full: every byte.", "Looking at files"),
    "digest": ("digest", "Print the content digest: equal content, equal digest, whoever wrote it when and where.", "Looking at files"),
    "completion": ("completion", "Print the script that completes ucl's command lines in bash, zsh or fish.", "This machine"),
    "doctor": ("doctor", "Show versions, GPU, threads, and where temporary files go.", "This machine"),
}
COMPLETE = "_UCL_COMPLETE"
"""Set by the completion scripts: print what completes the command line in COMP_WORDS, and run nothing."""
GROUPS = ("Runs", "The alternation", "Measuring", "Files in and out", "Looking at files", "This machine")
EXAMPLE = "ucl run deepcluster digits -o runs/digits"
AT_ONCE = frozenset(COMMANDS) - {"init", "run", "train-epoch"}


def build(name: str) -> Any:
    """The typer command of that name; imports its module."""
    module = importlib.import_module(f"ucl.commands.{COMMANDS[name][0]}")
    epilog = "Example:\n\n\b\n    {}\n\nThe page: man ucl-{}"
    app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    if hasattr(module, "subcommands"):
        app.callback(help=COMMANDS[name][1], epilog=epilog.format(module.EXAMPLE, name))(lambda: None)
        for part, (function, text, example) in module.subcommands().items():
            app.command(part, help=text, epilog=epilog.format(example, name))(function)
    else:
        app.command(name, help=COMMANDS[name][1], epilog=epilog.format(module.EXAMPLE, name))(module.main)
    made = typer.main.get_command(app)
    made.name = name
    if COMPLETE in os.environ:
        from ucl.front.completion import complete_values

        complete_values(made)
    return made


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return build(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        import difflib

        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f"; did you mean {near[0]}?" if near else "; ucl --help lists them"))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for group in GROUPS:
            with formatter.section(group):
                formatter.write_dl([(name, text) for name, (_, text, of) in COMMANDS.items() if of == group])


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  epilog=f"Example:\n\n\b\n    {EXAMPLE}\n\nThe pages: man ucl, man ucl-COMMAND, "
                         "man ucl-methods, man ucl-formats, man ucl-exit-status")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ucl {__version__}")
        raise typer.Exit


@app.callback()
def root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit.")) -> None:
    """Learn visual features without labels, by clustering, one Unix command at a time."""


def name_of(argv: list[str]) -> str:
    """The command as it is called in messages, from its argv."""
    words = [a for a in argv if not a.startswith("-")]
    if not words or words[0] not in COMMANDS:
        return "ucl"
    part = f" {words[1]}" if words[0] == "evaluate" and len(words) > 1 and words[1] in ("clusters", "knn", "linear", "compare") else ""
    return f"ucl {words[0]}{part}"


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    if COMPLETE in os.environ:
        with contextlib.suppress(Exception):  # a command line that makes no sense has no completion
            app(prog_name="ucl", standalone_mode=False)
        sys.exit(0)
    stop.install()
    name = name_of(sys.argv[1:])
    code = _guarded(name)
    _leave(code)


def _guarded(name: str) -> int:
    """Run the command; turn every failure into a message and an exit code."""
    spool = os.environ.get("UCL_TMPDIR") or os.environ.get("SLURM_TMPDIR")
    if spool:
        os.environ["TMPDIR"] = spool  # before tempfile looks
    try:
        if name.split()[-1] in AT_ONCE or name.startswith("ucl evaluate"):
            stop.at_once()
        result = app(prog_name="ucl", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except UclError as error:
        if _cut_off(error) and stop.pending():  # the signal that ended the stage before came here too
            error = Stopped(stop.pending())
        return _report(name, error)
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        return _report(name, Stopped(signal.SIGINT))
    except MemoryError:
        return _report(name, StorageError("out of memory", "fewer clusters or a smaller --batch; ucl run --dry-run estimates memory"))
    except OSError as error:
        return _report(name, _from_os(error))
    except Exception as error:
        return _other(name, error)


def _from_os(error: OSError) -> UclError:
    """What an OSError that nobody expected means to the user."""
    where = f"{error.filename}: " if error.filename else ""
    text = f"{where}{error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotPermitted(text)
    return StorageError(text, "free some space" if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else "")


def _cut_off(error: UclError) -> bool:
    """Whether the stage before this one in the pipe did not finish."""
    return isinstance(error, DataError) and error.message.startswith(("stdin: empty", "stdin: stream ends"))


def _report(name: str, error: UclError) -> int:
    from ucl.front.console import clean, say
    from ucl.front.streams import later_in_pipe

    word = "" if isinstance(error, (Stopped, PlanFinished)) else "error: "
    say(f"{name}: {word}{clean(error.message)}")
    told_already = later_in_pipe() and (_cut_off(error) or isinstance(error, PlanFinished))  # the stage that has the fault tells the cure
    if error.hint and not told_already:
        say(f"  try: {clean(error.hint)}")
    if os.environ.get("UCL_DEBUG"):
        import traceback

        traceback.print_exc()
    return error.exit_code


def _other(name: str, error: Exception) -> int:
    """typer's own usage errors, and bugs."""
    from ucl.front.console import clean, say

    if type(error).__name__ == "NoArgsIsHelpError":
        say(error.format_message())  # type: ignore[attr-defined]
        return 2
    if hasattr(error, "format_message"):
        say(f"{name}: error: {clean(error.format_message())}")
        say(f"  try: {name} --help")
        return 2
    if isinstance(error, RuntimeError) and ("out of memory" in str(error) or "DefaultCPUAllocator" in str(error)):  # torch's
        return _report(name, StorageError("out of memory", "a smaller --batch; ucl run --dry-run estimates memory"))
    if type(error).__name__ == "Abort":
        return 130
    if os.environ.get("UCL_DEBUG"):
        import traceback

        traceback.print_exc()
    say(f"{name}: error: a bug: {type(error).__name__}: {clean(str(error))}")
    say("  try: UCL_DEBUG=1 shows the traceback; please report it with the command line")
    return 70


def _leave(code: int) -> NoReturn:
    """Exit; a broken pipe and a signal end the process the way the shell expects of them."""
    assert code in EXIT_STATUS, code
    if code == 141:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.kill(os.getpid(), signal.SIGPIPE)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(code)
