"""Reports: Markdown, HTML, JSON and JUnit of passed, failed and unmade verdicts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest

from porter.errors import UsageError
from porter.report import SUFFIXES, render, write_reports
from porter.report.text import plain
from porter.verification.checks import ON_FUZZED, UNPROVEN, Blind, Check, LayerCheck, TensorCheck
from porter.verification.compare import compare
from porter.verification.diagnose.finding import Finding
from porter.verification.sides.report import SideReport
from porter.verification.verdict import FAILED, NOT_MADE, PASSED, Verdict

REF = np.random.default_rng(0).standard_normal((2, 10))
SIDE = SideReport("torch", "torch", "torch", "a<b>.pth", "torch", ("float32",), device="cpu",
                  versions={"torch": "2.9"}, key="model_<ema>", digest="xxh3-128:12")  # fmt: skip
GOOD = compare(REF * (1 + 1e-7), REF)
WRONG = compare(REF[:, ::-1], REF)


def verdict(status: str) -> Verdict:
    """A verdict with something in every part, and names that have to be escaped."""
    failed = status == FAILED
    figures = WRONG if failed else GOOD
    problem = "error 2.0e+00 is over the limit 1.5e-05" if failed else ""
    blank = Verdict(
        "vit-tiny-p16-224", status, problem, SIDE, replace(SIDE, label="paddle"), 10, 32
    )
    if status == NOT_MADE:
        return replace(blank, reason="needs paddle | pip install <paddle>")
    return replace(
        blank,
        cases=("seed0.batch2",),
        checks=(
            Check("seed0.batch2", "logits", "float64", None, figures, 9e-10, problem),
            Check("seed0.batch2", "logits", "float32", GOOD, figures, 1.5e-5, problem),
            Check("seed0.batch2", "extra", "float32", GOOD, compare(None, REF), 1.5e-5, "missing"),
        )[: 3 if failed else 2],
        tensors=(
            TensorCheck("blocks.0.attn.q.weight", "blocks.{i}.attn.q", problem and "is <lost> & |"),
            TensorCheck("blocks.1.attn.q.weight", "blocks.{i}.attn.q"),
        ),
        layers=(
            LayerCheck("blocks.0.attn.q", "Linear", GOOD, GOOD, GOOD, 9e-10),
            LayerCheck("blocks.0.attn", "Attention", GOOD, figures, figures, 9e-10, problem,
                       "causes" if failed else ""),
            LayerCheck("", "VisionTransformer", GOOD, figures, figures, 9e-10, problem),
        ),
        story="a fault, not rounding" if failed else "rounding only",
        gradients=(Check("gradient", "head.bias", "float64", None, figures, 1.5e-5, problem),),
        findings=(Finding("blocks.0.attn.q.weight", "is <lost>", "copy it", 2.0, 1e-15),)
        if failed else (),
        blind=(
            Blind("blocks.0.gamma_1", 1e-12, 9e-10, UNPROVEN if failed else ON_FUZZED),
            Blind("blocks.0.attn.k.bias", 1e-17, 9e-10),
        ),
        fuzzed=(Check("fuzzed.seed0", "logits", "float64", None, figures, 9e-10, problem),),
        notes=("TF32 is off",),
        skipped=("weights tensor by tensor: a side is a trace",),
        date="2026-01-02T03:04:05+00:00",
        seconds=12.34,
        command="porter verify <x> 'a b.pth'",
    )  # fmt: skip


MADE = ("2026-01-02T03:04:05", "12.3", "porter verify", "xxh3-128:12", "model_", "2.9")
"""What every report of a verdict that was made has in it."""
STATUSES = (PASSED, FAILED, NOT_MADE)


@pytest.mark.parametrize("status", STATUSES)
def test_a_verdict_shows_itself_in_a_line_and_in_a_notebook(status: str) -> None:
    """The status, the variant and the reason; figures and faults where there are any."""
    shown = verdict(status)
    line, page = repr(shown), shown._repr_html_()
    assert line.startswith(f"<Verdict {status}, vit-tiny-p16-224, torch and paddle")
    assert len(line) < 200
    assert "\n" not in line
    assert shown.reason in line
    assert shown.reason == "" or "<p>" in page
    assert page.count("<tr>") == (0 if status == NOT_MADE else 3)
    assert ("copy it" in page) == (status == FAILED)
    assert "<lost>" not in page
    assert "<paddle>" not in page
    parser = HTMLParser()
    parser.feed(page)
    parser.close()


@pytest.mark.parametrize("status", STATUSES)
def test_json_is_valid_by_its_schema(status: str) -> None:
    """The JSON follows the schema that ships with porter, and says whether it passed."""
    schema = json.loads((resources.files("porter.report") / "verdict.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    found = json.loads(render(verdict(status), ".json"), parse_constant=pytest.fail)
    jsonschema.validate(found, schema)
    assert found["passed"] is (status == PASSED)
    assert found["status"] == status


def test_the_schema_knows_every_field() -> None:
    """A field that is not in the schema fails the validation: additions must be described."""
    schema = json.loads((resources.files("porter.report") / "verdict.schema.json").read_text())
    found = json.loads(render(verdict(FAILED), ".json"))
    found["checks"][0]["colour"] = "red"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


def test_junit_has_a_case_for_each_output_layer_group_and_row() -> None:
    """Failures and skips are counted, with their reasons."""
    suite = ElementTree.fromstring(render(verdict(FAILED), ".xml"))
    cases = {(c.get("classname"), c.get("name")): c for c in suite.iter("testcase")}
    assert suite.get("tests") == str(len(cases)) == "9"
    assert suite.get("failures") == "8"
    assert suite.get("skipped") == "1"
    layer = cases["porter.layers", "blocks.0"].find("failure")
    assert layer is not None
    assert "blocks.0.attn: error" in layer.get("message", "")
    row = cases["porter.table rows", "blocks.{i}.attn.q"].find("failure")
    assert row is not None
    assert row.text == "blocks.0.attn.q.weight is <lost> & |"


def test_junit_of_a_proof_that_was_not_made_is_skipped() -> None:
    """A missing framework is a skipped case with its reason, not a success."""
    suite = ElementTree.fromstring(render(verdict(NOT_MADE), ".xml"))
    (case,) = suite.iter("testcase")
    skipped = case.find("skipped")
    assert skipped is not None
    assert "needs paddle" in skipped.get("message", "")


class Page(HTMLParser):
    """Checks that tags are closed in order and gathers what a page links to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("status", STATUSES)
