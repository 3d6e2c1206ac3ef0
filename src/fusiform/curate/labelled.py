"""Labelled images whose points are exact become a set: no detector, the labels come along.

Read are WebDataset tars named `SPLIT-NUMBER.tar` (train, val or test) with, per face, KEY.jpg, KEY.labels.png (classes
of CelebAMask-HQ) and KEY.json:

    landmarks   68 x [x, y, visible] in pixels, ibug-68
    pose        [yaw, pitch, roll] in degrees with R = Ry(yaw) Rx(pitch) Rz(roll), x right, y up, z to the viewer: pitch
                and roll have the opposite sign of ours and are turned round here, at the reader
    person      number or name, unique among the tars; optional, as are au, expression, attrs and others

One tar is one chunk of the set, so a run that was stopped goes on with the tars that are not done. Nothing is ever
extracted to a path that an archive names: members are read where they lie, and only regular files.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusiform.curate.pool import Died, Limits, Workers
from fusiform.durable import FolderLock, hash_file, open_sealed_json, replace_file, sealed_json
from fusiform.errors import ConfigError, DataError
from fusiform.faces import align
from fusiform.faces.decode import ImageRefused, decode
from fusiform.faces.faceset import FaceSet
from fusiform.faces.labelled import align_labelled
from fusiform.faces.parsing_map import decode_map, encode_map
from fusiform.faces.shards import StoredFace, commit_chunk, committed_chunks, finish_set
from fusiform.ledger import KEPT, LedgerRow
from fusiform.measurement import EXACT_POINTS, Crop

SPLITS = ("train", "val", "test")
PLAN_FILE = "labelled.json"
PARTS = ("jpg", "labels.png", "json")
MAX_MEMBER_BYTES = 64 << 20
CODE = 2
"""Part of the plan. Raise it when the same tars give another set."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Labels(BaseModel):
    """KEY.json as strangers write it; other names are passed on as they are."""

    model_config = ConfigDict(extra="allow")

    landmarks: Annotated[list[tuple[Finite, Finite, Finite]], Field(min_length=68, max_length=68)]
    pose: tuple[Finite, Finite, Finite] | None = None
    person: int | str = ""
    au: dict[str, Annotated[float, Field(ge=0, le=5)]] | None = None
    expression: str | None = None
    attrs: dict[str, bool | float | str] | None = None


@dataclass(frozen=True)
class _Making:
    """What a worker needs to know about the set."""

    out: Path
    template: str
    name: str
    licence: str
    consent: str
    jpeg_quality: int


def curate_labelled(
    tars: Path | Sequence[Path],
    out: Path,
    template: str = "loose-80",
    *,
    name: str = "labelled",
    licence: str = "CC0-1.0",
    consent: str = "rendered",
    created: str = "",
    jpeg_quality: int = 95,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> FaceSet:
    """Align every face of the tars on its exact points and write a set.

    Args:
        tars: the files, or the folder they lie in.
        out: the set; an unfinished one of the same tars and template is completed.
        template: with its size.
        name: of the set, and the first part of its person keys.
        licence: of the images.
        consent: on what basis the faces may be used.
        created: date, as it is to be read.
        jpeg_quality: of the stored crops, without colour subsampling.
        workers: processes. Does not change the result.
        progress: called with (tars done, tars).

    Raises:
        RunBusy: another process writes to `out`.
        ConfigError: `out` was begun from other tars or with another template.
        DataError: no tars, a name that tells no split, a tar that cannot be read.
    """
    onto = align.template(template)
    files = _split_of(_files(tars))
    making = _Making(out, onto.name, name, licence, consent, jpeg_quality)
    if out.is_dir() and not (out / PLAN_FILE).is_file() and any(out.iterdir()):
        raise ConfigError(f"'{out}' is not empty and not a set of labelled images", do="name another folder")
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out)
    try:
        _begin(out, _plan(making, files, onto))
        done = set(committed_chunks(out))
        missing = [(chunk, path, split) for chunk, (path, split) in enumerate(files) if chunk not in done]
        tell = progress or (lambda done, of: None)
        tell(len(files) - len(missing), len(files))
        for count, _ in enumerate(_run(making, missing, workers), len(files) - len(missing) + 1):
            tell(count, len(files))
        crop = Crop(
            template=onto.family,
            size=onto.size,
            detector=EXACT_POINTS,
            landmarks="ibug-68",
            interpolation=align.RESAMPLING,
        )
        made_by = "fusiform.curate.labelled"
        return finish_set(out, name=name, crop=crop, made_by=made_by, created=created, chunks=len(files))
    finally:
        lock.release()


