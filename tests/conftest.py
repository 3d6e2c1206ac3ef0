"""Where the real photos and face models are: named by the environment, never copied into the repository."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A test run that a shell put in the background inherits an ignored Ctrl-C, and so would all processes that it starts;
# the tests of stopping would then wait for a signal that never comes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real photos, rendered faces and face models."""
    folder = Path(os.environ.get("FUSIFORM_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set FUSIFORM_DATA")
    return folder


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of face model files: FUSIFORM_WEIGHTS, else `models` in the data folder."""
    named = os.environ.get("FUSIFORM_WEIGHTS")
    data = Path(os.environ.get("FUSIFORM_DATA", _REPOSITORY.parent / "shared" / "data"))
    for folder in [*(Path(p) for p in (named or "").split(os.pathsep) if p), data / "models"]:
        if folder.is_dir():
            return folder
    pytest.skip("no folder of face models: set FUSIFORM_WEIGHTS or FUSIFORM_DATA")
