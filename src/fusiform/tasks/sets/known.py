"""The layouts of all public sets that a reader exists for."""

from __future__ import annotations

import importlib

from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.sets.layout import SetLayout

READERS: tuple[str, ...] = (
    *("w300", "wflw", "aflw19", "cofw", "lapa", "celebamask", "lp300w", "biwi"),
    *("mpiifacegaze", "gaze360"),
    *("celeba", "lfwa", "maad", "raf_db", "affectnet", "ferplus", "bp4d", "disfa", "aff_wild2", "utkface", "morph"),
    *("faceforensics", "celeb_df", "oulu", "insightface", "ijb"),
)
"""Modules of `fusiform.tasks.sets`; each has `LAYOUTS`, a tuple of `SetLayout`."""


def layouts() -> tuple[SetLayout, ...]:
    """Every layout, in the order of `READERS`."""
    found: list[SetLayout] = []
    for name in READERS:
        found += importlib.import_module(f"fusiform.tasks.sets.{name}").LAYOUTS
    return tuple(found)


def layout(name: str) -> SetLayout:
    """The layout of that name, or `ConfigError` with the nearest known one."""
    known = {each.name: each for each in layouts()}
    try:
        return known[name]
    except KeyError:
        raise ConfigError(f"There is no set '{name}'", do=did_you_mean(name, known)) from None
