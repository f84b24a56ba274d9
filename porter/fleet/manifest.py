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
from porter.codecs.sharded.writing import parse_size
from porter.commands import recognised
from porter.commands.convert import convert
from porter.commands.options import WriteKeywords, keys_of
from porter.errors import InputError, PorterError, UsageError, listed, nearest, printable
from porter.fleet.job import Job
from porter.fleet.keys import SPELLED, conversions, for_onnx, proofs, wrong
from porter.onnx.export import opsets
from porter.planning import custom_table
from porter.planning.endpoint import container_for, parse
from porter.remote.address import address, check_scheme, is_url, shown
from porter.storage.digests import check_method
from porter.storage.input_file import read_small
from porter.verification.judge import bounds
from porter.verification.tolerance import PRESETS
from porter.zoo import image_size
from porter.zoo.architectures import find

_LARGEST = 1 << 24
_MOST_JOBS = 100_000
_SPELLED = {word: name for name, word in SPELLED.items()}
"""Keys of a manifest that are the words of the command line; the library has others."""
_OURS = {"name", "preset"}
_NEVER = {"dry_run", "reports", "progress", "pool", "weights", "onnx"}
"""Parameters of the functions that a manifest does not set."""
_LISTS = {"drop", "seeds", "batch_sizes", "mean", "std"}
"""Keys whose value may be a list without being several jobs."""
_FILES = {"labels", "preprocessing", "calibrate"}
_PATHS = {"source", "output", "left", "right", "images", "inputs", "like", *_FILES}
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
                jobs += _jobs(pattern, folder, where, {*map(_spelled, row)})
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
    lists = {k: v for k, v in row.items() if isinstance(v, list) and _spelled(k) not in _LISTS}
    if empty := [key for key, values in lists.items() if not values]:
        raise UsageError(f"{listed(empty)} is an empty list", where)
    known = _known(row)
    for choice in itertools.product(*lists.values()):
        values = {**row, **dict(zip(lists, choice, strict=True))}
        variables = {k: v for k, v in values.items() if _spelled(k) not in known}
        plain = {k: v for k, v in values.items() if k in variables or _is_plain(v)}
        source = _filled(values.get("input", ""), plain, where)
        if not isinstance(source, str):
            raise UsageError("input must be a path or an address", where)
        if unused := [k for k in variables if not _is_used(k, values)]:
            near = nearest(_spelled(unused[0]), known)
            hint = f"; did you mean {near[0].strip('_')}?" if near else ""
            what = f"{listed(unused)} is not an option, and not used as a variable{hint}"
            raise UsageError(what, where)
        rest = {k: v for k, v in values.items() if k not in variables}
        yield _Pattern(rest, plain, _files(source, folder, where))


def _jobs(pattern: _Pattern, folder: str, where: str, own: Container[str]) -> Iterator[Job]:
    """Yield a job for each file; what is the same for all of them is checked with the first."""
    values, first = pattern.values, None
    named = [k for k, v in values.items() if k != "input" and {*_holes(v)} & {"name", "stem"}]
    for file in pattern.files:
        base = os.path.basename(file)
        names = {**pattern.variables, "name": base, "stem": os.path.splitext(base)[0]}
        if first is not None and named == ["output"] and "name" not in values:
            output = _place(_filled(values["output"], names, where), folder)
            if not is_url(output) and container_of(output) == container_of(first.output):
                arguments = {**first.arguments, "source": _place(file, folder), "output": output}
                _check_files(arguments, where)
                yield replace(first, name=_safe(os.path.basename(output)), arguments=arguments)
                continue
        made = {key: _filled(value, names, where) for key, value in values.items()}
        if "input" in values:
            made["input"] = file
        first = _job(made, folder, where, own)
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


def _spelled(key: str) -> str:
    return _SPELLED.get(key, key.replace("-", "_"))


def _known(row: Mapping[str, Any]) -> set[str]:
    """Return the parameters of what a row calls."""
    return _parameters("verify" if "left" in row or "right" in row else "convert")


@cache
def _parameters(command: str) -> set[str]:
    if command == "convert":
        own = signature(convert).parameters
        return {*own, *keys_of(WriteKeywords), *for_onnx(), *_OURS} - _NEVER
    from porter.commands.verify import verify  # As much again to load as all else.
    from porter.verification.options import RunOptions

    return {*signature(verify).parameters, *keys_of(RunOptions), *_OURS} - _NEVER


