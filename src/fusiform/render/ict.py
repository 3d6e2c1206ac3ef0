"""The second head: ICT-FaceKit light (MIT, (c) 2020 USC Institute for Creative Technologies), where its file is at
hand.

80 identity modes from Light Stage scans and FACS-like actions under ARKit names. It has no axes for age, gender,
weight or ancestry, so a person's body does not change its shape. The file is `synth/ict_face_light.npz` of the data
folder; it is not on PyPI.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.errors import DataError
from fusiform.render.geometry import Body, Head, Part, ShapeModes, ambient_occlusion
from fusiform.render.types import F32, F64, I32, Bool

POINTS = [
    1225,
    1888,
    1052,
    367,
    1719,
    1722,
    2199,
    1447,
    966,
    3661,
    4390,
    3927,
    3924,
    2608,
    3272,
    4088,
    3443,
    268,
    493,
    1914,
    2044,
    1401,
    3615,
    4240,
    4114,
    2734,
    2509,
    978,
    4527,
    4942,
    4857,
    1140,
    2075,
    1147,
    4269,
    3360,
    1507,
    1542,
    1537,
    1528,
    1518,
    1511,
    3742,
    3751,
    3756,
    3721,
    3725,
    3732,
    5708,
    5695,
    2081,
    0,
    4275,
    6200,
    6213,
    6346,
    6461,
    5518,
    5957,
    5841,
    5702,
    5711,
    5533,
    6216,
    6207,
    6470,
    5517,
    5966,
]
"""Vertices of the 68 points, from ICT-FaceKit's own table."""
EYE_HALF_DISTANCE = 2.889
"""Centimetres; ICT's eyes are set to the distance of the default head's."""
LAST_FACE_VERTEX = 11248
"""Vertices from here up to MOUTH_END line the mouth; those after them are gums, teeth, eyes and lashes."""
MOUTH_END = 13294
MODE_SPREAD = 0.9


@dataclass(frozen=True)
class Ict:
    """`Geometry` over ICT-FaceKit light."""

    head: Head
    modes: ShapeModes
    anchor: I32

    @property
    def local_size(self) -> int:
        return len(self.modes.names)

    def shape(self, body: Body, local: F64) -> F32:
        vertices = self.head.vertices.copy()
        self.modes.add(vertices, (local * MODE_SPREAD).astype(np.float32))
        return vertices - vertices[self.anchor].mean(0)


def load(path: Path) -> Ict:
    """The head from `ict_face_light.npz`.

    Raises:
        DataError: the file is not there.
    """
    if not path.is_file():
        raise DataError(
            f"There is no ICT-FaceKit file at '{path}'",
            expected="ict_face_light.npz",
            do="set FUSIFORM_DATA to the folder that holds synth/, or use the geometry 'makehuman'",
        )
    with np.load(path) as data:
        return _unpack({k: data[k] for k in data.files}, hashlib.sha256(path.read_bytes()).hexdigest()[:16])


def _unpack(d: dict[str, Any], key: str) -> Ict:
    corners, names = d["fv"], [str(m) for m in d["mats"]]
    material = np.array(names)[d["mat"]]
    uv = np.mod(d["uv"][d["ft"]], 1.0)
    lining = (corners.min(1) >= LAST_FACE_VERTEX) & (corners.max(1) < MOUTH_END)
    part = np.full(len(corners), -1)
    part[np.isin(material, ("M_Face", "M_BackHead"))] = Part.SKIN
    part[lining | ((material == "M_BackHead") & (corners.max(1) >= LAST_FACE_VERTEX))] = Part.MOUTH
    part[material == "M_GumsTongue"] = Part.MOUTH
    part[material == "M_Teeth"] = Part.TEETH
    part[material == "M_EyeLashes"] = Part.LASHES
    ear = (material == "M_Face") & ((uv[..., 1] > 0.42) & (uv[..., 1] < 0.72)).all(1)
    side = d["neutral"][corners][..., 0].mean(1)
    part[ear & (uv[..., 0] > 0.915).all(1) & (side > 0)] = Part.LEFT_EAR
    part[ear & (uv[..., 0] < 0.085).all(1) & (side < 0)] = Part.RIGHT_EAR
    balls = [np.unique(corners[material == f"M_Sclera{s}"]) for s in ("Left", "Right")]

    keep = part >= 0
    used = np.unique(np.concatenate([corners[keep].ravel(), *balls]))
    new = np.full(len(d["neutral"]), -1, np.int32)
    new[used] = np.arange(len(used))
    anchor = new[np.concatenate(balls)]
    middle = d["neutral"][np.concatenate(balls)].mean(0)
    scale = EYE_HALF_DISTANCE / float(d["neutral"][balls[0]][:, 0].mean())
    vertices = ((d["neutral"][used] - middle) * scale).astype(np.float32)
    triangles, part = new[corners[keep]], part[keep].astype(np.int32)
    everything = np.arange(len(used), dtype=np.int32)

    def deltas(kind: str, row: int) -> F32:
        return (d[kind][row][used].astype(np.float32) * np.float32(d[f"{kind}_scale"][row] * scale)).astype(np.float32)

    modes = ShapeModes.of([(f"scan-{i}", everything, deltas("ID", i)) for i in range(len(d["ID"]))])
    actions: dict[str, F32] = {}
    for row, name in enumerate(str(n) for n in d["names"]):
        arkit = name.replace("_L", "Left").replace("_R", "Right")
        if arkit.startswith(("browInnerUp", "cheekPuff")):
            arkit = arkit.removesuffix("Left").removesuffix("Right")
        if not arkit.startswith("PupilDilate"):
            actions[arkit] = actions.get(arkit, np.float32(0.0)) + deltas("EX", row)
    expression = ShapeModes.of([_sparse(name, delta) for name, delta in actions.items()])
    index = np.repeat(new[np.array(POINTS)][:, None], 3, 1).astype(np.int32)
    weight = np.tile(np.array([1, 0, 0], np.float32), (68, 1))
    lips = _inside(vertices, vertices[index[48:60, 0]][:, :2].astype(np.float64)) & (vertices[:, 2] > -3.5)
    lip = np.zeros(len(used), np.float32)
    lip[np.unique(triangles[part == Part.SKIN])] = 1
    lip *= lips
    lashes = np.unique(triangles[part == Part.LASHES])
    rim = vertices[index[36:48, 0]]
    distance = np.linalg.norm(vertices[lashes][:, None] - rim[None], axis=2).min(1)
    lash = np.zeros(len(used), np.float32)
    lash[lashes] = np.clip(1 - distance / 1.1, 0.1, 1) * np.where(vertices[lashes, 1] > 0, 1.0, 0.22)
    solid = triangles[part != Part.LASHES]
    head = Head(
        "ict", key, vertices, triangles, part, expression, index, weight, (new[balls[0]], new[balls[1]]), lip, lash,
        ambient_occlusion(vertices, solid, directions=48), float(vertices[:, 1].min()),
    )  # fmt: skip
    return Ict(head, modes, anchor)


def _sparse(name: str, delta: F32) -> tuple[str, I32, F32]:
    moved = np.nonzero(np.abs(delta).max(1) > 1e-4)[0].astype(np.int32)
    return name, moved, delta[moved]


def _inside(points: F32, polygon: F64) -> Bool:
    """Whether the frontal projection of each point (N, 3) lies in a polygon (K, 2): even-odd rule."""
    x, y = points[:, 0], points[:, 1]
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0 if y1 != y0 else 1e-9) + x0)
    return inside
