"""From photos to a set of faces, beside the two pipelines that most sets were made with, on the same photos.

* `facenet-pytorch`: its own MTCNN as the package ships it (three networks over an image pyramid), which crops the box
  and writes a JPEG. Its pins exclude today's torch: `pip install --no-deps facenet-pytorch`, or it is left out.
* insightface's way, written out: every photo in a square of 640 pixels, five points, scikit-image's estimate, one
  bilinear warp onto 112 pixels, a JPEG. Its SCRFD weights come from a host outside of package indexes and are for
  research only, so YuNet stands in; SCRFD-10G costs many times as much, and all of that would be on this side.
* ours, detector only: YuNet at two scales, its five points, and all that follows as below.
* ours: what `fusiform curate` does: hash, decode, detect, 478 landmarks in two passes, align, measure, look, encode,
  write a shard and a ledger, then screen, compare with all others, split, and join the index.

CPU seconds of one thread, without loading models; ways alternate, the median round counts. Recall is on photos that
each show one known face; what is found beyond one face a photo is a false find or a bystander.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fusiform.curate import write
from fusiform.curate.judge import judge
from fusiform.curate.models import OnnxFinder, choose
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import look
from fusiform.curate.pipeline import crop_of
from fusiform.curate.scan import SourceFile
from fusiform.errors import WeightsError
from fusiform.faces.align import template
from fusiform.faces.detect import Detector, Face
from fusiform.faces.shards import finish_set

ROUNDS = 3
PLACES = {"real/congress/a": 40, "real/congress/b": 20, "real/london/images": 20, "real/orl": 20}
"""Portraits with one face each, colour and grey, 92 x 112 to 640 x 640 pixels: so many of each, evenly by name."""


@dataclass(frozen=True)
class Outcome:
    """Of one pass over the photos."""

    seconds: float
    found: int
    """Photos in which there is a face."""
    extra: int
    """Faces beyond the first of a photo, as far as the way counts them."""


Way = Callable[[Path, list[Path]], tuple[int, int]]
"""A new folder and photos -> photos with a face, and faces beyond the first."""


def table() -> None:
    """Print faces a second and core, core-hours for a million photos, and recall, of each way."""
    photos = _photos()
    if not photos:
        print("curate: no photos (set FUSIFORM_DATA to the folder that holds real/congress, real/london, real/orl)")
        return
    try:
        ways = _ways()
    except WeightsError as error:
        print(f"curate: {error}")
        return
    cv2.setNumThreads(1)
    spent: dict[str, list[Outcome]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            chosen = photos if turn else photos[:: len(photos) // 8]  # the first is to warm up
            outcome = _pass(ways[name], chosen)
            if turn:
                spent[name].append(outcome)
    ours = _median(spent["ours"])
    print(f"{len(photos)} photos with one face each, one thread, {ROUNDS} rounds")
    print(f"{'':<44}{'ms a photo':>11} {'faces/s':>8} {'core-h/million':>15} {'found':>7} {'beyond':>7} {'to ours':>8}")
    for name, rounds in spent.items():
        each, last = _median(rounds) / len(photos), rounds[-1]
        ratios = [a.seconds / b.seconds for a, b in zip(rounds, spent["ours"], strict=True)]
        print(
            f"{name:<44}{1000 * each:>11.1f} {last.found / len(photos) / each:>8.1f} {each * 1e6 / 3600:>15.2f} "
            f"{last.found / len(photos):>7.1%} {last.extra:>7} {_median(rounds) / ours:>7.2f}x "
            f"[{min(ratios):.2f} to {max(ratios):.2f}]",
            flush=True,
        )


def _median(rounds: list[Outcome]) -> float:
    return statistics.median(outcome.seconds for outcome in rounds)


def _pass(way: Way, photos: list[Path]) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        began = time.process_time()
        found, extra = way(folder, photos)
        return Outcome(time.process_time() - began, found, extra)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _photos() -> list[Path]:
    root = Path(os.environ.get("FUSIFORM_DATA", "../shared/data"))
    chosen: list[Path] = []
    for place, count in PLACES.items():
        every = sorted(p for p in (root / place).glob("*") if p.suffix in (".jpg", ".png"))
        chosen += [every[i * len(every) // count] for i in range(min(count, len(every)))]
    return chosen


def _ways() -> dict[str, Way]:
    models = choose()
    finder = models.load(None)
    assert isinstance(finder, OnnxFinder)
    ways: dict[str, Way] = {}
    theirs = _facenet()
    if theirs is None:
        print("facenet-pytorch is left out: pip install --no-deps facenet-pytorch")
    else:
        ways["facenet-pytorch 2.6: MTCNN, crop, JPEG"] = theirs
    recognition = _recognition(finder.detector)
    if recognition is None:
        print("insightface's way is left out: pip install scikit-image")
    else:
        ways["insightface's way with YuNet: 5 points, JPEG"] = recognition
    chosen = {"detector": models.detector, "detector_sha256": models.detector_sha256}
    chosen |= {"landmarks": models.landmarks, "landmarks_sha256": models.landmarks_sha256}
    ways["ours, detector only"] = _ours(OnnxFinder(finder.detector, None), chosen)
    ways["ours"] = _ours(finder, chosen)
    return ways


def _ours(finder: OnnxFinder, chosen: dict[str, object]) -> Way:
    options = CurateOptions()

    def run(folder: Path, photos: list[Path]) -> tuple[int, int]:
        files = []
        for path in photos:
            status = path.stat()
            files.append(SourceFile(f"bench/{path.name}", str(path), status.st_size, status.st_mtime_ns))
        seen = [look(options, finder, file) for file in files]
        write.commit(folder, 0, seen, options)
        judgement = judge(folder, range(1), options)
        crop = crop_of(options, chosen)
        finish_set(folder, name="bench", crop=crop, made_by="bench", created="2026-01-01", revise=judgement.revise)
        return sum(bool(photo.kept) for photo in seen), sum(len(photo.left_out) for photo in seen if photo.kept)

    return run


def _facenet() -> Way | None:
    try:
        from facenet_pytorch import MTCNN
    except ImportError:
        return None
    from PIL import Image

    network = MTCNN(image_size=112, margin=14, post_process=False)

    def run(folder: Path, photos: list[Path]) -> tuple[int, int]:
        found = 0
        for i, path in enumerate(photos):
            with Image.open(path) as picture:
                found += network(picture.convert("RGB"), save_path=str(folder / f"{i}.jpg")) is not None
        return found, 0

    return run


def _recognition(detector: Detector) -> Way | None:
    try:
        from skimage.transform import SimilarityTransform
    except ImportError:
        return None
    target = np.asarray(template("arcface-112").points)
    side = 640

    def largest(face: Face) -> float:
        return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])

    def run(folder: Path, photos: list[Path]) -> tuple[int, int]:
        found = extra = 0
        for i, path in enumerate(photos):
            photo = cv2.imread(str(path))
            scale = side / max(photo.shape[:2])
            square = np.zeros((side, side, 3), np.uint8)
            small = cv2.resize(photo, (round(photo.shape[1] * scale), round(photo.shape[0] * scale)))
            square[: small.shape[0], : small.shape[1]] = small
            faces = _once(detector, square)
            if not faces:
                continue
            found, extra = found + 1, extra + len(faces) - 1
            points = np.asarray(max(faces, key=largest).points5) / scale
            onto = np.asarray(SimilarityTransform.from_estimate(points, target).params[:2])
            cv2.imwrite(str(folder / f"{i}.jpg"), cv2.warpAffine(photo, onto, (112, 112)))
        return found, extra

    return run


def _once(detector: Detector, square: np.ndarray) -> list[Face]:
    """The detector at one scale, as recognition codes run theirs."""
    from fusiform.faces import detect

    blob = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)  # OpenCV's BGR is what YuNet takes
    scores, box, points = detector._run(blob)[0]  # type: ignore[attr-defined]
    return detect._merged([(scores, box, points)]) if len(scores) else []
