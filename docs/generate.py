"""Write what is generated: references and gallery in `docs/`, JSON of tables and schemas.

`--check` writes nothing and fails when a document is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from writers import (
    api,
    command_line,
    concepts,
    gallery,
    known,
    manifest,
    pairs,
    schema_pages,
    schemas,
)

from porter.mapping.schema import schema

ROOT = Path(__file__).resolve().parents[1]


def documents() -> dict[Path, str]:
    """Return {path: text} of every generated document."""
    docs = ROOT / "docs"
    return {
        docs / "cli.md": command_line.command_reference(),
        docs / "api.md": api.reference(),
        docs / "public-pairs.md": pairs.page(),
        docs / "manifest.schema.json": json.dumps(manifest.schema(), indent=1) + "\n",
        docs / "schemas.md": schema_pages.page(ROOT),
        ROOT / "mappings" / "families.json": known.families_and_dialects(),
        ROOT / "mappings" / "signatures.json": known.signatures(),
        ROOT / "mappings" / "table.schema.json": json.dumps(schema(), indent=1) + "\n",
        **schemas.report_schemas(ROOT),
        **concepts.drawings(docs / "img" / "concepts"),
        **gallery.pages(docs / "gallery", docs / "reports"),
    }


def main() -> None:
    """Write the documents, or check them; pages of families that are gone are removed."""
    wanted = documents()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in (ROOT / "docs/gallery").glob("*.md") if path not in wanted]
    named = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if stale and "--check" in sys.argv:
        sys.exit(f"out of date, run `make docs`: {named}")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path]) if path in wanted else path.unlink()
    if stale:
        print(f"wrote {named}")


if __name__ == "__main__":
    main()
