"""The GitHub action and the GitLab recipe, step by step as a runner takes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from porter import codecs
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

ROOT = Path(__file__).resolve().parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
VIT = find("vit-tiny-p16-224")
SUFFIXES = ("md", "html", "json", "xml")
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
"""How a runner calls `shell: bash`."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, a good port and a faulty one, in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("the files")
    source = StateDict.of(seeded(VIT, num_classes=10, image_size=32).arrays())
    ported = plan(VIT, shapes_of(source), "torch", "paddle", image_size=32).apply(source)
    name = "blocks.2.attn.proj.weight"
    codecs.write(source, str(folder / "source.pth"), "torch")
    codecs.write(ported, str(folder / "good.pdparams"), "paddle")
    wrong = StateDict({**ported, name: source[name]})
    codecs.write(wrong, str(folder / "wrong.pdparams"), "paddle")
    return folder


class Runner:
    """Takes the steps of the action as GitHub does: expressions in `env`, files for outputs."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        self.folder = folder
        self.inputs = {
            name: str(about.get("default", "")) for name, about in ACTION["inputs"].items()
        }
        self.inputs |= inputs
        self.summary, self.output = folder / "summary.md", folder / "output"
        for file in (self.summary, self.output):
            file.touch()

    def env(self, step: dict[str, Any]) -> dict[str, str]:
        return {name: self.filled(text) for name, text in step.get("env", {}).items()}

    def filled(self, text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: self.inputs[m.group(1)], text)

    def run(self, name: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
        step = next(step for step in STEPS if step.get("name") == name)
        where = {
            "PATH": path, "HOME": str(self.folder), "GITHUB_WORKSPACE": str(self.folder),
            "GITHUB_ACTION_PATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        return subprocess.run(
            [*BASH, step["run"]], cwd=self.folder, env={**where, **self.env(step)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def status(self) -> str:
        return self.output.read_text().strip()


def with_porter() -> str:
    """A PATH in which `porter` and `python` are those that run the tests."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_inputs_reach_the_shell_through_the_environment_alone() -> None:
    """No expression stands in a script, every input is used, and none that is not declared."""
    for step in STEPS:
        assert "${{" not in step.get("run", "")
        assert ("run" in step) == ("shell" in step)
        assert ("run" in step) != ("uses" in step)
    used = set(re.findall(r"inputs\.([\w-]+)", yaml.safe_dump(STEPS)))
    assert used == set(ACTION["inputs"])
    verify = next(step for step in STEPS if step.get("name") == "Verify")
    assert f"steps.{verify['id']}.outputs.status" in ACTION["outputs"]["status"]["value"]
    for step in STEPS:
        names = set(re.findall(r"\$\{?([A-Z]+)\b(?!_)", step.get("run", "")))
        assert names <= {*step.get("env", {}), "GITHUB"}
        given = re.findall(r"\$\{\{ *([\w.-]+) *\}\}", yaml.safe_dump(step.get("env", {})))
        events = {"github.event.pull_request.number", "github.repository"}
        assert all(name in events or name.startswith("inputs.") for name in given)


def test_what_is_uploaded_is_uploaded_after_a_failure_too() -> None:
    """The upload follows the verification whatever that said, and takes all four reports."""
    names = [step.get("name") for step in STEPS]
    upload = STEPS[names.index("Upload")]
    assert names.index("Upload") > names.index("Verify")
    assert upload["if"].startswith("${{ always() && ")
    assert upload["with"]["path"].strip() == "${{ inputs.report }}.*"
    assert "strategy.job-index" in upload["with"]["name"]


def test_the_default_package_is_the_action_itself(tmp_path: Path) -> None:
    """pip is given the action's own folder with both frameworks, or what `package` says."""
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > args\n')
    stub.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for package, expected in (
        ("", f"{ROOT}[torch,paddle]"),
        ("porter-weights[torch]==1", "porter-weights[torch]==1"),
    ):
        assert Runner(tmp_path, package=package).run("Install", path).returncode == 0
        said = (tmp_path / "args").read_text().splitlines()
        assert said[-1] == expected
        assert said[-3:-1] == ["--extra-index-url", ACTION["inputs"]["index"]["default"]]
    assert Runner(tmp_path, index="").run("Install", path).returncode == 0
    assert "--extra-index-url" not in (tmp_path / "args").read_text()


@pytest.mark.parametrize(
    ("right", "code", "status"), [("good", 0, "passed"), ("wrong", 1, "failed")]
)
def test_a_verdict_decides_the_step_and_is_shown(
    files: Path, tmp_path: Path, right: str, code: int, status: str
) -> None:
    """The step fails with the verdict; summary, output and reports are there either way."""
    runner = Runner(
        tmp_path, architecture=VIT.name, left=str(files / "source.pth"),
        right=str(files / f"{right}.pdparams"), options="--batch-sizes 1 --no-sensitivity",
    )  # fmt: skip
    done = runner.run("Verify", with_porter())
    assert done.returncode == code, done.stderr
    assert runner.status == f"status={status}"
    summary = runner.summary.read_text()
    assert summary.startswith("## ✅" if code == 0 else "## ❌")
    assert ("blocks.2.attn.proj.weight" in summary) is (code == 1)
    assert all((tmp_path / f"porter-report.{suffix}").stat().st_size for suffix in SUFFIXES)


