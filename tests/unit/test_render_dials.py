"""Dials, people, expressions, pose and light: what is drawn, and that it depends on nothing but its arguments."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from fusiform.errors import ConfigError
from fusiform.metrics import rotation_matrices
from fusiform.render import Dials, preset, to_lapa
from fusiform.render.camera import View, draw_view, rotation
from fusiform.render.dials import EXPRESSIONS, Expression, Light, People, Pose
from fusiform.render.expression import ACTIONS, PROTOTYPES, Expressed, draw_expression, eye_rotation, nearest_class
from fusiform.render.light import direction, draw_light
from fusiform.render.person import generator, person_of
from fusiform.render.presets import GAPS, PRESETS
from fusiform.render.sets import split_of


def test_angles_follow_the_projects_convention() -> None:
    ahead, top = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    assert (rotation(30, 0, 0) @ ahead)[0] > 0  # to the subject's left is to the viewer's right
    assert (rotation(0, 30, 0) @ ahead)[1] > 0
    assert (rotation(0, 0, 30) @ top)[0] > 0  # clockwise for the viewer
    angles = np.array([[31.0, -12.0, 8.0], [-70.0, 25.0, -33.0]])
    np.testing.assert_allclose([rotation(*a) for a in angles], rotation_matrices(angles), atol=1e-12)


def test_gaze_has_the_same_signs() -> None:
    look = eye_rotation((20.0, 10.0)) @ np.array([0, 0, 1.0])
    assert look[0] > 0
    assert look[1] > 0


def test_projection_puts_the_optical_axis_in_the_middle_and_up_is_up() -> None:
    still = View(0, 0, 0, 30, np.eye(3), np.eye(3), np.array([0, 0, -50.0]), 2.0)
    p = np.array([[0, 0, -50], [1, 0, -50], [0, 1, -50]], np.float32)
    screen = still.project(p, 100)
    np.testing.assert_allclose(screen[0, :2], 50)
    np.testing.assert_allclose(screen[1, :2], [54, 50])
    np.testing.assert_allclose(screen[2, :2], [50, 46])
    doubled = replace(still, frame=((2.0, 0.0, -0.5), (0.0, 2.0, -0.5)))
    np.testing.assert_allclose(doubled.project(p, 100)[1, :2], [58, 50])


def test_poses_stay_within_their_range_and_wide_ones_fill_it() -> None:
    pose = Pose(yaw=100.0, wide_share=0.5, yaw_range=(-20.0, 40.0), pitch_range=(-5.0, 5.0), pitch=50.0)
    views = [draw_view(generator(i), pose, Dials().camera) for i in range(300)]
    yaw = np.array([v.yaw for v in views])
    assert yaw.min() >= -20
    assert yaw.max() <= 40
    assert np.histogram(yaw, 6, (-20, 40))[0].min() > 10
    assert max(abs(v.pitch) for v in views) <= 5


def test_only_adults() -> None:
    with pytest.raises(ConfigError, match="adults"):
        replace(Dials(), people=People(age=(12.0, 30.0)))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"people": People(hair_styles=("crly",))}, "curly"),
        ({"light": Light(kinds=("studo",))}, "studio"),
        ({"backgrounds": ("clouds", "streat")}, "street"),
        ({"expression": Expression(classes=())}, "neutral"),
    ],
)
def test_unknown_choices_are_refused_with_the_nearest_one(change: dict[str, object], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        replace(Dials(), **change)  # type: ignore[arg-type]


def test_presets_are_found_by_name() -> None:
    assert {"pretrain", "tasks", "recognition", "stress"} == set(PRESETS)
    assert preset("recognition").images_per_person == 10
    with pytest.raises(ConfigError, match="stress"):
        preset("stres")


@pytest.mark.parametrize("name", [n for n in GAPS if n != "none"])
def test_a_gap_differs_in_one_respect(name: str) -> None:
    train, test = GAPS[name]
    differing = [f.name for f in fields(Dials) if getattr(train, f.name) != getattr(test, f.name)]
    assert len(differing) == 1


def test_generators_depend_on_all_parts_and_on_nothing_else() -> None:
    first = generator(3, 17, "look").random(4)
    generator(3, 18, "look").random(100)
    np.testing.assert_array_equal(first, generator(3, 17, "look").random(4))
    for other in ((4, 17, "look"), (3, 18, "look"), (3, 17, "light"), (31, 7, "look")):
        assert not np.array_equal(first, generator(*other).random(4))


def test_a_person_is_drawn_from_seed_and_number_alone() -> None:
    people = People()
    a = person_of(5, 3, people, 50)
    person_of.cache_clear()
    person_of(5, 2, people, 50)
    b = person_of(5, 3, people, 50)
    np.testing.assert_array_equal(a.local, b.local)
    assert (a.tone, a.body, a.styles) == (b.tone, b.body, b.styles)
    assert not np.array_equal(a.local, person_of(6, 3, people, 50).local)


def test_people_cover_the_skin_tones_and_are_adult() -> None:
    everyone = [person_of(0, i, People(), 8) for i in range(400)]
    assert np.histogram([p.tone for p in everyone], 9, (0, 9))[0].min() > 20
    assert min(p.body.years for p in everyone) >= 18
    masculine = np.array([p.body.masculine for p in everyone])
    assert 0.35 < (masculine > 0.5).mean() < 0.65
    brightness = [p.skin.mean() for p in sorted(everyone, key=lambda p: p.tone)]
    assert np.mean(brightness[:50]) > 5 * np.mean(brightness[-50:])


def test_hair_styles_stay_within_those_allowed() -> None:
    people = People(hair_styles=("bun", "afro"))
    assert {s for i in range(60) for s in person_of(1, i, people, 4).styles} == {"bun", "afro"}


def expressed(name: str) -> Expressed:
    au = {a: 5 * PROTOTYPES[name].get(a, 0.0) for a in ACTIONS}
    return Expressed(name, au, {}, (0.0, 0.0))


def test_valence_and_arousal_put_the_prototypes_where_the_circumplex_has_them() -> None:
    happy, sad, surprise, anger, fear = (expressed(n) for n in ("happy", "sad", "surprise", "anger", "fear"))
    assert happy.valence > 0.6
    assert sad.valence < -0.4
    assert anger.valence < -0.4
    assert fear.valence < -0.2
    assert sad.arousal < happy.arousal < surprise.arousal
    assert anger.arousal > 0.3
    assert expressed("neutral").valence == expressed("neutral").arousal == 0


def test_every_prototype_is_nearest_to_itself() -> None:
    for name, shares in PROTOTYPES.items():
        assert nearest_class(shares) == name


def test_expressions_are_drawn_from_all_classes_with_actions_between_0_and_5() -> None:
    drawn = [draw_expression(generator("e", i), Expression()) for i in range(400)]
    assert {e.name for e in drawn} == set(EXPRESSIONS)
    assert len(ACTIONS) >= 14
    for e in drawn:
        assert set(e.intensity) == set(ACTIONS)
        assert all(0 <= v <= 5 for v in e.intensity.values())
        assert all(0 <= w <= 1.05 for w in e.weights.values())
        assert -1 <= e.valence <= 1


def test_contempt_is_on_one_side() -> None:
    dials = Expression(classes=("contempt",), neutral=0.0, free=0.0)
    for i in range(20):
        w = draw_expression(generator("c", i), dials).weights
        left, right = w["mouthSmileLeft"], w["mouthSmileRight"]
        assert max(left, right) > 4 * min(left, right)


def test_lights_come_from_where_they_say() -> None:
    assert direction(90, 0)[0] == pytest.approx(1)
    assert direction(0, 90)[1] == pytest.approx(1)
    assert direction(0, 0)[2] == pytest.approx(1)
    for i in range(60):
        lighting = draw_light(generator("l", i), Light(kinds=("back",)))
        assert lighting.lights[0, 2] < 0  # behind the head


def test_lapa_has_the_other_left() -> None:
    celeba = np.arange(19, dtype=np.uint8)[None]
    lapa = to_lapa(celeba)[0]
    assert lapa[4] == 5  # the subject's left eye is LaPa's right one
    assert lapa[6] == 3
    assert (lapa[11], lapa[10], lapa[12]) == (7, 8, 9)
    assert lapa[13] == 10
    assert to_lapa(np.array([[255]], np.uint8))[0, 0] == 255


@pytest.mark.parametrize("people", [1, 3, 10, 250, 3000])
def test_people_are_split_without_overlap(people: int) -> None:
    splits = [split_of(i, people) for i in range(people)]
    assert splits[0] == "train"
    if people >= 10:
        assert splits.count("test") == round(people * 0.15)
        assert splits.count("val") == round(people * 0.10)
