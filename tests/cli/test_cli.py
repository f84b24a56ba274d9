"""The command line: exit codes, one-line errors, quiet, JSON, completion, start-up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete

import porter
import porter.cli
from porter.cli import COMMANDS, cli, main

ROOT = Path(__file__).resolve().parents[2]
TOY = """
[layers]
"fc" = "linear"
[dialects.paddle]
framework = "paddle"
"""


class Ran:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Porter = Callable[..., Ran]


@pytest.fixture
def porter_(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Porter:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["porter", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        signal.signal(signal.SIGTERM, handler)
        captured = capsys.readouterr()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in two frameworks, another one, a table and junk."""
    folder = tmp_path_factory.mktemp("files")
    porter.init("pvtv2-b0", folder / "a.pth")
    porter.convert("pvtv2-b0", folder / "a.pth", folder / "a.pdparams", from_="torch", to="paddle",
                   verify=False)  # fmt: skip
    porter.init("pvtv2-b0", folder / "b.pth", seed=1)
    (folder / "junk.pth").write_bytes(b"junk" * 100)
    (folder / "page.pth").write_bytes(b"<!DOCTYPE html><html></html>")
    (folder / "bad.toml").write_text('[layers]\n"a" = "nonsense"\n')
    (folder / "toy.toml").write_text(TOY)
    return folder


