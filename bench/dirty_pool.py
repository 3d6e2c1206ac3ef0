"""A pool of dirty photos whose truth is known, for measuring every decision of `curate` (`bench/decisions.py`).

Portraits of the data folder and rendered faces; copies of them that are smaller, cropped, compressed, mirrored, tinted
or grey; spoiled and covered ones; several faces in one picture; pictures without a face; broken and hostile files;
archives. Which portraits, and what happens to them, is drawn from a seed.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Rng = np.random.Generator


@dataclass(frozen=True)
class Truth:
    """What a file of the pool is. `path` is the ledger's name without the source's label."""

    path: str
    kind: str
    base: str = ""
    """The portrait that it is, or is made of."""
    person: str = ""
    faces: int = 1
    expected: tuple[str, ...] = ()
    """Outcomes that are right; empty where it depends on the policy."""


@dataclass(frozen=True)
class Portrait:
    name: str
    person: str
    image: Picture
    box: tuple[float, float, float, float]
    """Roughly where the face is, pixels."""


def portraits(data: Path, rng: Rng) -> list[Portrait]:
    """People of the Congress, London, Olivetti and rendered sets, some with two pictures."""
    found: list[Portrait] = []
    rows = [json.loads(line) for line in (data / "real/congress/labels.jsonl").read_text().splitlines()]
    colour = [row for row in rows if "/a/" in row["image"]]
    for at in sorted(rng.choice(len(colour), 50, replace=False).tolist()):
        row = colour[at]
        image = _read(data / row["image"])
        found.append(Portrait(Path(row["image"]).stem, row["person"], image, tuple(row["box"])))
    london = sorted({p.name.split("_")[0] for p in (data / "real/london/images").glob("*_neutral.jpg")})
    for person in sorted(rng.choice(london, 12, replace=False).tolist()):
        for kind in ("neutral", "smiling"):
            path = data / f"real/london/images/{person}_{kind}.jpg"
            if path.is_file():
                image = _read(path)
                side = image.shape[1]
                box = (0.3 * side, 0.3 * side, 0.7 * side, 0.8 * side)
                found.append(Portrait(f"london{person}{kind}", f"london{person}", image, box))
    with tarfile.open(data / "rendered/val-000.tar") as tar:
        labels = {n: json.load(_member(tar, n)) for n in sorted(tar.getnames()) if n.endswith(".json")}
        good = [n for n, about in labels.items() if max(abs(v) for v in about["pose"][:2]) <= 30]
        for name in sorted(rng.choice(good, 40, replace=False).tolist()):
            data_of = _member(tar, name.replace(".json", ".jpg")).read()
            image = Image.open(io.BytesIO(data_of)).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
            found.append(Portrait(f"render{Path(name).stem}", "", np.asarray(image, np.uint8), (64, 64, 192, 210)))
    return found


def cropped(image: Picture, share: float, rng: Rng) -> Picture:
    height, width = image.shape[:2]
    top, left = rng.random() * share * height, rng.random() * share * width
    return image[int(top) : int(top + (1 - share) * height), int(left) : int(left + (1 - share) * width)]


def smaller(image: Picture, factor: float) -> Picture:
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(image: Picture, quality: int) -> Picture:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out).convert("RGB"), np.uint8)


def tinted(image: Picture) -> Picture:
    return np.clip(image * (np.array([1.15, 1.0, 0.85]) * 1.1) + 8, 0, 255).astype(np.uint8)


def grey(image: Picture) -> Picture:
    return np.repeat(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def bordered(image: Picture) -> Picture:
    return np.asarray(cv2.copyMakeBorder(image, 24, 24, 24, 24, cv2.BORDER_CONSTANT, value=(255,) * 3), np.uint8)


COPIES: dict[str, Callable[[Picture, Rng], Picture]] = {
    "half the size": lambda im, rng: smaller(im, 0.5),
    "enlarged 1.7 times": lambda im, rng: np.asarray(cv2.resize(im, None, fx=1.7, fy=1.7), np.uint8),
    "JPEG 30": lambda im, rng: jpeg(im, 30),
    "JPEG 10": lambda im, rng: jpeg(im, 10),
    "mirrored": lambda im, rng: im[:, ::-1],
    "tinted": lambda im, rng: tinted(im),
    "grey": lambda im, rng: grey(im),
    "half the light": lambda im, rng: (im * 0.5).astype(np.uint8),
    "white border": lambda im, rng: bordered(im),
    "cropped 10 %": lambda im, rng: cropped(im, 0.1, rng),
    "cropped 20 %": lambda im, rng: cropped(im, 0.2, rng),
    "cropped 30 %": lambda im, rng: cropped(im, 0.3, rng),
    "cropped 20 %, mirrored, JPEG 40": lambda im, rng: jpeg(cropped(im, 0.2, rng)[:, ::-1], 40),
    "turned 3 degrees": lambda im, rng: _turned(im, 3.0),
}


def _turned(image: Picture, degrees: float) -> Picture:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _blur(share: float) -> Callable[[Portrait, Rng], Picture]:
    return lambda p, rng: np.asarray(cv2.GaussianBlur(p.image, (0, 0), share * _side(p)), np.uint8)


SPOILED: dict[str, tuple[Callable[[Portrait, Rng], Picture], tuple[str, ...]]] = {
    "blurred .03": (_blur(0.03), ("blurred", "flat", "no-face")),
    "a tenth of the light": (lambda p, rng: (p.image * 0.1).astype(np.uint8), ("dark", "flat", "no-face")),
    "three times the light": (
        lambda p, rng: np.clip(p.image * 3.0, 0, 255).astype(np.uint8),
        ("overexposed", "flat", "no-face"),
    ),
    "face of 22 pixels": (lambda p, rng: smaller(p.image, 22 / _side(p)), ("face-too-small", "too-small", "no-face")),
    "covered left half": (lambda p, rng: covered(p, "left", rng), ("occluded", "no-face", "no-landmarks")),
    "covered lower third": (lambda p, rng: covered(p, "lower", rng), ("occluded", "no-face", "no-landmarks")),
    "covered eyes": (lambda p, rng: covered(p, "eyes", rng), ("occluded", "no-face", "no-landmarks")),
    "covered by a blob": (lambda p, rng: covered(p, "blob", rng), ("occluded", "no-face", "no-landmarks")),
}


def covered(portrait: Portrait, where: str, rng: Rng) -> Picture:
    """A portrait behind something of one colour, of stripes, of noise, or of another piece of the picture."""
    image = portrait.image.copy()
    x0, y0, x1, y1 = portrait.box
    width, height = x1 - x0, y1 - y0
    mask = np.zeros(image.shape[:2], np.uint8)
    if where == "left":
        area = (x0 - 0.1 * width, y0 - 0.1 * height, x0 + 0.5 * width, y1 + 0.1 * height)
    elif where == "lower":
        area = (x0 - 0.1 * width, y0 + 0.62 * height, x1 + 0.1 * width, y1 + 0.15 * height)
    elif where == "eyes":
        area = (x0 - 0.1 * width, y0 + 0.2 * height, x1 + 0.1 * width, y0 + 0.5 * height)
    else:
        at = (int(x0 + width * rng.uniform(0.3, 0.7)), int(y0 + height * rng.uniform(0.4, 0.8)))
        cv2.ellipse(mask, at, (int(0.36 * width), int(0.3 * height)), rng.uniform(0, 180), 0, 360, 255, -1)
        area = (0, 0, 0, 0)
    left, top, right, bottom = (int(v) for v in area)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 255
    image[mask > 0] = _stuff(image, rng)[mask > 0]
    return image


def _stuff(image: Picture, rng: Rng) -> Picture:
    shape, kind = image.shape, int(rng.integers(4))
    if kind == 0:
        return np.full(shape, rng.integers(0, 256, 3), np.uint8)
    if kind == 1:
        stripes = ((np.arange(shape[0])[:, None] // 6 + np.arange(shape[1])[None] // 9) % 2)[..., None]
        return np.where(stripes, rng.integers(0, 256, 3), rng.integers(0, 256, 3)).astype(np.uint8)
    if kind == 2:
        coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        return np.asarray(cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    side = max(8, shape[0] // 5)
    patch = image[-side:, :side] if rng.random() < 0.5 else image[:side, -side:]
    return np.asarray(cv2.resize(patch, shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def _side(portrait: Portrait) -> float:
    x0, y0, x1, y1 = portrait.box
    return min(x1 - x0, y1 - y0)


def faceless(kind: int, rng: Rng) -> Picture:
    """Noise, clouds, a page of lines, gradients, shapes: no face in any."""
    side = int(rng.integers(120, 400))
    if kind % 5 == 0:
        return rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    if kind % 5 == 1:
        coarse = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
        return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    if kind % 5 == 2:
        page = np.full((side, side, 3), 245, np.uint8)
        for y in range(12, side - 12, 14):
            cv2.putText(page, "the quick brown fox jumps over it", (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (20,) * 3)
        return page
    if kind % 5 == 3:
        ramp = np.linspace(0, 255, side)[None, :, None] * np.ones((side, 1, 3))
        return ramp.astype(np.uint8)
    drawn = np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(14):
        at, colour = rng.integers(0, side, 2).tolist(), rng.integers(0, 256, 3).tolist()
        cv2.rectangle(drawn, at, (at[0] + 50, at[1] + 30), colour, -1)
    return drawn


def make_pool(root: Path, data: Path, seed: int, copied: int = 60, spoiled: int = 40) -> list[Truth]:
    """Write a pool below `root`. Returns the truth of every file, which is also `truth.json` beside it.

    Args:
        copied: portraits of which copies are made.
        spoiled: portraits that are spoiled.
    """
    rng = np.random.default_rng(seed)
    photos = root / "photos"
    photos.mkdir(parents=True)
    people = portraits(data, rng)
    truth: list[Truth] = []

    def add(folder: str, name: str, image: Picture, kind: str, portrait: Portrait | None, **more: object) -> None:
        path = photos / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=1)
        about = {"base": portrait.name, "person": portrait.person} if portrait else {}
        truth.append(Truth(f"{folder}/{name}", kind, **about, **more))  # type: ignore[arg-type]

    seen: dict[str, int] = {}
    for portrait in people:  # the second picture of a person lies in another folder of the same name
        number = seen[portrait.person] = seen.get(portrait.person, 0) + 1
        folder = f"{'first' if number == 1 else 'second'}/{portrait.person or portrait.name}"
        add(folder, f"{portrait.name}.png", portrait.image, "good", portrait)
    for portrait in [people[i] for i in sorted(rng.choice(len(people), copied, replace=False).tolist())]:
        for number, (kind, change) in enumerate(COPIES.items()):
            image = np.asarray(change(portrait.image, rng), np.uint8)
            add(f"web/d{rng.integers(1 << 30)}", f"{number}.png", image, kind, portrait)
    for portrait in [people[i] for i in sorted(rng.choice(len(people), 12, replace=False).tolist())]:
        add(f"again/x{rng.integers(1 << 30)}", "x.png", portrait.image, "same bytes", portrait)
    for portrait in [people[i] for i in sorted(rng.choice(len(people), spoiled, replace=False).tolist())]:
        for number, (kind, (spoil, right)) in enumerate(SPOILED.items()):
            image = np.asarray(spoil(portrait, rng), np.uint8)
            add(f"spoiled{number}", f"{portrait.name}.png", image, kind, portrait, expected=right)
    for i in range(20):
        chosen = [people[j] for j in rng.choice(len(people), 2 + i % 3, replace=False).tolist()]
        tall = max(p.image.shape[0] for p in chosen)
        side_by_side = [np.pad(p.image, ((0, tall - p.image.shape[0]), (0, 8), (0, 0))) for p in chosen]
        add("crowd", f"{i:02d}.png", np.concatenate(side_by_side, 1), "several faces", None, faces=len(chosen))
    for i in range(40):
        add("nothing", f"{i:02d}.png", faceless(i, rng), "no face", None, faces=0, expected=("no-face",))
    truth += _hostile(photos, people[0].image, people[1].image)
    (root / "truth.json").write_text(json.dumps([asdict(t) for t in truth], indent=1))
    return truth


def _hostile(photos: Path, image: Picture, other: Picture) -> list[Truth]:
    """Broken files, files that are something else, archives."""
    folder = photos / "files"
    folder.mkdir()
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=92)
    good = out.getvalue()
    out = io.BytesIO()
    Image.fromarray(other).save(out, "PNG")
    png = out.getvalue()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )
    files: dict[str, tuple[bytes, tuple[str, ...]]] = {
        "empty.jpg": (b"", ("empty",)),
        "text.jpg": (b"not a picture at all, but text", ("not-an-image",)),
        "cut.jpg": (good[: len(good) // 2], ("truncated", "corrupt")),
        "cut.png": (png[: len(png) // 2], ("truncated", "corrupt")),
        "header.jpg": (good[:20], ("truncated", "corrupt", "not-an-image")),
        "noise.jpg": (bytes(np.random.default_rng(1).integers(0, 256, 5000).astype(np.uint8)), ("not-an-image",)),
        "bomb.png": (bomb, ("too-many-pixels",)),
        "drawing.svg": (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
            ("not-an-image", "unsupported-format"),
        ),
        "page.html.jpg": (b"<!doctype html><html><body>404</body></html>", ("not-an-image",)),
        "program.png": (b"\x7fELF" + bytes(400), ("not-an-image",)),
        "document.pdf": (b"%PDF-1.7\n" + bytes(300), ("not-an-image", "unsupported-format")),
        "compressed.tar.gz": (b"\x1f\x8b" + bytes(100), ("compressed-archive",)),
        "broken.zip": (b"PK\3\4" + bytes(50), ("damaged-archive",)),
        "broken.parquet": (b"PAR1" + bytes(200) + b"PAR1", ("damaged-archive",)),
        "tiny.png": (_png(np.zeros((4, 4, 3), np.uint8)), ("too-small",)),
    }
    truth: list[Truth] = []
    for name, (data, right) in files.items():
        (folder / name).write_bytes(data)
        truth.append(Truth(f"files/{name}", "hostile", faces=0, expected=right))
    os.symlink("/nowhere/at/all.jpg", folder / "link.jpg")
    truth.append(Truth("files/link.jpg", "hostile", faces=0, expected=("broken-link",)))
    os.mkfifo(folder / "pipe.jpg")
    truth.append(Truth("files/pipe.jpg", "hostile", faces=0, expected=("not-a-regular-file",)))
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(200 << 20))
    truth.append(Truth("files/bomb.zip", "hostile", faces=0, expected=("archive-bomb",)))
    with tarfile.open(folder / "escaping.tar", "w") as tar:
        for name, data in (
            ("../../escaped.jpg", good),
            ("/absolute.jpg", good),
            ("inside/text.txt", b"text"),
            ("fine.jpg", good),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../secret"
        tar.addfile(link)
    for name, right in (
        ("../../escaped.jpg", "escaping-name"),
        ("absolute.jpg", "escaping-name"),
        ("link.jpg", "linked-member"),
    ):
        truth.append(Truth(f"files/escaping.tar/{name}", "hostile", faces=0, expected=(right,)))
    return truth


def _png(image: Picture) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def _read(path: Path) -> Picture:
    return np.asarray(Image.open(path).convert("RGB"), np.uint8)


def _member(tar: tarfile.TarFile, name: str) -> io.BufferedReader:
    member = tar.extractfile(name)
    assert isinstance(member, io.BufferedReader)
    return member
