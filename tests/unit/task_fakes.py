"""Drawn photos with known places, and a finder that knows them: the photo tasks without photos and without models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fusiform.tasks.photos import Finder, FoundFace

MEAN_68 = np.array(
    [
        *[(120 + 15 * i, 200 + 90 * np.sin(np.pi * i / 16)) for i in range(17)],
        *[(140 + 18 * i, 140) for i in range(5)],
        *[(270 + 18 * i, 140) for i in range(5)],
        *[(240, 160 + 15 * i) for i in range(4)],
        *[(220 + 10 * i, 215) for i in range(5)],
        *[(165, 165), (178, 160), (192, 160), (205, 165), (192, 170), (178, 170)],
        *[(275, 165), (288, 160), (302, 160), (315, 165), (302, 170), (288, 170)],
        *[(200, 250), (213, 243), (226, 240), (240, 242), (254, 240), (267, 243), (280, 250)],
        *[(267, 258), (254, 262), (240, 263), (226, 262), (213, 258)],
        *[(210, 250), (226, 247), (240, 248), (254, 247), (270, 250), (254, 254), (240, 255), (226, 254)],
    ],
    np.float64,
)
"""A plausible upright face in a photo of 480 x 400."""
SHAPE = (400, 480)


def face_points(rng: np.random.Generator) -> np.ndarray:
    """(68, 2): the mean face, turned a little and moved, every point jittered."""
    angle = rng.uniform(-0.2, 0.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = MEAN_68.mean(0)
    return (MEAN_68 - centre) @ turn.T + centre + rng.uniform(-20, 20, 2) + rng.normal(0, 1.5, MEAN_68.shape)


def five_of(points: np.ndarray) -> np.ndarray:
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def disk(shape: tuple[int, int], centre: Sequence[float], radius: float) -> np.ndarray:
    """(H, W) bool: pixels whose centres lie within a disk."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def finder_of(faces: dict[str, Sequence[np.ndarray]], calls: list[str] | None = None) -> Finder:
    """Finds what `faces` lists under the hash of the pixels (`pixel_key`); counts its calls."""

    def find(pixels: np.ndarray) -> list[FoundFace]:
        key = pixel_key(pixels)
        if calls is not None:
            calls.append(key)
        out = []
        for points in faces.get(key, []):
            low, high = points.min(0) - 10, points.max(0) + 10
            out.append(FoundFace((low[0], low[1], high[0], high[1]), five_of(points)))
        return out

    return Finder(find, "fake", "0" * 64, "arcface-5", "0" * 64)


def pixel_key(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def fake_london(root: Path, people: int = 10) -> Callable[[], Finder]:
    """A London set in the reader's layout: eyes are bright disks; the map labels eyes, nose and skin."""
    rng = np.random.default_rng(0)
    folder, rows, known = root / "real" / "london", [], {}
    for number in range(people):
        points = face_points(rng)
        pixels = rng.integers(0, 60, (*SHAPE, 3), np.uint8)
        parsing = np.full(SHAPE, 255, np.uint8)
        parsing[disk(SHAPE, points.mean(0), 110)] = 1
        for index, label in ((30, 2), (slice(42, 48), 4), (slice(36, 42), 5)):
            centre = points[index].reshape(-1, 2).mean(0)
            where = disk(SHAPE, centre, 16)
            parsing[where], pixels[where] = label, 200 + label
        write_png(folder / "images" / f"{number:03}_neutral.png", pixels)
        write_png(folder / "images" / f"{number:03}_smiling.png", pixels[:, ::-1])
        write_png(folder / "parse" / f"{number:03}_neutral.png", parsing)
        for expression in ("neutral", "smiling"):
            row = {
                "image": f"real/london/images/{number:03}_{expression}.png",
                "person": f"{number:03}",
                "expression": expression,
                "age": "30",
                "gender": "female",
            }
            rows.append(row | ({"points68": points.tolist()} if expression == "neutral" else {}))
        known[pixel_key(pixels)] = [points]
    (folder / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return lambda: finder_of(known)
