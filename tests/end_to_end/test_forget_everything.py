"""A person is looked for, byte by byte and without the code that forgets, in whatever the commands write."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusiform.faces.faceset import FaceSet

pytestmark = pytest.mark.slow
WHO, FILES = "Zebulon-Quist", "zqpic"
TINY = {
    "optim": {"epochs": 2, "faces-per-step": 8, "warmup-epochs": 0},
    "vit": {"width": 48, "depth": 2, "heads": 2},
    "method": {"decoder-width": 32, "decoder-depth": 1, "decoder-heads": 2},
}


def run(where: Path, weights_dir: Path, *words: object, code: int = 0) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(where), "OMP_NUM_THREADS": "1"}
    environment |= {"FUSIFORM_WEIGHTS": str(weights_dir), "PYTHONPATH": ":".join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "fusiform", *map(str, words)]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def needles(root: Path, photos: Path) -> dict[str, list[bytes]]:
    """Names, keys, hashes and bytes of the person's photos and crops."""
    faces = FaceSet.open(root / "set")
    rows = [r for r in pq.read_table(root / "set" / "ledger.parquet").to_pylist() if r["subject"] == WHO]
    assert len(rows) == 3
    found: dict[str, list[bytes]] = {"name": [WHO.encode(), FILES.encode()], "key": [], "hash": [], "pixels": []}
    for row in rows:
        crop = faces.jpeg(int(faces.find([row["key"]])[0]))
        photo = (photos / row["path"].split("/", 1)[1]).read_bytes()
        found["key"].append(row["key"].split("-")[0].encode())
        for sha in (row["sha256"], hashlib.sha256(crop).hexdigest()):
            found["hash"] += [sha.encode(), bytes.fromhex(sha)]
        found["hash"] += [str(row[name]).encode() for name in ("phash", "face_phash")]
        for data in (crop, photo):
            middle = len(data) // 2
            found["pixels"].append(data[middle : middle + 40])
            found["pixels"] += [base64.b64encode(data[middle + i : middle + i + 48])[4:-4] for i in range(3)]
    return found


def contents(path: Path) -> Iterator[bytes]:
    """A file as it is, and unpacked."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        tables = [pq.read_table(path)]
    else:
        tables = [pa.ipc.open_file(str(path)).read_all()] if path.suffix == ".arrow" else []
    for table in tables:
        yield str(table.to_pylist()).encode()
        for name in table.column_names:
            yield b"\n".join(v for v in table[name].to_pylist() if isinstance(v, bytes))
    if data[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield archive.read(name)


def search(root: Path, wanted: dict[str, list[bytes]]) -> dict[str, set[str]]:
    hits: dict[str, set[str]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        found = {"file name"} if any(word in name for word in (WHO, FILES)) else set()
        for data in contents(path):
            found |= {kind for kind, values in wanted.items() if any(value in data for value in values)}
        if found:
            hits[name] = found
    return hits


def test_a_person_is_in_nothing_that_any_command_wrote(data_dir: Path, weights_dir: Path, tmp_path: Path) -> None:
    portraits = sorted((data_dir / "real" / "congress" / "a").glob("*.jpg"))[3::7]
    if len(portraits) < 12:
        pytest.skip("the data folder has too few portraits")
    photos, root = tmp_path / "photos", tmp_path / "world"
    root.mkdir()
    labels = ["image,label"]
    for number, who in enumerate(["anna", WHO, "carla", "dirk"]):
        (photos / who).mkdir(parents=True)
        for i in range(3):
            name = f"{FILES if who == WHO else who}-{i}.jpg"
            shutil.copy(portraits[3 * number + i], photos / who / name)
            labels.append(f"{who}/{name},{'left' if number % 2 else 'right'}")
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")

    def do(*words: object) -> str:
        return run(tmp_path, weights_dir, *words)

    do("curate", photos, "--out", root / "set", "--person-from", "folder", "--policy", "off", "--workers", 1,
       "--near-duplicates", "keep", "--licence", "CC0-1.0")  # fmt: skip
    flags = [word for group, own in TINY.items() for key, value in own.items() for word in (f"--{group}.{key}", value)]
    do("pretrain", "muon-mae-quick", "--faces", root / "set", "--out", root / "run", *flags, "--loop.tensorboard")
    do("report", root / "run", "--faces", root / "set")
    do("ledger", "atlas", root / "set", "--out", root / "atlas.html")
    do("ledger", "atlas", root / "set", "--encoder", root / "run")
    do("head", "classes", "--encoder", root / "run", "--data", tmp_path / "labels.csv", "--photos", photos, "--out",
       root / "model")  # fmt: skip
    do("threshold", photos, "--model", root / "model", "--far", 0.2)
    do("identify", photos / "anna" / "anna-0.jpg", "--gallery", photos, "--model", root / "model", "--save",
       root / "known")  # fmt: skip
    do("infer", photos, "--model", root / "model", "--json", root / "a.jsonl", "--csv", root / "a.csv", "--embedding")
    do("infer", photos, "--model", root / "model", "--draw", root / "drawn")
    do("leaks", root / "set", root / "set", "--out", root / "leaks.json")
    do("publish", root / "run", "--out", root / "published", "--licence", "CC0-1.0", "--faces", root / "set")
    do("export", root / "run", "--out", root / "encoder.onnx", "--faces", root / "set")
    do("export", root / "model", "--what", "classes", "--out", root / "classes.onnx")
    for name in ("timm", "transformers", "safetensors"):
        do("export", root / "run", "--to", name, "--out", root / name)
    do("shards", "export", root / "set", "--out", root / "handed")
    do("shards", "export", root / "set", "--out", root / "blurred", "--blur", "--drop-originals")
    (root / "asked.csv").write_text(do("ledger", "query", root / "set", "", "--form", "csv"))

    wanted = needles(root, photos)
    before = search(root, wanted)
    kinds = set().union(*before.values())
    assert kinds == {*wanted, "file name"}
    for name in ("set/ledger.parquet", "known/gallery.json", "a.jsonl", "a.csv", "leaks.json", "asked.csv"):
        assert "name" in before[name], name
    assert "pixels" in before["handed/faces-00000.tar"]

    said = run(tmp_path, weights_dir, "forget", f"person:{WHO}", "--in", root, "--yes", code=4)
    left = {line.split()[1].removeprefix(str(root) + "/") for line in said.splitlines() if line.startswith("LEFT")}
    # what a user wrote of a command's output, and photos that were drawn on, are the user's: named, not deleted
    assert left == {"asked.csv", *(f"drawn/photos_{WHO}_{FILES}-{i}.jpg" for i in range(3))}
    assert set(search(root, wanted)) == left
    tainted = ["run", "run/encoder", "model", "published", "timm", "transformers", "safetensors"]
    for name in tainted:
        assert json.loads((root / name / "tainted.json").read_text())["withdrawals"], name
    for name in ("encoder.onnx", "classes.onnx", "model/heads/classes.json"):
        assert any(name.rsplit("/", 1)[-1] in p.name for p in (root / name).parent.glob("*tainted*")), name
    assert FaceSet.open(root / "set").verify() == []
