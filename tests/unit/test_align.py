"""Geometry: templates, similarity, placements and the crop, against blobs whose places are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.errors import ConfigError, DataError
from fusiform.faces import align, schemes
from fusiform.faces.align import Placement


def blob_image(height: int, width: int, centres: list[tuple[float, float]], sigma: float) -> np.ndarray:
    """Black RGB picture with one Gaussian bump per centre (continuous coordinates)."""
    y, x = np.mgrid[:height, :width] + 0.5
    out = np.zeros((height, width))
    for cx, cy in centres:
        out += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(np.clip(out, 0, 1) * 250)[..., None], 3, 2).astype(np.uint8)


def centroid(picture: np.ndarray, near: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    weight = picture[..., 0] * ((x - near[0]) ** 2 + (y - near[1]) ** 2 < radius**2)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def similarity_matrix(scale: float, degrees: float, tx: float, ty: float) -> align.Matrix:
    a, b = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return (a, -b, tx), (b, a, ty)


def test_templates_scale_exactly_and_have_the_documented_proportions() -> None:
    big, small = np.array(align.template("loose-224").points), np.array(align.template("loose", 56).points)
    assert np.array_equal(big, small * 4)
    loose = np.array(align.template("loose-100").points)
    assert loose[1, 0] - loose[0, 0] == pytest.approx(26)
    assert loose[:2, 1].mean() == pytest.approx(44)
    assert align.template("arcface-112").points[0] == pytest.approx((38.2946, 51.6963))
    # shrunk arcface: every side has the same ratio
    arc = np.array(align.template("arcface-100").points)
    ratio = np.linalg.norm(loose[1:] - loose[0], axis=1) / np.linalg.norm(arc[1:] - arc[0], axis=1)
    assert np.allclose(ratio, ratio[0])


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("arcfac-112", None, "Did you mean 'arcface'"),
        ("loose", None, "no size"),
        ("loose-112", 64, "contradict"),
        ("loose-4", None, "4 pixels"),
        ("", 64, "Known: arcface, box, loose"),
    ],
)
def test_a_wrong_template_name_says_what_to_type(name: str, size: int | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        align.template(name, size)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 20), st.floats(-180, 180), st.floats(-4000, 4000), st.floats(-4000, 4000), st.integers(0, 2**31))
def test_similarity_recovers_any_transform_and_round_trips(
    scale: float, degrees: float, tx: float, ty: float, seed: int
) -> None:
    source = np.random.default_rng(seed).uniform(-100, 100, (5, 2))
    placement = Placement(similarity_matrix(scale, degrees, tx, ty), 112, "loose-112")
    found = align.similarity(source, placement.to_crop(source))
    assert np.allclose(found, placement.matrix, rtol=1e-7, atol=1e-7 * (1 + abs(tx) + abs(ty)))
    assert np.allclose(placement.to_photo(placement.to_crop(source)), source, atol=1e-7)
    assert placement.scale == pytest.approx(scale)
    assert Placement.from_dict(json.loads(json.dumps(placement.to_dict()))) == placement


def test_similarity_is_the_least_squares_solution_batched_and_without_reflection() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(7, 5, 2)), rng.normal(size=(5, 2))
    found = align.similarity(source, target)
    for face, matrix in zip(source, found, strict=True):
        x, y = face.T
        one, zero = np.ones(5), np.zeros(5)
        system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        a, b, tx, ty = np.linalg.lstsq(system, np.concatenate([target[:, 0], target[:, 1]]), rcond=None)[0]
        assert np.allclose(matrix, [[a, -b, tx], [b, a, ty]])
        assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), 7.0)])
def test_degenerate_points_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError):
        align.place(bad, "loose-64")


def test_the_identity_placement_copies_pixels_bit_for_bit() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    assert np.array_equal(align.crop(picture, Placement(((1, 0, 0), (0, 1, 0)), 80, "box-80")), picture[:, :80])
    shifted = align.crop(picture, Placement(((1, 0, -7), (0, 1, -5)), 64, "box-64"))
    assert np.array_equal(shifted, picture[5:69, 7:71])


def test_a_whole_number_shrink_is_the_mean_of_each_block() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    means = picture.reshape(32, 3, 32, 3, 3).mean((1, 3))
    got = align.crop(picture, Placement(((1 / 3, 0, 0), (0, 1 / 3, 0)), 32, "box-32"))
    assert np.abs(got - means).max() <= 0.51


@pytest.mark.parametrize("scale", [3.0, 1.0, 0.8, 0.51, 0.3, 0.11])
@pytest.mark.parametrize("degrees", [0.0, 25.0, -100.0])
def test_blobs_land_where_the_placement_says(scale: float, degrees: float) -> None:
    size = 96
    wanted = np.array([[30.0, 34.0], [66.5, 40.0], [48.0, 70.25]])
    rough = Placement(similarity_matrix(scale, degrees, 0, 0), size, "loose-96")
    middle = rough.to_crop(np.array([[500.0, 500.0]]))[0]
    placement = Placement(similarity_matrix(scale, degrees, *(48 - middle)), size, "loose-96")
    where = placement.to_photo(wanted)
    picture = blob_image(1000, 1000, [tuple(p) for p in where.tolist()], sigma=2.5 / scale)
    got = align.crop(picture, placement)
    for point in wanted:
        assert np.abs(centroid(got, point, 9.0) - point).max() < 0.03


@pytest.mark.parametrize("scale", [0.7, 0.45, 0.23, 0.12])
def test_shrinking_does_not_alias(scale: float) -> None:
    """A one-pixel checkerboard has no place in a small crop: what is left must be flat grey."""
    y, x = np.mgrid[:900, :900]
    board = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, 2)
    got = align.crop(board, Placement(similarity_matrix(scale, 7.0, 3.3, 2.1), 64, "loose-64"))[8:-8, 8:-8]
    assert abs(float(got.mean()) - 127.5) < 2
    # nearest or plain bilinear sampling leaves a spread of 40 to 127
    assert got.std() < 30 if scale > 0.5 else got.std() < 12


def test_outside_the_photo_is_the_edge_or_black() -> None:
    white = np.full((40, 50, 3), 255, np.uint8)
    away = Placement(((1, 0, 200), (0, 1, 200)), 32, "box-32")
    assert align.crop(white, away).min() == 255
    assert align.crop(white, away, border="constant").max() == 0
    partly = Placement(((0.4, 0, 8), (0, 0.4, 8)), 32, "box-32")
    assert align.crop(white, partly).min() == 255
    assert align.crop(white, partly, border="constant")[0, 0, 0] == 0


def test_a_photo_wider_than_opencv_takes_is_cropped() -> None:
    wide = np.zeros((20, 40_000, 3), np.uint8)
    wide[:, 39_880:] = 200
    placement = align.place_box((39_900, 0, 39_990, 20), "box-32", margin=1.0)
    assert align.crop(wide, placement).mean() == 200


def test_placing_by_box_is_a_square_about_a_little_above_its_centre() -> None:
    placement = align.place_box((10, 20, 50, 40), "box-100", margin=2.0)
    assert np.allclose(placement.to_crop([[30, 30 - 0.05 * 40]]), 50)
    assert placement.scale == pytest.approx(100 / 80)
    with pytest.raises(DataError):
        align.place_box((10, 10, 10, 30), "box-64")
    with pytest.raises(ConfigError, match="no points"):
        align.place(np.zeros((5, 2)), "box-64")


def test_placing_a_face_brings_its_points_onto_the_template() -> None:
    wanted = np.array(align.template("loose-112").points)
    photo = Placement(similarity_matrix(3.7, 31, 400, 250), 1, "x").to_crop(wanted)
    placement = align.place(photo, "loose-112")
    assert np.allclose(placement.to_crop(photo), wanted)
    assert np.allclose(placement.corners, placement.to_photo([[0, 0], [112, 0], [112, 112], [0, 112]]))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"matrix": [[1, 0, 0]], "size": 5, "template": "t"},
        {"matrix": [[0, 0, 0]] * 2, "size": 5, "template": "t"},
        {"matrix": [[1, 0, float("nan")], [0, 1, 0]], "size": 5, "template": "t"},
        {"matrix": "x", "size": 1, "template": "t"},
    ],
)
def test_a_stored_placement_that_is_broken_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Placement.from_dict(broken)


@pytest.mark.parametrize("name", ["ibug-68", "arcface-5"])
def test_flip_is_an_involution_and_keeps_the_five_points_in_order(name: str) -> None:
    pairing = np.array(schemes.scheme(name).flip)
    assert sorted(pairing) == list(range(schemes.scheme(name).count))
    assert np.array_equal(pairing[pairing], np.arange(len(pairing)))
    points = np.random.default_rng(3).uniform(0, 100, (2, len(pairing), 2))
    assert np.allclose(schemes.flipped(schemes.flipped(points, name, 100), name, 100), points)
    five = schemes.to_five(schemes.flipped(points, name, 100), name)
    assert np.allclose(five, schemes.flipped(schemes.to_five(points, name), "arcface-5", 100))


def test_scheme_errors_name_the_scheme() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ibug-68'"):
        schemes.scheme("ibug68")
    with pytest.raises(DataError, match="67"):
        schemes.to_five(np.zeros((67, 2)), "ibug-68")
    with pytest.raises(ConfigError, match="no left-right pairing"):
        schemes.flipped(np.zeros((478, 2)), "mediapipe-478", 10)
    with pytest.raises(ConfigError, match="68 points cannot"):
        schemes.to_68(np.zeros((5, 2)), "arcface-5")
    assert len(set(schemes.MEDIAPIPE_TO_IBUG)) == 68


def test_bilinear_sampling_is_the_crop_without_averaging() -> None:
    """Where nothing is shrunk both are the same picture; where it is, the plain one is what OpenCV's warp makes."""
    import cv2

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 70, 3), np.uint8)
    for scale in (1.5, 0.3):
        placement = Placement(((scale, 0.1 * scale, 3.0), (-0.1 * scale, scale, 5.0)), 40, "loose-40")
        plain = align.crop(image, placement, sampling="bilinear")
        matrix = np.array(placement.matrix)
        matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
        warped = cv2.warpAffine(image, matrix, (40, 40), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        assert np.abs(plain.astype(int) - warped).mean() < 1
        assert np.array_equal(plain, align.crop(image, placement)) == (scale > 1)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.02, 50), st.floats(-4000, 4000), st.floats(0, 20), st.integers(0, 2**31))
def test_one_face_is_placed_with_the_bits_of_a_batch(scale: float, shift: float, noise: float, seed: int) -> None:
    onto = align.template("arcface-112")
    points = np.array(onto.points) * scale + shift + np.random.default_rng(seed).normal(0, noise, (5, 2))
    batch = align.similarity(np.stack([points, points[::-1], points * 3]), onto.points)
    assert np.array_equal(align.place(points, onto).matrix, batch[0])
    assert np.array_equal(align.similarity(points, onto.points), batch[0])


@pytest.mark.parametrize("wrong", [np.zeros((4, 2)), np.zeros((5, 3)), np.zeros((1, 5, 2)), np.zeros(10)])
def test_a_face_is_placed_on_five_points(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match="five of arcface-5"):
        align.place(wrong, "loose-64")


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e200])
def test_numbers_that_no_face_has_are_refused_and_not_computed_with(bad: float) -> None:
    points = np.array(align.template("loose-112").points)
    points[2, 1] = bad
    with pytest.raises(DataError):
        align.place(points, "loose-64")