def child(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `porter` as a person does."""
    code = "from porter.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        **options,
    )  # fmt: skip


# Exit codes and errors


def test_done_and_equal_are_zero(porter_: Porter, files: Path) -> None:
    """0: the thing was done, or the two are equal."""
    assert porter_("inspect", files / "a.pth").code == 0
    assert porter_("diff", files / "a.pth", files / "a.pth").code == 0
    done = porter_("convert", "pvtv2-b0", files / "a.pth", "-o", "o.pdparams", "--from", "torch",
                   "--to", "paddle", "--no-verify")  # fmt: skip
    assert done.code == 0
    assert Path("o.pdparams").exists()


def test_a_failed_verdict_is_one(porter_: Porter, files: Path, tmp_path: Path) -> None:
    """1: nothing is wrong with the request; the answer is no."""
    differ = porter_("diff", files / "a.pth", files / "b.pth")
    assert differ.code == 1
    assert differ.err == ""
    assert "differ" in differ.out
    assert porter_("table", "infer", files / "a.pth", files / "b.pth", "-o", "t.toml").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("convrt", "unknown command 'convrt'; did you mean convert?"),
        ("table chek", "unknown command 'chek'; did you mean check?"),
        ("convert shunted-x --from torch --to paddle", "did you mean shunted-"),
        ("convert pvtv2-b0 --from torh --to paddle", "did you mean torch?"),
        (
            "convert pvtv2-b0 --from torch:nope --to paddle",
            "of pvtv2; it has torch:hf",
        ),
        ("convert pvtv2-b0 none.pth --from torch --to paddle", "none.pth: no such file"),
        ("convert none.toml a.pth --from torch --to paddle", "none.toml: cannot be read"),
        ("convert {files}/bad.toml a.pth --from torch --to paddle", "must be a kind: linear, "),
        ("convert pvtv2-b0 {files}/junk.pth --from torch --to paddle", "not a format that porter"),
        ("convert pvtv2-b0 {files}/a.pth -o {files}/a.pth --from torch --to torch", "the input"),
        (
            "convert pvtv2-b0 {files}/a.pth -o o.pth --from torch --to paddle",
            "suffix means torch",
        ),
        ("convert pvtv2-b0 {files}/a.pth --from torch", "--to is needed"),
        ("convert pvtv2-b0 --from torch --to torch --fill x", "is not NAME=NUMBER"),
        ("convert pvtv2-b0 --from torch --to torch --dtype fp8", "is not one of"),
        ("convert pvtv2-b1 {files}/a.pth --from torch --to paddle", "it fits pvtv2-b0 as torch"),
        ("inspect", "Missing argument 'FILE'"),
        ("inspect {files}/page.pth", "is a web page"),
        ("inspect {files}", "has several files of weights"),
        ("diff {files}/a.pth none", "none: no such file"),
        ("list nowhere", "unknown family 'nowhere'; use one of"),
        ("show vit", "vit is a family; its variants are"),
        ("show pvtv2-b0 --dialect nope", "no dialect 'nope'; it has"),
        ("init pvtv2-b0 -o {files}/a.pth", "exists already; --force replaces it"),
        ("verify nowhere a b", "unknown architecture"),
        ("table infer {files}/a.pth {files}/b.pth --left caffe", "none of torch, paddle, numpy"),
        ("table infer {files}/a.pth {files}/a.pth -o {files}/toy.toml", "exists already"),
        ("table check --with {files}/a.pth", "go with one TABLE.toml"),
        ("table check {files}/bad.toml", "must be a kind"),
        ("doctor --nope", "No such option '--nope'"),
    ],
)
def test_refusals_are_two_and_one_line(
    porter_: Porter, files: Path, arguments: str, message: str
) -> None:
    """2: the request or the input is at fault, said in one line, without a traceback."""
    done = porter_(*arguments.format(files=files).split())
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("porter: ")
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_what_the_machine_refuses_is_three(porter_: Porter, files: Path) -> None:
    """3: no fault of the request; here a network that is not there."""
    done = porter_("inspect", "http://127.0.0.1:9/a.pth")
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_a_missing_framework_is_three(
    porter_: Porter, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3: something must be installed, and the line says what to type."""
    from porter.commands.doctor import Finding, Health

    missing = Finding("numpy", None, "arrays", "pip install numpy", core=True)
    health = Health("3", "here", (missing,), "none")
    monkeypatch.setattr(sys.modules["porter.commands.doctor"], "doctor", lambda: health)
    done = porter_("doctor")
    assert done.code == 3
    assert "pip install numpy" in done.out


def test_a_bug_is_seventy_and_says_what_to_do(
    porter_: Porter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """70: ours, and the traceback is there for who asks for it."""
    from porter.cli import list as command

    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(command, "families", broken)
    done = porter_("list")
    assert done.code == 70
    assert "this is a bug in porter: ZeroDivisionError: oops" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_is_a_hundred_and_thirty_or_forty_three(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """A signal ends it with the code that shells expect, one line at most, and no half file."""
    script = (
        "import os, signal, time, porter.cli, porter.commands.init\n"
        "def slow(*a, **k):\n"
        "    print('ready', flush=True); time.sleep(30)\n"
        "porter.commands.init.init = slow\n"
        "porter.cli.main()"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script, "init", "pvtv2-b0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.posix
def test_a_closed_pipe_is_no_error() -> None:
    """`porter list | head -1` ends quietly."""
    code = "from porter.cli import main; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], stdout=write, stderr=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_a_terminal_without_a_character_gets_a_question_mark(tmp_path: Path) -> None:
    """Where the encoding lacks a character, as on Windows, output goes on and nothing is a bug."""
    np.savez(tmp_path / "a→b.npz", x=np.ones(2, np.float32))
    done = subprocess.run(
        [sys.executable, "-c", "from porter.cli import main; main()", "inspect", "a→b.npz"],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "cp1252:strict"},
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"a?b.npz" in done.stdout


# What is printed


@pytest.mark.parametrize(
    "arguments",
    [
        "list", "list pvtv2", "show pvtv2-b0", "doctor", "inspect {files}/a.pth",
        "inspect {files}/a.pth --tensors", "diff {files}/a.pth {files}/a.pdparams",
        "diff {files}/a.pth {files}/b.pth", "table check pvtv2-b0", "table check {files}/toy.toml",
        "table infer {files}/a.pth {files}/a.pdparams",
        "convert pvtv2-b0 {files}/a.pth -o o.pdparams --from torch --to paddle --no-verify",
        "convert pvtv2-b0 {files}/a.pth -o o.pdparams --from torch --to paddle --dry-run",
    ],
)  # fmt: skip
def test_json_is_json(porter_: Porter, files: Path, arguments: str) -> None:
    """With `--json` standard output is one JSON value and standard error is silent."""
    done = porter_(*arguments.format(files=files).split(), "--json")
    assert done.code in (0, 1)
    assert done.json
    assert done.err == ""


def test_json_of_a_conversion_says_what_was_done(porter_: Porter, files: Path) -> None:
    """Paths, sizes, what was filled, and whether the proofs hold."""
    body = porter_("convert", "pvtv2-b0", files / "a.pdparams", "-o", "o.pth", "--from", "paddle",
                   "--to", "torch", "--json", "--no-verify").json  # fmt: skip
    assert body["schema"] == "porter.conversion/1"
    assert body["output"]["bytes"] == Path("o.pth").stat().st_size
    assert body["num_classes"] == 1000
    assert body["ok"]


def test_json_of_a_diff_and_of_an_inspection(porter_: Porter, files: Path) -> None:
    """A machine finds the same as a person."""
    body = porter_("diff", files / "a.pth", files / "b.pth", "--json").json
    assert not body["equal"]
    assert body["differences"][0]["what"] == "values"
    found = porter_("inspect", files / "a.pdparams", "--json").json
    assert found["matches"][0] == {
        "architecture": "pvtv2-b0", "dialect": "paddle", "exact": True, "num_classes": 1000,
        "image_size": 224,
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        "convert pvtv2-b0 {files}/a.pth -o o.pdparams --from torch --to paddle --no-verify",
        "init pvtv2-b0 -o i.pth",
        "repack {files}/a.pth -o r.safetensors",
    ],
)
def test_quiet_prints_nothing(porter_: Porter, files: Path, arguments: str) -> None:
    """`--quiet` leaves errors alone."""
    done = porter_(*arguments.format(files=files).split(), "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    again = porter_(*arguments.format(files=files).split(), "--quiet")
    assert again.code == 2
    assert "--force" in again.err


def test_no_progress_where_nobody_looks(porter_: Porter, files: Path) -> None:
    """Standard error that is no terminal gets no bars, no colours, not a byte."""
    done = child("convert", "pvtv2-b0", str(files / "a.pth"), "-o", "o.pdparams", "--from",
                 "torch", "--to", "paddle", "--no-verify", cwd=Path.cwd())  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "bit-identical" not in done.stdout
    assert "o.pdparams" in done.stdout


def in_terminal(command: list[str], **environment: str) -> str:
    """Run a command on a terminal of its own and return what it shows."""
    import pty

    script = (
        "import os, sys\nfrom porter.cli.output import progress\n"
        "with progress(False) as move:\n"
        "    assert move is not None\n"
        "    move('writing', 1, 2); move('writing', 2, 2)\n"
    )
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:
            break
        if not block:
            break
        shown += block
    assert running.wait(20) == 0
    os.close(leader)
    return shown.decode()


def test_a_terminal_gets_a_bar_and_no_color_is_kept() -> None:
    """The bar is there, coloured unless `NO_COLOR` is set."""
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    shown = in_terminal([])
    assert "writing" in shown
    assert colour.search(shown)
    plain = in_terminal([], NO_COLOR="1")
    assert "writing" in plain
    assert not colour.search(plain)


def test_inspect_says_what_a_file_is(porter_: Porter, files: Path) -> None:
    """Container, architecture, dialect, sizes, dtypes, provenance."""
    shown = porter_("inspect", files / "a.pdparams").out
    for said in ("(paddle)", "pvtv2-b0, naming paddle", "float32", "3.7 M", "porter.version"):
        assert said in shown


def test_a_user_s_table_works_from_the_command_line(porter_: Porter, tmp_path: Path) -> None:
    """Convert, check, diff: a table of one's own goes where a variant goes."""
    import numpy as np
    from safetensors.numpy import save_file

    Path("toy.toml").write_text(TOY)
    save_file({"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, "a.safetensors")
    done = porter_("convert", "toy.toml", "a.safetensors", "-o", "b.pdparams", "--from",
                   "safetensors", "--to", "paddle")  # fmt: skip
    assert done.code == 0, done.err
    assert "1 tensors bit-identical when mapped back" in done.out
    assert "px" not in done.out
    assert porter_("diff", "a.safetensors", "b.pdparams", "--arch", "toy.toml").code == 0
    assert porter_("diff", "a.safetensors", "b.pdparams").code == 1
    checked = porter_("table", "check", "toy.toml", "--with", "b.pdparams", "--dialect", "paddle")
    assert checked.code == 0
    assert "names of the target not checked" in checked.out
    assert "2 of 2 total and exact" in checked.out


def test_a_table_is_inferred_and_used(porter_: Porter, files: Path) -> None:
    """Two files give a table, the table converts, the result is the second file."""
    done = porter_("table", "infer", files / "a.pth", files / "a.pdparams", "-o", "t.toml")
    assert done.code == 0, done.out
    assert "bit for bit" in done.out
    porter_("convert", "t.toml", files / "a.pth", "-o", "o.pdparams", "--from", "torch", "--to",
            "paddle")  # fmt: skip
    assert porter_("diff", "o.pdparams", files / "a.pdparams").code == 0
    printed = porter_("table", "infer", files / "a.pth", files / "a.pdparams")
    assert printed.out.startswith("# Proposed from two files")
    assert "rows" in printed.err


# Help, completion, start-up


def every_command() -> list[tuple[str, ...]]:
    """Return the path of every command and group."""

    def under(group: click.Group, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = []
        with click.Context(group) as context:
            for name in group.list_commands(context):
                command = group.get_command(context, name)
                found.append((*path, name))
                if isinstance(command, click.Group):
                    found += under(command, (*path, name))
        return found

    return under(cli, ())


def test_every_module_is_a_command() -> None:
    """No command file without its line in the help, and the other way round."""
    files = Path(porter.cli.__file__).parent.glob("*.py")
    names = {p.stem for p in files if re.search(r"^def command\(", p.read_text(), re.MULTILINE)}
    assert names == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_is_documented(porter_: Porter, path: tuple[str, ...]) -> None:
    """It has its help, each of its options too, and its place in docs/cli.md."""
    done = porter_(*path, "--help")
    assert done.code == 0
    assert done.out.startswith("Usage: porter")
    assert f"## porter {' '.join(path)}\n" in (ROOT / "docs" / "cli.md").read_text()
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.help
    for param in command.params:
        assert not isinstance(param, click.Option) or param.help, param.name


def test_the_reference_is_up_to_date() -> None:
    """docs/cli.md is what the commands say of themselves (`make docs` writes it)."""
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def offered(*words: str) -> list[str]:
    """Return what the shell is offered behind the words, the last of them incomplete."""
    complete = ShellComplete(cli, {}, "porter", "_PORTER_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_completion_offers_what_fits() -> None:
    """Commands, variants, families, dialects of the variant that stands there, files."""
    assert offered("conv") == ["convert"]
    assert offered("table", "") == ["check", "infer", "schema", "show"]
    assert offered("convert", "shunted-") == ["shunted-t", "shunted-s", "shunted-b"]
    assert offered("list", "shu") == ["shunted"]
    assert offered("convert", "vit-tiny-p16-224", "--from", "torch:h") == [
        "torch:hf",
        "torch:hf-v5",
        "torch:hf-v4",
    ]
    assert "numpy:google" in offered("convert", "vit-tiny-p16-224", "--to", "numpy")
    assert offered("convert", "nowhere", "--to", "pa") == ["paddle"]
    assert "timm" in offered("show", "pvtv2-b0", "--dialect", "")
    complete = ShellComplete(cli, {}, "porter", "_PORTER_COMPLETE")
    assert [i.type for i in complete.get_completions(["convert"], "./my")] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_there(shell: str) -> None:
    """`_PORTER_COMPLETE=bash_source porter` prints what a shell's start-up file sources."""
    script = (
        "import sys; sys.argv = ['porter']\n"
        "from porter.cli import cli\n"
        "cli.main(prog_name='porter', standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "_PORTER_COMPLETE": f"{shell}_source"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "_PORTER_COMPLETE" in done.stdout, done.stderr


def test_starting_up_imports_little(tmp_path: Path) -> None:
    """Help and lists need neither NumPy nor a framework, nor does completion."""
    heavy = {"torch", "paddle", "onnx", "onnxruntime", "numpy", "rich"}
    for words in (["--help"], ["convert", "--help"], ["list"], ["list", "--json"]):
        code = (
            f"import sys; sys.argv = ['porter', *{words}]\n"
            "from porter.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print(*sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert not set(done.stderr.split()) & heavy, words


@pytest.mark.parametrize("words", [["list"], ["inspect", "{files}/a.pth"], ["show", "pvtv2-b0"]])
def test_answers_are_quick(files: Path, words: list[str]) -> None:
    """A person does not wait: well under a second of processor time, start-up included."""
    before = os.times()
    done = child(*(word.format(files=files) for word in words))
    after = os.times()
    assert done.returncode == 0
    used = sum(after[2:4]) - sum(before[2:4])
    assert used < 1.5, f"{used:.2f} s"  # measured: 0.25 to 0.45 s on an idle core


def test_version(porter_: Porter) -> None:
    """It is the package's."""
    assert porter_("--version").out == f"porter {porter.__version__}\n"
