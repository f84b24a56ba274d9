"""SVG of boxes and arrows that reads well on light and dark pages, without scripts or fonts."""

from __future__ import annotations

from html import escape

STYLE = """\
svg{--ink:#1f2430;--faint:#5b6472;--line:#8a93a3;--card:#ffffff;--box:#f2f4f8;--key:#dfe6ff;\
--good:#d9f2e0;--bad:#fbe0de;color-scheme:light dark}
@media (prefers-color-scheme:dark){svg{--ink:#e6e9ef;--faint:#a5aebd;--line:#79839a;\
--card:#1c2029;--box:#2a303c;--key:#303c66;--good:#1f4730;--bad:#5a2a2a}}
text{font:13px system-ui,sans-serif;fill:var(--ink)}
.m{font:12px ui-monospace,Menlo,Consolas,monospace;white-space:pre}
.f{fill:var(--faint)}
.b{font-weight:600}
.card{fill:var(--card)}
rect{stroke:var(--line)}
.card{stroke:none}
.box{fill:var(--box)}.key{fill:var(--key)}.good{fill:var(--good)}.bad{fill:var(--bad)}
path{stroke:var(--line);fill:none;stroke-width:1.5}
marker path{fill:var(--line);stroke:none}
"""
LINE = 18
"""Pixels between two lines of text."""


class Drawing:
    """A picture 680 pixels wide; coordinates are pixels, from the left and from the top."""

    def __init__(self, title: str, height: int) -> None:
        self.title, self.height, self._parts = title, height, list[str]()

    def box(self, x: int, y: int, width: int, lines: str, kind: str = "box") -> Drawing:
        """Draw a box that fits its lines; a line that begins with a backquote is code."""
        rows = lines.split("\n")
        height = LINE * len(rows) + 14
        self._parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        )
        for number, row in enumerate(rows):
            self.text(x + 10, y + 20 + LINE * number, row)
        return self

    def text(self, x: int, y: int, line: str, kind: str = "") -> Drawing:
        """Write a line: code after a backquote, bold after an asterisk, faint after a tilde."""
        marks = {"`": "m", "*": "b", "~": "f"}
        kind, line = (marks[line[0]], line[1:]) if line[:1] in marks else (kind, line)
        attribute = f' class="{kind}"' if kind else ""
        self._parts.append(f'<text{attribute} x="{x}" y="{y}">{escape(line)}</text>')
        return self

    def arrow(self, *points: int) -> Drawing:
        """Draw a line through points, x and y by turns, with a head at its end."""
        pairs = zip(points[::2], points[1::2], strict=True)
        way = " L".join(f"{x} {y}" for x, y in pairs)
        self._parts.append(f'<path d="M{way}" marker-end="url(#head)"/>')
        return self

    def svg(self) -> str:
        """Return the file."""
        size = f"0 0 680 {self.height}"
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z"/></marker>'
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" width="680"'
                f' height="{self.height}" role="img" aria-label="{escape(self.title)}">',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{STYLE}</style>",
                f"<defs>{head}</defs>",
                f'<rect class="card" width="680" height="{self.height}" rx="8"/>',
                *self._parts,
                "</svg>\n",
            ]
        )
