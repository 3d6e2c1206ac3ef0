"""The wheel alone, with its core dependencies, in a fresh environment, from a folder that is not this repository: it
is imported in under a second, finds a face in a photo, and says what it would need for more. Also `make wheel-test`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
IMPORT_SECONDS = 1.0
A_VIT_WITH_THE_NAMES_OF_TIMM = """
import torch
w, p = 192, 16
s = {"cls_token": (1, 1, w), "pos_embed": (1, 197, w), "patch_embed.proj.weight": (w, 3, p, p), "norm.weight": (w,)}
s |= {"patch_embed.proj.bias": (w,), "norm.bias": (w,), "head.weight": (1000, w), "head.bias": (1000,)}
for b in ("blocks.0.", "blocks.1."):
    s |= {b + f"norm{k}.{end}": (w,) for k in (1, 2) for end in ("weight", "bias")}
    for name, out, into in (("attn.qkv", 3 * w, w), ("attn.proj", w, w), ("mlp.fc1", 4 * w, w), ("mlp.fc2", w, 4 * w)):
        s |= {b + name + ".weight": (out, into), b + name + ".bias": (out,)}
torch.manual_seed(0)
torch.save({name: 0.02 * torch.randn(shape) for name, shape in s.items()}, "vit.pth")
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), "."]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    if "hatchling" in done.stderr and done.returncode:
        pytest.skip("hatchling, which builds wheels, is not installed")
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("fusiform-*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel, which sees its core dependencies and no other package.

    They are linked from this environment, at the versions of constraints.txt, which needs no network and no gigabytes;
    FUSIFORM_WHEEL_PIP=1 lets pip install them instead.
    """
    home = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(home, with_pip=True, symlinks=sys.platform != "win32")
    found = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    words = [str(found), "-m", "pip", "install", "-q", "-c", str(REPOSITORY / "constraints.txt"), str(wheel)]
    alone = os.environ.get("FUSIFORM_WHEEL_PIP") != "1"
    done = subprocess.run([*words, *["--no-deps"] * alone], capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode and re.search(r"No matching distribution|Connection|Temporary failure", done.stderr):
        pytest.skip(f"pip cannot have the dependencies here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    if alone:
        place = Path(
            subprocess.run(
                [str(found), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
        )
        for name in closure(wheel):
            link(name, place)
    return found


def closure(wheel: Path) -> set[str]:
    """Names of the distributions that the wheel needs without extras, and of those that they need."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(path).decode()
    waiting = [
        Requirement(line.removeprefix("Requires-Dist: ")) for line in text.splitlines() if "Requires-Dist: " in line
    ]
    waiting = [need for need in waiting if need.marker is None or need.marker.evaluate({"extra": ""})]
    found: set[str] = set()
    followed: set[tuple[str, str]] = set()
    while waiting:
        need = waiting.pop()
        name = need.name.lower().replace("_", "-")
        found.add(name)
        for extra in {"", *need.extras} - {extra for known, extra in followed if known == name}:
            followed.add((name, extra))
            asked = [Requirement(line) for line in metadata.distribution(name).requires or ()]
            waiting += [each for each in asked if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found


def link(name: str, place: Path) -> None:
    """Make an installed distribution visible in another environment: its modules and its metadata."""
    distribution = metadata.distribution(name)
    tops = {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}
    assert tops, name
    for top in tops:
        source = Path(str(distribution.locate_file(top)))
        if not (place / top).exists():
            (place / top).symlink_to(source, target_is_directory=source.is_dir())


def run(python: Path, *words: str, folder: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(python), *words],
        cwd=folder,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"fusiform"} == {top for top in tops if not top.endswith(".dist-info")}
    assert "fusiform/py.typed" in names
    here = {str(p.relative_to(REPOSITORY / "src")) for p in (REPOSITORY / "src" / "fusiform").rglob("*.py")}
    assert here <= set(names)
    for ending in (".j2", ".js", ".css", ".html"):
        shown = {str(p.relative_to(REPOSITORY / "src")) for p in (REPOSITORY / "src" / "fusiform").rglob(f"*{ending}")}
        assert shown <= set(names), ending
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".pth", ".safetensors"))]


def test_only_the_core_is_installed(python, tmp_path):
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json", folder=tmp_path).stdout)
    names = {each["name"].lower().replace("_", "-") for each in listed}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    core = {re.match(r"[\w.-]+", each)[0].lower() for each in project["dependencies"]}
    assert core <= names
    assert not names & {"pytest", "scipy", "numba", "timm", "transformers", "fastapi", "onnx", "faiss-cpu", "duckdb"}


def test_it_is_imported_in_under_a_second(python, tmp_path):
    code = "import time; t = time.process_time(); import fusiform, fusiform.cli; print(time.process_time() - t)"
    run(python, "-c", code, folder=tmp_path)  # compiles
    assert float(run(python, "-c", code, folder=tmp_path).stdout) < IMPORT_SECONDS
    said = run(python, "-m", "fusiform", "--help", folder=tmp_path).stdout
    assert "fusiform COMMAND --help" in said
    run(python, "-m", "pip", "check", folder=tmp_path)


def test_a_foreign_checkpoint_answers_a_photo(python, tmp_path, data_dir, weights_dir):
    """The newcomer's road: a state dict with timm's names, a photo, and nothing installed but the wheel."""
    photo = next(iter(sorted((data_dir / "real" / "london" / "images").glob("*.jpg"))), None)
    if photo is None:
        pytest.skip("no photo in the data folder")
    make = A_VIT_WITH_THE_NAMES_OF_TIMM
    run(python, "-c", make, folder=tmp_path)
    told = {"FUSIFORM_WEIGHTS": str(weights_dir), "FUSIFORM_CACHE": str(tmp_path / "cache")}
    fusiform = ("-m", "fusiform")
    said = run(python, *fusiform, "weights", "import", "vit.pth", "--out", "vit", folder=tmp_path, code=2, **told)
    assert "--family timm-vit" in said.stderr
    words = ("weights", "import", "vit.pth", "--family", "timm-vit", "--out", "vit")
    run(python, *fusiform, *words, folder=tmp_path, **told)
    words = ("infer", str(photo), "--model", "vit", "--json", "-", "--embedding")
    done = run(python, *fusiform, *words, folder=tmp_path, **told)
    (face,) = json.loads(done.stdout)["faces"]
    assert len(face["embedding"]) == 192
    assert abs(face["found_pose"]["yaw"]) < 15
    assert "fusiform head TASK" in done.stderr
    done = run(python, *fusiform, "export", "vit", "--out", "vit.onnx", folder=tmp_path, code=2, **told)
    assert "fusiform[export]" in done.stderr
    done = run(python, *fusiform, "serve", "vit", folder=tmp_path, code=2, **told)
    assert "fusiform[serve]" in done.stderr
