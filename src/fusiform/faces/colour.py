"""Random changes of a view's colours: jitter, greyscale, blur, solarisation, a black rectangle, in this order.

What is drawn for a view comes from a generator that the caller passes in; how it is applied is a pure function of a
batch. The four jitters are torchvision's ColorJitter (in an order drawn for each view), applied in float instead of
uint8 after each; blur is a Gaussian, where Pillow approximates one by three boxes; the rectangle is that of Random
Erasing (Zhong et al., AAAI 2020), up to 3.3 times as wide as high or the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusiform.config import Colour

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Recolouring:
    """What was drawn for one view."""

    order: tuple[int, ...] = ()
    """Indices into brightness, contrast, saturation, hue; empty: no jitter."""
    factors: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0)
    grey: bool = False
    sigma: float = 0.0
    """Of the blur in pixels; 0: none."""
    solarise: bool = False
    hole: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 of the black rectangle, in [0, 1] of the view."""


def draw(rng: np.random.Generator, colour: Colour) -> Recolouring:
    """One view's changes. The number of draws does not depend on their outcome, but for the last one's."""
    jittered = rng.random() < colour.jitter_share
    order = tuple(int(i) for i in rng.permutation(4))
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in colour.jitter[:3]]
    factors.append(rng.uniform(-colour.jitter[3], colour.jitter[3]))
    grey, blurred = rng.random() < colour.grey, rng.random() < colour.blur
    sigma = rng.uniform(*colour.blur_sigma)
    solarised = rng.random() < colour.solarise
    return Recolouring(
        order if jittered and any(colour.jitter) else (),
        tuple(factors),
        grey,
        sigma if blurred else 0.0,
        solarised,
        _hole(rng, colour.erase_area) if rng.random() < colour.erase else None,
    )


def _hole(rng: np.random.Generator, area: tuple[float, float]) -> tuple[float, float, float, float]:
    size, aspect = rng.uniform(*area), float(np.exp(rng.uniform(-np.log(3.3), np.log(3.3))))
    width, height = min(1.0, float(np.sqrt(size * aspect))), min(1.0, float(np.sqrt(size / aspect)))
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return x, y, x + width, y + height


def recolour(images: Tensor, drawn: Sequence[Recolouring]) -> Tensor:
    """Each image with its own changes. (n, 3, H, W) uint8 -> the same."""
    x = images.float() / 255
    for place in range(4):
        for change, apply in enumerate(_JITTERS):
            rows = [i for i, d in enumerate(drawn) if d.order and d.order[place] == change]
            if rows:
                factor = torch.tensor([drawn[i].factors[change] for i in rows]).view(-1, 1, 1, 1)
                x[rows] = apply(x[rows], factor).clamp(0, 1)
    if rows := [i for i, d in enumerate(drawn) if d.grey]:
        x[rows] = _luma(x[rows]).expand(-1, 3, -1, -1)
    if rows := [i for i, d in enumerate(drawn) if d.sigma > 0]:
        x[rows] = _blur(x[rows], torch.tensor([drawn[i].sigma for i in rows]))
    if rows := [i for i, d in enumerate(drawn) if d.solarise]:
        x[rows] = torch.where(x[rows] < 128 / 255, x[rows], 1 - x[rows])
    for image, d in zip(x, drawn, strict=True):
        if d.hole is not None:
            x0, x1 = (round(d.hole[i] * x.shape[-1]) for i in (0, 2))
            y0, y1 = (round(d.hole[i] * x.shape[-2]) for i in (1, 3))
            image[:, y0:y1, x0:x1] = 0
    return (x * 255).round().to(torch.uint8)


def _luma(x: Tensor) -> Tensor:
    return (x * x.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x * factor


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luma(x).mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * factor


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    grey = _luma(x)
    return grey + (x - grey) * factor


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Hue turned by a share of the full circle, through HSV."""
    value, spread = x.amax(1), x.amax(1) - x.amin(1)
    r, g, b = x.unbind(1)
    safe = spread.clamp_min(1e-12)
    sixths = torch.where(
        value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    ) + 6 * turn.view(-1, 1, 1)
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = torch.remainder(n + sixths, 6)
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


_JITTERS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, separable, edges repeated. sigma: (n,) in pixels."""
    reach = int(torch.ceil(3 * sigma.max()))
    taps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (taps / sigma.unsqueeze(1)).square())
    weights = (weights / weights.sum(1, keepdim=True)).view(len(x), -1, 1, 1, 1)
    for axis in (-1, -2):
        size = x.shape[axis]
        at = torch.arange(size)
        x = torch.stack(
            [x.index_select(axis, (at + t).clamp(0, size - 1)) * weights[:, i] for i, t in enumerate(taps.tolist())]
        ).sum(0)
    return x
