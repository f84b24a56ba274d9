"""The README as the package index shows it; everything else is in pyproject.toml.

On the index a relative link leads nowhere, so links and pictures are given the address of the
released version in the repository.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/porter-weights/porter"
FILES = "https://raw.githubusercontent.com/porter-weights/porter"


def version() -> str:
    """Return the version that porter/__init__.py states."""
    text = (ROOT / "porter" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


def absolute(readme: str, tag: str) -> str:
    """Return Markdown whose relative links and pictures are addresses at a tag."""

    def address(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if re.match(r"\w+:|#", target):
            return match[0]
        base = f"{FILES}/{tag}" if picture else f"{REPOSITORY}/blob/{tag}"
        return f"{picture}[{text}]({base}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", address, readme)


if __name__ == "__main__":
    setup(
        version=version(),
        long_description=absolute(
            (ROOT / "README.md").read_text(encoding="utf-8"), f"v{version()}"
        ),
        long_description_content_type="text/markdown",
    )
