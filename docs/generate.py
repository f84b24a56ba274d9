"""Write what is generated: `docs/cli.md`, README.md's tables, JSON of tables and schemas.

`--check` writes nothing and fails when a document is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from porter.cli import cli
from porter.mapping.schema import schema
from porter.mapping.signature import plain
from porter.mapping.table import Dialect, Table
from porter.planning.endpoint import spellings
from porter.tensors import folds
from porter.zoo.architectures import families

ROOT = Path(__file__).resolve().parents[1]
COMMON = """\
`porter` and `python -m porter` are the same command. `porter COMMAND --help` prints the help below.

## Exit codes

| code | meaning |
|---|---|
| 0 | done; the two sides are equal; the file is intact |
| 1 | the answer is no: a proof failed, files differ, a table is unproven, a file was altered |
| 2 | refused: a wrong option, a file that porter does not read, weights that do not fit |
| 3 | the machine: something must be installed, no space, no permission, no network, no memory |
| 70 | a bug in porter; `PORTER_TRACEBACK=1` prints the traceback to report |
| 129, 130, 143 | interrupted: closed terminal, Ctrl-C or SIGTERM; no half-written output is left |
| 141 | the reader of the output has gone, as when `head` has seen enough |

An error is one line on standard error: file, tensor, the expected and the actual value, the remedy.

## Output

- In a terminal, lines are wrapped at its width. In a pipe, each row is one line; `COLUMNS=80`
  wraps it there too.
- Progress is shown on standard error, in a terminal only. `--quiet` prints errors only,
  `NO_COLOR=1` turns colours off.
- `--json` prints one JSON value. Its `schema`, such as `porter.conversion/1`, names a JSON Schema
  in the package: `porter/schemas/conversion.json`; that of a verdict is
  `porter/report/verdict.schema.json`. The number changes when a field changes or is removed.

## Completion

Commands, options, variants, families and dialects are completed after one of these lines:

```console
$ eval "$(_PORTER_COMPLETE=bash_source porter)"   # bash: in ~/.bashrc
$ eval "$(_PORTER_COMPLETE=zsh_source porter)"    # zsh: in ~/.zshrc
$ _PORTER_COMPLETE=fish_source porter | source    # fish: in ~/.config/fish/config.fish
```
"""
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def command_reference() -> str:
    """Return the help of every command as Markdown."""
    parts = [
        "# Command line\n\nGenerated from the commands by `make docs`; do not edit.\n",
        COMMON,
        _help(cli, "porter"),
    ]
    return "\n".join([*parts, *_commands(cli, "porter")])


def _commands(group: click.Group, path: str) -> list[str]:
    parts = []
    with click.Context(group, info_name=path) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            parts.append(_help(command, f"{path} {name}"))
            if isinstance(command, click.Group):
                parts += _commands(command, f"{path} {name}")
    return parts


def _help(command: click.Command, path: str) -> str:
    names = cli.context_settings["help_option_names"]
    with click.Context(
        command, info_name=path, max_content_width=96, terminal_width=96, help_option_names=names
    ) as context:
        return f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"


def architecture_table() -> str:
    """Return families, variants and dialects as a Markdown table."""
    lines = ["| family | variants | dialects |", "|---|---|---|"]
    for name, variants in families().items():
        names = " ".join(f"`{v.name}`" for v in variants)
        dialects = " ".join(f"`{spelling}`" for spelling in spellings(variants[0].table))
        title = f"[{variants[0].title}]({variants[0].paper})"
        lines.append(f"| {name}<br>{title} | {names} | {dialects} |")
    return "\n".join(lines)


def module_names() -> str:
    """Return what every dialect calls its modules, a dialect a line, its separator first."""
    parts = []
    for family, variants in families().items():
        table, sizes = variants[0].table, variants[0].sizes
        rows = [
            f" {json.dumps(name)}: {json.dumps([dialect.convention.separator, *found])}"
            for name, dialect in table.dialects.items()
            for found in [sorted(_modules(table, dialect, sizes))]
        ]
        parts.append(f'"{family}": {{\n' + ",\n".join(rows) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _modules(table: Table, dialect: Dialect, sizes: Mapping[str, int]) -> set[str]:
    """Return what a dialect calls modules and bare tensors, every number as `#`."""
    renamed = {name for row in dialect.rows for side in row.canonical for name in side.plain}
    found = {name for layer in table.layers for name in layer.path.plain} - renamed
    found |= {
        plain(f"{name}.{part}").rpartition(".")[0] if part else name
        for row in dialect.rows
        for side in row.dialect
        for name in side.plain
        for part in (folds.parse(row.fold, sizes).parts if row.fold else ("",))
    }
    found |= {name + "*" * extra.begins for extra in dialect.extra for name in extra.path.plain}
    return found.union(*(_modules(table, case.dialect, sizes) for case in dialect.cases))


def report_schemas() -> dict[Path, str]:
    """Return the schemas of evaluations and evidence, with what verdicts have in them."""
    folder = ROOT / "porter" / "schemas"
    verdict = json.loads((ROOT / "porter" / "report" / "verdict.schema.json").read_text())
    evaluation, evidence = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("evaluation", "evidence")
    )
    evaluation["$defs"] = {"side": verdict["$defs"]["side"]}
    row = evidence["properties"]["rows"]["items"]["properties"]
    row["verdict"] = _inner(verdict)
    row["evaluation"] = {**_inner(evaluation), "type": ["object", "null"]}
    evidence["$defs"] = verdict["$defs"]
    both = {"evaluation": evaluation, "evidence": evidence}
    return {folder / f"{n}.json": f"{json.dumps(made, indent=1)}\n" for n, made in both.items()}


def _inner(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as a part of another."""
    outer = ("$schema", "$id", "title", "$defs")
    return {key: value for key, value in schema.items() if key not in outer}


def documents() -> dict[Path, str]:
    """Return {path: text} of every generated document."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    begin, end = BEGIN.format("architectures"), END.format("architectures")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    made = f"{before}{begin}\n{architecture_table()}\n{end}{after}"
    return {
        ROOT / "docs" / "cli.md": command_reference(),
        ROOT / "mappings" / "names.json": module_names(),
        ROOT / "mappings" / "table.schema.json": json.dumps(schema(), indent=1) + "\n",
        readme: made,
    }


def main() -> None:
    """Write the documents, or check them."""
    stale = []
    for path, text in {**documents(), **report_schemas()}.items():
        if path.exists() and path.read_text() == text:
            continue
        if "--check" in sys.argv:
            stale.append(str(path.relative_to(ROOT)))
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    if stale:
        sys.exit(f"out of date, run `make docs`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