def _plan(making: _Making, files: Sequence[tuple[Path, str]], onto: align.Template) -> dict[str, Any]:
    """What decides the set, as JSON."""
    return {
        "code": CODE,
        "tars": [[path.name, split, hash_file(path)] for path, split in files],
        "template": onto.name,
        "points": [list(point) for point in onto.points],
        "jpeg_quality": making.jpeg_quality,
        "name": making.name,
        "licence": making.licence,
        "consent": making.consent,
    }


def _files(tars: Path | Sequence[Path]) -> list[Path]:
    if isinstance(tars, Path):
        found = sorted(tars.glob("*.tar")) if tars.is_dir() else [tars]
    else:
        found = [Path(tar) for tar in tars]
    absent = [path for path in found if not path.is_file()]
    if absent or not found:
        raise DataError(
            f"There is no tar file at '{absent[0] if absent else tars}'",
            expected="SPLIT-NUMBER.tar, such as train-000.tar",
        )
    return found


def _split_of(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """Files with their split, train first; within a split by name."""
    split = {path: path.name.split("-")[0] for path in files}
    wrong = [path.name for path in files if split[path] not in SPLITS]
    if wrong:
        raise DataError(f"The name '{wrong[0]}' tells no split", expected="train-, val- or test-NUMBER.tar")
    return sorted(split.items(), key=lambda item: (SPLITS.index(item[1]), item[0].name))


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or hold it against the one that `out` was begun with."""
    path = out / PLAN_FILE
    if path.is_file():
        begun = open_sealed_json(path)
        if begun != plan:
            differing = sorted(key for key in plan if begun.get(key) != plan[key])
            raise ConfigError(
                f"'{out}' was begun with other {', '.join(differing)}",
                expected="the same call",
                do="name another folder",
            )
        return
    replace_file(path, sealed_json(plan))


def _run(making: _Making, missing: Sequence[tuple[int, Path, str]], workers: int) -> Iterator[None]:
    if workers < 2 or len(missing) < 2:
        for item in missing:
            _make(making, item)
            yield
        return
    with Workers(
        partial(_given, making), _make, count=min(workers, len(missing)), limits=Limits(seconds=1800.0)
    ) as pool:
        for item, answer in zip(missing, pool.map(missing), strict=True):
            if isinstance(answer, Died):
                raise DataError(f"The process that read '{item[1]}' ended ({answer.detail})", do="run it again")
            yield


def _given(making: _Making) -> _Making:
    return making


def _make(making: _Making, item: tuple[int, Path, str]) -> None:
    """Turn one tar into one chunk. `DataError` where the tar as a whole cannot be read."""
    chunk, path, split = item
    kept: list[StoredFace] = []
    rows: list[LedgerRow] = []
    try:
        for key, members in _groups(path, rows, making):
            face, row = _face(key, members, path, split, chunk, making)
            rows.append(row)
            if face is not None:
                kept.append(face)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"'{path}' cannot be read as a tar file ({error})", do="copy it again from where it came"
        ) from error
    commit_chunk(making.out, chunk, kept, rows)


def _groups(path: Path, refused: list[LedgerRow], making: _Making) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key -> its members, as they follow one another. What is no part of a face goes to `refused`."""
    current = ""
    members: dict[str, bytes] = {}

    def refuse(name: str, outcome: str, detail: str) -> None:
        refused.append(
            LedgerRow(f"{path.name}/{name}", outcome, source=making.name, licence=making.licence, detail=detail)
        )

    with tarfile.open(path, "r:") as archive:
        for member in archive:
            key, _, part = member.name.rpartition("/")[2].partition(".")
            if not member.isreg():
                if not member.isdir():
                    refuse(member.name, "not-a-regular-file", "a link or device in the archive")
                continue
            if part not in PARTS:
                refuse(member.name, "unsupported-format", f"expected KEY.{', KEY.'.join(PARTS)}")
                continue
            if member.size > MAX_MEMBER_BYTES:
                refuse(member.name, "too-large-file", f"{member.size} bytes")
                continue
            if key != current:
                if members:
                    yield current, members
                current, members = key, {}
            file = archive.extractfile(member)
            data = file.read() if file is not None else b""
            if len(data) != member.size:
                raise tarfile.ReadError("unexpected end of data")
            members[part] = data
    if members:
        yield current, members


def _face(
    key: str, members: Mapping[str, bytes], path: Path, split: str, chunk: int, making: _Making
) -> tuple[StoredFace | None, LedgerRow]:
    jpeg = members.get("jpg", b"")
    about: dict[str, Any] = {
        "path": f"{path.name}/{key}.jpg",
        "sha256": hashlib.sha256(jpeg).hexdigest() if jpeg else None,
        "source": making.name,
        "licence": making.licence,
        "consent": making.consent,
        "format": "jpeg",
        "size": len(jpeg),
    }
    try:
        picture = decode(jpeg)
        labels = read_labels(members.get("json", b""))
        png = members.get("labels.png")
        parsing = None if png is None else decode_map(png, f"'{key}.labels.png'")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key):
            raise DataError(f"The key '{key}' cannot name a face", expected="A-Z a-z 0-9 _ -")
        image, crop_map, moved = align_labelled(picture.pixels, parsing, labels, making.template)
    except ImageRefused as refusal:
        return None, LedgerRow(**about, outcome=refusal.reason, detail=refusal.what)
    except DataError as error:
        return None, LedgerRow(**about, outcome="bad-labels", detail=str(error))
    person = moved.pop("person", "")
    subject = f"{making.name}/{person}" if person != "" else ""
    stored = StoredFace(
        key=key,
        jpeg=_jpeg(image, making.jpeg_quality),
        labels=moved,
        parsing_png=None if crop_map is None else encode_map(crop_map),
        split=split,
        person=subject,
        source=making.name,
        licence=making.licence,
    )
    matrix = tuple(value for row in moved["placement"]["matrix"] for value in row)
    row = LedgerRow(
        **about,
        outcome=KEPT,
        subject=subject,
        matrix=matrix,
        template=making.template,
        split=split,
        shard=chunk,
        key=key,
        width=picture.width,
        height=picture.height,
    )
    return stored, row


def _jpeg(image: align.Image, quality: int) -> bytes:
    import simplejpeg

    return bytes(
        simplejpeg.encode_jpeg(  # type: ignore[attr-defined]
            image, quality=quality, colorspace="RGB", colorsubsampling="444"
        )
    )


def read_labels(text: bytes) -> dict[str, Any]:
    """KEY.json with our signs of pitch and roll. `DataError` says which entry is not as expected."""
    if not text:
        raise DataError("The face has no KEY.json", expected="its labels")
    try:
        values = json.loads(text)
        _Labels.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"The labels are not as expected: {where}: {first['msg']}") from None
    except ValueError as error:
        raise DataError(f"The labels are not JSON ({error})", expected="an object") from None
    assert isinstance(values, dict)
    if values.get("pose") is not None:
        yaw, pitch, roll = values["pose"]
        values["pose"] = {"yaw": yaw, "pitch": -pitch, "roll": -roll}
    else:
        values.pop("pose", None)
    return values
