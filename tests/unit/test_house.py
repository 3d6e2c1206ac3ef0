"""The house's own rules: which way imports run, what stays light, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "fusiform"

# A module imports only from its own layer or those before it (docs/decisions/0002-layers.md).
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "clock",
        "config",
        "measurement",
        "progress",
        "durable",
        "assets",
        "transfer",
        "compiled",
        "revision",
        "taint",
    ),
    (
        "batch",
        "ledger",
        "ledger_history",
        "ledger_query",
        "ledger_rights",
        "nn",
        "objectives",
        "metrics",
        "protocols",
        "shots",
        "results",
        "intervals",
    ),
    ("faces", "methods", "tasks", "probes"),
    (
        *("optim", "group", "world", "checkpoint", "sharded", "run", "encoder", "weights", "recipes"),
        *("parallel", "training", "together", "starting", "engine"),
        *(
            "embedding",
            "whitening",
            "watching",
            "tensorboard",
            "probing",
            "heads",
            "answers",
            "goals",
            "beginning",
            "attending",
            "finetuning",
            "crossing",
            "evaluate",
            "flops",
        ),
    ),
    (
        "render",
        "curate",
        "compare",
        "infer",
        "export",
        "report",
        "leaks",
        "gallery",
        "painted",
        "checkup",
        "public",
        "suite",
        "serve",
    ),
    ("commands", "cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ALONE = ("methods", "tasks")
"""Packages whose modules do not import one another, but for the shared parts named here."""
SHARED = {
    "methods": {"method"},
    "tasks": {"task", "splits", "rendered", "photos", "cache", "sets"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules of this package that `path` imports, lazily or not; those for type checkers only are left out."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fusiform":
            base = tuple(node.module.split(".")[1:])
            for alias in node.names:
                deeper = (*base, alias.name)
                is_module = (PACKAGE.joinpath(*deeper).with_suffix(".py")).exists() or PACKAGE.joinpath(
                    *deeper
                ).is_dir()
                found.add(deeper if is_module else base)
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("fusiform.")}
    return {f for f in found if f}


def test_every_module_has_a_layer():
    missing = {name_of(p)[0] for p in modules() if name_of(p)} - set(LEVEL)
    assert not missing, f"add {missing} to LAYERS"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = name_of(path)
    if not own:
        return
    for other in imported(path):
        assert LEVEL[other[0]] <= LEVEL[own[0]], f"{'.'.join(own)} imports {'.'.join(other)} from a later layer"


@pytest.mark.parametrize("package", ALONE)
def test_methods_and_tasks_do_not_import_one_another(package):
    for path in sorted((PACKAGE / package).rglob("*.py")):
        for other in imported(path):
            if other[0] == package and len(other) > 1 and name_of(path)[1:2] != other[1:2]:
                assert other[1] in SHARED[package] | {"__init__"}, f"{path.name} imports {'.'.join(other)}"


def test_networks_know_no_loss():
    for path in (PACKAGE / "nn").glob("*.py"):
        assert not any(other[0] in ("objectives", "methods") for other in imported(path)), path.name


def test_no_file_outgrows_its_page():
    long = {str(p.relative_to(PACKAGE)): n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_nothing_is_called_utils():
    assert not [p for p in modules() if p.stem in ("utils", "helpers", "common", "misc")]


LIGHT = ["cli", "config", "recipes", "report", "protocols", "run", "results"]
HEAVY = {"torch", "onnxruntime", "cv2", "matplotlib", "numba"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, fusiform.{module}; found = {HEAVY!r} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


COMMANDS = [
    ["--help"],
    ["demo", "--help"],
    ["serve", "--help"],
    ["curate", "--help"],
    ["pretrain", "mae-face-quick", "--help"],
]


@pytest.mark.parametrize("words", COMMANDS)
def test_help_imports_no_torch(words):
    code = (
        "import sys\nfrom fusiform.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
