"""`fusiform threshold`, `verify`, `identify`: is it the same person, and how sure can one be?"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fusiform.cli import parse, today
from fusiform.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fusiform.infer.analyzer import Analyzer
    from fusiform.infer.results import Face


@dataclass(frozen=True)
class ThresholdFlags:
    """Choose the similarity above which two photos show one person, for a share of strangers that may pass, on your own
    photos; say how sure that share is; keep it in the model."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """A folder with a folder for each person; or a CSV file with the columns a, b (files beside it) and same (1, 0)."""
    model: Path
    """The model's folder."""
    far: float = 1e-3
    """False-accept rate: share of the pairs of different people that may pass."""
    device: str = "cpu"
    """cpu, cuda, mps."""


def threshold(words: list[str]) -> int:
    flags = parse(ThresholdFlags, words, "threshold")
    from fusiform.infer.pairs import scored_pairs
    from fusiform.infer.threshold import operating_point, save_point

    analyzer = _analyzer(flags.model, flags.device)
    pairs = scored_pairs(analyzer, flags.pairs)
    point = operating_point(
        pairs,
        flags.far,
        features=analyzer.form,
        encoder_sha256=analyzer.encoder_sha256,
        finder=analyzer.finder_name,
        made=today(),
    )
    assert analyzer.folder is not None
    path = save_point(analyzer.folder, point)
    sys.stdout.write(f"{point.words()}\nKept in {path}\n")
    return 0


@dataclass(frozen=True)
class VerifyFlags:
    """Do two photos show one person? Says same, different or cannot tell, with the similarity, the threshold, and the
    rate at which strangers pass it."""

    a: Annotated[Path, tyro.conf.Positional]
    """A photo."""
    b: Annotated[Path, tyro.conf.Positional]
    """Another one."""
    model: Path
    """The model's folder, with a threshold (fusiform threshold)."""
    far: float | None = None
    """Of several thresholds that for this rate; the newest by default."""
    json: bool = False
    """Print JSON."""
    device: str = "cpu"
    """cpu, cuda, mps."""


def verify(words: list[str]) -> int:
    flags = parse(VerifyFlags, words, "verify")
    from fusiform.infer.threshold import saved_point

    analyzer = _analyzer(flags.model, flags.device)
    assert analyzer.folder is not None
    point = saved_point(analyzer.folder, analyzer.encoder_sha256, analyzer.form, flags.far)
    faces = [_largest(analyzer, path) for path in (flags.a, flags.b)]
    one, two = (face.embedding for face in faces)
    assert one is not None
    assert two is not None
    similarity = float(one @ two)
    decision = point.decide(similarity)
    if flags.json:
        about = ("threshold", "reject", "far", "far_measured", "far_low", "far_high", "tar", "supported")
        said = {"decision": decision, "similarity": similarity, **{name: getattr(point, name) for name in about}}
        sys.stdout.write(json.dumps(said) + "\n")
        return 0
    sys.stdout.write(
        f"{decision}: similarity {similarity:.6f}; same above {point.threshold:.6f}, different up to "
        f"{point.reject:.6f}\nfalse-accept rate {point.far_measured:.3g} (95 %: {point.far_low:.3g} to "
        f"{point.far_high:.3g}), true-accept rate {point.tar:.3g}, on {point.data}\n"
    )
    if not point.supported:
        sys.stdout.write(f"The pairs were too few for a rate of {point.far:g}: claim {point.far_high:.3g}.\n")
    return 0


@dataclass(frozen=True)
class IdentifyFlags:
    """Who of a gallery is in a photo, or nobody of it? Each face of the photo is compared with every photo of the
    gallery; nobody is named below the threshold."""

    photo: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A photo; none with --forget."""
    gallery: Path
    """A folder with a folder for each person (or photos named after people), or what --save wrote."""
    model: Path | None = None
    """The model's folder, with a threshold (fusiform threshold)."""
    far: float | None = None
    """Of several thresholds that for this rate; the newest by default."""
    top: int = 3
    """People named at most for each face."""
    save: Path | None = None
    """Keep the gallery's embeddings here, so that its photos need not be looked at again."""
    forget: str | None = None
    """Delete a person from a kept gallery, and do nothing else."""
    json: bool = False
    """Print JSON."""
    device: str = "cpu"
    """cpu, cuda, mps."""


def identify(words: list[str]) -> int:
    flags = parse(IdentifyFlags, words, "identify")
    from fusiform.infer.gallery import CARD, Gallery
    from fusiform.infer.threshold import saved_point

    kept = (flags.gallery / CARD).is_file()
    if flags.forget is not None:
        if not kept:
            raise ConfigError(f"'{flags.gallery}' is no kept gallery", do=f"delete '{flags.forget}' from the folder")
        before = Gallery.load(flags.gallery)
        after = before.forget(flags.forget)
        after.save(flags.gallery)
        sys.stdout.write(f"Forgot '{flags.forget}': {len(before.person) - len(after.person)} embeddings are gone.\n")
        return 0
    if flags.model is None or len(flags.photo) != 1:
        raise ConfigError(
            f"{len(flags.photo)} photos and {'no' if flags.model is None else 'a'} model", expected="one of each"
        )
    if not flags.gallery.is_dir():
        raise DataError(f"There is no gallery '{flags.gallery}'", expected="a folder with a folder for each person")
    analyzer = _analyzer(flags.model, flags.device)
    assert analyzer.folder is not None
    point = saved_point(analyzer.folder, analyzer.encoder_sha256, analyzer.form, flags.far)
    gallery = Gallery.load(flags.gallery).require(analyzer) if kept else Gallery.of(analyzer, flags.gallery)
    if flags.save is not None:
        gallery.save(flags.save)
    faces = analyzer(flags.photo[0])
    strangers = 1 - (1 - point.far_measured) ** len(gallery.person)
    said = []
    for face in faces:
        assert face.embedding is not None
        matches = [m for m in gallery.search(face.embedding, flags.top) if m.similarity > point.threshold]
        said.append({"box": list(face.box), "matches": [vars(m) for m in matches]})
        box = " ".join(f"{v:.0f}" for v in face.box)
        named = ", ".join(f"{m.person} ({m.similarity:.6f})" for m in matches) or "nobody of the gallery"
        if not flags.json:
            sys.stdout.write(f"face at {box}: {named}\n")
    if flags.json:
        about = {"threshold": point.threshold, "far": point.far_measured, "gallery_photos": len(gallery.person)}
        sys.stdout.write(json.dumps({"faces": said, **about, "stranger_named_up_to": strangers}) + "\n")
        return 0
    if not faces:
        sys.stdout.write("no face\n")
    sys.stdout.write(
        f"{len(gallery.people):,} people, {len(gallery.person):,} photos; threshold {point.threshold:.6f}. At a "
        f"false-accept rate of {point.far_measured:.3g} for each comparison, up to {100 * strangers:.3g} % of "
        f"strangers would be named.\n"
    )
    for what, count in gallery.counts.items():
        sys.stdout.write(f"{count:,} {what}\n")
    return 0


def _analyzer(model: Path, device: str) -> Analyzer:
    from fusiform.infer.analyzer import load

    analyzer = load(model, tasks=(), device=device).require_embeddings()
    for note in analyzer.finder_notes:
        sys.stderr.write(note + "\n")
    return analyzer


def _largest(analyzer: Analyzer, path: Path) -> Face:
    faces = analyzer(path)
    if not faces:
        raise DataError(f"No face was found in '{path}'", expected="a photo of a face")
    if len(faces) > 1:
        sys.stderr.write(f"{path}: {len(faces)} faces; the largest is taken\n")
    return faces[0]
