"""What the site needs beyond the Markdown of the repository: links out of `docs/`, folders in the
navigation, the changelog as a page."""

from __future__ import annotations

import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WIDE = "gallery/README.md"
"""The page whose table takes the place of the contents."""
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""{page of the site: file of the repository}."""
NOT_ON_THE_SITE = (".py", ".log")
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Replace a folder in the navigation, `tutorials/`, by its pages."""
    config.nav = _opened(config.nav)
    return config


def _opened(entries: list[Any]) -> list[Any]:
    opened: list[Any] = []
    for entry in entries:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
        if isinstance(value, list):
            opened.append({title: _opened(value)})
        elif value.endswith("/"):
            opened += [{title: _pages(value)}] if title else _pages(value)
        else:
            opened.append(entry)
    return opened


def _pages(folder: str) -> list[str]:
    """Return the pages of a folder, its README.md first."""
    found = [path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md")]
    return sorted(found, key=lambda path: (not path.endswith("README.md"), path))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are files at the top of the repository."""
    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Lead links to files that are not on the site to the repository."""
    if page.file.src_uri == WIDE:
        page.meta["hide"] = ["toc"]
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    generated = page.file.src_uri in PAGES

    def address(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        inside = target.startswith("docs/") and not target.endswith(NOT_ON_THE_SITE)
        if inside and (ROOT / target).is_dir():
            inside = (ROOT / target / "README.md").exists()
            target += "/README.md" * inside
        if not inside:
            return f"{match[1]}{config.repo_url}/blob/main/{target}{match[3]}"
        if generated or target.endswith("/README.md"):
            start = posixpath.dirname(page.file.src_uri) or "."
            return f"{match[1]}{posixpath.relpath(target.removeprefix('docs/'), start)}{match[3]}"
        return match[0]

    return _LINK.sub(address, with_bars(markdown))


def with_bars(markdown: str) -> str:
    """Return Markdown whose tables show a bar in code, which Python-Markdown shows as `\\|`."""

    def code(match: re.Match[str]) -> str:
        bare = escape(match[1]).replace("\\|", "&#124;")
        return f"<code>{bare}</code>" if "\\|" in match[1] else match[0]

    lines = markdown.split("\n")
    return "\n".join(_CODE.sub(code, x) if x.startswith("|") else x for x in lines)


def on_post_build(config: Any) -> None:
    """Refuse a site without its scripts or styles, which mkdocs leaves out in silence."""
    wanted = [*config.extra_css, *map(str, config.extra_javascript)]
    missing = [name for name in wanted if not (Path(config.site_dir) / name).is_file()]
    if missing:
        raise PluginError(f"not on the site: {', '.join(missing)}")
