"""Manifests: TOML or YAML with `[defaults]` and `[[jobs]]`, checked as a whole.

Keys of a job are the options of `porter convert` (`arch`, `input`, `output`, `from`, `to`,
`num-classes`, …), or, where it has `left` and `right`, those of `porter verify`. A key that is none
of them is a variable: its value may be a list, and stands in braces in other values. A job with
lists is as many jobs as there are combinations. `input` may be a pattern; `{stem}` and `{name}` are
then those of each file.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature
from typing import Any, NamedTuple

from porter.codecs.detect import container_of
from porter.commands.convert import convert
from porter.commands.options import WriteKeywords, keys_of
from porter.errors import InputError, PorterError, UsageError, listed, nearest, printable
from porter.fleet.job import Job
from porter.fleet.keys import for_onnx
from porter.fleet.row import OURS, check_files, job_of, place, safe, spelled
from porter.remote.address import is_url
from porter.storage.input_file import read_small

_LARGEST = 1 << 24
_MOST_JOBS = 100_000
_NEVER = {"dry_run", "reports", "progress", "pool", "weights", "onnx"}
"""Parameters of the functions that a manifest does not set."""
_LISTS = {"drop", "seeds", "batch_sizes", "mean", "std"}
"""Keys whose value may be a list without being several jobs."""
_HOLE = re.compile(r"\{([\w-]+)\}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The jobs of a file."""

    path: str
    jobs: tuple[Job, ...]


def read(path: str | os.PathLike[str]) -> Manifest:
    """Read and check a manifest; paths in it are relative to its folder.

    Raises `InputError` for a file that is not one, `UsageError` for the first job that is wrong.
    """
    name = os.fspath(path)
    content = _parsed(name)
    if extra := [key for key in content if key not in ("defaults", "jobs")]:
        raise InputError(f"has {listed(extra)}; a manifest has [defaults] and [[jobs]]", name)
    defaults, rows = content.get("defaults", {}), content.get("jobs", [])
    if not isinstance(defaults, dict) or not isinstance(rows, list) or not rows:
        raise InputError("has no [[jobs]]", name)
    if not all(isinstance(row, dict) for row in rows):
        raise InputError("each of [[jobs]] is a table", name)
    folder = os.path.dirname(os.path.abspath(name))
    jobs: list[Job] = []
    for number, row in enumerate(rows, 1):
        where = f"{name}: job {number}"
        for pattern in _combinations({**_taken(defaults, row), **row}, folder, where):
            with _in_row(where):
                jobs += _jobs(pattern, folder, where, {*map(spelled, row)})
            if len(jobs) > _MOST_JOBS:
                raise InputError(f"is more than {_MOST_JOBS:,} jobs", name)
    jobs = _named_apart(jobs)
    _check_apart(jobs, name)
    return Manifest(name, tuple(jobs))


@contextmanager
def _in_row(where: str) -> Iterator[None]:
    """Say which row is wrong."""
    try:
        yield
    except PorterError as error:
        if error.path == where:
            raise
        raise UsageError(str(error), where) from error


def _parsed(path: str) -> dict[str, Any]:
    data = read_small(path, _LARGEST)
    try:
        if path.lower().endswith((".yaml", ".yml")):
            import yaml

            content = yaml.safe_load(data)
        else:
            content = tomllib.loads(data.decode("utf-8"))
    except ModuleNotFoundError:
        raise UsageError("is YAML, which needs PyYAML; run `pip install pyyaml`", path) from None
    except (ValueError, RecursionError) as fault:
        raise InputError(f"cannot be parsed: {printable(fault, 200)}", path) from fault
    except _yaml_error() as fault:
        raise InputError(f"cannot be parsed: {printable(fault, 200)}", path) from fault
    if not isinstance(content, dict):
        raise InputError("is not a manifest: it has no tables", path)
    return content


def _yaml_error() -> type[BaseException]:
    try:
        import yaml
    except ModuleNotFoundError:
        return ValueError
    error: type[BaseException] = yaml.YAMLError
    return error


class _Pattern(NamedTuple):
    """Jobs that differ in their source, and what follows from its name."""

    values: Mapping[str, Any]
    variables: Mapping[str, Any]
    files: Sequence[str]


def _combinations(row: Mapping[str, Any], folder: str, where: str) -> Iterator[_Pattern]:
    """Yield the values of the jobs that a row means, by the values of its variables."""
    lists = {k: v for k, v in row.items() if isinstance(v, list) and spelled(k) not in _LISTS}
    if empty := [key for key, values in lists.items() if not values]:
        raise UsageError(f"{listed(empty)} is an empty list", where)
    known = _known(row)
    for choice in itertools.product(*lists.values()):
        values = {**row, **dict(zip(lists, choice, strict=True))}
        variables = {k: v for k, v in values.items() if spelled(k) not in known}
        plain = {k: v for k, v in values.items() if k in variables or _is_plain(v)}
        source = _filled(values.get("input", ""), plain, where)
        if not isinstance(source, str):
            raise UsageError("input must be a path or an address", where)
        if unused := [k for k in variables if not _is_used(k, values)]:
            near = nearest(spelled(unused[0]), known)
            hint = f"; did you mean {near[0].strip('_')}?" if near else ""
            what = f"{listed(unused)} is not an option, and not used as a variable{hint}"
            raise UsageError(what, where)
        rest = {k: v for k, v in values.items() if k not in variables}
        yield _Pattern(rest, plain, _files(source, folder, where))


