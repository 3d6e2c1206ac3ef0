from __future__ import annotations

from pathlib import Path

import pytest
from numbers_of import folder


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The fixtures that FUSIFORM_FIXTURES names, else all where they lie beside the repository, else the extract."""
    return folder()
