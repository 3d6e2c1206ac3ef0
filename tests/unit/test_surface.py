"""What users can name: verbs, recipes, exit codes. A change here is a change for them, so it is made on purpose."""

from __future__ import annotations

import fusiform
from fusiform import errors, recipes
from fusiform.cli import VERBS


def test_verbs():
    assert sorted(VERBS) == [
        "compare",
        "curate",
        "demo",
        "doctor",
        "evaluate",
        "export",
        "forget",
        "head",
        "identify",
        "infer",
        "leaks",
        "ledger",
        "pretrain",
        "publish",
        "render",
        "report",
        "serve",
        "shards",
        "show",
        "threshold",
        "verify",
        "weights",
    ]


def test_recipes():
    assert sorted(recipes.TABLE) == [
        "camd",
        "camd-as-released",
        "camd-quick",
        "demo",
        "lafs",
        "lafs-as-released",
        "lafs-quick",
        "lafs-stage-1",
        "lafs-stage-1-as-released",
        "lafs-stage-1-quick",
        "lafs-stage-3",
        "lafs-stage-3-as-released",
        "lafs-stage-3-quick",
        "mae-face",
        "mae-face-as-released",
        "mae-face-quick",
        "mae-face-second",
        "mae-face-second-quick",
        "mcf",
        "mcf-as-released",
        "mcf-quick",
        "muon-mae",
        "muon-mae-quick",
        "paco-fr",
        "paco-fr-quick",
        "recognition",
        "recognition-quick",
    ]


def test_a_recipe_is_found_under_its_own_name():
    for name in recipes.TABLE:
        assert recipes.find(name).name == name


def test_exit_codes():
    codes = {name: kind.exit_code for name, kind in vars(errors).items() if getattr(kind, "exit_code", None)}
    assert codes == {
        "FusiformError": 1,
        "ConfigError": 2,
        "RunBusy": 3,
        "DataError": 4,
        "SetMissing": 4,
        "WeightsError": 5,
        "Diverged": 6,
        "RankLost": 7,
        "OutOfMemory": 8,
        "Interrupted": 130,
    }


def test_little_is_public_at_the_top():
    named = [name for name in vars(fusiform) if not name.startswith("_") and name != "annotations"]
    modules = [name for name in named if getattr(vars(fusiform)[name], "__name__", "").startswith("fusiform.")]
    assert sorted(set(named) - set(modules)) == ["load"]
