"""Pictures of what an encoder does, for a report: reconstructions, neighbours, points and parsing drawn on faces.

Faces are chosen by a rule that is written below each picture, never by how they came out. Pictures are made with NumPy
and Pillow; this module needs torch, while showing what it made (`fusiform.report`) does not.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from fusiform.methods.mae_face import MAEFace
from fusiform.nn.patches import patchify, unpatchify
from fusiform.report.pictures import Picture, Tile, load, save
from fusiform.tasks.alignment import OUTER_EYE_CORNERS
from fusiform.tasks.task import Array, Labelled

__all__ = ["alignment", "load", "neighbours", "parsing", "reconstructions", "save"]

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

SHOWN_SIDE = 224
"""Least side of a face in a picture: smaller crops are enlarged by a whole number."""
QUALITY = 88
GAP = 4
HIDDEN = 118
"""Grey of a hidden patch."""
IBUG = 68
TRUE, PREDICTED = (255, 255, 255), (255, 92, 53)


# ------------------------------------------------------------------------------------------ reconstructions


def reconstructions(method: MAEFace, images: Images, seed: int, *, count: int = 9) -> Picture:
    """Faces, what the encoder sees of them, and what the decoder makes of that.

    A model that was trained on normalised patches says nothing about a patch's mean and contrast; to have something to
    look at, those two numbers are taken from the true patch, and the caption says so.

    Args:
        method: encoder and decoder as they were trained.
        images: (N, S, S, 3) or (N, 3, S, S) uint8 with S the encoder's image size; the first `count` are shown.
        seed: of the masks.
    """
    faces = torch.from_numpy(np.ascontiguousarray(_channels_last(images)[:count])).permute(0, 3, 1, 2)
    visible, painted, error = reconstruct(method, faces, seed)
    ratio = 1 - visible.float().mean().item()
    p = method.encoder.config.patch_size
    shown = _upscaled(visible.reshape(len(faces), method.encoder.config.grid, -1).numpy(), p)
    tiles = []
    for i in range(len(faces)):
        original = faces[i].permute(1, 2, 0).numpy()
        seen = np.where(shown[i, ..., None], original, np.uint8(HIDDEN))
        tiles.append(
            Tile(
                _row([_enlarged(original), _enlarged(seen, smooth=False), _enlarged(painted[i])]),
                f"Face {i + 1}: the original, its visible patches, and the reconstruction",
            )
        )
    note = (
        " The model predicts each patch without its mean and contrast; these two are taken from the true patch, so "
        "look at the shapes, not at the brightness."
        if method.norm_pix
        else ""
    )
    return Picture(
        title="Reconstructions of masked faces",
        caption=f"{100 * ratio:.0f} % of the patches are hidden; the decoder paints them from what the encoder saw in "
        f"the rest. Visible patches are pasted back. Squared error on the hidden patches here: {error:.3f}.{note}",
        tiles=tuple(tiles),
        columns=("original", "seen", "painted"),
    )


@torch.inference_mode()
def reconstruct(method: MAEFace, faces: Tensor, seed: int) -> tuple[Tensor, Images, float]:
    """Mask, encode, decode, and put the prediction where the hidden patches were.

    Args:
        faces: (B, 3, S, S) uint8.
        seed: of the masks.

    Returns: (B, N) bool, visible patches; (B, S, S, 3) uint8, visible patches with the painted ones; the method's own
        loss on these faces.
    """
    was_training, home = method.training, next(method.parameters()).device
    method.eval()
    try:
        vit = method.encoder
        patches = vit.patches(faces.to(home))
        mask = method.masker(len(faces), vit.config.patches, seed, home)
        prediction = method.reconstruct(patches, mask).float()
        target = method.target(patches, mask)
        error = (prediction - target).square().mean().item()
        index = mask.drop.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        if method.norm_pix:
            hidden = patches.gather(1, index)
            prediction = prediction * (hidden.var(-1, keepdim=True) + 1e-6).sqrt() + hidden.mean(-1, keepdim=True)
        pixels = prediction.reshape(*prediction.shape[:2], -1, 3) * vit.pixel_std + vit.pixel_mean
        painted = patchify(faces.to(home), vit.config.patch_size).float()
        painted = painted.scatter(1, index, pixels.flatten(-2) * 255)
        whole = unpatchify(painted, vit.config.patch_size).round().clamp(0, 255).to(torch.uint8)
        visible = torch.zeros(len(faces), vit.config.patches, dtype=torch.bool)
        visible.scatter_(1, mask.keep.cpu(), True)
        return visible, whole.permute(0, 2, 3, 1).cpu().numpy(), error
    finally:
        method.train(was_training)


# ------------------------------------------------------------------------------------------ neighbours


def neighbours(
    embedding: Floats,
    images: Images,
    person: Sequence[str] | NDArray[np.str_],
    *,
    title: str = "Nearest neighbours",
    queries: int = 6,
    k: int = 5,
) -> Picture:
    """For some faces, the faces whose embeddings are most similar by cosine; one person's are framed.

    Args:
        embedding: (N, D).
        images: (N, S, S, 3) uint8.
        person: (N,) subject keys; "" where they are not known.
        queries: rows; evenly spaced among the people with more than one face, or among all faces where there are none.
        k: neighbours in a row.
    """
    images, people = _channels_last(images), np.asarray(person)
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    names, first, size = np.unique(people, return_index=True, return_counts=True)
    with_mate = first[(size > 1) & (names != "")]
    known = np.isin(people, people[with_mate])
    pool = np.sort(with_mate) if len(with_mate) else np.arange(len(images))
    chosen = pool[np.linspace(0, len(pool) - 1, min(queries, len(pool))).round().astype(int)]
    k = min(k, len(images) - 1)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    tiles = []
    for query in chosen.tolist():
        same = [bool(known[query] and people[j] == people[query]) for j in nearest[query]]
        row = [_framed(_enlarged(images[query], 112), None)]
        row += [
            _framed(_enlarged(images[j], 112), hit if known[query] else None)
            for j, hit in zip(nearest[query].tolist(), same, strict=True)
        ]
        found = f"{sum(same)} of them show the same person" if known[query] else "people unknown"
        tiles.append(Tile(_row(row), f"A face and its {k} nearest neighbours: {found}"))
    caption = "First in each row a face, then the faces most similar to it by the cosine of their embeddings."
    if known.any():
        hits = people[nearest[known, 0]] == people[known]
        expected = _chance(people, known)
        caption += (
            f" A frame with a tick marks the same person. Over all {int(known.sum()):,} faces that have another of "
            f"their person among the {len(images):,}, the nearest one shows that person in {100 * hits.mean():.0f} % "
            f"(by chance {100 * expected:.1f} %)."
        )
    return Picture(title=title, caption=caption, tiles=tuple(tiles), wide=True)


def _chance(people: NDArray[np.str_], known: NDArray[np.bool_]) -> float:
    """How often a random other face shows the same person."""
    _, inverse, size = np.unique(people, return_inverse=True, return_counts=True)
    return float(((size[inverse[known]] - 1) / (len(people) - 1)).mean())


def _framed(image: Images, same: bool | None) -> Images:
    """The image in a margin: green with a tick where `same`, empty else, so that all are equally large."""
    margin = 6
    side = image.shape[0] + 2 * margin
    canvas = Image.new("RGB", (side, side), (31, 122, 92) if same else (232, 235, 238))
    canvas.paste(Image.fromarray(image), (margin, margin))
    if same:
        draw = ImageDraw.Draw(canvas)
        x, y, r = side - 20, side - 20, 14
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(31, 122, 92), outline=(255, 255, 255), width=2)
        draw.line([(x - 6, y), (x - 2, y + 5), (x + 6, y - 5)], fill=(255, 255, 255), width=3, joint="curve")
    return np.asarray(canvas)


# ------------------------------------------------------------------------------------------ alignment


def alignment(faces: Labelled, prediction: Array, *, count: int = 6, untrained: Array | None = None) -> Picture:
    """True and predicted points on faces, from the smallest to the largest error.

    Args:
        faces: target (N, K, 2) in pixels of the crop, pixel centres at .5.
        prediction: (N, K, 2).
        count: faces shown, evenly spaced in the order of their errors.
        untrained: (N, K, 2): what the untrained encoder's head predicts for the same faces, shown beside it.
    """
    truth, points = np.asarray(faces.target, np.float64), np.asarray(prediction, np.float64)
    side = faces.images.shape[1]
    error = _error(points, truth, side)
    unit = "eye distance" if truth.shape[1] == IBUG else "crop's side"
    rows = _spread(error, count)
    others = [points] if untrained is None else [np.asarray(untrained, np.float64), points]
    tiles = []
    for rank, i in rows:
        panels = [_with_points(faces.images[i], truth[i], guess[i]) for guess in others]
        before = f" (untrained {100 * _error(others[0], truth, side)[i]:.1f} %)" if len(others) > 1 else ""
        label = f"{rank}: {100 * error[i]:.1f} % of the {unit}{before}"
        tiles.append(Tile(_row(panels), f"True and predicted points on a face; error {label}", label))
    return Picture(
        title=f"Alignment on {faces.dataset}",
        caption=f"White: the true points. Orange: what a head on the encoder predicts; lines join the pairs. The faces "
        f"are {len(rows)} of {len(faces):,}, evenly spaced from the smallest to the largest error.",
        tiles=tuple(tiles),
        columns=() if untrained is None else ("untrained", "trained"),
        legend=(("true", "#ffffff"), ("predicted", "#ff5c35")),
    )


def _error(points: NDArray[np.float64], truth: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(N,) mean distance of each face's points from the true ones, as a share of `_length`."""
    return np.asarray(np.linalg.norm(points - truth, axis=-1).mean(-1) / _length(truth, side))


