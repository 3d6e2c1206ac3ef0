"""What the README tells a newcomer to type exists, down to the flags, and its Python runs."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fusiform import recipes
from fusiform.cli import VERBS
from fusiform.encoder import Encoder
from fusiform.measurement import EXACT_POINTS, Crop

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def commands() -> list[str]:
    """Every line of a code block that begins with `fusiform`, without its comment."""
    found = []
    for page in PAGES:
        for block in blocks(page, r"(?:bash|sh|console)?"):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ").split(" #")[0].strip()
                if words.startswith("fusiform ") and "..." not in words:
                    found.append(words)
    return sorted(set(found))


@functools.cache
def help_of(*verb: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fusiform.cli", *verb, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_a_command_in_the_docs_has_its_flags(command):
    words = shlex.split(command.split("|")[0].split("&&")[0])[1:]
    verb = words[0]
    assert verb in VERBS, command
    path = [verb]
    takes_recipe = verb in ("pretrain", "show") and len(words) > 1 and words[1] in recipes.TABLE
    if takes_recipe or verb in ("shards", "weights", "ledger"):
        path.append(words[1])
    flags = [w.split("=")[0] for w in words if w.startswith("--")]
    if verb == "show" or not flags or ":" in words[1]:  # a recipe outside the package has flags of its own
        return
    shown = help_of(*path)
    for flag in flags:
        assert re.search(rf"{flag}\b", shown), f"{flag} is not a flag of `fusiform {' '.join(path)}`"


def test_there_are_commands_to_check():
    assert len(commands()) >= 5


def test_the_make_targets_of_the_readme_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", (REPOSITORY / "README.md").read_text(), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    vit = recipes.find("demo").vit
    Encoder.untrained(vit, Crop(template="loose", size=80, detector=EXACT_POINTS)).save(tmp_path / "RUN" / "encoder")
    monkeypatch.chdir(tmp_path)
    [block] = blocks(REPOSITORY / "README.md", "python")
    names: dict[str, object] = {}
    exec(block, names)
    assert names["tokens"].shape == (2, 65, vit.width) == (2, 65, 96)
