"""Compare torch on a GPU with what Paddle computed on a CPU, for every family; write the reports.

    python -m docs.reports.gpu --out FOLDER [--device cpu] [--variants NAME,NAME] [--traces FOLDER]

It needs torch only: Paddle's side are the traces of `tests/gpu/traces/`, and of models that other
packages define those of `--traces` (`tests/gpu/published.py`), which need transformers. Each
variant is run in float32 (TF32 off), TF32, float16 and bfloat16, with its own weights and with two
faults. The folder gets `gpu.md` and `gpu.json`, and whole reports of one variant: `gpu-good.html`,
`gpu-faulty.html`, `gpu-faulty.xml`. Exits with 1 where a good port fails, where float64 passes a
fault, or a precision passes one that is larger than it may be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from porter import codecs
from porter.commands.published.verify import verify_published
from porter.commands.verify import record, verify
from porter.errors import PorterError
from porter.frameworks.process import Pool, kept
from porter.report import write_reports
from porter.tensors.state_dict import StateDict
from porter.verification.sensitivity.prove import smallest
from porter.verification.tolerance import floor, roundoff
from porter.verification.verdict import Verdict
from porter.zoo.architectures import find
from tests.gpu import published
from tests.gpu.recorded import VARIANTS, faults, restore, weights

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
PRECISIONS_OF_A_CPU = ("float32", "float16", "bfloat16")
SHOWN = "shunted-t"
"""The variant whose verdicts are written whole."""


@dataclass
class Fault:
    """A fault at one precision: what the verdict found of it."""

    what: str
    moved: float
    """Error of the float64 run: how far the fault moves the outputs."""
    caught_in_float64: bool
    error: float
    caught: bool
    due: bool
    """Whether the precision must catch it: it moves the outputs by more than twice the limit."""

    @property
    def as_due(self) -> bool:
        """Whether the verdict is what it must be."""
        return self.caught_in_float64 and (self.caught or not self.due)


@dataclass
class Row:
    """One variant at one precision: the worst of the inputs."""

    family: str
    variant: str
    image_size: int
    precision: str
    passed: bool
    error: float
    own: float
    """Error of Paddle's float32 run on the CPU."""
    units: float
    """The error in units of roundoff of the precision."""
    floor: float
    limit: float
    exact_error: float
    exact_limit: float
    seconds: float
    faults: list[Fault] = field(default_factory=list)

    @property
    def as_due(self) -> bool:
        """Whether the good port passed and the faults were caught."""
        return self.passed and all(fault.as_due for fault in self.faults)


@dataclass
class Published:
    """A model of another package: PaddleX's class on a CPU against transformers' on the device."""

    family: str
    variant: str
    passed: bool
    errors: dict[str, float]
    """The largest of any output, by precision."""
    limits: dict[str, float]
    fault: str
    fault_errors: dict[str, float]
    caught: bool
    seconds: float


