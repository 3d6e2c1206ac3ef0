"""Every metric against its definition written out plainly, with loops and exact fractions, on small and awkward inputs.

Scores are whole numbers, so that they tie; weights are 0 to 3; folds, classes and kinds may be empty. A value is that
of the definition, or both are undefined.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform import metrics
from fusiform.errors import DataError

SMALL = settings(max_examples=80, deadline=None)
NAN = float("nan")
Pairs = list[tuple[int, bool, int]]
"""(score, same, weight)"""

pairs = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), max_size=25)
values = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 3)), max_size=12)


def columns(rows: list[tuple[int, int | bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score, other, weight = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(score, float), np.array(other), np.array(weight, float)


def same_number(found: object, plain: Fraction | float | None) -> None:
    if plain is None:
        assert math.isnan(float(found))  # type: ignore[arg-type]
    else:
        assert float(found) == pytest.approx(float(plain), abs=1e-12)  # type: ignore[arg-type]


def share(hits: int, of: int) -> Fraction | None:
    return Fraction(hits, of) if of else None


# ---------------------------------------------------------------------------------------------------- pairs


@SMALL
@given(pairs)
def test_auc_counts_pairs_of_pairs(rows: Pairs) -> None:
    won = all_of = Fraction(0)
    for s, y, w in rows:
        for t, z, v in rows:
            if y and not z:
                all_of += w * v
                won += w * v * (Fraction(1) if s > t else Fraction(1, 2) if s == t else Fraction(0))
    same_number(metrics.auc(*plainly(rows)), won / all_of if all_of else None)


def plainly(rows: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score, same, weight = columns(rows)
    return score, same.astype(bool), weight


def rates(rows: Pairs, threshold: float) -> tuple[Fraction, Fraction] | None:
    """FAR and FRR when what lies above the threshold is accepted."""
    genuine, impostors = sum(w for _, y, w in rows if y), sum(w for _, y, w in rows if not y)
    if not genuine or not impostors:
        return None
    far = Fraction(sum(w for s, y, w in rows if not y and s > threshold), impostors)
    return far, Fraction(sum(w for s, y, w in rows if y and s <= threshold), genuine)


@SMALL
@given(pairs)
def test_the_equal_error_rate_lies_where_the_two_lines_cross(rows: Pairs) -> None:
    thresholds = [-math.inf, *sorted({s for s, _, _ in rows})]
    points = [rates(rows, t) for t in thresholds]
    if not points or points[0] is None:
        same_number(metrics.eer(*plainly(rows)), None)
        return
    for (far, frr), (far2, frr2) in pairwise(points):  # type: ignore[misc]
        if frr <= far and frr2 >= far2:
            change = (frr2 - far2) - (frr - far)
            along = (far - frr) / change if change else Fraction(0)
            same_number(metrics.eer(*plainly(rows)), frr + along * (frr2 - frr))
            return
    raise AssertionError("the lines of FAR and FRR cross somewhere")


@SMALL
@given(pairs, st.integers(-4, 4))
def test_half_the_total_error_at_a_given_threshold(rows: Pairs, threshold: int) -> None:
    found = rates(rows, threshold)
    score, same, weight = plainly(rows)
    same_number(metrics.hter(score, same, threshold, weight), sum(found) / 2 if found else None)


@SMALL
@given(pairs)
def test_the_threshold_of_equal_errors_is_the_lowest_of_the_best(rows: Pairs) -> None:
    once = [(s, y, 1) for s, y, _ in rows]
    score, same, _ = plainly(once)
    ways = [(t, rates(once, t)) for t in (-math.inf, *sorted({s for s, _, _ in once}))]
    if ways[0][1] is None:
        same_number(metrics.eer_threshold(score, same), None)
        return
    best = min(abs(far - frr) for _, (far, frr) in ways)  # type: ignore[misc]
    assert metrics.eer_threshold(score, same) == next(t for t, (far, frr) in ways if abs(far - frr) == best)  # type: ignore[misc]


@SMALL
@given(pairs, st.fractions(0, 1, max_denominator=12))
def test_tar_at_far_is_the_most_that_can_be_had_without_more_false_accepts(rows: Pairs, far: Fraction) -> None:
    score, same, weight = plainly(rows)
    impostors = sum(w for _, y, w in rows if not y)
    if far * impostors < 1:
        with pytest.raises(DataError, match="cannot be measured"):
            metrics.tar_at_far(score, same, float(far), weight)
    ways = [rates(rows, t) for t in (-math.inf, *(s for s, _, _ in rows))]
    point = metrics.tar_at_far(score, same, float(far), weight, check=False)
    if ways[0] is None:
        assert math.isnan(point.tar)
        return
    allowed = [1 - frr for found_far, frr in ways if found_far * impostors <= math.floor(far * impostors)]  # type: ignore[misc]
    same_number(point.tar, max(allowed))
    same_number(point.far, rates(rows, point.threshold)[0])  # type: ignore[index]
    assert point.impostors == impostors


@SMALL
@given(pairs, st.integers(2, 4))
def test_ten_fold_accuracy_is_that_of_the_strictest_threshold_that_is_best_elsewhere(rows: Pairs, folds: int) -> None:
    score, same, weight = plainly(rows)
    if len(rows) < folds:
        with pytest.raises(ValueError, match="pairs for"):
            metrics.verification_accuracy_10fold(score, same, folds, weight)
        return
    accuracy, threshold = metrics.verification_accuracy_10fold(score, same, folds, weight)
    whole, more = divmod(len(rows), folds)
    start = 0
    for k in range(folds):
        end = start + whole + (k < more)
        inside, outside = rows[start:end], rows[:start] + rows[end:]
        start = end

        def right(part: Pairs, t: float) -> int:
            return sum(w for s, y, w in part if (s > t) == y)

        ways = [-math.inf, *sorted({s for s, _, _ in rows})]
        best = max(right(outside, t) for t in ways)
        chosen = max(t for t in ways if right(outside, t) == best)
        assert threshold[k] == chosen
        same_number(accuracy[k], share(right(inside, chosen), sum(w for _, _, w in inside)))


# ---------------------------------------------------------------------------------------------------- identification

searches = st.integers(1, 4).flatmap(
    lambda g: st.tuples(
        st.lists(st.integers(0, 3), min_size=g, max_size=g),
        st.lists(
            st.tuples(st.lists(st.integers(-2, 2), min_size=g, max_size=g), st.integers(0, 4), st.integers(0, 2)),
            max_size=6,
        ),
    )
)


@SMALL
@given(searches, st.integers(1, 4), st.fractions(0, 1, max_denominator=6))
def test_identification_in_closed_and_open_sets(
    case: tuple[list[int], list[tuple[list[int], int, int]]], rank: int, fpir: Fraction
) -> None:
    gallery, probes = case
    score = np.array([row for row, _, _ in probes], float).reshape(len(probes), len(gallery))
    who, weight = [p for _, p, _ in probes], [w for _, _, w in probes]
    hits = mated = 0
    strangers: list[tuple[int, int]] = []
    with_mates: list[tuple[int, int, int]] = []
    for row, person, w in probes:
        own = [s for s, g in zip(row, gallery, strict=True) if g == person]
        if own:
            place = 1 + sum(s >= max(own) for s, g in zip(row, gallery, strict=True) if g != person)
            mated, hits = mated + w, hits + w * (place <= rank)
            with_mates.append((max(own), place, w))
        else:
            strangers.append((max(row), w))
    same_number(metrics.identification_rate(score, who, gallery, rank, weight=weight), share(hits, mated))

    total = sum(w for _, w in strangers)
    if fpir * total < 1:
        with pytest.raises(DataError, match="cannot be measured"):
            metrics.identification_rate(score, who, gallery, rank, fpir=float(fpir), weight=weight)
        return
    ways = [t for t in (-math.inf, *(s for s, _ in strangers)) if sum(w for s, w in strangers if s > t) <= fpir * total]
    found = sum(w for s, place, w in with_mates if place <= rank and s > min(ways))
    same_number(
        metrics.identification_rate(score, who, gallery, rank, fpir=float(fpir), weight=weight), share(found, mated)
    )


def test_names_and_numbers_are_not_silently_strangers() -> None:
    with pytest.raises(ValueError, match="nobody would be found"):
        metrics.identification_rate(np.ones((1, 1)), ["7"], [7])
    assert math.isnan(metrics.identification_rate(np.zeros((0, 2)), [], ["ann", "bob"]))


# ---------------------------------------------------------------------------------------------------- agreement


def moments(rows: list[tuple[int, int, int]]) -> tuple[Fraction, ...] | None:
    n = sum(w for _, _, w in rows)
    if not n:
        return None
    mx, my = (Fraction(sum(row[2] * row[i] for row in rows), n) for i in (0, 1))
    vx = sum(w * (x - mx) ** 2 for x, _, w in rows) / n
    vy = sum(w * (y - my) ** 2 for _, y, w in rows) / n
    return mx, my, vx, vy, sum(w * (x - mx) * (y - my) for x, y, w in rows) / n


@SMALL
@given(values)
def test_agreement_follows_from_exact_moments(rows: list[tuple[int, int, int]]) -> None:
    x, y, w = columns(rows)
    found = moments(rows)
    if found is None:
        for metric in (metrics.ccc, metrics.icc31, metrics.pearson):
            same_number(metric(x, y, w), None)
        return
    mx, my, vx, vy, cov = found
    below = vx + vy + (mx - my) ** 2
    same_number(metrics.ccc(x, y, w), 2 * cov / below if below else None)
    same_number(metrics.icc31(x, y, w), 2 * cov / (vx + vy) if vx + vy else None)
    same_number(metrics.pearson(x, y, w), float(cov) / math.sqrt(vx * vy) if vx * vy else None)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1.0, 1e160, 1e300])
def test_agreement_does_not_depend_on_the_unit(size: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9), rng.normal(size=9)
    for metric in (metrics.ccc, metrics.icc31, metrics.pearson):
        assert metric(x * size, y * size) == pytest.approx(metric(x, y), rel=1e-9)


def test_agreement_of_columns_is_that_of_each() -> None:
    rng = np.random.default_rng(1)
    x, y, w = rng.integers(0, 4, (12, 5)), rng.integers(0, 4, (12, 5)), rng.integers(0, 3, 12)
    x[:, 2], y[:, 3] = 1, 2
    for metric in (metrics.ccc, metrics.icc31, metrics.pearson):
        each = [float(metric(x[:, i], y[:, i], w)) for i in range(5)]
        np.testing.assert_allclose(metric(x, y, w), each, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- classes


@SMALL
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3)), max_size=20))
def test_counts_of_classes_and_what_follows_from_them(rows: list[tuple[int, int, int]]) -> None:
    """Truth 3 and 4 are left out by `ignore`, the latter after being called 3."""
    truth, guess, weight = columns(rows)
    truth = np.where(truth >= 3, 3, truth)
    m = metrics.confusion(truth, guess, 3, 3, weight)
    kept = [(t, g, w) for t, g, w in zip(truth.tolist(), guess.tolist(), weight.tolist(), strict=True) if t != 3]
    for a in range(3):
        for b in range(3):
            assert m[a, b] == sum(w for t, g, w in kept if (t, g) == (a, b))
    total = int(sum(w for *_, w in kept))
    same_number(metrics.accuracy(m), share(int(sum(w for t, g, w in kept if t == g)), total))
    f1, recall = [], []
    for c in range(3):
        tp = int(sum(w for t, g, w in kept if t == g == c))
        occurs, said = int(sum(w for t, _, w in kept if t == c)), int(sum(w for _, g, w in kept if g == c))
        f1.append(share(2 * tp, occurs + said))
        recall += [share(tp, occurs)] if occurs else []
        same_number(metrics.f1_from_confusion(m)[c], f1[-1])
    defined = [one for one in f1 if one is not None]
    same_number(metrics.macro_f1(m), sum(defined) / len(defined) if defined else None)  # type: ignore[arg-type]
    same_number(metrics.balanced_accuracy(m), sum(recall) / len(recall) if recall else None)  # type: ignore[arg-type]


@SMALL
@given(st.lists(st.tuples(*[st.lists(st.booleans(), min_size=3, max_size=3)] * 3), max_size=8))
def test_counts_of_attributes(rows: list[tuple[list[bool], list[bool], list[bool]]]) -> None:
    truth, guess, known = (np.array([row[i] for row in rows], bool).reshape(len(rows), 3) for i in range(3))
    counts = metrics.binary_confusions(truth, guess, known)
    for a in range(3):
        for t in (False, True):
            for g in (False, True):
                plain = sum(r[0][a] == t and r[1][a] == g and r[2][a] for r in rows)
                assert counts[a, int(t), int(g)] == plain


@pytest.mark.parametrize("strange", [-1, 2, 9, NAN])
def test_labels_that_are_neither_yes_nor_no_are_refused_and_not_read_as_yes(strange: float) -> None:
    label, score = [1, 0, strange], [0.1, 0.2, 0.3]
    for call in (
        lambda: metrics.auc(score, label),
        lambda: metrics.eer(score, label),
        lambda: metrics.hter(score, label, 0.1),
        lambda: metrics.eer_threshold(score, label),
        lambda: metrics.tar_at_far(score, label, 0.5),
        lambda: metrics.verification_accuracy_10fold(score, label, 2),
        lambda: metrics.binary_confusions([label], [[0, 0, 0]]),
        lambda: metrics.nme(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), 1, [label]),
    ):
        with pytest.raises(ValueError, match="0 and 1"):
            call()
    counted = metrics.binary_confusions([label], [[0, 0, 0]], [[1, 1, 0]])
    assert counted.sum((1, 2)).tolist() == [1, 1, 0]
    assert metrics.auc(score[:2], [1.0, 0.0]) == metrics.auc(score[:2], [True, False]) == 0


def test_weights_of_counts_are_checked() -> None:
    for wrong in ([-1, 1], [np.nan, 1], [1]):
        with pytest.raises(ValueError, match="weight"):
            metrics.confusion([0, 1], [0, 1], 2, weight=wrong)


def test_means_of_what_is_defined() -> None:
    assert metrics.defined_mean([1, NAN, 3]) == 2
    assert metrics.defined_mean([math.inf]) == math.inf == metrics.defined_mean([math.inf, 1])
    assert math.isnan(metrics.defined_mean([]))
    assert math.isnan(metrics.defined_mean([NAN, NAN]))


# ---------------------------------------------------------------------------------------------------- points, poses


@SMALL
@given(st.data())
def test_normalised_errors_by_loops(data: st.DataObject) -> None:
    n, k = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    number = st.integers(-5, 5).map(float)
    points = st.lists(st.tuples(number, number), min_size=k, max_size=k)
    guess, truth = (data.draw(st.lists(points, min_size=n, max_size=n)) for _ in range(2))
    by = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    seen = data.draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=n, max_size=n))
    shape = (n, k, 2)
    found = metrics.nme(
        np.array(guess).reshape(shape), np.array(truth).reshape(shape), by, np.array(seen, bool).reshape(n, k)
    )
    assert found.shape == (n,)
    for i in range(n):
        off = [math.dist(g, t) for g, t, s in zip(guess[i], truth[i], seen[i], strict=True) if s]
        same_number(found[i], sum(off) / len(off) / by[i] if off and by[i] else None)


def test_errors_that_are_none_are_refused() -> None:
    zero = np.zeros((1, 2, 2))
    with pytest.raises(ValueError, match="infinite"):
        metrics.nme(zero, zero, [math.inf])
    with pytest.raises(ValueError, match="negative"):
        metrics.error_auc_fr([0.1, -0.1])
    for threshold in (0, -1, math.inf, NAN):
        with pytest.raises(ValueError, match="threshold"):
            metrics.error_auc_fr([0.1], threshold)
    for angles in (np.zeros((2, 4)), np.zeros((2, 2)), np.zeros(3)):
        with pytest.raises(ValueError, match="angles"):
            metrics.euler_mae_degrees(angles, angles)
        with pytest.raises(ValueError, match="angles"):
            metrics.rotation_matrices(angles)


@SMALL
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=12), st.integers(1, 5))
def test_the_error_curve_by_its_steps(rows: list[tuple[int, int]], threshold: int) -> None:
    """The area under CED(e) = share of faces with error <= e, summed over the steps between whole errors."""
    total = sum(w for _, w in rows)
    area, failed = metrics.error_auc_fr([float(e) for e, _ in rows], threshold, [w for _, w in rows])
    if not total:
        assert math.isnan(area)
        assert math.isnan(failed)
        return
    steps = sum(Fraction(sum(w for e, w in rows if e <= step), total) for step in range(threshold))
    same_number(area, steps / threshold)
    same_number(failed, Fraction(sum(w for e, w in rows if e > threshold), total))


@SMALL
@given(st.lists(st.tuples(st.integers(-400, 400), st.integers(-400, 400), st.integers(0, 2)), max_size=6))
def test_angles_the_short_way_round_by_trying_turns(rows: list[tuple[int, int, int]]) -> None:
    guess, truth, weight = columns(rows)
    total = sum(w for *_, w in rows)
    way = [min(abs(g - t + 360 * k) for k in range(-3, 4)) for g, t, _ in rows]
    found = metrics.euler_mae_degrees(np.repeat(guess[:, None], 3, 1), np.repeat(truth[:, None], 3, 1), weight)
    plain = share(sum(d * w for d, (_, _, w) in zip(way, rows, strict=True)), total)
    for one in found:
        same_number(one, plain)


def test_a_face_without_weight_may_have_no_pose() -> None:
    poses = np.array([[1.0, 2, 3], [NAN, 0, 0]])
    assert metrics.euler_mae_degrees(poses, np.zeros((2, 3)), [1, 0]).tolist() == [1, 2, 3]
    assert np.isnan(metrics.euler_mae_degrees(poses, np.zeros((2, 3))))[0]


angle = st.floats(-180, 180, allow_nan=False)
poses = st.lists(st.tuples(angle, st.floats(-90, 90), angle), min_size=1, max_size=4)


@SMALL
@given(poses, poses)
def test_the_angle_between_poses_is_that_of_their_quaternions(one: list, other: list) -> None:
    from scipy.spatial.transform import Rotation

    n = min(len(one), len(other))
    a, b = (
        Rotation.from_euler("YXZ", np.array(each[:n]) * [1, -1, -1], degrees=True).as_quat() for each in (one, other)
    )
    close, apart = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
    plain = np.degrees(4 * np.arctan2(np.minimum(close, apart), np.maximum(close, apart)))
    found = metrics.geodesic_degrees(one[:n], other[:n])
    np.testing.assert_allclose(found, plain, atol=3e-6)
    back = metrics.rotation_matrices(metrics.euler_degrees(metrics.rotation_matrices(one)))
    np.testing.assert_allclose(back, metrics.rotation_matrices(one), atol=1e-4)


# ---------------------------------------------------------------------------------------------------- templates


@SMALL
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=8), st.booleans())
def test_templates_by_loops(rows: list[tuple[int, int, int]], normed: bool) -> None:
    """(template, medium, weight) of images whose features are small whole numbers, some of them zero."""
    x = np.array([[i % 3 - 1, i % 2, (i * 7) % 5 - 2] for i in range(len(rows))], float).reshape(len(rows), 3)
    template, media, weight = columns(rows)
    pooled, ids = metrics.template_pool(x, template, media, weight=weight, use_norm=normed)
    assert ids.tolist() == sorted(set(template.tolist()))
    for t, vector in zip(ids.tolist(), pooled, strict=True):
        total = np.zeros(3)
        for m in {row[1] for row in rows if row[0] == t}:
            own = [i for i, row in enumerate(rows) if row[:2] == (t, m)]
            for i in own:
                length = math.sqrt((x[i] ** 2).sum())
                unit = x[i] if normed else x[i] / length if length else np.zeros(3)
                total += rows[i][2] * unit / len(own)
        length = math.sqrt((total**2).sum())
        if length < 1e-12:
            assert np.abs(vector).max() < 1.0 + 1e-9
            continue
        np.testing.assert_allclose(vector, total / length, atol=1e-9)
