from __future__ import annotations

import os
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The fixtures that FUSIFORM_FIXTURES names, else all where they lie beside the repository, else the extract."""
    named = os.environ.get("FUSIFORM_FIXTURES")
    beside = _TESTS.parent.parent / "shared" / "fixtures"
    return Path(named) if named else beside if beside.is_dir() else _TESTS / "golden"
