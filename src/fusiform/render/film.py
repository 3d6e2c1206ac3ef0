"""From linear radiance to the picture a cheap camera would keep: exposure, blur, white balance, noise, resolution."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusiform.render.dials import Film as FilmDials
from fusiform.render.types import F32, U8


@dataclass(frozen=True)
class Exposure:
    """What was done to the picture; part of the labels."""

    stops: float
    softness: float
    blur: float
    motion: float
    noise: float
    factor: float
    grey: bool
    quality: int


def draw_exposure(r: np.random.Generator, dials: FilmDials) -> Exposure:
    blur = float(r.uniform(*dials.blur_radius)) if r.random() < dials.blur else 0.0
    motion = float(r.uniform(1.5, 5.0)) if r.random() < dials.motion else 0.0
    noise = float(r.uniform(*dials.noise))
    factor = float(r.uniform(*dials.low_resolution_factor)) if r.random() < dials.low_resolution else 1.0
    low, high = dials.jpeg_quality
    return Exposure(
        float(r.normal(0, dials.exposure)),
        float(r.uniform(*dials.softness)),
        blur,
        motion,
        noise,
        factor,
        bool(r.random() < dials.grey),
        int(r.integers(low, high + 1)),
    )


def develop(r: np.random.Generator, linear: F32, seen: Exposure, white_balance: float) -> U8:
    """Linear RGB (side, side, 3), already exposed for the face, to sRGB uint8."""
    side = linear.shape[0]
    scale = side / 112
    picture: F32 = linear * np.float32(2.0**seen.stops)
    if seen.softness:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), seen.softness), np.float32)
    if seen.blur:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), seen.blur * scale), np.float32)
    if seen.motion:
        picture = _motion(picture, seen.motion * scale, float(r.uniform(0, 180)))
    if seen.factor > 1:
        small = max(16, round(side / seen.factor))
        shrunk = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
    picture = picture * (1 + r.normal(0, white_balance, 3)).astype(np.float32)
    knee = np.float32(0.75)
    picture = np.where(picture < knee, picture, knee + (1 - np.exp(-(picture - knee) / 0.4)) * (1 - knee))
    picture = np.clip(picture, 0, 1) ** np.float32(1 / 2.2)
    picture = (picture - 0.5) * np.float32(np.clip(r.normal(1.15, 0.09), 0.9, 1.4)) + 0.5
    grey = picture.mean(2, keepdims=True)
    picture = grey + (picture - grey) * np.float32(0.0 if seen.grey else r.uniform(0.75, 1.15))
    if seen.noise:
        grain = r.standard_normal(picture.shape, np.float32)
        if seen.grey:
            grain[:] = grain[..., :1]
        picture = picture + grain * np.float32(seen.noise)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _motion(picture: F32, length: float, angle: float) -> F32:
    size = int(length) // 2 * 2 + 3
    kernel = np.zeros((size, size), np.float32)
    centre = size // 2
    dx, dy = np.cos(np.radians(angle)) * length / 2, np.sin(np.radians(angle)) * length / 2
    for t in np.linspace(-1, 1, 4 * size):
        kernel[round(centre + t * dy), round(centre + t * dx)] += 1
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.float32)
