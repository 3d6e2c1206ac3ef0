"""Recipes: named, runnable values. A recipe of your own is found as `package.module:NAME`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from fusiform.config import Recipe
from fusiform.errors import ConfigError, did_you_mean

TABLE: dict[str, str] = {
    "mae-face": "fusiform.recipes.mae_face:MAE_FACE",
    "mae-face-as-released": "fusiform.recipes.mae_face:AS_RELEASED",
    "mae-face-quick": "fusiform.recipes.mae_face:QUICK",
    "mae-face-second": "fusiform.recipes.mae_face:SECOND",
    "mae-face-second-quick": "fusiform.recipes.mae_face:SECOND_QUICK",
    "camd": "fusiform.recipes.camd:PLAIN",
    "camd-as-released": "fusiform.recipes.camd:AS_RELEASED",
    "camd-quick": "fusiform.recipes.camd:QUICK",
    "mcf": "fusiform.recipes.mcf:PLAIN",
    "mcf-as-released": "fusiform.recipes.mcf:AS_RELEASED",
    "mcf-quick": "fusiform.recipes.mcf:QUICK",
    "paco-fr": "fusiform.recipes.paco_fr:PACO_FR",
    "paco-fr-quick": "fusiform.recipes.paco_fr:QUICK",
    "lafs": "fusiform.recipes.lafs:PLAIN",
    "lafs-as-released": "fusiform.recipes.lafs:AS_RELEASED",
    "lafs-quick": "fusiform.recipes.lafs:QUICK",
    "lafs-stage-1": "fusiform.recipes.recognition:STAGE_1",
    "lafs-stage-1-as-released": "fusiform.recipes.recognition:STAGE_1_AS_RELEASED",
    "lafs-stage-1-quick": "fusiform.recipes.recognition:STAGE_1_QUICK",
    "lafs-stage-3": "fusiform.recipes.recognition:STAGE_3",
    "lafs-stage-3-as-released": "fusiform.recipes.recognition:STAGE_3_AS_RELEASED",
    "lafs-stage-3-quick": "fusiform.recipes.recognition:STAGE_3_QUICK",
    "recognition": "fusiform.recipes.recognition:RECOGNITION",
    "recognition-quick": "fusiform.recipes.recognition:QUICK",
    "demo": "fusiform.recipes.mae_face:DEMO",
}
"""Name -> `module:NAME`. Imported when asked for, so that `--help` stays quick."""


def find(name: str) -> Recipe:
    """The recipe called `name`, or the value a `package.module:NAME` names.

    Raises:
        ConfigError: there is none; says which name is nearest.
    """
    place = TABLE.get(name, name)
    module_name, _, attribute = place.partition(":")
    if not attribute:
        raise ConfigError(f"There is no recipe '{name}'", do=did_you_mean(name, TABLE))
    if name not in TABLE and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # an outside recipe usually lies where the command is typed
    try:
        value = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"Recipe '{name}' cannot be imported: {error}", expected="package.module:NAME") from error
    if not isinstance(value, Recipe):
        raise ConfigError(f"'{name}' is a {type(value).__name__}", expected="a fusiform.config.Recipe")
    return value
