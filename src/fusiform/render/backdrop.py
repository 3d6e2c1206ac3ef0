"""Backgrounds: seven kinds of out-of-focus nothing behind the head, drawn small and enlarged. Linear RGB."""

from __future__ import annotations

import math

import cv2
import numpy as np

from fusiform.render.types import F32, F64

SMALL = 56


def _colour(r: np.random.Generator, saturation: float) -> F64:
    grey = r.uniform(0.04, 0.9)
    hue = r.uniform(0.03, 0.9, 3)
    return np.asarray(np.clip(grey + (hue - grey) * saturation, 0.01, 1) ** 1.7)


def backdrop(r: np.random.Generator, kinds: tuple[str, ...], side: int) -> tuple[str, F32]:
    """Kind and picture (side, side, 3) of a background."""
    kind = str(r.choice(list(kinds)))
    n = SMALL
    yy, xx = np.mgrid[0:n, 0:n] / n
    saturation = 0.08 + 0.55 * r.random() ** 2
    base = np.broadcast_to(_colour(r, saturation), (n, n, 3)).copy()
    soft = r.uniform(0.3, 2.5)
    if kind == "gradient":
        a = r.uniform(0, 2 * math.pi)
        t = (xx * math.cos(a) + yy * math.sin(a) + 1) / 2
        base = base * (1 - t[..., None]) + _colour(r, saturation) * t[..., None]
        spot = np.exp(-((xx - r.uniform(0.2, 0.8)) ** 2 + (yy - r.uniform(0.1, 0.7)) ** 2) / 0.15)
        base *= 0.7 + 0.6 * spot[..., None]
    elif kind == "bokeh":
        base *= 0.5
        for _ in range(int(r.integers(6, 24))):
            x, y, radius = r.random(), r.random(), r.uniform(0.03, 0.2)
            disc = np.clip((radius - np.hypot(xx - x, yy - y)) * 40, 0, 1)
            base += disc[..., None] * _colour(r, saturation) * r.uniform(0.15, 0.8)
        soft = r.uniform(0.5, 1.5)
    elif kind in ("blocks", "street"):
        for _ in range(int(r.integers(4, 12))):
            x, y, w, h = r.random(), r.random(), r.uniform(0.03, 0.35), r.uniform(0.1, 0.9)
            inside = (np.abs(xx - x) < w / 2) & (np.abs(yy - y) < h / 2)
            base[inside] = _colour(r, saturation)
        if kind == "street":
            sky = yy < r.uniform(0.05, 0.45)
            base[sky] = np.array([0.55, 0.68, 0.85]) * r.uniform(0.5, 1.3)
            floor = yy > r.uniform(0.6, 0.95)
            base[floor] = r.uniform(0.05, 0.35)
    elif kind == "clouds":
        total = np.zeros((n, n, 3))
        for k in range(1, 5):
            grid = r.random((2**k + 1, 2**k + 1, 3)).astype(np.float32)
            total += np.asarray(cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC), np.float64) / 1.6**k
        mix = saturation * total + (1 - saturation) * total.mean(2, keepdims=True)
        base = np.clip(mix / mix.max(), 0, 1) ** r.uniform(1.2, 3) * _colour(r, saturation) * 1.8
    elif kind == "room":
        wall = _colour(r, saturation * 0.6)
        base[:] = wall
        corner = r.uniform(-0.3, 1.3)
        base[xx > corner] *= r.uniform(0.55, 0.9)
        for _ in range(int(r.integers(0, 4))):
            x, y, w, h = r.random(), r.uniform(0, 0.7), r.uniform(0.1, 0.35), r.uniform(0.15, 0.5)
            frame = (np.abs(xx - x) < w / 2) & (np.abs(yy - y) < h / 2)
            inner = (np.abs(xx - x) < w / 2 - 0.03) & (np.abs(yy - y) < h / 2 - 0.03)
            base[frame] = _colour(r, saturation) * 0.4
            base[inner] = _colour(r, saturation) * (2.0 if r.random() < 0.3 else 1.0)
        soft = r.uniform(0.4, 1.6)
    picture: F32 = base.astype(np.float32)
    if kind != "plain":
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), soft), np.float32)
    picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
    if kind == "plain":
        t = np.linspace(-1, 1, side, dtype=np.float32)
        vignette = 1 - r.uniform(0, 0.25) * (t[:, None] ** 2 + t[None, :] ** 2)
        picture = picture * vignette[..., None].astype(np.float32)
    return kind, np.ascontiguousarray(np.clip(picture, 0, 2), np.float32)
