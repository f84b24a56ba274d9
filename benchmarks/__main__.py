"""`python -m benchmarks`: measure, print a table, keep it as Markdown and JSON, draw it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks import cases, measure, plot, tables
from benchmarks.case import GB, Case, Group, Setting

HERE = Path(__file__).resolve().parent
_ASIDE = "aside"
"""Folder of what stays until all rounds of a group are over."""


def main() -> None:
    """Parse, measure, write."""
    chosen = _arguments()
    if chosen.render:
        tables.render(json.loads(Path(chosen.render).read_text()), HERE.parent / "docs")
        return
    with _folder(chosen.work) as folder:
        setting = Setting(folder, int(chosen.size * GB), not chosen.no_scripts)
        result = {
            "schema": "porter.benchmarks/1",
            "date": date.today().isoformat(),
            "machine": measure.machine(),
            "file_system": measure.file_system(folder),
            "bytes": setting.nbytes,
            "groups": [],
        }
        out = Path(chosen.out)
        out.mkdir(parents=True, exist_ok=True)
        if chosen.add or chosen.groups:
            result["groups"] = _kept(result, out / "results.json")
        earlier = [*result["groups"]]
        for group in _groups(setting, chosen.groups):
            load = [os.getloadavg()[0]]
            rows = _run(group, folder, chosen.rounds)
            load.append(os.getloadavg()[0])
            made = {
                "name": group.name,
                "title": group.title,
                "load": load,
                "machine": result["machine"],
                "file_system": result["file_system"],
                "date": result["date"],
                "bytes": setting.nbytes,
                "rounds": chosen.rounds,
                "rows": rows,
            }
            _put(result["groups"], made)
            print(tables.table(made), flush=True)
            (out / "results.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))
            if not chosen.keep:
                _remove(group.made, folder)
            _remove_aside(folder / _ASIDE)
        _drop(result["groups"], earlier)
        (out / "results.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))
        (out / "results.md").write_text(tables.markdown(result))
        plot.draw(result, out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", type=float, default=4.0, help="GB of the large checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", default="", help=f"of {', '.join(cases.GROUPS)}, series")
    parser.add_argument("--no-scripts", action="store_true", help="leave out the slow scripts")
    parser.add_argument("--work", help="folder for data; a temporary one unless given")
    parser.add_argument("--keep", action="store_true", help="keep the data")
    parser.add_argument("--out", default=str(HERE / "results"), help="folder for the results")
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep what an earlier run measured of other groups (the default with --groups)",
    )
    parser.add_argument("--render", metavar="JSON", help="only write docs/performance.md again")
    return parser.parse_args()


def _kept(result: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the groups of an earlier run, whose size the result keeps.

    Each says on which machine it was measured, and with how much data: ratios are within a group.
    """
    if not path.exists():
        return []
    earlier: dict[str, Any] = json.loads(path.read_text())
    if earlier["schema"] != result["schema"]:
        sys.exit(f"{path} has another schema: {earlier['schema']}")
    result["bytes"] = earlier["bytes"]
    groups: list[dict[str, Any]] = earlier["groups"]
    for group in groups:
        for key in ("machine", "file_system", "date", "bytes"):
            group.setdefault(key, earlier[key])
    return groups