def _length(truth: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(N,) what errors are divided by: the distance of the outer eye corners where they are known, else the side."""
    if truth.shape[1] != IBUG:
        return np.full(len(truth), float(side))
    outer, inner = OUTER_EYE_CORNERS
    return np.asarray(np.linalg.norm(truth[:, outer] - truth[:, inner], axis=-1))


def _with_points(image: Images, truth: Array, guess: Array) -> Images:
    """The face, enlarged and slightly darkened, with both sets of points; drawn at twice the size for smooth lines."""
    scale = _scale(image.shape[0])
    base = (_enlarged(image).astype(np.float32) * 0.8).astype(np.uint8)
    canvas = Image.fromarray(base).resize((2 * base.shape[1], 2 * base.shape[0]), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    factor = 2 * scale
    for (x0, y0), (x1, y1) in zip(truth * factor, guess * factor, strict=True):
        draw.line((x0, y0, x1, y1), fill=PREDICTED, width=2)
    for points, colour, radius in ((truth, TRUE, 4.0), (guess, PREDICTED, 5.0)):
        for x, y in points * factor:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(20, 20, 20), width=1)
    return np.asarray(canvas.resize((base.shape[1], base.shape[0]), Image.Resampling.LANCZOS))


# ------------------------------------------------------------------------------------------ parsing


def parsing(
    faces: Labelled,
    prediction: Array,
    classes: Sequence[str],
    *,
    count: int = 6,
    unlabelled: int = 255,
) -> Picture:
    """True and predicted class maps over faces, from the smallest to the largest share of wrong pixels.

    Args:
        faces: target (N, S, S) class numbers; `unlabelled` does not count and is shown as the bare face.
        prediction: (N, S, S) class numbers.
        classes: name of each class number; CelebAMask-HQ's short names are written out.
        count: faces shown, evenly spaced in the order of their errors.
    """
    truth, guess = np.asarray(faces.target).astype(np.int64), np.asarray(prediction).astype(np.int64)
    counted = truth != unlabelled
    wrong = ((truth != guess) & counted).sum((1, 2)) / np.maximum(counted.sum((1, 2)), 1)
    rows = _spread(wrong, count)
    colours = [PALETTE[c % len(PALETTE)] for c in range(len(classes))]
    tiles, used = [], set()
    for rank, i in rows:
        masked = np.where(counted[i], guess[i], unlabelled)
        panels = [_enlarged(faces.images[i])]
        panels += [_coloured(faces.images[i], labels, colours, unlabelled) for labels in (truth[i], masked)]
        used |= (set(np.unique(truth[i]).tolist()) | set(np.unique(masked).tolist())) - {unlabelled, 0}
        label = f"{rank}: {100 * wrong[i]:.1f} % of the labelled pixels wrong"
        tiles.append(Tile(_row(panels), f"A face, its true parts and the predicted ones, {label}", label))
    gaps = " Pixels without a label are left bare." if (~counted).any() else ""
    return Picture(
        title=f"Parsing on {faces.dataset}",
        caption=f"Which part of the face each pixel shows, left and right as the person has them.{gaps} The faces are "
        f"{len(rows)} of {len(faces):,}, evenly spaced from the smallest to the largest share of wrong pixels.",
        tiles=tuple(tiles),
        columns=("face", "true", "predicted"),
        legend=tuple(
            (CLASS_WORDS.get(classes[c], classes[c]), "#{:02x}{:02x}{:02x}".format(*colours[c])) for c in sorted(used)
        ),
    )


CLASS_WORDS = {
    "eye_g": "glasses",
    "l_eye": "left eye",
    "r_eye": "right eye",
    "l_brow": "left brow",
    "r_brow": "right brow",
    "l_ear": "left ear",
    "r_ear": "right ear",
    "u_lip": "upper lip",
    "l_lip": "lower lip",
    "ear_r": "earring",
    "neck_l": "necklace",
    "cloth": "clothes",
}
"""Left and right are the subject's own."""

PALETTE: tuple[tuple[int, int, int], ...] = (
    (70, 78, 86),  # background
    (240, 200, 160),  # skin
    (255, 140, 60),  # nose
    (110, 110, 200),  # glasses
    (40, 150, 230),  # eyes: left, right
    (20, 90, 190),
    (150, 90, 40),  # brows
    (105, 60, 25),
    (240, 105, 150),  # ears
    (200, 60, 110),
    (130, 20, 60),  # mouth, upper and lower lip
    (225, 40, 60),
    (255, 110, 110),
    (120, 85, 160),  # hair
    (90, 160, 60),  # hat
    (255, 225, 70),  # earring
    (60, 200, 200),  # necklace
    (190, 165, 120),  # neck
    (70, 170, 130),  # cloth
)
"""Colours of the 19 CelebAMask-HQ classes in their order; other schemes take them as they come."""


def _coloured(image: Images, labels: NDArray[np.int64], colours: Sequence[tuple[int, int, int]], bare: int) -> Images:
    """The classes as colours over the grey face; edges stay sharp."""
    if labels.shape[0] != image.shape[0]:
        index = (np.arange(image.shape[0]) + 0.5) * labels.shape[0] / image.shape[0]
        labels = labels[np.ix_(index.astype(int), index.astype(int))]
    scale = _scale(image.shape[0])
    grey = np.asarray(Image.fromarray(_enlarged(image)).convert("L"))[..., None].astype(np.float32)
    table = np.array(colours, np.float32)
    known = (labels != bare) & (labels < len(colours))
    paint = np.kron(table[np.where(known, labels, 0)], np.ones((scale, scale, 1), np.float32))
    where = np.kron(known, np.ones((scale, scale), bool))[..., None]
    mixed = np.where(where, 0.35 * grey + 0.65 * paint, np.repeat(0.9 * grey, 3, axis=-1))
    return mixed.round().astype(np.uint8)


# ------------------------------------------------------------------------------------------ shared


def _channels_last(images: Images) -> Images:
    """(N, S, S, 3), from that or from (N, 3, S, S)."""
    return images.transpose(0, 2, 3, 1) if images.shape[1] == 3 and images.shape[-1] != 3 else images


def _spread(error: NDArray[np.float64], count: int) -> list[tuple[str, int]]:
    """(name of the rank, row) of `count` rows, evenly spaced from the smallest to the largest error."""
    order = np.argsort(error, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    last = len(order) - 1
    names = [
        "smallest" if p == 0 else "largest" if p == last else "median" if p == last // 2 else f"rank {p + 1}"
        for p in places.tolist()
    ]
    return [(name, int(order[p])) for name, p in zip(names, places, strict=True)]


def _scale(side: int, at_least: int = SHOWN_SIDE) -> int:
    return max(1, -(-at_least // side))


def _upscaled(grid: NDArray[np.bool_], scale: int) -> NDArray[np.bool_]:
    """(B, h, h) -> (B, h*scale, h*scale), each value a square."""
    return grid.repeat(scale, axis=1).repeat(scale, axis=2)


def _enlarged(image: Images, at_least: int = SHOWN_SIDE, *, smooth: bool = True) -> Images:
    """By a whole number, so that a pixel of the crop stays where its coordinates say."""
    scale = _scale(image.shape[0], at_least)
    size = (image.shape[1] * scale, image.shape[0] * scale)
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, how))


def _row(images: Sequence[Images]) -> bytes:
    """Equally large images side by side as one JPEG."""
    height, width = images[0].shape[:2]
    canvas = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), (232, 235, 238))
    for i, image in enumerate(images):
        canvas.paste(Image.fromarray(np.ascontiguousarray(image)), (i * (width + GAP), 0))
    out = io.BytesIO()
    canvas.save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()
