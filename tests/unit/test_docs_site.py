"""The docs as a site: every page is in its contents, and every name there has a page."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_contents_name_every_page():
    listed = set(re.findall(r"^[A-Za-z][\w./-]*$", "\n".join(_toctrees()), re.M))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    pages = {page for page in pages if not page.startswith("_build")} - {"index"}
    assert listed == pages


def _toctrees() -> list[str]:
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if not line.startswith(":")]
