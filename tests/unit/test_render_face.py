"""Rendered faces: the same bytes always, and labels that agree with the pixels and with one another."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from render_world import NOTHING_BEFORE, PLAIN, at_angles, head_model

from fusiform.faces import align
from fusiform.faces.labelled import align_labelled
from fusiform.faces.schemes import to_five
from fusiform.metrics import euler_degrees
from fusiform.render import FaceLabels, RenderedFace, encode, face, load_geometry, preset
from fusiform.render.camera import rotation
from fusiform.render.chart import chart_of
from fusiform.render.dials import Dials, Expression, Occluders, People
from fusiform.render.geometry import Body, Geometry, Part
from fusiform.render.makehuman import macro_names, macro_weights

SIZE = 96


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return head_model()


def digest(seed: int, index: int, size: int = 64, template: str | None = None) -> str:
    jpeg, png, labels = encode(face(seed, index, preset("stress"), 20, size, load_geometry(), template))
    return hashlib.sha256(jpeg + png + json.dumps(labels, sort_keys=True).encode()).hexdigest()


def class_at(rendered: RenderedFace, points: np.ndarray) -> set[int]:
    rows, columns = np.clip(points[:, 1].astype(int), 0, SIZE - 1), np.clip(points[:, 0].astype(int), 0, SIZE - 1)
    return set(rendered.parsing[rows, columns].tolist())


def shown(dials: Dials, geometry: Geometry, index: int = 0, seed: int = 1) -> RenderedFace:
    return face(seed, index, dials, 40, SIZE, geometry)


def test_the_same_image_in_any_order_and_in_another_process(geometry: Geometry) -> None:
    forwards = [digest(9, i) for i in range(8)]
    backwards = [digest(9, i) for i in reversed(range(8))][::-1]
    assert forwards == backwards
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(digest, [9] * 8, range(8), timeout=300)) == forwards
    assert len(set(forwards)) == 8
    assert digest(10, 0) != forwards[0]


def test_points_lie_on_what_they_are_named_after(geometry: Geometry) -> None:
    for index in range(12):
        rendered = shown(PLAIN, geometry, index)
        p = rendered.labels.landmarks[:, :2]
        assert class_at(rendered, p[36:42].mean(0)[None]) == {5}  # the subject's right eye is on the viewer's left
        assert class_at(rendered, p[42:48].mean(0)[None]) == {4}
        assert class_at(rendered, p[[28, 29, 30]]) == {2}
        assert 7 in class_at(rendered, p[17:22] + np.array([0, 1.0]))
        assert 6 in class_at(rendered, p[22:27] + np.array([0, 1.0]))
        assert class_at(rendered, (p[[51, 62]].mean(0))[None]) <= {11, 10}
        assert class_at(rendered, (p[[57, 66]].mean(0))[None]) <= {12, 10}
        assert class_at(rendered, p[8][None] + np.array([0, 4.0])) <= {17, 18, 1}
        assert p[0, 0] < p[36, 0] < p[39, 0] < p[42, 0] < p[45, 0] < p[16, 0]


def test_every_plain_face_shows_all_parts(geometry: Geometry) -> None:
    for index in range(6):
        counts = np.bincount(shown(PLAIN, geometry, index).parsing.ravel(), minlength=19)
        assert (counts[[0, 1, 2, 4, 5, 6, 7, 11, 12, 13, 17, 18]] > 0).all(), counts


def test_all_points_of_a_plain_face_are_visible(geometry: Geometry) -> None:
    visible = np.mean([shown(PLAIN, geometry, i).labels.landmarks[:, 2] for i in range(8)], axis=0)
    assert visible[17:].min() > 0.85
    assert visible[:17].mean() > 0.85


def test_pose_turns_the_face_as_the_label_says(geometry: Geometry) -> None:
    def nose_from_eyes(dials: Dials) -> np.ndarray:
        p = shown(dials, geometry).labels.landmarks[:, :2]
        return (p[30] - p[36:48].mean(0)) / SIZE

    frontal = nose_from_eyes(at_angles())
    assert nose_from_eyes(at_angles(yaw=25))[0] > frontal[0] + 0.03
    assert nose_from_eyes(at_angles(pitch=20))[1] < frontal[1] - 0.02
    p = shown(at_angles(roll=20), geometry).labels.landmarks
    assert p[42:48, 1].mean() > p[36:42, 1].mean() + 2  # clockwise: the viewer's right eye sinks


def test_far_points_are_hidden_when_the_head_turns(geometry: Geometry) -> None:
    seen = shown(at_angles(yaw=65), geometry).labels.landmarks[:, 2]
    assert seen[:8].mean() > 0.6  # turned to the subject's left, their right cheek faces us
    assert seen[9:17].mean() < 0.2


def test_a_crop_is_the_aligned_photo(geometry: Geometry) -> None:
    dials = replace(PLAIN, camera=replace(PLAIN.camera, face=(0.45, 0.75), jitter=0.03))
    for index, pose in enumerate([(0, 0, 0), (30, 10, 15), (-50, 0, -20)]):
        turned = replace(at_angles(*pose), camera=dials.camera)
        photo = face(2, index, turned, 9, 240, geometry)
        crop = face(2, index, turned, 9, 80, geometry, "loose")
        image, _, labels = align_labelled(photo.image, photo.parsing, photo.labels.to_dict(), "loose-80")
        np.testing.assert_allclose(crop.labels.landmarks[:, :2], np.array(labels["landmarks"])[:, :2], atol=0.05)
        ours, theirs = crop.labels.to_dict(), labels
        for angle in ("yaw", "pitch", "roll"):
            assert ours["pose"][angle] == pytest.approx(theirs["pose"][angle], abs=0.05)
            assert ours["photo_pose"][angle] == pytest.approx(pose[("yaw", "pitch", "roll").index(angle)], abs=1e-3)
        skin = (crop.parsing > 0) & (
            crop.parsing < 13
        )  # the background is drawn behind the crop, hair has detail below a pixel
        alike = np.corrcoef(crop.image[skin].ravel().astype(float), image[skin].ravel().astype(float))[0, 1]
        assert alike > 0.9, alike


def test_the_five_points_of_a_crop_fit_the_template(geometry: Geometry) -> None:
    crop = face(0, 3, PLAIN, 9, 80, geometry, "loose")
    placement = align.place(to_five(crop.labels.landmarks[:, :2], "ibug-68"), align.template("loose-80"))
    np.testing.assert_allclose(placement.matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-3)


def only(**probability: float) -> Dials:
    return replace(PLAIN, occluders=replace(NOTHING_BEFORE, **probability))


def test_a_mask_hides_the_mouth_and_nothing_above_it(geometry: Geometry) -> None:
    for index in range(4):
        rendered = shown(only(mask=1.0), geometry, index)
        seen = rendered.labels.landmarks[:, 2]
        assert seen[48:].sum() == 0
        assert seen[36:48].mean() > 0.9
        assert not {11, 12} & set(np.unique(rendered.parsing))
        assert rendered.labels.occlusion["mask"]


def test_sunglasses_hide_the_eyes_and_are_labelled(geometry: Geometry) -> None:
    for index in range(4):
        rendered = shown(only(sunglasses=1.0), geometry, index)
        assert rendered.labels.landmarks[36:48, 2].sum() <= 2  # an inner corner may lie beside a small lens
        assert (rendered.parsing == 3).sum() > 150
        assert rendered.labels.attrs["sunglasses"]


def test_clear_glasses_do_not_hide_the_eyes(geometry: Geometry) -> None:
    dials = replace(PLAIN, people=replace(PLAIN.people, glasses=1.0))
    wearing = [r for r in (shown(dials, geometry, i) for i in range(8)) if r.labels.attrs["glasses"]]
    assert len(wearing) >= 4
    assert np.mean([r.labels.landmarks[36:48, 2].mean() for r in wearing]) > 0.8
    assert all((r.parsing == 3).any() for r in wearing)


@pytest.mark.parametrize(("occluder", "label"), [("hat", 14), ("headscarf", 14), ("scarf", 18)])
def test_worn_things_have_their_class(geometry: Geometry, occluder: str, label: int) -> None:
    for index in range(4):
        rendered = shown(only(**{occluder: 1.0}), geometry, index)
        assert (rendered.parsing == label).sum() > 100
        if occluder == "headscarf":
            assert (rendered.parsing == 13).sum() == 0


def test_a_hand_hides_points(geometry: Geometry) -> None:
    hidden = [shown(only(hand=1.0), geometry, i).labels.occlusion["hidden_points"] for i in range(10)]
    bare = [shown(PLAIN, geometry, i).labels.occlusion["hidden_points"] for i in range(10)]
    assert np.mean(hidden) > np.mean(bare) + 6


def test_a_block_is_background_and_hides_what_is_beneath(geometry: Geometry) -> None:
    with_block, without = shown(only(block=1.0), geometry), shown(PLAIN, geometry)
    assert with_block.labels.occlusion["block"]
    assert not without.labels.occlusion["block"]
    assert (with_block.parsing == 0).sum() > (without.parsing == 0).sum() + 50
    assert with_block.labels.landmarks[:, 2].sum() < without.labels.landmarks[:, 2].sum()


def test_closed_eyes_and_open_mouths_show(geometry: Geometry) -> None:
    blinking = replace(PLAIN, expression=Expression(classes=("neutral",), free=0.0, blink=1.0, gaze=0.0))
    surprised = replace(PLAIN, expression=Expression(classes=("surprise",), neutral=0.0, free=0.0, blink=0.0, gaze=0.0))
    for index in range(5):
        calm, shut, open_ = (shown(d, geometry, index) for d in (PLAIN, blinking, surprised))
        eyes = [int(np.isin(r.parsing, (4, 5)).sum()) for r in (calm, shut)]
        assert eyes[1] < 0.6 * eyes[0]
        if shut.labels.au["AU45"] > 3:
            assert shut.labels.attrs["eyes_closed"]
        p = open_.labels.landmarks
        assert p[66, 1] - p[62, 1] > 1.0
        assert open_.labels.attrs["mouth_open"]
        assert open_.labels.expression == "surprise"


def test_one_person_keeps_their_face_and_changes_their_looks(geometry: Geometry) -> None:
    dials = preset("recognition")
    images = [face(4, 7 + 30 * k, dials, 30, 48, geometry) for k in range(8)]
    attrs = [i.labels.attrs for i in images]
    assert {i.labels.person for i in images} == {7}
    for fixed in ("skin_tone", "eye_color", "masculine"):
        assert len({a[fixed] for a in attrs}) == 1
    ages = [a["age"] for a in attrs]
    assert 0 < max(ages) - min(ages) <= 2 * dials.people.age_within
    assert len({i.labels.light["kind"] for i in images}) > 1


def test_people_differ_in_shape_more_than_years_do(geometry: Geometry) -> None:
    r = np.random.default_rng(0)
    local = r.standard_normal((6, geometry.local_size))
    body = Body(0.5, 40.0, 0.5, 0.5, (0.3, 0.3, 0.4))
    skin = np.unique(geometry.head.triangles[geometry.head.part == Part.SKIN])
    shapes = [geometry.shape(body, z)[skin] for z in local]
    older = geometry.shape(replace(body, years=46.0), local[0])[skin]
    apart = min(float(np.linalg.norm(shapes[0] - s, axis=1).mean()) for s in shapes[1:])
    assert apart > 2 * float(np.linalg.norm(shapes[0] - older, axis=1).mean())
    again = geometry.shape(body, local[0])[skin]
    np.testing.assert_array_equal(again, shapes[0])


def test_no_child_shape_is_known() -> None:
    assert not [n for n in macro_names() if "child" in n or "baby" in n]
    youngest = macro_weights(Body(0.3, 5.0, 0.5, 0.5, (0.2, 0.3, 0.5)))
    assert set(youngest) <= set(macro_names())
    assert all("young" in n for n in youngest)


def test_macro_weights_sum_to_one_in_each_family() -> None:
    w = macro_weights(Body(0.3, 61.0, 0.7, 0.2, (0.2, 0.3, 0.5)))
    assert sum(v for n, v in w.items() if n.startswith("universal")) == pytest.approx(1)
    assert sum(v for n, v in w.items() if not n.startswith("universal")) == pytest.approx(1)


def test_labels_are_plain_json_with_the_agreed_names(geometry: Geometry) -> None:
    labels: FaceLabels = face(0, 0, preset("pretrain"), 10, 64, geometry).labels
    values = json.loads(json.dumps(labels.to_dict(), allow_nan=False))
    assert set(values) == {
        "person", "landmarks", "pose", "au", "expression", "valence", "arousal", "gaze", "attrs", "occlusion",
        "light", "camera",
    }  # fmt: skip
    assert len(values["landmarks"]) == 68
    assert len(values["au"]) >= 14
    assert len(values["attrs"]) >= 14
    assert set(values["pose"]) == {"yaw", "pitch", "roll"}


def test_the_chart_finds_surface_points_where_they_were_charted(geometry: Geometry) -> None:
    head = geometry.head
    chart = chart_of(head)
    at = chart.points[[17, 24, 29, 8, 31]]
    index, weight = chart.embed(head, at[:, 0], at[:, 1])
    found = np.einsum("kj,kjd->kd", weight, head.vertices[index])
    expected = head.points(head.vertices)[[17, 24, 29, 8, 31]]
    assert np.linalg.norm(found - expected, axis=1).max() < 0.35  # centimetres; a texel is under 1 mm high


def test_rotation_labels_can_be_read_back() -> None:
    angles = np.array([[33.0, -14.0, 9.0]])
    np.testing.assert_allclose(euler_degrees(np.array([rotation(*a) for a in angles])), angles, atol=1e-6)


def test_unusual_people_render(geometry: Geometry) -> None:
    extreme = replace(
        PLAIN,
        people=People(hair_styles=("locs", "bun", "afro", "wavy"), age=(80.0, 88.0), shape_spread=1.6, beards=1.0),
        occluders=Occluders(0.5, 0.3, 0.5, 0.5, 0.1, 0.3, 0.5),
    )
    for index in range(10):
        rendered = shown(extreme, geometry, index)
        assert np.isfinite(rendered.labels.landmarks).all()
        assert rendered.image.std() > 10


def test_unknown_occluders_cannot_be_asked_for() -> None:
    with pytest.raises(TypeError):
        Occluders(umbrella=1.0)  # type: ignore[call-arg]