def test_html_is_one_page_without_scripts_or_links(status: str) -> None:
    """The page stands alone, its tags are closed, and what users name is escaped."""
    text = render(verdict(status), ".html")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "<script" not in text
    assert "http" not in text
    assert "<lost>" not in text
    assert "a<b>.pth" in page.text
    assert ("<svg" in text) is (status != NOT_MADE)


def test_markdown_shows_outcome_fault_and_figures() -> None:
    """The failed report names the fault; a bar in a name does not break a table."""
    text = render(verdict(FAILED), ".md")
    assert text.startswith("## ❌ vit-tiny-p16-224")
    assert "- `blocks.0.attn.q.weight` is \\<lost>" in text
    assert "torch 2.9" in text
    header = next(line for line in text.splitlines() if "source's own" in line)
    rows = [line for line in text.splitlines() if line.startswith("| ❌ | `logits")]
    assert rows
    assert all(row.count("|") == header.count("|") for row in rows)


@pytest.mark.parametrize("status", STATUSES)
def test_the_terminal_says_the_same(status: str) -> None:
    """The outcome in capitals, then sides and figures."""
    text = plain(verdict(status))
    assert text.startswith(status.upper())
    assert ("logits float64" in text) is (status != NOT_MADE)
    assert ("gradients agree" in text) is (status == PASSED)
    assert ("causes it: blocks.0.attn (Attention)" in text) is (status == FAILED)
    assert ("1 of 1 gradients differ: gradient of head.bias" in text) is (status == FAILED)


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_gets_whole_figures(width: int) -> None:
    """No figure is cut: where there is no room, those that do not decide are left out."""
    text = plain(verdict(PASSED), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "limit" in text
    assert ("cosine" in text) is (width == 80)
    assert "…" not in text


def test_reports_are_chosen_by_suffix(tmp_path: Path) -> None:
    """Each known suffix writes its form, an unknown one is refused by name."""
    paths = [tmp_path / f"report{suffix}" for suffix in SUFFIXES]
    write_reports(verdict(PASSED), paths)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    with pytest.raises(UsageError, match=r"\.pdf"):
        write_reports(verdict(PASSED), [tmp_path / "report.pdf"])


def test_a_report_depends_on_the_verdict_alone() -> None:
    """The same verdict gives the same bytes."""
    for suffix in SUFFIXES:
        assert render(verdict(FAILED), suffix) == render(verdict(FAILED), suffix)


def test_the_page_shows_where_it_goes_wrong_and_folds_what_is_right() -> None:
    """The plot names the first layer that fails; rows that agree are folded, others are not."""
    failed, passed = (render(verdict(status), ".html") for status in (FAILED, PASSED))
    assert '<text class="first"' in failed
    assert ">blocks.0.attn</text>" in failed
    assert '<text class="first"' not in passed
    before, _, folded = failed.partition("0 rows of the table that agree")
    assert "<td><code>blocks.{0…1}.attn.q.weight</code></td>" in before
    assert "<code>blocks" not in folded.partition("</section>")[0]
    _, _, folded = passed.partition("<details><summary>by row of the table")
    assert "<code>blocks.{0…1}.attn.q.weight</code>" in folded.partition("</details>")[0]
    assert "limit of the right side in float64" in failed


def test_a_figure_that_is_no_number_is_a_dash() -> None:
    """A missing output has no figures, an exact one no noise: neither prints nan or inf."""
    exact = replace(verdict(PASSED), checks=(
        Check("a", "logits", "float64", None, compare(REF, REF), 9e-10),
        Check("a", "extra", "float64", None, compare(None, REF), 9e-10, "missing"),
    ))  # fmt: skip
    for suffix in (".md", ".html"):
        text = render(exact, suffix)
        assert "nan" not in text
        assert "inf" not in text
        assert "∞ dB" in text


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_what_outputs_do_not_show_is_said_with_its_proof(suffix: str) -> None:
    """Rows proven on fuzzed weights stand apart from bytes alone, and from a run that fails."""
    passed, failed = (render(verdict(status), suffix) for status in (PASSED, FAILED))
    assert "proven by outputs of fuzzed weights" in passed
    assert "no outputs show the row" in passed
    assert "proven by outputs of fuzzed weights" not in failed
    assert "outputs of fuzzed weights differ" in failed


HOSTILE = "x\n::error::forged\x1b[31m[/best]<img src=x>|![i](http://e/x)\ufffe\udcff\u202e"


def hostile() -> Verdict:
    """A verdict whose every text was chosen by an attacker."""
    base = verdict(FAILED)
    side = replace(SIDE, file=HOSTILE, label=HOSTILE, versions={HOSTILE: HOSTILE}, direct=False)
    return replace(
        base, reason=HOSTILE, left=side, right=side, cases=(HOSTILE,), story=HOSTILE,
        checks=tuple(replace(c, output=HOSTILE, problem=HOSTILE) for c in base.checks),
        tensors=tuple(replace(c, name=HOSTILE, problem=HOSTILE) for c in base.tensors),
        layers=tuple(replace(c, place=HOSTILE, kind=HOSTILE, problem=HOSTILE) for c in base.layers),
        gradients=tuple(replace(c, output=HOSTILE, case=HOSTILE) for c in base.gradients),
        findings=(Finding(HOSTILE, HOSTILE, HOSTILE, 2.0, 1e-15),),
        blind=(Blind(HOSTILE, 1e-12, 9e-10),), notes=(HOSTILE,), skipped=(HOSTILE,),
    )  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_untrusted_text_is_escaped_in_every_report(suffix: str, tmp_path: Path) -> None:
    """No control character, no line of its own, no markup; every report can be encoded."""
    write_reports(hostile(), [tmp_path / f"r{suffix}"])
    text = (tmp_path / f"r{suffix}").read_text(encoding="utf-8")
    assert all(c.isprintable() or c in "\n\t" for c in text)
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    if suffix == ".html":
        assert "<img" not in text
    elif suffix == ".md":
        shown = re.sub(r"`[^`\n]*`", "", text)
        assert not re.search(r"(?<!\\)<img|(?<!\\)!\[", shown)
        counts = {line.count("|") for line in shown.splitlines() if line.startswith("| ❌")}
        assert counts <= {4, 7, 9}
    elif suffix == ".xml":
        assert ElementTree.fromstring(text).tag == "testsuite"
    else:
        assert json.loads(text)["reason"] == HOSTILE


@pytest.mark.parametrize("width", [40, 100])
def test_untrusted_text_is_escaped_in_the_terminal(width: int) -> None:
    """rich finds no markup in names, and no line begins with what a name contains."""
    text = plain(hostile(), width)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "::" not in text
    assert "[/best]" in plain(hostile(), 400)
    assert "<img" not in hostile()._repr_html_()
    assert repr(hostile()).isprintable()


def test_a_report_does_not_replace_a_file(tmp_path: Path) -> None:
    """Without force, what is there stays."""
    (tmp_path / "r.md").write_text("my notes")
    with pytest.raises(UsageError, match="exists already"):
        write_reports(verdict(PASSED), [tmp_path / "r.md"])
    write_reports(verdict(PASSED), [tmp_path / "r.md"], force=True)
    assert (tmp_path / "r.md").read_text().startswith("## ")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_report_is_tied_to_bytes_and_to_a_moment(suffix: str) -> None:
    """Date, time taken, command, versions, state dict and digest of both files are in each kind."""
    text = render(verdict(PASSED), suffix)
    assert [word for word in MADE if word not in text.replace("\\", "")] == []


def test_two_state_dicts_of_one_file_are_told_apart() -> None:
    """The terminal shows which of a file was compared."""
    both = replace(verdict(PASSED), right=replace(SIDE, key="model"))
    assert "a<b>.pth (model_<ema>)" in plain(both)
    assert "a<b>.pth (model)" in plain(both)
