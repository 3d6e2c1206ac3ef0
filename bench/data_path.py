"""From stored JPEG to a batch of random views, against Pillow and torchvision's transforms one face at a time."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from fusiform.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.faces.stream import Stream
from fusiform.measurement import EXACT_POINTS, Crop

Case = tuple[str, Callable[[], object], Callable[[], object]]
FACES = 128


def cases() -> Iterator[Case]:
    for side, out in ((256, 224), (80, 64)):
        jpegs = [_picture(side, seed) for seed in range(FACES)]
        yield f"data path, {side} px JPEG to {out} px view, {FACES} faces", _plain(jpegs, out), _ours(jpegs, side, out)


def _picture(side: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)).resize((side, side))
    noisy = np.asarray(small, np.int16) + rng.integers(-6, 7, (side, side, 3))
    data = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=92)
    return data.getvalue()


def _plain(jpegs: list[bytes], out: int) -> Callable[[], object]:
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(out, scale=(0.5, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def run() -> object:
        return torch.stack([view(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])

    return run


def _ours(jpegs: list[bytes], side: int, out: int) -> Callable[[], object]:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    commit_chunk(folder, 0, [StoredFace(key=f"{i:04d}", jpeg=j, labels={}) for i, j in enumerate(jpegs)], [])
    crop = Crop(template="loose", size=side, detector=EXACT_POINTS)
    faces = finish_set(folder, name="bench", crop=crop, made_by="bench", created="2026-01-01")
    stream = Stream(
        faces=faces,
        rows=faces.rows("all"),
        data=DataConfig(crop_scale=(0.5, 1.0)),
        image_size=out,
        seed=0,
        faces_per_step=FACES,
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))

    def run() -> object:
        return (stream.batch(0).images[:, 0].float() / 255 - mean) / std  # the encoder normalises: counted here too

    return run
