"""Recipes: named, runnable values. A recipe of your own is found as `package.module:NAME`.

`NAME@SIZE` is the recipe with an encoder of another published size: tiny, small, base, large or huge.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

from fusiform.config import VIT_SIZES, Recipe
from fusiform.errors import ConfigError, did_you_mean

TABLE: dict[str, str] = {
    "mae-face": "fusiform.recipes.mae_face:MAE_FACE",
    "mae-face-as-released": "fusiform.recipes.mae_face:AS_RELEASED",
    "mae-face-quick": "fusiform.recipes.mae_face:QUICK",
    "mae-face-second": "fusiform.recipes.mae_face:SECOND",
    "mae-face-second-quick": "fusiform.recipes.mae_face:SECOND_QUICK",
    "muon-mae": "fusiform.recipes.muon_mae:MUON_MAE",
    "muon-mae-quick": "fusiform.recipes.muon_mae:QUICK",
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
    "demo": "fusiform.recipes.muon_mae:DEMO",
}
"""Name -> `module:NAME`. Imported when asked for, so that `--help` stays quick."""


def find(name: str) -> Recipe:
    """The recipe called `name`, or the value a `package.module:NAME` names; with `@SIZE` behind it, of that size.

    Raises:
        ConfigError: there is none; says which name is nearest.
    """
    name, _, size = name.partition("@")
    if size:
        return sized(find(name), size)
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


def sized(recipe: Recipe, size: str) -> Recipe:
    """The recipe with an encoder of a published size: its width, depth, heads, and at 224 pixels its patch.

    Blocks that a method names (`distill_layers`) move to the same share of the depth. Learning rates stay: the
    published codes use one for all sizes.

    Raises:
        ConfigError: no such size.
    """
    if size not in VIT_SIZES:
        raise ConfigError(f"There is no size '{size}'", do=did_you_mean(size, VIT_SIZES))
    of, vit, method = VIT_SIZES[size], recipe.vit, recipe.method
    patch = of.patch_size if vit.image_size == of.image_size else vit.patch_size
    changed = replace(vit, patch_size=patch, width=of.width, depth=of.depth, heads=of.heads)
    changed = replace(changed, head_width=None, attention_scale=None) if changed != vit else vit
    layers = getattr(method, "distill_layers", None)
    if layers is not None:
        method = replace(method, distill_layers=tuple((n + 1) * of.depth // vit.depth - 1 for n in layers))
    return replace(recipe, name=f"{recipe.name}@{size}", vit=changed, method=method)
