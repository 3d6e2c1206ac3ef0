"""`fusiform infer`: photos in, what the heads say about their faces out."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import tyro

from fusiform.cli import parse
from fusiform.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fusiform.infer.analyzer import Analyzer
    from fusiform.infer.results import Photo


@dataclass(frozen=True)
class InferFlags:
    """Find the faces of photos, folders, archives and videos, and say what a model's heads see in them. Without --json,
    --csv or --draw, one line a face is printed. Photos that cannot be read are counted, with the reason."""

    photos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Photos, folders, archives, videos."""
    model: Path
    """Folder that `fusiform head` wrote; an encoder's folder or a finished run gives box, points, pose and embedding.
    Or an .onnx file of `fusiform export`, or a folder of them: onnxruntime then answers."""
    json: Path | None = None
    """One JSON object a photo and line; - prints them."""
    csv: Path | None = None
    """One row a face; - prints them."""
    draw: Path | None = None
    """Folder for the photos with everything drawn into them."""
    tasks: tuple[str, ...] = ()
    """Only these heads; all by default."""
    embedding: bool = False
    """Write embeddings into the JSON too. A person can be recognised by them."""
    video_every: float = 1.0
    """Seconds between the frames that are taken of a video; 0 takes every frame."""
    min_face: float = 0.0
    """Shorter side of the smallest face that counts, in photo pixels."""
    device: str = "cpu"
    """cpu, cuda, mps."""


def infer(words: list[str]) -> int:
    flags = parse(InferFlags, words, "infer")
    if not flags.photos:
        raise ConfigError("No photo is given", do=f"fusiform infer PHOTOS --model {flags.model}")
    for place in flags.photos:
        if not place.exists():
            raise DataError(f"There is no photo or folder '{place}'", expected="photos, folders, archives, videos")
    from fusiform.infer.analyzer import load, onnx_files

    analyzer = load(flags.model, tasks=flags.tasks or None, device=flags.device, min_face=flags.min_face)
    if not onnx_files(flags.model):
        from fusiform.world import tune_cpu

        tune_cpu(next(analyzer.encoder.vit.parameters()).device)
    for note in analyzer.finder_notes:
        sys.stderr.write(note + "\n")
    for line in _offered(analyzer, flags.model):
        sys.stderr.write(line + "\n")
    counted: Counter[str] = Counter()
    shown = analyzer.stream(flags.photos, video_every=flags.video_every, keep_pixels=flags.draw is not None)
    with _Outputs(flags, analyzer.heads) as out:
        for photo in shown:
            counted["photos"] += 1
            counted["faces"] += len(photo)
            if photo.refused:
                counted[f"refused: {photo.refused}"] += 1
                sys.stderr.write(f"{photo.name}: {photo.refused} ({photo.detail})\n")
            elif not photo.faces:
                counted["photos without a face"] += 1
            for reason, count in photo.left_out.items():
                counted[f"places left out: {reason}"] += count
            out.take(photo)
    one = {"photos": "photo", "faces": "face", "photos without a face": "photo without a face"}
    said = (f"{count:,} {one.get(what, what) if count == 1 else what}" for what, count in counted.items())
    sys.stderr.write("; ".join(said) + "\n")
    return 0


def _offered(analyzer: Analyzer, model: Path) -> list[str]:
    """What is answered, and how the rest is had."""
    from fusiform.infer.typed import ON_RENDERED

    with_points = not any("No landmark model" in note for note in analyzer.finder_notes)
    found = ["box", "points", *["head pose from the points"] * with_points, "embedding"]
    heads = {head.task or name for name, head in analyzer.heads.items()}
    said = [f"Answered: {', '.join([*found, *analyzer.tasks])}."]
    missing = [task for task in ON_RENDERED if task not in heads]
    if missing and not heads:
        out = model if (model / "heads").is_dir() else "MODEL"
        said += [
            f"For {', '.join(missing)} this model has no trained head. Rendered faces have labels for all of them:",
            "    fusiform render --faces 2000 --out RENDERED",
            f"    fusiform head TASK --encoder {model} --data RENDERED --out {out}",
        ]
    return said