def _jobs(pattern: _Pattern, folder: str, where: str, own: Container[str]) -> Iterator[Job]:
    """Yield a job for each file; what is the same for all of them is checked with the first."""
    values, first, container = pattern.values, None, None
    named = [k for k, v in values.items() if k != "input" and {*_holes(v)} & {"name", "stem"}]
    for file in pattern.files:
        base = os.path.basename(file)
        names = {**pattern.variables, "name": base, "stem": os.path.splitext(base)[0]}
        if first is not None and named == ["output"] and "name" not in values:
            output = place(_filled(values["output"], names, where), folder)
            if not is_url(output) and container_of(output) == container:
                arguments = {**first.arguments, "source": place(file, folder), "output": output}
                check_files(arguments, where)
                name = safe(os.path.basename(output))
                yield Job(name, first.command, arguments, first.preset)
                continue
        made = {key: _filled(value, names, where) for key, value in values.items()}
        if "input" in values:
            made["input"] = file
        first = job_of(made, folder, where, own)
        container = container_of(first.output)
        yield first


def _holes(value: Any) -> list[str]:
    return _HOLE.findall(value) if isinstance(value, str) else list[str]()


def _is_plain(value: Any) -> bool:
    """Whether an option may stand in braces in other values."""
    return isinstance(value, str | int | float) and not _HOLE.search(str(value))


def _is_used(name: str, values: Mapping[str, Any]) -> bool:
    return any(f"{{{name}}}" in str(value) for key, value in values.items() if key != name)


def _files(source: str, folder: str, where: str) -> Sequence[str]:
    """Return the files that a pattern means; anything else is as it is."""
    if is_url(source) or not glob.has_magic(source):
        return [source]
    found = sorted(glob.glob(source, root_dir=folder))
    found = [name for name in found if not name.endswith(".porter.json")]
    if not found:
        raise UsageError(f"no file fits the pattern {printable(source)}", where)
    return found


def _filled(value: Any, variables: Mapping[str, Any], where: str) -> Any:
    """Return a value with the variables in braces filled in."""
    if not isinstance(value, str) or "{" not in value:
        return value

    def found(match: re.Match[str]) -> Any:
        if match[1] not in variables:
            known = f"; there are {listed(sorted(variables))}" if variables else ""
            raise UsageError(f"{{{match[1]}}} is not a variable{known}", where)
        return variables[match[1]]

    only = _HOLE.fullmatch(value)  # A number stays one.
    return found(only) if only else _HOLE.sub(lambda match: str(found(match)), value)


def _known(row: Mapping[str, Any]) -> set[str]:
    """Return the parameters of what a row calls."""
    return _parameters("verify" if "left" in row or "right" in row else "convert")


@cache
def _parameters(command: str) -> set[str]:
    if command == "convert":
        own = signature(convert).parameters
        return {*own, *keys_of(WriteKeywords), *for_onnx(), *OURS} - _NEVER
    from porter.commands.verify import verify  # As much again to load as all else.
    from porter.verification.options import RunOptions

    return {*signature(verify).parameters, *keys_of(RunOptions), *OURS} - _NEVER


def _taken(defaults: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a row: a proof takes no option of a conversion, nor the reverse."""
    known = _known(row)
    if known.issuperset(map(spelled, defaults)):
        return dict(defaults)
    others = (_parameters("convert") | _parameters("verify")) - known
    return {key: value for key, value in defaults.items() if spelled(key) not in others}


def _named_apart(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs, those of one name numbered."""
    seen: dict[str, int] = {}
    apart = []
    for job in jobs:
        count = seen[job.name] = seen.get(job.name, 0) + 1
        apart.append(job if count == 1 else replace(job, name=f"{job.name}-{count}"))
    return apart


def _check_apart(jobs: Sequence[Job], path: str) -> None:
    """Raise `UsageError` when a job writes what another one reads or writes."""
    writers: dict[str, str] = {}
    for job in jobs:
        if output := job.output:
            if output in writers:
                raise UsageError(f"{writers[output]} and {job.name} write one file", path)
            writers[output] = job.name
    for job in jobs:
        for source in job.sources:
            if source in writers:
                raise UsageError(
                    f"{job.name} reads what {writers[source]} writes: put it into another manifest,"
                    " which runs after this one", path,
                )  # fmt: skip
