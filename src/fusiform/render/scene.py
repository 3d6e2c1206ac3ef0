"""One rendered face: `face(seed, index, ...)`, a pure function of its arguments."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from fusiform.render.assembly import Assembly, Piece
from fusiform.render.camera import View, draw_view, place
from fusiform.render.chart import chart_of, smooth
from fusiform.render.dials import Dials
from fusiform.render.expression import Expressed, draw_expression, eye_rotation
from fusiform.render.finish import Subject, finish, place_crop
from fusiform.render.geometry import Body, Geometry, Head, Part
from fusiform.render.hair import Growth, grow_beard, grow_hair, scalp_weight, shell
from fusiform.render.labels import RenderedFace
from fusiform.render.light import draw_light
from fusiform.render.look import Look, draw_look
from fusiform.render.paint import (
    BEARD,
    EYE,
    FACE,
    HAIR,
    HAIR_CLASS,
    INNER_MOUTH,
    LASH,
    LEFT_EAR,
    LEFT_EYE,
    MOUTH,
    RIGHT_EAR,
    RIGHT_EYE,
    SKIN,
    TEETH,
    TONGUE,
)  # fmt: skip
from fusiform.render.person import Person, generator, person_of
from fusiform.render.props import draw_props
from fusiform.render.raster import vertex_normals
from fusiform.render.types import F32, F64, I32

PART_MATERIAL = {
    Part.SKIN: (SKIN, FACE), Part.LEFT_EAR: (SKIN, LEFT_EAR), Part.RIGHT_EAR: (SKIN, RIGHT_EAR), Part.MOUTH: (MOUTH,
    INNER_MOUTH),
    Part.TEETH: (TEETH, INNER_MOUTH), Part.TONGUE: (TONGUE, INNER_MOUTH), Part.LASHES: (LASH, FACE),
}  # fmt: skip


def face(
    seed: int, index: int, dials: Dials, people: int, size: int, geometry: Geometry, template: str | None = None
) -> RenderedFace:
    """Image `index` of the world `seed`: person `index % people`, everything else drawn from (seed, index).

    The same arguments give the same pixels and labels in any order and process.

    Args:
        people: how many people the world has.
        size: side of the square picture in pixels.
        template: None for a picture framed like a photo; a family such as "loose" for the crop that aligning that
        photo on its
            exact points would give, rendered directly, without resampling. Pose, points and placement are then the
            crop's.
    """
    number = index % people
    person = person_of(seed, number, dials.people, geometry.local_size)

    def stream(name: str) -> np.random.Generator:
        return generator(seed, index, name)

    look = draw_look(stream("look"), person, dials)
    expressed = draw_expression(stream("expression"), dials.expression)
    view = draw_view(stream("view"), dials.pose, dials.camera)
    lighting = draw_light(stream("light"), dials.light)

    head = geometry.head
    neutral = geometry.shape(
        Body(person.body.masculine, look.years, person.body.weight, person.body.muscle, person.body.ancestry),
        person.local,
    )
    vertices = neutral.copy()
    head.expression.add(vertices, _known(head, expressed.weights))
    vertices = _dressed(head, vertices, look)
    turn = turning(head.vertices)
    subject = Subject(head, vertices, turn, person, look, expressed)
    placement = None if template is None else place_crop(subject, view, size, template)
    if placement is not None:
        (a, b, x), (c, d, y) = placement.matrix
        view = replace(view, frame=((a, b, x / size), (c, d, y / size)))

    assembly = Assembly()
    weight = scalp_weight(head, look.recession)
    _add_head(assembly, head, vertices, view, turn, weight)
    _add_eyes(assembly, head, neutral, expressed, view)
    hidden = look.hides_hair
    if look.style != "bald" and not hidden:
        _add_hair(assembly, stream("hair"), head, neutral, weight, look, person, view)
    if look.beard in ("full", "moustache", "goatee") and not look.mask:
        for growth in grow_beard(
            stream("beard"), head, chart_of(head), vertices, look.beard, look.beard_length, person.texture_seed
        ):
            _add_strands(assembly, growth, view, BEARD, FACE)
    lenses = draw_props(assembly, stream("props"), head, neutral, vertices, look, person, view)
    return finish(assembly, stream, subject, view, lighting, lenses, dials, size, placement)


def turning(at: F32) -> F32:
    """How much vertices (N, 3) of the mean head follow it when it turns: 1 on the head, 0 on the shoulders."""
    return np.asarray(smooth(-17.5, -12.0, at[:, 1] + 0.3 * (at[:, 2] + 2.0)), np.float32)


def _known(head: Head, weights: dict[str, float]) -> F32:
    names = set(head.expression.names)
    return head.expression.weights({n: w for n, w in weights.items() if n in names})


def _dressed(head: Head, vertices: F32, look: Look) -> F32:
    """Lift the shirt a little off the body."""
    at = head.vertices
    height = at[:, 1] + 0.42 * (at[:, 2] + 2.0)
    opening = np.where(at[:, 2] > -9.0, np.maximum(0.0, look.skin.collar_v - np.abs(at[:, 0]) * 0.8), 0.0)
    lift = smooth(0.4, -0.8, height - (look.skin.collar - opening)) * (at[:, 1] < -9)
    return vertices + (vertex_normals(vertices, head.triangles) * (0.55 * lift)[:, None]).astype(np.float32)


def _add_head(assembly: Assembly, head: Head, vertices: F32, view: View, turn: F32, scalp: F32) -> None:
    position = place(vertices, view, turn)
    attributes = np.concatenate([head.vertices, head.occlusion[:, None], head.lip[:, None], scalp[:, None]], 1).astype(
        np.float32
    )
    material, label = _materials(head)
    solid = head.part != Part.LASHES
    assembly.add(Piece(position, attributes, head.triangles[solid], material[solid], label[solid], cull=True))
    lashes = np.nonzero(~solid)[0]
    if len(lashes):
        ids, local = np.unique(head.triangles[lashes], return_inverse=True)
        at = head.vertices[ids]
        strand = np.stack([at[:, 0] * 24 + at[:, 1] * 3, at[:, 2], head.lash[ids]], 1).astype(np.float32)
        assembly.add(
            Piece(position[ids], attributes[ids], local.reshape(-1, 3).astype(np.int32), material[lashes],
            label[lashes],
                  strand=strand, cover=0.5, casts=False)
        )  # fmt: skip


@lru_cache(maxsize=4)
def _materials(head: Head) -> tuple[I32, I32]:
    material, label = np.zeros(len(head.part), np.int32), np.zeros(len(head.part), np.int32)
    for part, (m, c) in PART_MATERIAL.items():
        material[head.part == part], label[head.part == part] = m, c
    return material, label


@lru_cache(maxsize=1)
def _eye_mesh() -> tuple[F64, I32]:
    """Unit directions (V, 3) and triangles of the front of an eyeball; ring 0 is the pole along the gaze."""
    rings, around = 11, 20
    directions = [[0.0, 0.0, 1.0]]
    for k in range(1, rings):
        polar = math.radians(112) * (k / (rings - 1)) ** 1.1
        for j in range(around):
            a = 2 * math.pi * j / around
            directions.append([math.sin(polar) * math.cos(a), math.sin(polar) * math.sin(a), math.cos(polar)])
    triangles = [[0, 1 + j, 1 + (j + 1) % around] for j in range(around)]
    for k in range(rings - 2):
        for j in range(around):
            a, b = 1 + k * around + j, 1 + k * around + (j + 1) % around
            triangles += [[a, a + around, b], [b, a + around, b + around]]
    return np.array(directions), np.array(triangles, np.int32)


def _add_eyes(assembly: Assembly, head: Head, neutral: F32, expressed: Expressed, view: View) -> None:
    directions, triangles = _eye_mesh()
    turned = directions @ eye_rotation(expressed.gaze).T
    centres, radii = head.eyeballs(neutral)
    shade_of_lid = 0.35 + 0.45 * smooth(0.5, -0.15, turned[:, 1]) * smooth(-0.9, -0.2, turned[:, 1])
    zeros = np.zeros(len(directions))
    for centre, radius, label in zip(centres, radii, (LEFT_EYE, RIGHT_EYE), strict=True):
        points = (centre + radius * turned).astype(np.float32)
        attributes = np.column_stack([directions, shade_of_lid, zeros, zeros]).astype(np.float32)
        count = len(triangles)
        assembly.add(
            Piece(place(points, view, np.ones(len(points), np.float32)), attributes, triangles, np.full(count, EYE),
                  np.full(count, label), cull=True, casts=False)
        )  # fmt: skip


def _add_hair(
    assembly: Assembly,
    r: np.random.Generator,
    head: Head,
    neutral: F32,
    weight: F32,
    look: Look,
    person: Person,
    view: View,
) -> None:
    if look.style == "buzz":
        for k in range(3):
            _add_strands(
                assembly,
                shell(head, neutral, weight, 0.12 * (k + 1) + 0.2 * look.hair_length, 0.4 + 0.07 * k),
                view,
                HAIR,
                HAIR_CLASS,
                9.0,
            )
        return
    style, length = look.style, look.hair_length
    if look.hat != "none":
        weight = (weight * smooth(6.5, 4.5, head.vertices[:, 1].astype(np.float64))).astype(np.float32)
        style, length = (
            ("short", 0.3) if style in ("afro", "quiff", "curly", "side-part", "fringe", "bun") else (style, length)
        )
    under = 0.5 if style in ("afro", "curly") else 0.25
    _add_strands(assembly, shell(head, neutral, weight, under, 0.12), view, HAIR, HAIR_CLASS, 3.0)
    for growth in grow_hair(r, head, neutral, style, weight, length, look.part_x, person.texture_seed):
        _add_strands(assembly, growth, view, HAIR, HAIR_CLASS)


def _add_strands(
    assembly: Assembly, growth: Growth, view: View, material: int, label: int, density: float = 1.0
) -> None:
    turn = np.asarray(smooth(-24.0, -11.0, growth.vertices[:, 1].astype(np.float64)), np.float32)
    position = place(growth.vertices, view, turn)
    tangent = np.empty_like(growth.tangents)
    for k in range(3):
        axis = view.rotation[k].astype(np.float32)
        tangent[:, k] = (
            growth.tangents[:, 0] * axis[0] + growth.tangents[:, 1] * axis[1] + growth.tangents[:, 2] * axis[2]
        )
    tone = growth.strand[:, 3]
    depth = 0.42 + 0.58 * np.clip(tone * 1.6, 0, 1)
    zeros = np.zeros(len(position))
    attributes = np.column_stack([growth.strand[:, 0], growth.strand[:, 1], tone, depth, zeros, zeros]).astype(
        np.float32
    )
    count = len(growth.triangles)
    assembly.add(
        Piece(position, attributes, growth.triangles, np.full(count, material), np.full(count, label),
              strand=growth.strand[:, :3], tangent=tangent, cover=growth.cover, density=density)
    )  # fmt: skip