class _Outputs:
    """The files that are asked for, open while the photos go by."""

    def __init__(self, flags: InferFlags, heads: Any) -> None:
        self.flags = flags
        self._names = tuple(heads)
        self._opened: list[TextIO] = []
        self._columns = _columns(heads)
        self._drawn: Counter[str] = Counter()

    def __enter__(self) -> _Outputs:
        self._json = self._file(self.flags.json)
        self._rows = None if (file := self._file(self.flags.csv)) is None else csv.writer(file, lineterminator="\n")
        if self._rows is not None:
            self._rows.writerow(self._columns)
        if self.flags.draw is not None:
            self.flags.draw.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._opened:
            file.close()

    def _file(self, path: Path | None) -> TextIO | None:
        if path is None:
            return None
        if str(path) == "-":
            return sys.stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        self._opened.append(path.open("w", encoding="utf-8", newline=""))
        return self._opened[-1]

    def take(self, photo: Photo) -> None:
        if self._json is not None:
            line = json.dumps(photo.to_dict(embedding=self.flags.embedding), ensure_ascii=False, allow_nan=False)
            self._json.write(line + "\n")
        if self._rows is not None:
            self._rows.writerows(_rows(photo, self._columns))
        if self.flags.draw is not None and photo.pixels is not None:
            self._draw(self.flags.draw, photo)
        if self.flags.json is None and self.flags.csv is None and self.flags.draw is None:
            _say(photo)

    def _draw(self, folder: Path, photo: Photo) -> None:
        from PIL import Image

        name = re.sub(r"\.(jpe?g|png|webp|bmp|tiff?|gif|ppm|pgm)$", "", photo.name.replace("\\", "/"), flags=re.I)
        stem = re.sub(r"[^\w.-]+", "_", name).strip("._")[-120:] or "photo"
        self._drawn[stem] += 1
        again = "" if self._drawn[stem] == 1 else f"-{self._drawn[stem]}"
        Image.fromarray(photo.draw()).save(folder / f"{stem}{again}.jpg", quality=90)


def _say(photo: Photo) -> None:
    from fusiform.infer.drawing import words

    for number, face in enumerate(photo):
        box = " ".join(f"{v:.0f}" for v in face.box)
        sys.stdout.write(f"{photo.name} face {number}: box {box}; {'; '.join(words(face)) or 'nothing else'}\n")
    if not photo.refused and not photo.faces:
        sys.stdout.write(f"{photo.name}: no face\n")


_FOUND = "found"
"""What the landmark model's points say, in the place of a head's name."""
_FIRST = ("photo", "seconds", "refused", "face", "x0", "y0", "x1", "y1", "score")


def _columns(heads: Any) -> list[str]:
    """Of the table, fixed before the first photo."""
    named: dict[str, tuple[str, ...]] = {
        "HeadPose": ("yaw", "pitch", "roll"),
        "Gaze": ("yaw", "pitch"),
        "Affect": ("valence", "arousal"),
        "Age": ("years",),
    }
    out = list(_FIRST)
    if not any(head.kind == "HeadPose" for head in heads.values()):
        out += [f"{_FOUND}:{angle}" for angle in named["HeadPose"]]
    for name, head in heads.items():
        if head.kind in ("Alignment", "OwnPoints", "Parsing"):
            continue  # hundreds of numbers a face: the JSON has them
        labels = named.get(head.kind) or tuple(label for label in head.labels if label not in head.unknown)
        best = [f"{name}:best"] if head.kind in ("Expression", "OwnClasses", "Forgery") else []
        out += best + [f"{name}:{label}" for label in labels]
    return out


def _rows(photo: Photo, columns: list[str]) -> Iterator[list[Any]]:
    first = [photo.name, photo.about.get("seconds", ""), photo.refused]
    if not photo.faces:
        yield [*first, *[""] * (len(columns) - len(first))]
    for number, face in enumerate(photo):
        values: dict[str, Any] = {}
        if face.found_pose is not None:
            values = {f"{_FOUND}:{angle}": value for angle, value in face.found_pose.to_dict().items()}
        for name, answer in face.answers.items():
            said = answer.to_dict()
            flat = said.get("probability") or said.get("intensity") or said
            values |= {f"{name}:{label}": value for label, value in flat.items()}
            values[f"{name}:best"] = said.get("best", "")
        row = [*first, number, *(round(v, 2) for v in face.box), round(face.score, 4)]
        yield row + [values.get(column, "") for column in columns[len(_FIRST) :]]
