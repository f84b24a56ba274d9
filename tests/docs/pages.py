"""The commands of a page: `$ porter …` lines of its console blocks, with what is shown below."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner, Result

from porter.cli import cli

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"# exit code (\d+)$")


class Command(NamedTuple):
    """One command line, the exit code that the page states and the output that it shows."""

    words: list[str]
    code: int
    output: str


def commands(page: str) -> list[Command]:
    """Return the commands of porter on a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [command for block in _BLOCK.findall(text) for command in commands_of(block)]


def commands_of(block: str) -> list[Command]:
    """Return the commands of one console block."""
    found = []
    for line, output in re.findall(r"^\$ (porter .*)\n((?:[^$\n].*\n|\n)*)", block, re.MULTILINE):
        stated = _CODE.search(line)
        words = shlex.split(line, comments=True)[1:]
        found.append(Command(words, int(stated[1]) if stated else 0, output))
    return found


def run(command: Command) -> Result:
    """Run a command in the working directory; its exit code must be the one that is stated."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(cli, command.words)
    finally:
        signal.signal(signal.SIGTERM, handler)
    code = getattr(result.exception, "exit_code", result.exit_code)
    assert code == command.code, f"{command.words}\n{result.output}\n{result.exception!r}"
    return result


def shape(output: str) -> str:
    """Return an output without its figures, as one line: wrapped or not, of any build of torch."""
    return re.sub(r"\d[\d.e+-]*", "0", re.sub(r"\+(cpu|cu\d+)\b", "", " ".join(output.split())))


class File(NamedTuple):
    """A file that a page shows, under its name."""

    name: str
    text: str


_STEP = re.compile(
    r"(?:^`(?P<file>[\w.-]+)`:\n\n)?^```(?P<language>console|python|toml)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def steps(page: str) -> list[Command | File | str]:
    """Return what a reader does, in order: commands, files to write, Python to run."""
    found: list[Command | File | str] = []
    text = (ROOT / page).read_text(encoding="utf-8")
    for step in _STEP.finditer(text):
        if step["file"]:
            found.append(File(step["file"], step["text"]))
        elif step["language"] == "console":
            found += commands_of(step["text"])
        elif step["language"] == "python":
            found.append(step["text"])
    return found
