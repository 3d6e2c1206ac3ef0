"""Which code is at work: versions of packages, and the commit of a checkout."""

from __future__ import annotations

import functools
import subprocess
from importlib import metadata
from pathlib import Path


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def revision() -> str | None:
    """The git commit of this code if it runs from a checkout, with "+" if the sources differ from it; else None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src"], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("" if clean.returncode == 0 else "+")
