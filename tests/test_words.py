"""Plain words: help texts, errors and docs are written as engineers of this field write."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from porter.cli import cli

ROOT = Path(__file__).parents[1]
WORDS = {
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|more\b|such\b)[a-z]": "is not a …, has no …",
    r"\bno such (?!file)\b": "unknown …",
    r"makes? no sense": "malformed, unsupported",
    r"\bstands?\b|\bstood\b": "is, is stored",
    r"\blies?\b|\blay\b|\blain\b": "is, is stored",
    r"\bholds?\b|\bheld\b|\bholding\b": "check, compare, keep, store",
    r"\bbeside\b|\bbehind\b": "next to, after",
    r"\balone\b": "only",
    r"\bof (?:your|its|their|his|our|my|one's) own\b|porter's own": "custom, separate",
    r"\bsayings?\b": "message, spelling",
    r"\bholes?\b": "placeholder",
    r"\bties?\b": "shared tensor",
    r"\bimprints?\b|\bseals?\b|\bsealed\b": "checksum, manifest",
    r"\bstrangers?\b|\bforeign hand": "untrusted input",
    r"\bsheets?\b": "model, metadata",
    r"\bbeforehand\b|\bafterwards\b": "before writing, after writing",
    r"\d+ ?[GMK]i?B,? say\b|, say\)": "for example …",
    r"\bcome by\b|\bwho asks\b": "obtain, the caller",
}
"""What is replaced, and by what; `docs/` and the messages of the program are read."""
DOCUMENTS = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
    )
    if path.name != "CHANGELOG.md"
)


def found(text: str) -> list[str]:
    """Return the words of a text that have a plainer one."""
    return [
        f"…{text[max(0, hit.start() - 30) : hit.end() + 30]}… ({plain})".replace("\n", " ")
        for pattern, plain in WORDS.items()
        for hit in re.finditer(pattern, text, re.IGNORECASE)
    ]


def prose(markdown: str) -> str:
    """Return a document without its code."""
    return re.sub(r"`[^`\n]*`", "`…`", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S))


def helps(group: click.Command, path: str) -> Iterator[tuple[str, str]]:
    """Yield (command, text) of every help."""
    with click.Context(group, info_name=path) as context:
        yield path, " ".join(group.get_help(context).split())
        if isinstance(group, click.Group):
            for name in group.list_commands(context):
                command = group.get_command(context, name)
                assert command is not None
                yield from helps(command, f"{path} {name}")


def messages(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are more than a name: messages, not docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    docs |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if " " in node.value and id(node) not in docs:
            yield node.value


def test_a_word_is_noticed() -> None:
    """The list finds what it is for."""
    assert found("The record stands beside the file, held to it.")
    assert not found("The record is stored next to the file and compared with it; no longer.")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_use_plain_words(path: Path) -> None:
    """No document has a word of the list outside of code."""
    assert found(prose(path.read_text(encoding="utf-8"))) == []


def test_help_texts_use_plain_words() -> None:
    """No help text has a word of the list."""
    assert {name: bad for name, text in helps(cli, "porter") if (bad := found(text))} == {}


def test_messages_use_plain_words() -> None:
    """No message of the program has a word of the list."""
    files = sorted((ROOT / "porter").rglob("*.py"))
    assert len(files) > 150
    bad = {
        path.relative_to(ROOT).as_posix(): words
        for path in files
        if (words := [hit for text in messages(path) for hit in found(text)])
    }
    assert bad == {}
