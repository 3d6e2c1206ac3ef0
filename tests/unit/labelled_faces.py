"""Small labelled faces for tests of evaluation: pictures whose brightness is the label, so that a head can learn it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, finish_set
from fusiform.measurement import Crop
from fusiform.tasks.task import Array, Labelled

SIDE = 16
CROP = Crop("loose", SIDE, "exact-points")
SHAPE = ViTConfig(image_size=SIDE, patch_size=8, width=16, depth=2, heads=2)


def untrained(seed: int = 0, crop: Crop = CROP) -> Encoder:
    return Encoder.untrained(SHAPE, crop, seed)


def shades(brightness: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, SIDE, SIDE, 3) noisy grey pictures of the given brightness in [0, 1], darker to the right."""
    ramp = np.linspace(1.0, 0.6, SIDE)[None, None, :, None]
    pictures = brightness[:, None, None, None] * 200 * ramp + rng.normal(0, 6, (len(brightness), SIDE, SIDE, 3))
    return np.clip(pictures, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Brightness:
    """A supervised task that a linear head can solve."""

    splits: tuple[str, ...] = ("train", "val", "test")
    people: int = 24
    each: int = 4
    leak: bool = False
    """Whether one person is moved to the wrong side."""
    notes: dict[str, object] = field(default_factory=dict)

    name = "brightness"
    dataset = "shades"
    features = "pooled"
    metric = "mae"
    higher_is_better = False

    @property
    def measurement_notes(self) -> dict[str, object]:
        return self.notes

    def read(self, size: int) -> Labelled:
        rng = np.random.default_rng(3)
        who = np.repeat(np.arange(self.people), self.each)
        value = np.clip(rng.random(self.people)[who] + rng.normal(0, 0.1, len(who)), 0, 1)
        split = np.array(self.splits)[who % len(self.splits)]
        person = np.array([f"p{i:02d}" for i in who])
        if self.leak:
            person[split == self.splits[-1]] = "p00"
        keys = np.array([f"face-{i}" for i in range(len(who))])
        target = value[:, None].astype(np.float32)
        return Labelled(self.dataset, shades(value, rng), target, person, split, keys, CROP)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        return np.asarray(faces.target, np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        return output

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        assert faces.images.size == 0 or len(prediction) == len(faces)
        return {"bias": float((prediction - faces.target).mean()), "mae": float(abs(prediction - faces.target).mean())}


@dataclass(frozen=True)
class SamePerson:
    """An embedding task: mean cosine of two faces of one person over that of two people."""

    people: int = 12
    name = "same-person"
    dataset = "shades"
    metric = "gap"
    higher_is_better = True
    measurement_notes = {"threshold": "none"}  # noqa: RUF012

    def read(self, size: int) -> Labelled:
        return Brightness(("test",), self.people).read(size)

    def score(
        self, embedding: NDArray[np.float32], faces: Labelled, weight: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
        w = np.ones(len(faces)) if weight is None else weight
        same = faces.person[:, None] == faces.person[None]
        pair = np.outer(w, w) * ~np.eye(len(faces), dtype=bool)
        cosine = embedding @ embedding.T
        if not (pair * same).sum() or not (pair * ~same).sum():
            return {"gap": float("nan")}
        return {"gap": float(np.average(cosine, weights=pair * same) - np.average(cosine, weights=pair * ~same))}


UNITS = ("AU1", "AU12")
EXPRESSIONS = ("neutral", "happy")


def rendered_set(folder: Path, people: int = 30, each: int = 4, size: int = 20) -> FaceSet:
    """A set with the labels of rendered faces: brightness is yaw, smile and glasses at once, the rest is constant."""
    rng = np.random.default_rng(5)
    stored = []
    for person in range(people):
        split = ("train", "train", "val", "test")[person % 4]
        for i in range(each):
            value = float(rng.random())
            picture = np.clip(np.full((size, size, 3), value * 220) + rng.normal(0, 4, (size, size, 3)), 0, 255)
            file = io.BytesIO()
            Image.fromarray(picture.astype(np.uint8)).save(file, "JPEG", quality=95)
            labels = {
                "person": person,
                "landmarks": [[1.0, 1.0, 1]] * 68,
                "pose": {"yaw": 120 * (value - 0.5), "pitch": 10.0 * (i % 2), "roll": 0.0},
                "au": {"AU12": 5 * value, "AU1": 5 * (1 - value)},
                "expression": "happy" if value > 0.5 else "neutral",
                "valence": 2 * value - 1,
                "arousal": 1 - 2 * value,
                "attrs": {"age": 20 + 40 * value, "glasses": value > 0.6, "smiling": value > 0.5},
            }
            stored.append(StoredFace(f"p{person}-{i}", file.getvalue(), labels, None, split, f"p{person}"))
    commit_chunk(folder, 0, stored, [])
    return finish_set(
        folder, name="shades", crop=Crop("loose", size, "exact-points"), made_by="a test", created="2026-01-01"
    )
