"""The rasteriser and the small kernels around it, against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.render.geometry import ShapeModes, sphere_directions
from fusiform.render.noise import hash3, noise3
from fusiform.render.paint import irradiance
from fusiform.render.raster import Buffers, draw, draw_strands, vertex_normals
from fusiform.render.shade import box, even_blocks, fill_blocks, majority

ONE = np.array([[0, 1, 2]], np.int32)


def drawn(points: list[list[float]], triangles: np.ndarray = ONE, cull: bool = False, size: int = 20) -> Buffers:
    b = Buffers.empty(size, size)
    draw(np.array(points, np.float32), triangles, 0, cull, b.depth, b.triangle, b.bary)
    return b


def test_a_triangle_covers_exactly_the_samples_inside_it() -> None:
    seen = drawn([[0, 0, 1], [10, 0, 1], [0, 10, 1]]).triangle >= 0
    y, x = np.mgrid[0:20, 0:20] + 0.5
    np.testing.assert_array_equal(seen, x + y <= 10)


def test_two_triangles_of_a_square_leave_no_gap_on_the_diagonal() -> None:
    square = [[1.3, 1.7, 1], [15.2, 1.7, 1], [15.2, 16.9, 1], [1.3, 16.9, 1]]
    seen = drawn(square, np.array([[0, 1, 2], [0, 2, 3]], np.int32)).triangle >= 0
    assert seen[2:17, 1:15].all()
    assert seen.sum() == 15 * 14


def test_the_nearer_triangle_wins_whatever_the_order() -> None:
    far, near = [[0, 0, 0.1], [19, 0, 0.1], [0, 19, 0.1]], [[0, 0, 0.2], [19, 0, 0.2], [0, 19, 0.2]]
    both = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    assert set(np.unique(drawn(far + near, both).triangle)) == {-1, 1}
    assert set(np.unique(drawn(near + far, both).triangle)) == {-1, 0}


def test_only_the_side_away_from_the_camera_is_culled() -> None:
    clockwise, counter = [[0, 0, 1], [10, 0, 1], [0, 10, 1]], [[0, 0, 1], [0, 10, 1], [10, 0, 1]]
    assert (drawn(clockwise, cull=True).triangle == -1).all()
    assert (drawn(counter, cull=True).triangle >= 0).any()


def test_weights_are_perspective_correct() -> None:
    """Half way on the screen between depths 1 and 3 lies a quarter of the way on the surface."""
    b = drawn([[0, 0, 1.0], [20, 0, 1 / 3], [0, 20, 1.0]])
    row, column = 0, 9
    along = 1 - b.bary[row, column, 0] - (1 - b.bary[row, column].sum())
    assert along == pytest.approx(b.bary[row, column, 1])
    expected = (9.5 / 20) * (1 / 3) / ((9.5 / 20) * (1 / 3) + 10.5 / 20)
    assert along == pytest.approx(expected, abs=1e-4)


def test_strands_leave_air_and_grow_only_where_there_is_weight() -> None:
    points = np.array([[0, 0, 1], [200, 0, 1], [0, 200, 1]], np.float32)

    def share(weight: float, threshold: float) -> float:
        b = Buffers.empty(100, 100)
        strand = np.array([[0, 0, weight], [40, 0, weight], [0, 3, weight]], np.float32)
        draw_strands(points, ONE, strand, 0, threshold, 1.0, b.depth, b.triangle, b.bary)
        return float((b.triangle >= 0).mean())

    assert share(0.0, 0.1) == 0
    assert 0.15 < share(1.0, 0.5) < 0.85
    assert share(1.0, 0.2) > share(1.0, 0.5) > share(1.0, 0.8)


def test_normals_of_a_tetrahedron_point_outwards() -> None:
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    t = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    n = vertex_normals(v, t)
    assert ((v - v.mean(0)) * n).sum(1).min() > 0
    np.testing.assert_allclose(np.linalg.norm(n, axis=1), 1, atol=1e-5)


def test_sparse_modes_add_what_a_dense_product_would() -> None:
    r = np.random.default_rng(0)
    index = [r.permutation(9)[:4].astype(np.int32) for _ in range(3)]
    delta = [r.normal(size=(4, 3)).astype(np.float32) for _ in range(3)]
    modes = ShapeModes.of([(f"m{i}", index[i], delta[i]) for i in range(3)])
    w = modes.weights({"m0": 0.5, "m2": -2.0})
    v = np.zeros((9, 3), np.float32)
    modes.add(v, w)
    expected = np.zeros((9, 3), np.float32)
    for k in range(3):
        np.add.at(expected, index[k], w[k] * delta[k])
    np.testing.assert_allclose(v, expected, atol=1e-6)
    with pytest.raises(KeyError, match="m9"):
        modes.weights({"m9": 1.0})


def test_noise_is_bounded_smooth_and_the_same_everywhere() -> None:
    p = np.random.default_rng(1).uniform(-50, 50, (2000, 3))
    values = np.array([noise3(*q) for q in p])
    assert np.abs(values).max() <= 1
    assert values.std() > 0.2
    near = np.array([noise3(q[0] + 1e-4, q[1], q[2]) for q in p])
    assert np.abs(near - values).max() < 1e-2
    assert hash3(1, 2, 3) == pytest.approx(hash3(1, 2, 3))
    assert noise3(3.0, -4.0, 5.0) == pytest.approx(hash3(3, -4, 5) * 2 - 1)


def test_even_surroundings_light_every_direction_alike() -> None:
    sh = np.zeros((9, 3), np.float32)
    sh[0] = 1 / 0.886227
    for d in sphere_directions(20):
        assert irradiance(sh, 1, *map(float, d)) == pytest.approx(1.0, abs=1e-5)
    sh[1, 0] = 0.5
    assert irradiance(sh, 0, 0.0, 1.0, 0.0) > irradiance(sh, 0, 0.0, -1.0, 0.0)


def test_a_pixel_takes_the_class_of_most_samples_and_the_mean_of_all() -> None:
    label = np.array([[1, 2, 4, 4], [2, 2, 5, 5]], np.uint8)
    out = np.zeros((1, 2), np.uint8)
    majority(label, 2, out)
    np.testing.assert_array_equal(out, [[2, 4]])
    picture = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    small = np.zeros((1, 2, 3), np.float32)
    box(picture, 2, small)
    np.testing.assert_allclose(small, picture.reshape(1, 2, 2, 2, 3).mean((1, 3)))


def test_only_even_pixels_of_skin_are_shaded_at_half_the_samples() -> None:
    material, labels = np.array([0, 6], np.int32), np.array([1, 13], np.int32)
    triangle = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0]], np.int32)
    depth = np.ones((4, 4), np.float32)
    depth[3, 3] = 0.5
    skip = np.zeros((4, 4), np.uint8)
    even_blocks(triangle, material, labels, depth, skip)
    expected = np.zeros((4, 4), np.uint8)
    expected[0, 1] = expected[1, 0] = 1
    np.testing.assert_array_equal(skip, expected)
    radiance = np.zeros((4, 4, 3), np.float32)
    radiance[0, 0], radiance[1, 1] = 1, 3
    classes = np.zeros((4, 4), np.uint8)
    classes[0, 0] = classes[1, 1] = 7
    fill_blocks(skip, radiance, classes)
    assert (radiance[:2, :2].reshape(4, 3)[1:3] == 2).all()
    assert (classes[:2, :2] == 7).all()
