"""From assembled geometry to a picture and its labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusiform.faces import align
from fusiform.faces.align import Placement
from fusiform.faces.labelled import turned_pose
from fusiform.faces.schemes import to_five
from fusiform.render.assembly import Assembly, Joined
from fusiform.render.backdrop import backdrop
from fusiform.render.camera import View, place
from fusiform.render.chart import Chart, chart_of
from fusiform.render.dials import Dials
from fusiform.render.expression import Expressed
from fusiform.render.film import Exposure, develop, draw_exposure
from fusiform.render.geometry import Head
from fusiform.render.hair import CENTRE
from fusiform.render.labels import FaceLabels, RenderedFace
from fusiform.render.light import Lighting, shadow_map
from fusiform.render.look import Look
from fusiform.render.paint import CLOTH, FACE, NECK, NOSE, SkinPaint
from fusiform.render.person import Person
from fusiform.render.props import FRAME, Lens, cover_with_block, tint_lenses
from fusiform.render.raster import Buffers
from fusiform.render.shade import View as ShadeView
from fusiform.render.shade import box, even_blocks, fill_blocks, majority, shade
from fusiform.render.types import F32, F64, U8, Bool

SAMPLES = 2
"""Samples per pixel and axis."""
NEARER = 1.0
"""A point is hidden when something is nearer to the camera by this many centimetres."""
LEFT_BROW_POINTS = range(22, 27)
Stream = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Subject:
    """Who is in the picture and what they do."""

    head: Head
    vertices: F32
    """Head space, with expression (N, 3)."""
    turn: F32
    person: Person
    look: Look
    expressed: Expressed


def place_crop(subject: Subject, view: View, size: int, template: str) -> Placement:
    """Where the crop of a template family lies in the photo of side `size`, from the exact points."""
    points = view.project(_point_positions(subject, view), size)[:, :2]
    return align.place(to_five(points, "ibug-68"), align.template(template, size))


def finish(
    assembly: Assembly, stream: Stream, subject: Subject, view: View, lighting: Lighting, lenses: list[Lens],
    dials: Dials,
    size: int, placement: Placement | None,
) -> RenderedFace:  # fmt: skip
    side = size * SAMPLES
    joined = assembly.joined()
    buffers = joined.rasterise(view.project(joined.position, side), side)
    radiance, classes = _shaded(joined, buffers, subject, view, lighting, side)
    exposed = _exposure(radiance, classes, subject.person) * float(stream("meter").uniform(0.85, 1.2))
    background, behind = backdrop(stream("background"), dials.backgrounds, side)
    picture = np.where((buffers.triangle >= 0)[..., None], radiance * np.float32(exposed), behind)
    shielded = tint_lenses(picture, classes, buffers.depth, lenses, view, side)
    blocked = cover_with_block(stream("block"), picture, classes, dials.occluders.block)
    parsing = np.zeros((size, size), np.uint8)
    majority(classes, SAMPLES, parsing)
    exposure = draw_exposure(stream("exposure"), dials.film)
    small = np.empty((size, size, 3), np.float32)
    box(np.asarray(picture, np.float32), SAMPLES, small)
    image = develop(stream("film"), small, exposure, dials.film.white_balance)
    landmarks = _landmarks(subject, view, buffers.depth, shielded | blocked | _foreign(joined, buffers), size)
    labels = _labels(subject, view, lighting, landmarks, parsing, exposure, background, bool(blocked.any()), placement)
    return RenderedFace(image, parsing, labels, exposure.quality)


def _shaded(
    joined: Joined, buffers: Buffers, subject: Subject, view: View, lighting: Lighting, side: int
) -> tuple[F32, U8]:
    head, look = subject.head, subject.look
    chart = chart_of(head)
    centre = place(CENTRE[None], view, np.ones(1, np.float32))[0].astype(np.float64)
    depth, frame = np.zeros((1, 1), np.float32), np.zeros((3, 4), np.float32)
    if lighting.shadow > 0:
        depth, frame = shadow_map(joined.position, joined.casters(), lighting.lights[0], centre)
    radiance = np.zeros((side, side, 3), np.float32)
    classes, skip = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    even_blocks(buffers.triangle, joined.material, joined.label, buffers.depth, skip)
    place_of_head = (float(centre[0]), float(centre[1]), float(centre[2]))
    skin = look.skin._replace(
        mouth_line=float(chart.points[[60, 62, 64, 66], 1].mean()), pixel=view.pixel(side // SAMPLES)
    )
    shade(
        buffers.triangle, buffers.bary, joined.all_triangles(), joined.position, joined.normal, joined.attributes,
        joined.material,
        joined.label, skin, look.eyes, look.hair, look.beard_paint, look.cloth,
        ShadeView(*place_of_head, lighting.shadow, look.teeth, 0.45), chart.masks, chart.jaw, brow_curve(chart),
        lighting.harmonics, lighting.lights, depth, frame, skip, radiance, classes,
    )  # fmt: skip
    fill_blocks(skip, radiance, classes)
    return radiance, classes


def brow_curve(chart: Chart) -> F32:
    """Chart points (5, 2) of the mean brow, inner end first, angles positive."""
    return chart.points[list(LEFT_BROW_POINTS)].astype(np.float32)


def brow_points(chart: Chart, skin: SkinPaint) -> F64:
    """Chart coordinates (10, 2) of points 17 to 26 on this person's brows, as `paint.brow_cover` draws them."""
    curve = brow_curve(chart).astype(np.float64)
    angle = curve[0, 0] + (curve[:, 0] - curve[0, 0]) * skin.brow_length
    t = (angle - curve[0, 0]) / ((curve[4, 0] - curve[0, 0]) * skin.brow_length)
    y = np.interp(angle, curve[:, 0], curve[:, 1]) + skin.brow_tilt * (t - 0.4)
    y += skin.brow_arch * np.sin(np.pi * np.minimum(1, t * 0.95)) * 0.8
    left = np.stack([angle, y], 1)
    return np.concatenate([left[::-1] * np.array([-1, 1]), left])


