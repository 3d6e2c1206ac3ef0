"""Views are what torchvision's RandomResizedCrop would have made, and points move with the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from fusiform.errors import ConfigError
from fusiform.faces.views import WHOLE, random_box, render_view, view_points

SCALE, ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_boxes_are_distributed_like_those_of_torchvision() -> None:
    side, draws = 112, 4000
    ours = np.array([random_box(generator(i), SCALE, ASPECT, side) for i in range(draws)]) * side
    assert np.allclose(ours, ours.round())
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(64, SCALE, ASPECT), torch.empty(3, side, side, dtype=torch.uint8)
    params = [crop.make_params([image]) for _ in range(draws)]
    theirs = np.array([[p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]] for p in params])

    def quantiles(boxes: np.ndarray) -> np.ndarray:
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        numbers = np.stack([width * height / side**2, np.log(width / height), boxes[:, 0] / side, boxes[:, 1] / side])
        return np.quantile(numbers, np.linspace(0, 1, 21), axis=1)

    assert np.abs(quantiles(ours) - quantiles(theirs)).max() < 0.04


@given(
    seed=st.integers(0, 2**32),
    low=st.floats(0.05, 1.0),
    aspect=st.floats(1.0, 3.0),
    side=st.sampled_from([None, 1, 2, 7, 64, 112]),
)
def test_boxes_lie_inside_the_crop(seed: int, low: float, aspect: float, side: int | None) -> None:
    x0, y0, x1, y1 = random_box(generator(seed), (low, 1.0), (1 / aspect, aspect), side)
    assert 0 <= x0 < x1 <= 1 + 1e-12
    assert 0 <= y0 < y1 <= 1 + 1e-12


@pytest.mark.parametrize("side", [None, 64, 65])
@pytest.mark.parametrize(("aspect", "width", "height"), [((3.0, 4.0), 1, 1 / 3), ((1 / 4, 1 / 3), 1 / 3, 1)])
def test_what_does_not_fit_falls_back_to_the_centre(
    side: int | None, aspect: tuple[float, float], width: float, height: float
) -> None:
    x0, y0, x1, y1 = random_box(generator(0), (1.0, 1.0), aspect, side)
    step = 1 / side if side else 1e-12
    assert x1 - x0 == pytest.approx(width, abs=step)
    assert y1 - y0 == pytest.approx(height, abs=step)
    assert (x0 + x1) / 2 == pytest.approx(0.5, abs=step)
    assert (y0 + y1) / 2 == pytest.approx(0.5, abs=step)


def test_a_view_is_pillows_within_two_levels() -> None:
    image = np.kron(generator(1).integers(0, 256, (14, 14, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    box = (10 / 112, 20 / 112, 90 / 112, 110 / 112)
    ours = render_view(image, box, False, 64).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(image).crop((10, 20, 90, 110)).resize((64, 64), Image.Resampling.BICUBIC))
    assert ours.shape == (64, 64, 3)
    assert np.abs(ours - theirs).max() <= 2


def test_the_whole_crop_at_its_own_size_is_copied() -> None:
    image = generator(2).integers(0, 256, (16, 16, 3), np.uint8)
    view = render_view(image, WHOLE, False, 16)
    assert np.array_equal(view.permute(1, 2, 0).numpy(), image)
    view.zero_()
    assert image.any()
    assert np.array_equal(render_view(image, WHOLE, True, 16).permute(1, 2, 0).numpy(), image[:, ::-1])


@given(seed=st.integers(0, 10_000), flip=st.booleans())
def test_a_point_stays_on_the_pixel_it_marks(seed: int, flip: bool) -> None:
    rng = generator(seed)
    box = random_box(rng, (0.4, 1.0), ASPECT, 96)
    inside = np.array([box[:2]]) + rng.uniform(0.15, 0.85, (1, 2)) * np.array([box[2] - box[0], box[3] - box[1]])
    point = np.floor(inside * 96) + 0.5
    image = np.zeros((96, 96, 3), np.uint8)
    y, x = int(point[0, 1]), int(point[0, 0])
    image[y - 2 : y + 3, x - 2 : x + 3] = 255  # a spot centred on the marked pixel
    view = render_view(image, box, flip, 96).double().mean(0)
    view[view < 64] = 0  # without the ringing of the bicubic kernel
    centre = torch.arange(96) + 0.5
    spot = [float((view.sum(0) * centre).sum() / view.sum()), float((view.sum(1) * centre).sum() / view.sum())]
    marks = np.repeat(point, 5, axis=0)
    assert view_points(marks, box, flip, 96, 96)[2] == pytest.approx(spot, abs=0.3)


def test_a_mirrored_left_eye_is_a_right_eye() -> None:
    points = np.array([[10.0, 20], [30, 20], [20, 30], [12, 40], [28, 40]])
    mirrored = view_points(points, WHOLE, True, 48, 48)
    assert mirrored[0].tolist() == [18.0, 20.0]  # the image-left eye of the mirror image was the image-right one
    assert mirrored[1].tolist() == [38.0, 20.0]
    assert mirrored[2].tolist() == [28.0, 30.0]


def test_points_that_cannot_be_mirrored_are_refused() -> None:
    with pytest.raises(ConfigError, match="no left-right pairing"):
        view_points(np.zeros((478, 2)), WHOLE, True, 48, 48)
    with pytest.raises(ConfigError, match="of 7 points"):
        view_points(np.zeros((7, 2)), WHOLE, True, 48, 48)
    assert view_points(np.ones((7, 2)), WHOLE, False, 48, 24)[0].tolist() == [2.0, 2.0]


@given(st.integers(0, 10**6), st.booleans())
def test_bicubic_views_are_torchvisions_bit_for_bit(seed: int, flip: bool) -> None:
    rng = generator(seed)
    image = rng.integers(0, 256, (72, 72, 3), np.uint8)
    box = random_box(rng, SCALE, ASPECT, 72)
    left, top, right, bottom = (round(v * 72) for v in box)
    theirs = v2.functional.resized_crop(
        torch.from_numpy(image).permute(2, 0, 1),
        top,
        left,
        bottom - top,
        right - left,
        [64, 64],
        interpolation=v2.InterpolationMode.BICUBIC,
        antialias=True,
    )
    assert torch.equal(render_view(image, box, flip, 64), theirs.flip(-1) if flip else theirs)


@pytest.mark.parametrize("side", [80, 256, 300])
def test_a_fast_view_is_nearly_the_same(side: int) -> None:
    y, x = np.mgrid[:side, :side] / side
    smooth = np.stack([128 + 100 * np.sin(9 * x + c) * np.cos(7 * y) for c in range(3)], -1).astype(np.uint8)
    box = (0.1, 0.05, 0.9, 0.95)
    slow, fast = (render_view(smooth, box, True, 64, way).int() for way in ("bicubic", "fast"))
    assert (slow - fast).abs().float().mean() < 1.5
    assert not torch.equal(slow, fast)


def test_views_share_no_memory_with_their_crop_and_leave_it_alone() -> None:
    image = generator(0).integers(0, 256, (64, 64, 3), np.uint8)
    before = image.copy()
    for way in ("bicubic", "fast"):
        view = render_view(image, WHOLE, True, 64, way)
        assert torch.equal(view, torch.from_numpy(before[:, ::-1].copy()).permute(2, 0, 1))
        view.zero_()
        assert np.array_equal(image, before)
    image.setflags(write=False)
    assert render_view(image, (0.1, 0.1, 0.7, 0.7), False, 64).float().std() > 1
