"""Covered faces are told from uncovered ones, by a network that is small enough to be read."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusiform.curate.covering import CELLS, INNER, SIDE, covered, prepared, score, shipped, shown
from fusiform.curate.screen import REASONS, screen, thresholds
from fusiform.faces.align import Placement, crop, place, template
from fusiform.faces.schemes import to_five

Picture = NDArray[np.uint8]
COVERS = {
    "left half": lambda im: _over(im, np.s_[:, :56]),
    "mouth": lambda im: _over(im, np.s_[72:]),
    "eyes": lambda im: _over(im, np.s_[36:64]),
}


def _over(image: Picture, where: tuple[slice, ...]) -> Picture:
    out = image.copy()
    y, x = np.mgrid[:112, :112]
    cloth = np.stack([60 + x * 0.4, 90 + y * 0.3, np.full_like(x, 110.0, float)], 2).astype(np.uint8)
    out[where] = cloth[where]
    return out


@pytest.fixture(scope="module")
def faces(data_dir: Path) -> list[Picture]:
    """Rendered faces of people that the network has not seen, aligned by their own points."""
    archive = data_dir / "rendered" / "test-000.tar"
    if not archive.is_file():
        pytest.skip("the data folder has no rendered faces")
    found = []
    with tarfile.open(archive) as tar:
        for name in sorted(n for n in tar.getnames() if n.endswith(".json"))[::9]:
            about = json.load(tar.extractfile(name))  # type: ignore[arg-type]
            if abs(about["pose"][0]) > 40 or about["attrs"].get("sunglasses"):
                continue
            image = Image.open(io.BytesIO(tar.extractfile(name.replace(".json", ".jpg")).read()))  # type: ignore[union-attr]
            five = to_five(np.array(about["landmarks"])[:, :2], "ibug-68")
            found.append(crop(np.asarray(image.convert("RGB"), np.uint8), place(five, template("arcface", 112))))
    assert len(found) >= 50
    return found


@pytest.mark.parametrize("cover", COVERS)
def test_covered_faces_are_told_from_uncovered_ones(faces: list[Picture], cover: str) -> None:
    limit = thresholds("standard").max_covered
    plain = np.array([score(face) for face in faces])
    hidden = np.array([score(np.asarray(COVERS[cover](face), np.uint8)) for face in faces])
    assert np.mean(plain > limit) <= 0.1
    assert np.mean(hidden > limit) >= 0.9


def test_it_says_where(faces: list[Picture]) -> None:
    cells = np.mean([covered(prepared(COVERS["left half"](face)), shipped()) for face in faces], 0)
    assert cells[:, :4][INNER[:, :4]].mean() > cells[:, 4:][INNER[:, 4:]].mean() + 0.35


def test_the_network_in_numpy_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    weights = shipped()
    pixels = np.random.default_rng(0).normal(size=(3, SIDE, SIDE)).astype(np.float32)
    x = torch.from_numpy(pixels)[None]
    for i, stride in enumerate((2, 2, 1, 1, 1)):
        weight, bias = torch.from_numpy(weights[2 * i]), torch.from_numpy(weights[2 * i + 1])
        x = torch.nn.functional.conv2d(x, weight, bias, stride, weight.shape[2] // 2)
        x = torch.relu(x) if i < 4 else torch.sigmoid(x)
    assert np.abs(x[0, 0].numpy() - covered(pixels, weights)).max() < 1e-5


def test_what_lies_outside_the_photo_is_not_asked() -> None:
    placement = Placement(((1.0, 0.0, 0.0), (0.0, 1.0, 56.0)), 112, "arcface-112")  # the upper half is outside
    known = shown(placement, 112, 56)
    assert known[: CELLS // 2].sum() == 0
    assert known[CELLS // 2 :].all()
    image = np.full((112, 112, 3), 128, np.uint8)
    assert score(image, shown=np.zeros((CELLS, CELLS), bool)) == 0.0


def test_the_policy_names_it() -> None:
    names = {name for _, name, _ in REASONS}
    measures = {name: np.array([np.nan, np.nan, np.nan]) for name in names}
    measures["covered"] = np.array([0.05, 0.4, np.nan])
    found, why = screen(measures, thresholds("standard"))
    assert [REASONS[i][0] if i >= 0 else "" for i in found] == ["", "occluded", ""]
    assert why[1] == "covered 0.4, max_covered 0.2"
