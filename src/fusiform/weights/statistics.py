"""Pixel statistics that a release keeps in a text beside its weights: FSFM's `pretrain_ds_mean_std.txt`.

Its first line is JSON: {"mean": [r, g, b], "std": [r, g, b]}.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT

AT_MOST = 100_000
"""Bytes of such a text."""


def read_statistics(path: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of pixels in [0, 1], by channel R, G, B.

    Raises:
        WeightsError: the text says something else.
    """
    expected = '{"mean": [R, G, B], "std": [R, G, B]} in its first line, of pixels from 0 to 1'
    do = f"fetch {path.name} again, or move it away to take the family's statistics"
    try:
        if path.stat().st_size > AT_MOST:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        said = json.loads(path.read_text(encoding="utf-8").partition("\n")[0])
        mean, std = (_three(said[name]) for name in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read as pixel statistics ({error})", expected=expected, do=do) from error
    if not all(0 <= m <= 1 for m in mean) or not all(0 < s <= 1 for s in std):
        raise WeightsError(f"{path} says mean {mean}, deviation {std}", expected=expected, do=do)
    return mean, std


def with_statistics(vit: ViT, beside: Path) -> ViT:
    """The encoder with the pixel statistics that the text says."""
    mean, std = read_statistics(beside)
    with torch.random.fork_rng(devices=[]):
        changed = ViT(replace(vit.config, pixel_mean=mean, pixel_std=std))
    changed.load_state_dict(vit.state_dict(), strict=True)
    return changed.train(vit.training)


def _three(values: Any) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in values)
    if not all(map(math.isfinite, (r, g, b))):
        raise ValueError("numbers that are not finite")
    return r, g, b
