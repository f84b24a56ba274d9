"""The command line: each command parses, makes one library call, prints and sets the exit code.

    0  done, or equal          2  refused: bad input, bad usage
    1  a verdict failed        3  the machine refuses, or something must be installed
    70 a bug in porter        129, 130, 143  interrupted
    141  the reader of the output has gone

Commands are imported when they are called, so that `porter --help` stays quick.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import sys
import warnings
from contextlib import suppress
from types import FrameType

import click

from porter.cli.output import Group

READER_GONE = 141
"""Exit code when the reader of a pipe has gone: that of a program that SIGPIPE ends."""

COMMANDS = {
    "convert": "Move a checkpoint to another framework, naming or container.",
    "verify": "Prove that two checkpoints compute the same.",
    "evaluate": "Measure top-1 and top-5 of checkpoints on labelled pictures.",
    "predict": "Name what a model sees in pictures.",
    "fleet": "Run the conversions and proofs of a manifest.",
    "repack": "Write another container; names, layout and values stay.",
    "repair": "Restore a file whose tensors were stored untransposed.",
    "inspect": "Identify a file without reading a tensor.",
    "diff": "Compare two checkpoints tensor by tensor.",
    "list": "List families, variants and dialects.",
    "show": "Show an architecture: figures, preprocessing, linked table.",
    "table": "Check, show or infer mapping tables.",
    "init": "Write a seeded checkpoint in which every tensor matters.",
    "export-templates": "Make ONNX graphs once, so that exports need no torch.",
    "doctor": "Report which packages are installed and which are missing.",
}


class _LazyGroup(Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _module_file(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"porter.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would end with 1, as for a verdict that failed.
            _leave_output()
            raise SystemExit(READER_GONE) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _module_file(name: str) -> bool:
    return os.path.exists(os.path.join(os.path.dirname(__file__), f"{name.replace('-', '_')}.py"))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from porter import __version__

        click.echo(f"porter {__version__}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """Move model weights between PyTorch, Paddle, safetensors, NumPy and ONNX,
    and prove that the move is right."""


def main() -> None:
    """Run the command line and exit with its code."""
    _open_streams()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` lets a command go on.
            signal.signal(number, _terminated)
    if not sys.warnoptions:  # Those of libraries are for programmers.
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A Windows code page lacks some characters.
            stream.reconfigure(errors="replace")
    # A command makes millions of small values that live until its end: searching them for cycles
    # takes a fifth of the time of 100,000 tensors.
    gc.set_threshold(10_000_000, 20, 50)
    # NumPy's threads take longer to start and to end than most answers; nothing here needs them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        code = cli.main(prog_name="porter", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # A full disk shows here, and not when Python ends.
    except (KeyboardInterrupt, click.Abort) as stop:
        cause = stop.__cause__ if isinstance(stop, click.Abort) else stop  # click hides the first
        said = f": {cause}" if isinstance(cause, KeyboardInterrupt) and str(cause) else ""
        _complain(f"interrupted{said}")
        code = 130
    except SystemExit as stop:
        for note in getattr(stop, "__notes__", ()):
            _complain(f"terminated: {note}")
        raise
    except click.ClickException as error:
        _complain(error.format_message())
        code = 2
    except BrokenPipeError:
        _leave_output()
        code = READER_GONE
    except Exception as error:  # noqa: BLE001  (the boundary: one line for the user)
        code = _failed(error)
    sys.exit(code if isinstance(code, int) else 0)


def _failed(error: Exception) -> int:
    from porter.errors import PorterError, printable

    if isinstance(error, PorterError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, OSError):
        place = "" if error.filename is None else f"{printable(error.filename, 400)}: "
        _complain(f"{place}{error.strerror or error}")
        if error.filename is None:  # As a rule that of the output: a full disk, a closed terminal.
            _leave_output()
        return 3
    if isinstance(error, MemoryError):
        _complain("out of memory")
        return 3
    if os.environ.get("PORTER_TRACEBACK"):
        raise error
    _complain(
        f"this is a bug in porter: {type(error).__name__}: {printable(error, 300)}"
        " (set PORTER_TRACEBACK=1 and report what it prints)"
    )
    return 70


def _complain(text: str) -> None:
    from porter.errors import visible

    if sys.stderr is not None:
        with suppress(OSError):  # The terminal may be closed.
            print(f"porter: {visible(' '.join(text.split()))}", file=sys.stderr)


def _open_streams() -> None:
    """Open the null device for standard streams that are closed.

    Otherwise the next file that is opened takes the number of one: a child process, or a library
    that prints, would write into an output.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _leave_output() -> None:
    """Keep Python from writing the rest of the standard output at its end."""
    sys.stdout = None


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
