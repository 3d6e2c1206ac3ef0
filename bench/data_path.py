"""From stored JPEG to a batch of random views, against Pillow and torchvision's transforms one face at a time."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from bench.rows import Row, Work
from fusiform.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from fusiform.faces.align import crop, place, similarity, template
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.faces.stream import Stream
from fusiform.faces.views import Resampling
from fusiform.measurement import EXACT_POINTS, Crop

FACES = 96


def t12() -> Iterator[Row]:
    for side, out, faces, must, stretch in ((256, 224, FACES, 3.2, 4.0), (512, 224, FACES // 2, 2.5, 3.0)):
        jpegs = [_picture(side, seed) for seed in range(faces)]
        what = f"data, {side} px JPEG to {out} px uint8"
        plain = _plain(jpegs, out)
        yield Row("T12", f"{what}, fast resampling", plain, _ours(jpegs, side, out, "fast"), must, stretch, faces)
        yield Row("T12", f"{what}, bicubic as in torchvision", plain, _ours(jpegs, side, out), None, None, faces)
        floats = _ours(jpegs, side, out, normalised=True)
        yield Row("T12", f"{what}, bicubic, normalising counted too", plain, floats, None, None, faces)
    yield from _alignment()


def _alignment() -> Iterator[Row]:
    """Five points to the transform onto a template, and to the crop."""
    rng = np.random.default_rng(0)
    onto = template("arcface-112")
    target = np.asarray(onto.points)
    photo = np.asarray(Image.open(io.BytesIO(_picture(256, 0))))
    points = [target * 1.1 + 40 + rng.normal(0, 3, (5, 2)) for _ in range(FACES)]
    together = np.stack(points)

    def warped(transform: Callable[[np.ndarray], np.ndarray]) -> Work:
        return lambda: [cv2.warpAffine(photo, transform(p), (112, 112), flags=cv2.INTER_LINEAR) for p in points]

    def lean(p: np.ndarray) -> np.ndarray:
        return _umeyama(p, target)

    np.testing.assert_allclose(similarity(together, target), np.stack([lean(p) for p in points]), rtol=0, atol=1e-6)
    yield Row(
        *("T12", "alignment: the transforms of a batch"),
        *(lambda: [lean(p) for p in points], lambda: similarity(together, target), 2.5, 3.0, FACES),
    )

    def ours() -> list[np.ndarray]:
        return [crop(photo, place(p, onto), sampling="bilinear") for p in points]

    what = "alignment: transform and bilinear crop, face by face"
    estimated = _scikit_image(target)
    if estimated is not None:
        yield Row("T12", f"{what}; scikit-image", warped(estimated), ours, 2.5, 3.0, FACES)
    yield Row("T12", f"{what}; Umeyama in numpy", warped(lean), ours, None, None, FACES)
    careful = [warped(lean), lambda: [crop(photo, place(p, onto)) for p in points]]
    yield Row("T12", "alignment: the same with our antialiased crop (another picture)", *careful, None, None, FACES)


def _scikit_image(target: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """The estimate that recognition codes take from scikit-image; None where `make bench` did not install it."""
    try:
        from skimage.transform import SimilarityTransform
    except ImportError:
        return None

    def estimate(p: np.ndarray) -> np.ndarray:
        found = SimilarityTransform.from_estimate(p, target)
        return np.asarray(found.params[:2])

    return estimate


def _umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, equations 40 to 43, as face recognition codes do it for each face."""
    mean, onto = source.mean(0), target.mean(0)
    centred, wanted = source - mean, target - onto
    covariance = wanted.T @ centred / len(source)
    d = np.ones(2)
    if np.linalg.det(covariance) < 0:
        d[1] = -1
    u, s, vt = np.linalg.svd(covariance)
    rotation = u @ np.diag(d) @ vt
    scale = (s @ d) / centred.var(axis=0).sum()
    return np.hstack([scale * rotation, (onto - scale * rotation @ mean)[:, None]])


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


def _ours(
    jpegs: list[bytes],
    side: int,
    out: int,
    resampling: Resampling = "bicubic",
    *,
    normalised: bool = False,
) -> Callable[[], object]:
    stream = stored(jpegs, side, out, resampling)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))

    def run() -> object:
        views = stream.batch(0).images[:, 0]
        return (views.float() / 255 - mean) / std if normalised else views

    return run


def stored(jpegs: list[bytes], side: int, out: int, resampling: Resampling) -> Stream:
    """A stream over a set of these crops, all of which are one step."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    commit_chunk(folder, 0, [StoredFace(key=f"{i:04d}", jpeg=j, labels={}) for i, j in enumerate(jpegs)], [])
    how = Crop(template="loose", size=side, detector=EXACT_POINTS)
    faces = finish_set(folder, name="bench", crop=how, made_by="bench", created="2026-01-01")
    return Stream(
        faces=faces,
        rows=faces.rows("all"),
        data=DataConfig(crop_scale=(0.5, 1.0), resampling=resampling),
        image_size=out,
        seed=0,
        faces_per_step=len(jpegs),
    )