@dataclass
class Run:
    """Where it runs, and what was measured."""

    device: str
    out: Path
    pool: Pool
    about: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    @property
    def tf32(self) -> bool:
        """Whether the device has TF32: it is a mode of CUDA devices."""
        return self.device != "cpu"

    def every(self, names: Sequence[str]) -> None:
        """Run every variant at every precision; what cannot be run is noted, and the next tried."""
        start = time.monotonic()
        for name in names:
            for precision in PRECISIONS if self.tf32 else PRECISIONS_OF_A_CPU:
                with self._noting(f"{name} in {precision}"):
                    row = self.compare(name, precision)
                    print(f"{time.monotonic() - start:5.0f} s  {_good_line(row)}", flush=True)
        with self._noting("the whole reports"):
            self.whole_reports()

    def others(self, traces: Path) -> None:
        """Run the models of other packages whose traces a folder has."""
        start = time.monotonic()
        with kept(self.pool):  # one process runs all
            for trace in sorted(traces.glob("*.trace.safetensors")):
                with self._noting(trace.name):
                    row = self._published(published.restore(trace, Path.cwd()))
                    print(f"{time.monotonic() - start:5.0f} s  {_published_line(row)}", flush=True)

    def _published(self, trace: Path) -> Published:
        """Verify transformers' class with good weights and with a faulty matrix."""
        start = time.monotonic()
        name = trace.name.removesuffix(".trace.safetensors")
        file = published.weights(name, Path.cwd())
        good = verify_published(find(name), trace, file, device=self.device)
        ((what, state),) = published.faults(codecs.read(file)).items()
        codecs.write(
            state, "faulty.safetensors", format="safetensors", force=True, read_back=False,
            record=False,
        )  # fmt: skip
        bad = verify_published(find(name), trace, "faulty.safetensors", device=self.device)
        if not good.checks or not bad.checks:
            raise PorterError(good.reason or bad.reason)
        if not good.passed:
            self.errors.append(f"{name}: {good.reason}")
        file.unlink()
        row = Published(
            find(name).family, name, good.passed, _largest(good), _limits(good), what,
            _largest(bad), bad.failed, time.monotonic() - start,
        )  # fmt: skip
        self.published.append(row)
        return row

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except PorterError as error:
            self.errors.append(f"{what}: {error}")
            print(self.errors[-1], flush=True)
        self.write()  # Whatever ends this run later, what is known is kept.

    def write(self) -> None:
        """Write what has been measured so far."""
        if not self.about:
            return
        about = {
            "schema": "porter.gpu/1",
            "date": date.today().isoformat(),
            "driver": _driver(),
            "seconds": round(time.monotonic() - self.start, 1),
            "note": "" if self.tf32 else "No GPU took part, so TF32 was left out.\n",
            "errors": self.errors,
            **self.about,
        }
        found = {
            "rows": [asdict(row) for row in self.rows],
            "published": [asdict(row) for row in self.published],
        }
        text = json.dumps({**about, **found}, indent=1, ensure_ascii=False)
        (self.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
        page = _markdown(about, self.rows, self.published)
        (self.out / "gpu.md").write_text(page, encoding="utf-8")

    def compare(self, name: str, precision: str) -> Row:
        """Verify a variant at one precision with good and with faulty weights."""
        start = time.monotonic()
        good = self._verdict(name, weights(find(name)), precision)
        row = _row(name, good)
        if not good.passed:
            self.errors.append(f"{name} in {precision}: {good.reason}")
        for what, state in faults(weights(find(name))).items():
            row.faults.append(_fault(what, self._verdict(name, state, precision)))
        row.seconds = time.monotonic() - start
        self.rows.append(row)
        self.about |= {"device": good.right.device, "versions": dict(good.right.versions)}
        return row

    def whole_reports(self) -> None:
        """Write whole verdicts of one variant: a good port, and a fault found layer by layer.

        Paddle's trace has no layers, so the fault is looked for against torch's run on the CPU.
        """
        variant, state = find(SHOWN), weights(find(SHOWN))
        precision = "tf32" if self.tf32 else "float32"
        write_reports(self._verdict(SHOWN, state, precision), [self.out / "gpu-good.html"])
        trace = f"{SHOWN}.torch.safetensors"
        record(
            variant, state, trace, image_size=smallest(variant), device="cpu", per_layer=True,
        )  # fmt: skip
        found = verify(
            variant, trace, list(faults(state).values())[-1], right_dialect="torch",
            image_size=smallest(variant), device=self.device, precision="bfloat16", pool=self.pool,
        )  # fmt: skip
        write_reports(found, [self.out / f"gpu-faulty{suffix}" for suffix in (".html", ".xml")])

    def _verdict(self, name: str, state: StateDict, precision: str) -> Verdict:
        variant, trace = find(name), f"{name}.paddle.safetensors"
        if not Path(trace).exists():
            restore(name, Path.cwd())
        verdict = verify(
            variant, trace, state, right_dialect="torch", image_size=smallest(variant),
            device=self.device, precision=precision, diagnose=False, pool=self.pool,
        )  # fmt: skip
        if not verdict.checks:
            raise PorterError(verdict.reason)
        return verdict


def _largest(verdict: Verdict) -> dict[str, float]:
    found: dict[str, float] = {}
    for check in verdict.checks:
        found[check.precision] = max(found.get(check.precision, 0.0), check.right.error)
    return found


def _limits(verdict: Verdict) -> dict[str, float]:
    return {check.precision: check.limit for check in verdict.checks}


def _row(name: str, verdict: Verdict) -> Row:
    exact, coarse = verdict.worst("float64"), verdict.worst(verdict.precision)
    assert exact is not None
    assert coarse is not None
    assert coarse.left is not None
    return Row(
        family=find(name).family,
        variant=name,
        image_size=verdict.image_size,
        precision=verdict.precision,
        passed=verdict.passed,
        error=coarse.right.error,
        own=coarse.left.error,
        units=coarse.right.error / roundoff(verdict.precision),
        floor=floor(verdict.precision),
        limit=coarse.limit,
        exact_error=exact.right.error,
        exact_limit=exact.limit,
        seconds=0.0,
    )


def _fault(what: str, verdict: Verdict) -> Fault:
    exact, coarse = verdict.worst("float64"), verdict.worst(verdict.precision)
    assert exact is not None
    assert coarse is not None
    return Fault(
        what=what,
        moved=exact.right.error,
        caught_in_float64=not exact.passed,
        error=coarse.right.error,
        caught=not coarse.passed,
        due=any(
            one.right.error > 2 * other.limit
            for one in verdict.checks
            for other in verdict.checks
            if (one.case, one.output) == (other.case, other.output)
            and (one.precision, other.precision) == ("float64", verdict.precision)
        ),
    )


def _driver() -> str:
    """Return the version of the NVIDIA driver, empty if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.partition("\n")[0].strip()


def _markdown(about: dict[str, Any], rows: list[Row], others: list[Published]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    driver = f", driver {about['driver']}" if about["driver"] else ""
    head = f"""# PyTorch on {about["device"]}, against Paddle on a CPU

Made by `docs/reports/gpu.py` on {about["date"]}, in {about["seconds"]:.0f} s.
Device: {about["device"]}{driver}. Versions: {versions}.
{about["note"]}{"".join(f"Not run: {error}" + chr(10) for error in about["errors"])}
Each variant has seeded weights, five batches of two noise inputs, 10 classes and the smallest
image size that gives every part of it work. Paddle's outputs were recorded on a CPU.
Errors are relative to Paddle's float64 run ([verification.md](../verification.md)); each row shows
the input that came nearest to its limit. "Own" is the error of Paddle's own float32 run, "units"
counts the error in units of roundoff of the precision, "share" is the part of the limit it took.

{_summary(rows)}

| family | variant | precision | error | own | floor | limit | units | share | good port |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
    goods = head + "\n".join(map(_good_line, rows))
    parts = [goods, "", _faults(rows), "", _exact(rows), ""]
    return "\n".join([*parts, _others(others), ""] if others else parts)


def _summary(rows: list[Row]) -> str:
    lines = [
        "| precision | units | share of the limit | good ports passed | large faults caught"
        " | small faults caught |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for precision in dict.fromkeys(row.precision for row in rows):
        chosen = [row for row in rows if row.precision == precision]
        units = sorted(row.units for row in chosen)
        shares = sorted(row.error / row.limit for row in chosen)
        cells = [
            f"{units[0]:.0f} to {units[-1]:.0f}",
            f"{shares[0]:.0%} to {shares[-1]:.0%}",
            *(
                f"{sum(found)} of {len(found)}"
                for found in (
                    [row.passed for row in chosen],
                    [row.faults[0].caught for row in chosen],
                    [row.faults[-1].caught for row in chosen],
                )
            ),
        ]
        lines.append(f"| {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _good_line(row: Row) -> str:
    return (
        f"| {row.family} | {row.variant} | {row.precision} | {row.error:.1e} | {row.own:.1e}"
        f" | {row.floor:.1e} | {row.limit:.1e} | {row.units:.0f} | {row.error / row.limit:.0%}"
        f" | {'passed' if row.passed else '**failed**'} |"
    )


def _faults(rows: list[Row]) -> str:
    precisions = list(dict.fromkeys(row.precision for row in rows))
    lines = [
        "## Faults",
        "",
        'A fault must fail in float64, and in a precision where it moves the outputs ("moved":',
        "the error of its float64 run) by more than twice that precision's limit. A smaller one",
        "may be within what the precision rounds away.",
        "",
        f"| variant | fault | moved | float64 | {' | '.join(precisions)} |",
        "| --- | --- | --- | --- |" + " --- |" * len(precisions),
    ]
    for variant in dict.fromkeys(row.variant for row in rows):
        for found in zip(*(row.faults for row in rows if row.variant == variant), strict=True):
            exact = "caught" if all(f.caught_in_float64 for f in found) else "**passed**"
            cells = [f"`{found[0].what}`", f"{found[0].moved:.1e}", exact, *map(_caught, found)]
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _caught(fault: Fault) -> str:
    word = "caught" if fault.caught else "**passed**" if fault.due else "passed, too small"
    return f"{word} ({fault.error:.1e})"


def _exact(rows: list[Row]) -> str:
    lines = ["## float64", "", "| variant | error | limit |", "| --- | --- | --- |"]
    for row in rows:
        if row.precision == rows[0].precision:
            lines.append(f"| {row.variant} | {row.exact_error:.1e} | {row.exact_limit:.1e} |")
    return "\n".join(lines)


def _others(rows: list[Published]) -> str:
    """Describe the models of other packages."""
    lines = [
        "## Models of other packages",
        "",
        "transformers' classes on the device against PaddleX's on a CPU, one picture, seeded",
        "weights. The fault is one matrix in the middle of the model, rolled by a third.",
        "",
        "| family | variant | float64 | limit | float32 | limit | good port | fault | moved |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *map(_published_line, rows)])


def _published_line(row: Published) -> str:
    figures = [
        f"{found[precision]:.1e}" if precision in found else "not compared"
        for precision in ("float64", "float32")
        for found in (row.errors, row.limits)
    ]
    cells = [
        row.family, row.variant, *figures, "passed" if row.passed else "**failed**",
        f"{'caught' if row.caught else '**passed**'}: `{row.fault}`",
        f"{max(row.fault_errors.values()):.1e}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run every variant at every precision; return how many rows are not as they must be."""
    parser = argparse.ArgumentParser(prog="python -m docs.reports.gpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--traces", type=Path, help="folder of tests/gpu/published.py's traces")
    given = parser.parse_args()
    traces = None if given.traces is None else given.traces.resolve()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), Pool() as pool:
        run = Run(given.device, out, pool)
        run.every(given.variants.split(","))
        if traces is not None:
            run.others(traces)
    others = sum(not (row.passed and row.caught) for row in run.published)
    return len(run.errors) + others + sum(not row.as_due for row in run.rows)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
