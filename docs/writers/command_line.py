"""`docs/cli.md`: the help of every command."""

from __future__ import annotations

import click

from porter.cli import cli

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
Variables of the environment: [environment](environment.md).

## Output

- In a terminal, lines are wrapped at its width. In a pipe, each row is one line; `COLUMNS=80`
  wraps it there too.
- Progress is shown on standard error, in a terminal only. `--quiet` prints errors only,
  `NO_COLOR=1` turns colours off.
- `--json` prints one JSON value. Its `schema`, such as `porter.conversion/1`, names a JSON Schema
  in the package: `porter/schemas/conversion.json`; that of a verdict is
  `porter/report/verdict.schema.json`; [schemas](schemas.md) lists their fields. The number changes
  when a field changes or is removed.

## Completion

Commands, options, variants, families and dialects are completed after one of these lines:

```console
$ eval "$(_PORTER_COMPLETE=bash_source porter)"   # bash: in ~/.bashrc
$ eval "$(_PORTER_COMPLETE=zsh_source porter)"    # zsh: in ~/.zshrc
$ _PORTER_COMPLETE=fish_source porter | source    # fish: in ~/.config/fish/config.fish
```
"""


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
