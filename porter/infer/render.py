"""Write a draft as the TOML of a table, with a remark on each line that is unproven."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from porter.errors import visible
from porter.infer.draft import Body, Draft
from porter.infer.generalise import Item, Wide, generalise
from porter.mapping.table import BARE, CANONICAL, PADDLE

_ABSENT = "unproven: nothing in the other file matches it"
_WIDTH = 96


def render(
    draft: Draft, dialect: str, framework: str, family: str, heading: Iterable[str],
    models: Mapping[str, str] | None = None, also: Mapping[str, Draft] | None = None,
) -> str:  # fmt: skip
    """Return a table's text; `also` are PyTorch's other dialects, by name."""
    lines = [*(f"# {line}" for line in heading), "", f"family = {_quoted(family)}"]
    lines += _layers(draft)
    section = _dialect(draft, dialect)
    if section or dialect != PADDLE:
        lines += ["", f"[dialects.{dialect}]", f'framework = "{framework}"', *section]
    for name, other in (also or {}).items():
        lines += ["", f"[dialects.{name}]", f'framework = "{CANONICAL}"', *_dialect(other, name)]
    for title, rows in (("models", models or {}), ("unproven", unproven(draft))):
        if rows:
            lines += ["", f"[{title}]"]
            lines += [f"{_quoted(name)} = {_quoted(text)}" for name, text in rows.items()]
    return "\n".join(lines) + "\n"


def _layers(draft: Draft) -> Iterator[str]:
    """Yield `[tensors]` and `[layers]`."""
    for section, bare in (("tensors", True), ("layers", False)):
        rows = [(wide, kind) for wide, kind in draft.layers if (kind.name in BARE) is bare]
        if rows:
            yield from ("", f"[{section}]")
        for wide, kind in rows:
            note = f"unproven: or {', '.join(kind.others)}" if kind.others else ""
            yield _line(f"{_quoted(wide.canonical[0])} = {_quoted(kind.name)}", note)


def _dialect(draft: Draft, dialect: str) -> list[str]:
    """Return the rows of a dialect: none where the framework's conventions are enough."""
    lines = []
    rows = [(wide, body) for wide, body in draft.rows if not is_default(wide, body)]
    joined = [pair for pair in rows if len(pair[0].canonical) > 1 or pair[1].stack]
    single = [pair for pair in rows if pair not in joined]
    if single:
        lines.append(f"[dialects.{dialect}.names]")
    for wide, body in single:
        lines.append(_line(f"{_quoted(wide.canonical[0])} = {_value(wide, body)}", _doubt(body)))
    for wide, body in joined:
        lines += _joined(wide, body, dialect)
    if draft.absent:
        lines.append(f"[dialects.{dialect}.absent]")
        lines += _absent(draft)
    if draft.extra or draft.copies:
        lines.append(f"[dialects.{dialect}.extra]")
        lines += [f"{_quoted(t)} = {_quoted(why)}" for t, why in reasoned(draft, draft.extra)]
        lines += _copies(draft)
    return lines


def reasoned(draft: Draft, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return names without a partner, with placeholders, and why they have none."""
    items = [Item((name,), (), draft.reasons.get(name, _ABSENT)) for name in names]
    return [(wide.canonical[0], wide.items[0].key) for wide in generalise(items)]


def _absent(draft: Draft) -> Iterator[str]:
    """Yield the rows of canonical tensors that the dialect does not have."""
    shared, reasons = draft.shared, draft.reasons
    keys = {name: (shared.get(name), reasons.get(name, _ABSENT)) for name in draft.absent}
    for wide in generalise(Item((name,), (), key) for name, key in keys.items()):
        same, why = wide.items[0].key
        value = f"{{ reason = {_quoted(why)}, same = {_quoted(same)} }}" if same else _quoted(why)
        yield f"{_quoted(wide.canonical[0])} = {value}"


def _copies(draft: Draft) -> Iterator[str]:
    """Yield the rows of tensors that the dialect has twice, or more often."""
    counts = Counter(draft.copies.values())
    pairs = [(name, main) for name, main in draft.copies.items() if counts[main] > 1]
    items = [Item((m,), (name,)) for name, m in draft.copies.items() if counts[m] == 1]
    pairs += [(wide.dialect[0], wide.canonical[0]) for wide in generalise(items)]
    for name, main in pairs:
        yield (
            f"{_quoted(name)} = {{ reason = {_quoted('one tensor under two names')},"
            f" copy = {_quoted(main)} }}"
        )


def unproven(draft: Draft) -> dict[str, str]:
    """Return {name in a row: why nothing proves it}."""
    rows = {" + ".join(wide.canonical): body.doubt for wide, body in draft.rows if body.doubt}
    gaps = [*reasoned(draft, draft.absent), *reasoned(draft, draft.extra)]
    return {**rows, **{text: why for text, why in gaps if why.startswith("unproven")}}


def is_default(wide: Wide, body: Body) -> bool:
    """Whether a row adds nothing to the framework's conventions."""
    return body == Body() and wide.canonical == wide.dialect


def _value(wide: Wide, body: Body) -> str:
    path = _quoted(wide.dialect[0]) if len(wide.dialect) == 1 else _listed(wide.dialect)
    keys = _keys(body)
    return f"{{ {', '.join([f'path = {path}', *keys])} }}" if keys else path


def _keys(body: Body) -> list[str]:
    """Return the other keys of a row."""
    keys = []
    if body.join not in ("", "concat 0"):
        keys.append(f"join = {_quoted(body.join)}")
    if body.first:
        keys.append(f"first = {_listed(body.first)}")
    if body.ops:
        chains = {leaf: _listed(chain) for leaf, chain in body.ops}
        whole = chains.get("")
        inside = ", ".join(f"{leaf} = {chain}" for leaf, chain in chains.items())
        keys.append(f"ops = {whole}" if whole else f"ops = {{ {inside} }}")
    if body.leaves:
        inside = ", ".join(f"{leaf} = {_quoted(name)}" for leaf, name in body.leaves)
        keys.append(f"leaves = {{ {inside} }}")
    return keys


def _joined(wide: Wide, body: Body, dialect: str) -> list[str]:
    head = f"[[dialects.{dialect}.rows]]"
    return [
        _line(head, _doubt(body)),
        f"canonical = {_listed(wide.canonical)}",
        f"path = {_quoted(wide.dialect[0]) if len(wide.dialect) == 1 else _listed(wide.dialect)}",
        *([f"stack = {_quoted(body.stack)}"] if body.stack else []),
        *_keys(body),
    ]


def _doubt(body: Body) -> str:
    return f"unproven: {body.doubt}" if body.doubt else ""


def _line(text: str, note: str) -> str:
    """Return a line with its remark after it, or above it where both are long."""
    note = visible(note)
    if not note:
        return text
    return f"{text}  # {note}" if len(text) + len(note) < _WIDTH else f"# {note}\n{text}"


def _listed(texts: Iterable[str]) -> str:
    return "[" + ", ".join(map(_quoted, texts)) + "]"


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