def test_what_is_refused_fails_the_step_and_says_so(tmp_path: Path) -> None:
    """A missing file is no verdict: exit code 2, `refused`, a line in the summary."""
    runner = Runner(tmp_path, architecture=VIT.name, left="no.pth", right="none.pth")
    done = runner.run("Verify", with_porter())
    assert done.returncode == 2, done.stderr
    assert runner.status == "status=refused"
    assert "code 2" in runner.summary.read_text()


def test_a_manifest_is_run_in_place_of_one_proof(files: Path, tmp_path: Path) -> None:
    """The step shows the table of all jobs, and fails if one of them does."""
    rows = "".join(
        f'[[jobs]]\nleft = "{files}/source.pth"\nright = "{files}/{right}.pdparams"\n'
        for right in ("good", "wrong")
    )
    text = f'[defaults]\narch = "{VIT.name}"\nbatch-sizes = [1]\n{rows}'
    (tmp_path / "jobs.toml").write_text(text)
    runner = Runner(tmp_path, manifest="jobs.toml", options="--workers 1")
    done = runner.run("Verify", with_porter())
    assert done.returncode == 1, done.stderr
    assert runner.status == "status=failed"
    assert runner.summary.read_text().startswith("## ❌ 2 jobs: 1 passed, 1 failed")
    assert (tmp_path / "porter-report.jobs" / "good.pdparams.html").exists()


def test_the_report_is_put_on_the_pull_request(tmp_path: Path) -> None:
    """`gh` is given the number and the Markdown report; without a report it is not called."""
    stub = tmp_path / "bin" / "gh"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > args\n')
    stub.chmod(0o755)
    path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
    step = next(step for step in STEPS if step.get("name") == "Comment")
    assert "inputs.comment == 'true'" in step["if"]
    assert Runner(tmp_path).run("Comment", path).returncode == 0
    assert not (tmp_path / "args").exists()
    (tmp_path / "porter-report.md").write_text("report")
    assert Runner(tmp_path).run("Comment", path).returncode == 0
    assert (tmp_path / "args").read_text().splitlines()[-2:] == ["--body-file", "porter-report.md"]


def test_inputs_cannot_run_anything(tmp_path: Path) -> None:
    """Quotes, substitutions, separators, options and wildcards in an input stay what they are."""
    for word in ("$(touch pwned)", "`touch pwned`", '"; touch pwned; "', "a && touch pwned",
                 "x\ntouch pwned", "--help", "*"):  # fmt: skip
        for name in ("architecture", "left", "right", "options"):
            given = {"architecture": VIT.name, "left": "a.pth", "right": "b.pth", name: word}
            if name == "options" and word == "--help":
                continue  # an option is what OPTIONS is for
            done = Runner(tmp_path, **given).run("Verify", with_stub(tmp_path))
            assert done.returncode == 2, (name, word, done.stderr)
            said = (tmp_path / "args").read_bytes().split(b"\0")
            after = [part.decode() for part in said[said.index(b"--") + 1 : -1]]
            assert after == [given["architecture"], given["left"], given["right"]]
            assert not (tmp_path / "pwned").exists()


def with_stub(folder: Path) -> str:
    """A PATH in which `porter` notes its arguments and refuses."""
    stub = folder / "bin" / "porter"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > args\nexit 2\n')
    stub.chmod(0o755)
    return f"{stub.parent}{os.pathsep}{os.environ['PATH']}"


def test_the_gitlab_recipe_runs(files: Path, tmp_path: Path) -> None:
    """Its commands, on a small variant, write what it keeps; GitLab reads one as JUnit."""
    text = (ROOT / "docs" / "ci-recipes.md").read_text()
    (block,) = re.findall(r"## GitLab\n.*?```yaml\n(.*?)```", text, re.DOTALL)
    job = yaml.safe_load(block)["port"]
    install, verify = job["script"]
    assert install.startswith('pip install "porter-weights[torch,paddle] @ git+https://')
    shutil.copy(files / "source.pth", tmp_path / "official.pth")
    shutil.copy(files / "good.pdparams", tmp_path / f"{VIT.name}.pdparams")
    command = verify.replace("shunted-s", VIT.name) + " --batch-sizes 1 --no-sensitivity"
    done = subprocess.run(
        [*BASH, command], cwd=tmp_path, env={"PATH": with_porter(), "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert sorted(kept) == ["port.html", "port.xml"]
    assert all((tmp_path / name).stat().st_size for name in kept)
    assert job["artifacts"]["when"] == "always"
    assert "<testsuite" in (tmp_path / "port.xml").read_text()