def _put(groups: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """Add a group, in the place of the earlier one of its name and title if there is one."""
    for i, group in enumerate(groups):
        if (group["name"], group["title"]) == (made["name"], made["title"]):
            groups[i] = made
            return
    groups.append(made)
    names = [*cases.GROUPS, "size"]
    groups.sort(key=lambda group: names.index(group["name"]))


def _drop(groups: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> None:
    """Remove what an earlier run has of the names that were measured now: it is gone."""
    names = {group["name"] for group in groups if group not in earlier}
    groups[:] = [g for g in groups if g["name"] not in names or g not in earlier]


@contextmanager
def _folder(chosen: str | None) -> Iterator[Path]:
    if chosen:
        Path(chosen).mkdir(parents=True, exist_ok=True)
        yield Path(chosen).resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="porter-bench-") as name:
            yield Path(name).resolve()


def _groups(setting: Setting, chosen: str) -> Iterator[Group]:
    names = chosen.split(",") if chosen else [*cases.GROUPS, "series"]
    unknown = set(names) - {*cases.GROUPS, "series"}
    if unknown:
        sys.exit(f"no such group: {', '.join(sorted(unknown))}")
    for name in names:
        if name == "series":
            yield from cases.series(setting)
        elif name != "scripts" or setting.scripts:
            made = cases.GROUPS[name](setting)
            yield from [made] if isinstance(made, Group) else made


def _run(group: Group, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Run the cases in turn, round by round, each time in another order.

    What a process leaves behind in the memory of the system hastens or hinders the next.
    """
    measure.forget(path for path in folder.iterdir() if path.is_file() and path not in group.made)
    if group.rehearsed:
        for case in group.cases:
            _once(case, folder)
    samples: dict[int, list[measure.Sample]] = {i: [] for i in range(len(group.cases))}
    failures: dict[int, str] = {}
    for turn in range(rounds):
        order = list(samples)
        Random(turn).shuffle(order)
        for i in order:
            case = group.cases[i]
            if i in failures:
                continue
            try:
                samples[i].append(_once(case, folder))
            except measure.Failed as failure:
                failures[i] = str(failure)
            last = f"{samples[i][-1].wall:.2f} s" if samples[i] else failures.get(i, "")
            print(f"  {group.name} {turn + 1}/{rounds}  {case.name}: {last}", file=sys.stderr)
    return [_row(c, samples[i], failures.get(i), samples[0]) for i, c in enumerate(group.cases)]


def _once(case: Case, folder: Path) -> measure.Sample:
    _clear(case, folder)
    if case.folder is not None:
        case.folder.mkdir()
    measure.warm(case.reads)
    if case.writes:
        reads = sum(path.stat().st_size for path in case.reads)
        measure.at_hand(folder, reads * case.times * 5 // 4)
    try:
        return measure.measure(case.argv, folder)
    finally:
        _clear(case, folder)


def _clear(case: Case, folder: Path) -> None:
    """Make room for what a case writes."""
    if not case.stays:
        _remove(case.writes, folder)
        return
    aside = folder / _ASIDE
    aside.mkdir(exist_ok=True)
    for path in filter(Path.exists, case.writes):
        measure.forget(file for file in path.rglob("*") if file.is_file())
        path.rename(aside / str(len(list(aside.iterdir()))))


def _remove_aside(folder: Path) -> None:
    """Remove what stayed, several folders at a time: a disk may be told of each freed file."""
    if folder.exists():
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(shutil.rmtree, folder.iterdir()))
        folder.rmdir()


def _remove(paths: Sequence[Path], folder: Path) -> None:
    """Remove files and folders of a run; a path outside of its folder is a mistake of ours."""
    for path in paths:
        if not path.resolve().is_relative_to(folder) or path.resolve() == folder:
            raise ValueError(f"{path} does not lie in {folder}")
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _row(
    case: Case,
    samples: list[measure.Sample],
    failure: str | None,
    base: list[measure.Sample],
) -> dict[str, Any]:
    if failure or not samples:
        return {"name": case.name, "failed": failure or "not run"}
    walls = sorted(sample.wall for sample in samples)
    return {
        "name": case.name,
        "wall": round(median(walls), 4),
        "walls": [round(wall, 4) for wall in walls],
        "processor": round(median(s.user + s.system for s in samples), 4),
        "memory": max(sample.memory for sample in samples),
        "own_memory": max(sample.own_memory for sample in samples),
        "ratio": round(median(walls) / median(s.wall for s in base), 3) if base else None,
        "ratio_of_fastest": round(walls[0] / min(s.wall for s in base), 3) if base else None,
    }


if __name__ == "__main__":
    main()