def _exposure(radiance: F32, classes: U8, person: Person) -> float:
    """Scale that puts the face where a camera would; dark skin stays darker than light skin."""
    skin = (classes == FACE) | (classes == NOSE) | (classes == NECK)
    level = float(radiance[skin].mean()) if skin.any() else 0.3
    target = 0.30 * (0.45 + 0.55 * float((person.skin.mean() / 0.36) ** 0.5))
    return target / max(level, 1e-3)


def _point_positions(subject: Subject, view: View) -> F32:
    """The 68 points in camera space; those of the brows lie on the brows this person has."""
    head, chart = subject.head, chart_of(subject.head)
    index, weight = head.point_index.copy(), head.point_weight.copy()
    at = brow_points(chart, subject.look.skin)
    index[17:27], weight[17:27] = chart.embed(head, at[:, 0], at[:, 1])
    placed = place(subject.vertices, view, subject.turn)
    return np.einsum("kj,kjd->kd", weight, placed[index]).astype(np.float32)


def _foreign(joined: Joined, buffers: Buffers) -> Bool:
    """Samples (side, side) where a hat, mask, scarf or hand is in front."""
    material = joined.material[np.maximum(buffers.triangle, 0)]
    return np.asarray((material > CLOTH + FRAME) & (buffers.triangle >= 0))


def _landmarks(subject: Subject, view: View, depth: F32, hidden: Bool, size: int) -> F32:
    points = _point_positions(subject, view)
    screen = view.project(points, size)
    side = depth.shape[0]
    out = np.zeros((68, 3), np.float32)
    out[:, :2] = screen[:, :2]
    for k in range(68):
        x, y = screen[k, 0] * SAMPLES, screen[k, 1] * SAMPLES
        if not (0 <= x < side and 0 <= y < side):
            continue
        row, column = int(y), int(x)
        near = depth[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        farthest = 1 / max(float(near.min()), 1e-6)
        out[k, 2] = float(farthest > 1 / screen[k, 2] - NEARER and not hidden[row, column])
    return out


def _labels(
    subject: Subject, view: View, lighting: Lighting, landmarks: F32, parsing: U8, exposure: Exposure,
    background: str, blocked: bool,
    placement: Placement | None,
) -> FaceLabels:  # fmt: skip
    person, look, expressed = subject.person, subject.look, subject.expressed
    au = expressed.intensity
    points = subject.head.points(subject.vertices)
    gap = float(np.linalg.norm(points[62] - points[66]))
    attrs: dict[str, Any] = {
        "age": round(look.years, 1),
        "skin_tone": round(person.tone) + 1,
        "masculine": bool(person.body.masculine > 0.5),
        "hair_style": "covered" if look.hides_hair else look.style,
        "hair_color": "none" if look.style == "bald" or look.hides_hair else look.hair_colour,
        "bald": look.style == "bald" and not look.hides_hair,
        "bangs": look.style == "fringe" and not look.hides_hair,
        "long_hair": look.style in ("long", "wavy", "bob") and not look.hides_hair,
        "receding_hairline": look.recession > 0.75,
        "beard": look.beard,
        "no_beard": look.beard == "none",
        "glasses": look.glasses,
        "sunglasses": look.sunglasses,
        "hat": look.hat != "none",
        "hat_kind": look.hat,
        "smiling": au["AU12"] > 1.5,
        "mouth_open": gap > 0.55,
        "eyes_closed": au["AU45"] > 3.0,
        "makeup": look.makeup,
        "eye_color": person.eye_colour,
        "wrinkles": round(look.skin.wrinkles, 2),
        "freckles": look.skin.freckles > 0.35,
        "bushy_brows": person.brow[0] > 0.50,
        "heavy": person.body.weight > 0.7,
    }
    occlusion = {
        "hand": look.hand, "mask": look.mask, "scarf": look.scarf, "hat": look.hat, "glasses": look.glasses,
        "sunglasses": look.sunglasses, "block": blocked, "hidden_points": int(68 - landmarks[:, 2].sum()),
    }  # fmt: skip
    key = lighting.lights[0]
    light = {
        "kind": lighting.kind, "azimuth": lighting.key_direction[0], "elevation": lighting.key_direction[1],
        "key_share": lighting.key_share, "shadow": lighting.shadow,
        "color": [float(c) for c in key[3:6] / max(float(key[3:6].mean()), 1e-6)],
    }  # fmt: skip
    camera = {
        "fov": view.fov, "translation_cm": [float(v) for v in view.translation], "focal": view.focal,
        "background": background,
        "stops": exposure.stops, "softness": exposure.softness, "blur": exposure.blur, "motion": exposure.motion,
        "noise": exposure.noise,
        "low_resolution": exposure.factor, "grey": exposure.grey, "quality": exposure.quality,
    }  # fmt: skip
    pose = {"yaw": view.yaw, "pitch": view.pitch, "roll": view.roll}
    return FaceLabels(
        person=person.number,
        landmarks=landmarks,
        pose=pose if placement is None else turned_pose(pose, placement),
        au=au,
        expression=expressed.name,
        valence=expressed.valence,
        arousal=expressed.arousal,
        gaze=expressed.gaze,
        attrs=attrs,
        occlusion=occlusion,
        light=light,
        camera=camera,
        photo_pose=None if placement is None else pose,
        placement=None if placement is None else placement.to_dict(),
    )
