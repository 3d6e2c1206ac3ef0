"""Curation with the real models, on rendered faces in the state that people's photo folders are in."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from curate_fakes import ledger_rows, outcomes
from PIL import Image

from fusiform.curate.card import read_card
from fusiform.curate.options import CurateOptions
from fusiform.curate.pipeline import curate
from fusiform.faces.faceset import FaceSet

EVERY_FACE = CurateOptions(workers=2, licence="CC0-1.0", policy="off", near_duplicates="keep")
"""The crowd below shows the faces of other files again."""


@pytest.fixture(scope="module")
def rendered(data_dir: Path) -> list[Image.Image]:
    """Near-frontal rendered faces of 300 pixels."""
    archive = data_dir / "rendered" / "test-000.tar"
    if not archive.is_file():
        pytest.skip(f"no rendered faces at {archive}")
    import json

    faces: list[Image.Image] = []
    with tarfile.open(archive) as tar:
        names = sorted(n for n in tar.getnames() if n.endswith(".json"))
        for name in names:
            yaw, pitch, _ = json.load(tar.extractfile(name))["pose"]  # type: ignore[arg-type]
            if abs(yaw) < 25 and abs(pitch) < 15:
                data = tar.extractfile(name.replace(".json", ".jpg")).read()  # type: ignore[union-attr]
                faces.append(Image.open(io.BytesIO(data)).convert("RGB").resize((300, 300)))
            if len(faces) == 24:
                break
    return faces


def scene(faces: list[Image.Image], side: int) -> Image.Image:
    """Faces in a row on a smooth ground."""
    ground = np.linspace(90, 180, 400)[:, None, None] * np.ones((1, 120 + (side + 40) * len(faces), 3))
    picture = Image.fromarray(ground.astype(np.uint8))
    for i, face in enumerate(faces):
        picture.paste(face.resize((side + i, side + i)), (60 + i * (side + 40), 60))
    return picture


def bomb() -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(10**6))) + part(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def dirty(rendered: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("real") / "photos"
    (root / "2019" / "day one").mkdir(parents=True)
    (root / ".hidden").mkdir()
    expected: dict[str, str] = {}

    def put(name: str, data: bytes, outcome: str) -> None:
        (root / name).write_bytes(data)
        expected[name] = outcome

    def file(face: Image.Image, kind: str, **more: object) -> bytes:
        out = io.BytesIO()
        face.save(out, kind, **more)  # type: ignore[arg-type]
        return out.getvalue()

    one = rendered[0]
    jpeg = file(one, "JPEG", quality=95)
    put("2019/day one/IMG_1.JPG", jpeg, "duplicate")
    put(".hidden/no-extension", file(rendered[1], "JPEG"), "kept")
    put("2019/a.webp", file(rendered[2], "WEBP"), "kept")
    put("2019/b.tif", file(rendered[3], "TIFF"), "kept")
    put("2019/c.bmp", file(rendered[4], "BMP"), "kept")
    put("2019/d.pgm", file(rendered[5].convert("L"), "PPM"), "kept")
    put("cmyk.jpg", file(rendered[6].convert("CMYK"), "JPEG"), "kept")
    put("palette.png", file(rendered[7].convert("P"), "PNG"), "kept")
    put("deep.png", file(Image.fromarray(np.asarray(rendered[8].convert("L"), np.uint16) * 257), "PNG"), "kept")
    put("animated.gif", file(rendered[9], "GIF", save_all=True, append_images=[one]), "kept")
    exif = Image.Exif()
    exif[0x0112] = 6
    put("rotated.jpg", file(rendered[10].rotate(90, expand=True), "JPEG", exif=exif), "kept")
    put("png-by-name.png", file(rendered[11], "JPEG"), "kept")
    put("crowd.jpg", file(scene(rendered[:6], 150), "JPEG"), "kept")
    put("far.jpg", file(scene(rendered[:6], 24), "JPEG"), "face-too-small")
    put("landscape.jpg", file(scene([], 0).resize((400, 300)), "JPEG"), "no-face")
    put("cut.jpg", jpeg[: len(jpeg) // 2], "truncated")
    put("bomb.png", bomb(), "too-many-pixels")
    put("page.jpg", b"<html>404</html>", "not-an-image")
    put("zero.jpg", b"", "empty")
    put("clip.mp4", b"\0\0\0\x20ftypisom" + bytes(100), "unsupported-format")
    put("1.jpg", jpeg, "kept")  # scanned before the folder 2019
    return root, expected


@pytest.fixture(scope="module")
def curated(dirty: tuple[Path, dict[str, str]], weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIFORM_WEIGHTS", str(weights_dir))
        out = tmp_path_factory.mktemp("real-set")
        return curate([dirty[0]], out, options=EVERY_FACE, progress=None)


def test_every_file_ends_as_it_should(dirty: tuple[Path, dict[str, str]], curated: FaceSet) -> None:
    assert outcomes(curated.folder) == dirty[1]
    counts = read_card(curated.folder)["counts"]
    assert counts["seen"] == len(dirty[1]) == counts["kept"] + counts["refused"]
    assert counts["faces_left_out"] == 5  # of the crowd
    assert not curated.verify()


def test_the_crops_hold_upright_faces(curated: FaceSet) -> None:
    """The detector finds each stored face again, with the eyes where the template puts them."""
    from fusiform.curate.models import choose

    finder = choose(offline=True).load(None)
    for row in range(len(curated)):
        face = max(finder.faces(curated.image(row)), key=lambda f: f.side)
        eyes = np.array(face.points5)[:2]
        assert eyes[:, 1].mean() == pytest.approx(0.44 * 112, abs=8)
        assert eyes[:, 0].mean() == pytest.approx(56, abs=10)
        assert abs(eyes[1, 1] - eyes[0, 1]) < 8


def test_models_are_named_with_their_terms(curated: FaceSet) -> None:
    assert curated.crop.detector_sha256
    card = read_card(curated.folder)
    assert {m["role"] for m in card["models"]} >= {"detector"}
    assert all(m["licence"] and m["training_data"] and m["sha256"] for m in card["models"])
    assert all(0.7 <= r["score"] <= 1 for r in ledger_rows(curated.folder) if r["outcome"] == "kept")


def test_a_set_is_continued_with_its_own_models(
    rendered: list[Image.Image], weights_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that was begun without a landmark model stays on the detector's points, although there is one now."""
    from fusiform.curate.models import choose

    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(weights_dir))
    photos, out = tmp_path / "photos", tmp_path / "set"
    photos.mkdir()
    rendered[0].save(photos / "1.jpg")
    begun = choose(offline=True, like={"detector": "yunet_s_dynamic", "cards": []})
    faces = curate([photos], out, options=CurateOptions(workers=1), models=begun, progress=None)
    assert faces.crop.landmarks == "arcface-5"
    assert any("No landmark model" in note for note in read_card(out)["notes"])
    rendered[1].save(photos / "2.jpg")
    faces = curate([photos], out, options=CurateOptions(workers=1), progress=None)
    assert faces.crop.landmarks == "arcface-5"
    assert len(faces) == 2
    assert all("landmarks" not in faces.labels(row) for row in range(2))