def _taken(defaults: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a row: a proof takes no option of a conversion, nor the reverse."""
    known = _known(row)
    if known.issuperset(map(_spelled, defaults)):
        return dict(defaults)
    others = (_parameters("convert") | _parameters("verify")) - known
    return {key: value for key, value in defaults.items() if _spelled(key) not in others}


def _job(values: Mapping[str, Any], folder: str, where: str, own: Container[str]) -> Job:
    """Return what a row asks for; `own` are the keys that are not defaults."""
    command = "verify" if "left" in values or "right" in values else "convert"
    kinds = proofs() if command == "verify" else conversions()
    for key, value in values.items():
        listed_as = SPELLED.get(_spelled(key), _spelled(key)).replace("_", "-")
        if problem := wrong(kinds[listed_as], value):
            raise UsageError(f"{key} must be {problem}, not {printable(repr(value), 40)}", where)
    arguments = {_spelled(key): value for key, value in values.items() if key not in _OURS}
    preset = values.get("preset")
    if command == "verify" and preset is not None:
        arguments["preset"], preset = preset, None
    needed = ("source", "output") if command == "convert" else ("architecture", "left", "right")
    if missing := [key for key in needed if key not in arguments]:
        raise UsageError(f"needs {listed([SPELLED.get(k, k) for k in missing])}", where)
    for key in _PATHS & arguments.keys():
        arguments[key] = _place(arguments[key], folder)
    if command == "convert":
        arguments = _with_onnx(arguments, own, where)
    _check(arguments, command, preset, where)
    last = arguments.get("output") or arguments["right"]
    name = values.get("name") or (address(last).name if is_url(last) else os.path.basename(last))
    return Job(_safe(str(name)), command, arguments, preset)


def _with_onnx(arguments: Mapping[str, Any], own: Container[str], where: str) -> dict[str, Any]:
    """Return the arguments with the options of an ONNX output where `convert` takes them.

    For another output those of the row itself are refused, and defaults do not count.
    """
    asked = {key: value for key, value in arguments.items() if key in for_onnx()}
    rest = {key: value for key, value in arguments.items() if key not in asked}
    if not asked:
        return rest
    to = str(arguments.get("to") or recognised.target(arguments["output"]))
    if to.partition(":")[0] != "onnx":
        taken = {"labels"} if "hf" in to else set()
        if extra := [key for key in asked if key in own and key not in taken]:
            raise UsageError(f"{listed(extra)}: for ONNX only, not {printable(to)}", where)
        asked = {key: value for key, value in asked.items() if key in taken}
    if "opset" in asked:
        opsets.check(asked["opset"])
    for key in _FILES & asked.keys():
        if not os.path.exists(asked[key]):
            raise UsageError(f"{printable(asked[key])}: no such file or folder", where)
    return {**rest, "onnx": asked} if asked else rest


def _place(value: str, folder: str) -> str:
    """Return a path as it is opened, or an address that can be one."""
    if is_url(value):
        address(value)
        return value
    path = os.path.normpath(os.path.join(folder, value))
    if not os.path.exists(path):
        check_scheme(value)
    return path


def _check(arguments: Mapping[str, Any], command: str, preset: Any, where: str) -> None:
    """Raise `UsageError` for what can be seen to be wrong before any checkpoint is read."""
    _check_files(arguments, where)
    architecture = arguments.get("architecture")
    output = arguments.get("output")
    if architecture is not None and not custom_table.is_table(architecture):
        variant = find(architecture)
        for key in ("from_", "to"):
            if arguments.get(key) is not None:
                end = parse(arguments[key], variant.table)
                if key == "to":
                    container_for(output or "", end)
    if preset is not None and (architecture is None or not arguments.get("verify", True)):
        raise UsageError("preset needs arch, and a proof", where)
    one = preset or arguments.get("preset")
    if one is not None and one not in PRESETS:
        raise UsageError(f"preset {printable(one)!r} is not one of {listed(PRESETS)}", where)
    if (limits := arguments.get("judge")) is not None:
        bounds(limits)
    if (size := arguments.get("max_shard_size")) is not None:
        parse_size(size)
    if (pixels := arguments.get("image_size")) is not None:
        image_size.checked(pixels)
    if (method := arguments.get("digest")) is not None:
        check_method(method)


def _check_files(arguments: Mapping[str, Any], where: str) -> None:
    """Raise `UsageError` for a source that is not there, or an output that cannot be written."""
    for key in ("source", "left", "right"):
        path = arguments.get(key)
        if path is not None and not is_url(path) and not os.path.exists(path):
            raise UsageError(f"{printable(path)}: no such file", where)
    if (output := arguments.get("output")) is not None:
        _check_output(output, arguments.get("to"), where)


def _check_output(output: str, to: str | None, where: str) -> None:
    """Raise `UsageError` for an output that no checkpoint can be written to."""
    if is_url(output):
        if address(output).is_web:
            raise UsageError(f"{printable(shown(output))} is read, and not written", where)
    elif os.path.isdir(output):
        raise UsageError(f"{printable(output)} is a folder", where)
    if to is None:
        recognised.target(output)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+=@-]", "_", name).lstrip(".")[:100] or "job"


def _named_apart(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs, those of one name numbered."""
    seen: dict[str, int] = {}
    apart = []
    for job in jobs:
        count = seen[job.name] = seen.get(job.name, 0) + 1
        apart.append(job if count == 1 else replace(job, name=f"{job.name}-{count}"))
    return apart


def _check_apart(jobs: Iterable[Job], path: str) -> None:
    """Raise `UsageError` when a job writes what another one reads or writes."""
    writers: dict[str, str] = {}
    listed_jobs = list(jobs)
    for job in listed_jobs:
        if job.output:
            if job.output in writers:
                raise UsageError(f"{writers[job.output]} and {job.name} write one file", path)
            writers[job.output] = job.name
    for job in listed_jobs:
        for source in job.sources:
            if source in writers:
                raise UsageError(
                    f"{job.name} reads what {writers[source]} writes: put it into another manifest,"
                    " which runs after this one", path,
                )  # fmt: skip
