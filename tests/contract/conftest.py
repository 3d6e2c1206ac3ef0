from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform import recipes
from fusiform.config import Recipe, ViTConfig
from fusiform.encoder import Encoder
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, finish_set
from fusiform.measurement import EXACT_POINTS, Crop

FACES = 48
PEOPLE = 8
SIDE = 40


def blob(rng: np.random.Generator) -> np.ndarray:
    """Something smooth with structure, so that a masked patch can be guessed from its neighbours."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    out = np.zeros((SIDE, SIDE, 3))
    for _ in range(3):
        cx, cy, width = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.4)
        out += rng.uniform(0, 1, 3) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width**2)[..., None]
    return (255 * out / out.max()).astype(np.uint8)


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> FaceSet:
    """A tiny set that is written and read like any other."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    stored = []
    for i in range(FACES):
        data = io.BytesIO()
        Image.fromarray(blob(rng)).save(data, "JPEG", quality=95)
        stored.append(StoredFace(key=f"{i:04d}", jpeg=data.getvalue(), labels={}, person=str(i % PEOPLE)))
    commit_chunk(folder, 0, stored, [])
    crop = Crop(template="loose", size=SIDE, detector=EXACT_POINTS)
    return finish_set(Path(folder), name="blobs", crop=crop, made_by="tests", created="2026-01-01")


SHAPE = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2, "heads": 3}


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory) -> Path:
    """A finished encoder on the disk, for methods that need one besides their own."""
    crop = Crop(template="loose", size=SIDE, detector=EXACT_POINTS)
    return Encoder.untrained(ViTConfig(**SHAPE), crop, seed=7).save(tmp_path_factory.mktemp("other") / "encoder")


def shrunk(recipe: Recipe, other_encoder: Path) -> Recipe:
    """The recipe at a size that trains in seconds: same method, same kinds of settings."""
    method = recipe.method
    small = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "distill_layers": (0, 1)}
    small |= {"projector_hidden": 64, "projector_width": 32, "feature_layers": (0, 1)}
    small |= {"feature_encoder": str(other_encoder)}
    small |= {"landmarks": "grid", "sparse": 4, "prototypes": 32, "head_hidden": 32, "bottleneck": 256, "jitter": 1.5}
    small |= {"freeze_prototypes": 0.0, "sparse_views": 2}
    small |= {"people": PEOPLE, "keep_landmarks": False, "mixup": 1.0}
    fitting = {name: value for name, value in small.items() if hasattr(method, name)}
    return replace(
        recipe,
        method=replace(method, **fitting),
        vit=replace(recipe.vit, **SHAPE, landmark_cnn=False),
        data=replace(recipe.data, landmarks=False, more_views=recipe.data.more_views[:3]),
        optim=replace(recipe.optim, epochs=10, warmup_epochs=1, faces_per_step=16, lr_per_256=2e-2),
        loop=replace(
            recipe.loop,
            faces_per_micro_batch=recipe.loop.faces_per_micro_batch and 8,
            threads=1,
            checkpoint_every=7,
            log_every=1,
            workers=0,
            precision="fp32",
        ),
    )


@pytest.fixture(params=sorted(recipes.TABLE))
def recipe(request, other_encoder) -> Recipe:
    return shrunk(recipes.find(request.param), other_encoder)
