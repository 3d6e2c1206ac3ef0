"""Colours of a view: against torchvision where it says the same, and the same for a face whatever its neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pixels

from fusiform.config import Colour
from fusiform.faces.colour import Recolouring, draw, recolour

ALL = Colour(jitter=(0.4, 0.4, 0.2, 0.1), jitter_share=0.8, grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0), solarise=0.2)


@pytest.fixture(scope="module")
def images() -> Tensor:
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (12, 3, 8, 8), np.uint8)).float()
    return torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic").clamp(0, 255).to(torch.uint8)


def only(change: int, factor: float) -> Recolouring:
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[change] = factor
    order = (change, *(i for i in range(4) if i != change))
    return Recolouring(order=order, factors=tuple(factors))


@pytest.mark.parametrize(
    ("change", "factor", "theirs"),
    [
        (0, 1.3, pixels.adjust_brightness),
        (0, 0.7, pixels.adjust_brightness),
        (1, 1.4, pixels.adjust_contrast),
        (1, 0.6, pixels.adjust_contrast),
        (2, 1.2, pixels.adjust_saturation),
        (2, 0.0, pixels.adjust_saturation),
        (3, 0.1, pixels.adjust_hue),
        (3, -0.1, pixels.adjust_hue),
        (3, 0.45, pixels.adjust_hue),
    ],
)
def test_each_jitter_is_torchvisions(images: Tensor, change: int, factor: float, theirs) -> None:  # type: ignore[no-untyped-def]
    ours = recolour(images, [only(change, factor)] * len(images))
    assert (ours.int() - theirs(images, factor).int()).abs().max() <= 2
    assert (ours != images).any()


def test_grey_blur_and_solarisation_are_torchvisions(images: Tensor) -> None:
    grey = recolour(images, [Recolouring(grey=True)] * len(images))
    assert (grey.int() - pixels.rgb_to_grayscale(images, 3).int()).abs().max() <= 1
    inverted = recolour(images, [Recolouring(solarise=True)] * len(images))
    assert torch.equal(inverted, pixels.solarize(images, 128))
    blurred = recolour(images, [Recolouring(sigma=1.0)] * len(images))
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # edges: repeated here, mirrored there
    assert (blurred[inside].int() - pixels.gaussian_blur(images, [7, 7], [1.0, 1.0])[inside].int()).abs().max() <= 2


def test_nothing_drawn_changes_nothing(images: Tensor) -> None:
    assert torch.equal(recolour(images, [Recolouring()] * len(images)), images)
    still = Colour(jitter=(0.0, 0.0, 0.0, 0.0), jitter_share=1.0)
    assert not still.active
    assert draw(np.random.default_rng(0), still).order == ()


def test_a_view_does_not_depend_on_its_neighbours(images: Tensor) -> None:
    drawn = [draw(np.random.default_rng(i), ALL) for i in range(len(images))]
    whole = recolour(images, drawn)
    for i in range(len(images)):
        alone = recolour(images[i : i + 1], [drawn[i]])[0]
        assert (alone.int() - whole[i].int()).abs().max() <= 1  # a mean may be summed in another order
    assert torch.equal(whole, recolour(images, drawn))


def test_shares_are_kept() -> None:
    drawn = [draw(np.random.default_rng(i), ALL) for i in range(4000)]
    assert np.mean([bool(d.order) for d in drawn]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([d.grey for d in drawn]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([d.sigma > 0 for d in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([d.solarise for d in drawn]) == pytest.approx(0.2, abs=0.03)
    assert all(0.6 <= d.factors[0] <= 1.4 and abs(d.factors[3]) <= 0.1 for d in drawn)
    assert len({d.order for d in drawn}) == 25  # 24 orders, and none
    never = [draw(np.random.default_rng(i), replace(ALL, grey=0.0)) for i in range(200)]
    assert not any(d.grey for d in never)
    assert [d.factors for d in never] == [d.factors for d in drawn[:200]]
