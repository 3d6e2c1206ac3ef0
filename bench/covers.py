"""How many covered faces are told: `python -m bench.covers SET [--faces 240] [--sheet FILE.png]`.

Sunglasses, scarves, surgical masks and hands are drawn onto the faces of a set, and the score of
`fusiform.curate.covering` is compared with the limits that screening may have. Hands have the colour of the face that
they lie before. The sheet shows what was drawn, for somebody to judge how true to life it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusiform.curate.covering import score
from fusiform.faces.align import crop, place, template
from fusiform.faces.faceset import FaceSet

Picture = NDArray[np.uint8]
Rng = np.random.Generator
SIDE = 256
EYES = template("arcface", SIDE).points
LIMITS = (0.08, 0.12, 0.16, 0.2)


def sunglasses(face: Picture, rng: Rng) -> Picture:
    drawn, colour = face.copy(), rng.integers(0, 45, 3).tolist()
    (lx, ly), (rx, ry) = ((int(x), int(y)) for x, y in EYES[:2])
    for x, y in ((lx, ly), (rx, ry)):
        axes = int(rng.integers(34, 42)), int(rng.integers(24, 32))
        cv2.ellipse(drawn, (x, y + 4), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
    cv2.line(drawn, (lx, ly), (rx, ry), colour, 7, cv2.LINE_AA)
    cv2.line(drawn, (lx, ly), (lx - 120, ly - 6), colour, 6, cv2.LINE_AA)
    cv2.line(drawn, (rx, ry), (rx + 120, ry - 6), colour, 6, cv2.LINE_AA)
    if rng.random() < 0.5:  # something is mirrored in them
        light = [min(255, value + 60) for value in colour]
        for x, y in ((lx, ly), (rx, ry)):
            cv2.ellipse(drawn, (x - 8, y - 4), (10, 5), -20, 0, 360, light, -1, cv2.LINE_AA)
    return drawn


def scarf(face: Picture, rng: Rng) -> Picture:
    top, colour = int(EYES[2][1] + rng.integers(2, 14)), rng.integers(20, 235, 3)
    y, x = np.mgrid[:SIDE, :SIDE]
    folds = np.sin((x * 0.3 + y) * rng.uniform(0.1, 0.4)) * rng.uniform(5, 40)
    cloth = np.clip(colour + folds[..., None] + rng.normal(0, 6, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
    edge = [(0, top + 25), (70, top + 4), (128, top - 4), (190, top + 5), (SIDE, top + 28), (SIDE, SIDE), (0, SIDE)]
    return _before(face, cloth, _filled(edge))


def mask(face: Picture, rng: Rng) -> Picture:
    top, colour = int(EYES[2][1] - 4), rng.choice(np.array([[180, 210, 225], [235, 235, 238], [30, 30, 34]]))
    cloth = np.tile(colour.astype(np.uint8), (SIDE, SIDE, 1))
    for fold in range(3):
        cloth[top + 30 + 18 * fold : top + 32 + 18 * fold] = np.maximum(colour - 25, 0)
    edge = [(50, top + 10), (128, top - 8), (206, top + 10), (200, 225), (128, 250), (56, 225)]
    return _before(face, cloth, _filled(edge))


def hand(face: Picture, rng: Rng) -> Picture:
    skin = np.median(face[120:180, 60:200].reshape(-1, 3), 0) * rng.uniform(0.85, 1.15)
    shape = np.zeros((SIDE, SIDE), np.uint8)
    x, y = int(rng.integers(60, 196)), int(rng.integers(170, 215))
    cv2.ellipse(shape, (x, y), (52, 44), float(rng.uniform(-30, 30)), 0, 360, 255, -1)
    first = rng.uniform(-2.4, -0.8)
    for finger in range(4):
        angle = first + (finger - 1.5) * 0.22
        cv2.line(shape, (x, y), (int(x + np.cos(angle) * 110), int(y + np.sin(angle) * 110)), 255, 23)
    light = 0.72 + 0.28 * np.clip(cv2.distanceTransform(shape, cv2.DIST_L2, 5) / 14, 0, 1)
    surface = np.clip(skin * light[..., None] + rng.normal(0, 3, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
    return _before(face, surface, shape)


COVERS: dict[str, Callable[[Picture, Rng], Picture]] = {
    "as they are": lambda face, rng: face,
    "sunglasses": sunglasses,
    "scarf": scarf,
    "mask": mask,
    "hand": hand,
}


def _filled(edge: list[tuple[int, int]]) -> Picture:
    shape = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(shape, [np.array(edge, np.int32)], 255, cv2.LINE_AA)
    return shape


def _before(face: Picture, surface: Picture, shape: Picture) -> Picture:
    return np.where(shape[..., None] > 127, surface, face).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.covers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path)
    parser.add_argument("--faces", type=int, default=240)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    faces, rng = FaceSet.open(asked.set), np.random.default_rng(5)
    onto = template("arcface", SIDE)
    found: dict[str, list[float]] = {name: [] for name in COVERS}
    shown: dict[str, list[Picture]] = {name: [] for name in COVERS}
    for row in rng.permutation(len(faces))[: asked.faces].tolist():
        five = np.asarray(faces.labels(row)["points5"], float)
        face = crop(faces.image(row), place(five, onto))
        for name, draw in COVERS.items():
            drawn = draw(face, rng)
            found[name].append(score(cv2.resize(drawn, (64, 64), interpolation=cv2.INTER_AREA).astype(np.uint8)))
            if len(shown[name]) < 12:
                shown[name].append(cv2.resize(drawn, (128, 128)).astype(np.uint8))
    for name, scores in found.items():
        parts = [f"{np.mean(np.array(scores) > limit):.3f} above {limit}" for limit in LIMITS]
        print(f"{name} ({len(scores)}): {', '.join(parts)}; median {np.median(scores):.3f}")
    if asked.sheet is not None:
        lines = [np.concatenate(pictures, 1) for pictures in shown.values()]
        cv2.imwrite(str(asked.sheet), np.concatenate(lines, 0)[..., ::-1])


if __name__ == "__main__":
    main()
