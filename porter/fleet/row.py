"""A row of a manifest, its variables filled in, as a job: checked before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from typing import Any

from porter.codecs.sharded.writing import parse_size
from porter.commands import recognised
from porter.errors import UsageError, listed, printable
from porter.fleet.job import Job
from porter.fleet.keys import SPELLED, conversions, for_onnx, proofs, wrong
from porter.planning import custom_table
from porter.planning.endpoint import container_for, parse
from porter.remote.address import address, check_scheme, is_url, shown
from porter.storage.digests import check_method
from porter.verification.tolerance import PRESETS
from porter.zoo import image_size
from porter.zoo.architectures import find

_SPELLED = {word: name for name, word in SPELLED.items()}
"""Keys of a manifest that are the words of the command line; the library has others."""
OURS = {"name", "preset"}
"""Keys that are none of the functions' parameters."""
_FILES = {"labels", "preprocessing", "calibrate"}
_PATHS = {"source", "output", "left", "right", "images", "inputs", "like", *_FILES}


def spelled(key: str) -> str:
    """Return the parameter that a key of a manifest is."""
    return _SPELLED.get(key, key.replace("-", "_"))


def job_of(values: Mapping[str, Any], folder: str, where: str, own: Container[str]) -> Job:
    """Return what a row asks for; `own` are the keys that are not defaults."""
    command = "verify" if "left" in values or "right" in values else "convert"
    kinds = proofs() if command == "verify" else conversions()
    for key, value in values.items():
        listed_as = SPELLED.get(spelled(key), spelled(key)).replace("_", "-")
        if problem := wrong(kinds[listed_as], value):
            raise UsageError(f"{key} must be {problem}, not {printable(repr(value), 40)}", where)
    arguments = {spelled(key): value for key, value in values.items() if key not in OURS}
    preset = values.get("preset")
    if command == "verify" and preset is not None:
        arguments["preset"], preset = preset, None
    needed = ("source", "output") if command == "convert" else ("architecture", "left", "right")
    if missing := [key for key in needed if key not in arguments]:
        raise UsageError(f"needs {listed([SPELLED.get(k, k) for k in missing])}", where)
    for key in _PATHS & arguments.keys():
        arguments[key] = place(arguments[key], folder)
    if command == "convert":
        arguments = _with_onnx(arguments, own, where)
    _check(arguments, command, preset, where)
    last = arguments.get("output") or arguments["right"]
    name = values.get("name") or (address(last).name if is_url(last) else os.path.basename(last))
    return Job(safe(str(name)), command, arguments, preset)


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
        from porter.onnx.export import opsets  # Few manifests need it.

        opsets.check(asked["opset"])
    for key in _FILES & asked.keys():
        if not os.path.exists(asked[key]):
            raise UsageError(f"{printable(asked[key])}: no such file or folder", where)
    return {**rest, "onnx": asked} if asked else rest


def place(value: str, folder: str) -> str:
    """Return a path as it is opened, or an address that can be one."""
    if is_url(value):
        address(value)
        return value
    path = os.path.normpath(os.path.join(folder, value))
    if "://" in value and not os.path.exists(path):
        check_scheme(value)
    return path


def _check(arguments: Mapping[str, Any], command: str, preset: Any, where: str) -> None:
    """Raise `UsageError` for what can be seen to be wrong before any checkpoint is read."""
    check_files(arguments, where)
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
        from porter.verification.judge import bounds  # With all that proofs need.

        bounds(limits)
    if (size := arguments.get("max_shard_size")) is not None:
        parse_size(size)
    if (pixels := arguments.get("image_size")) is not None:
        image_size.checked(pixels)
    if (method := arguments.get("digest")) is not None:
        check_method(method)


def check_files(arguments: Mapping[str, Any], where: str) -> None:
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


def safe(name: str) -> str:
    """Return a name of a job that a file may have."""
    return re.sub(r"[^\w.+=@-]", "_", name).lstrip(".")[:100] or "job"
