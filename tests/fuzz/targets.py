"""Every reader of files from strangers, with small whole files that it reads: synthetic pixels, no face of anybody.

A file that carries a checksum of itself would refuse every mutation at its door; whoever means harm writes a fitting
one. So what lies behind the checksum is mutated, and sealed again.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Read = Callable[[bytes, Path], Any]


@dataclass(frozen=True)
class Target:
    """A reader and whole files that it reads."""

    name: str
    seeds: tuple[bytes, ...]
    read: Read
    """Given the bytes and a folder of its own."""
    in_worker: bool = False
    """Whether its library may be killed by damage, and is therefore used in worker processes that may be lost."""


def on_disk(name: str, reader: Callable[[Path], Any]) -> Read:
    def run(data: bytes, folder: Path) -> Any:
        (folder / name).write_bytes(data)
        return reader(folder / name)

    return run


def pixels() -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[0:24, 0:24]
    return np.stack([rows * 10, columns * 10, (rows + columns) * 5], -1).astype(np.uint8)


def encoded(kind: str, **options: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, kind, **options)
    return file.getvalue()


def as_json(data: bytes) -> dict[str, Any] | None:
    """What the bytes say as a JSON object; None where they are none: a caller's business, who names the file."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def picture() -> Target:
    from PIL import Image

    from fusiform.faces.decode import decode

    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})),
        *(("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {}), ("PPM", {})),
    )
    turned = Image.Exif()
    turned[274] = 6
    seeds = (*(encoded(kind, **options) for kind, options in kinds), encoded("JPEG", exif=turned.tobytes()))
    return Target("picture", seeds, lambda data, folder: decode(data, max_pixels=1_000_000))


# ---------------------------------------------------------------- sources


def members_of(kind: str) -> Read:
    from fusiform.curate.options import CurateOptions
    from fusiform.curate.scan import SourceFile
    from fusiform.curate.sources import members, read
    from fusiform.errors import FusiformError

    def all_of(data: bytes, folder: Path) -> Any:
        file = folder / f"a.{kind}"
        file.write_bytes(data)
        found = []
        for member in members(SourceFile("a", str(file), len(data), 0), kind, CurateOptions()):
            if not member.refused and len(found) < 20:
                try:
                    found.append(read(member))
                except FusiformError:  # one damaged member leaves the others
                    continue
        return found

    return all_of


def tar() -> Target:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in (("a/0.jpg", encoded("JPEG")), ("a/0.json", b'{"person": "x"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return Target("tar", (out.getvalue(),), members_of("tar"))


def zipped() -> Target:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/0.jpg", encoded("JPEG"))
        file.writestr("b.txt", "text" * 40)
    return Target("zip", (out.getvalue(),), members_of("zip"))


def parquet() -> Target:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    jpeg = encoded("JPEG")
    table = pa.table({"image": [{"bytes": jpeg, "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}], "age": [3, 4]})
    pq.write_table(table, out)
    return Target("parquet", (out.getvalue(),), members_of("parquet"))


def recordio() -> Target:
    from fusiform.faces.recordio import RecordFile, pack, unpack, write_record

    records = io.BytesIO()
    for number in range(3):
        write_record(records, pack(float(number), number, encoded("JPEG")))

    def record_file(data: bytes, folder: Path) -> Any:
        file = folder / "a.rec"
        file.write_bytes(data)
        with RecordFile(file) as opened:
            return [unpack(opened.read(offset)) for _, offset in opened.offsets()]

    return Target("recordio", (records.getvalue(),), record_file)


def lmdb() -> Target:
    import lmdb as library

    with tempfile.TemporaryDirectory() as made:
        place = Path(made) / "a.mdb"
        environment = library.open(str(place), subdir=False, map_size=1 << 20, lock=False)
        with environment, environment.begin(write=True) as view:
            for number in range(3):
                view.put(b"%d" % number, encoded("JPEG"))
        data = place.read_bytes().rstrip(b"\0")
    return Target("lmdb", (data + b"\0" * (-len(data) % 4096),), members_of("lmdb"), in_worker=True)


def addresses() -> Target:
    from fusiform.curate.options import CurateOptions
    from fusiform.curate.scan import SourceFile
    from fusiform.curate.sources.web import members

    def listed(data: bytes, folder: Path) -> Any:
        file = folder / "list.txt"
        file.write_bytes(data)
        inside = str(folder.resolve())
        found = list(members(SourceFile("a", str(file), len(data), 0), CurateOptions()))
        for each in found:  # a local path that is not refused lies in the folder of the list
            local = each.inside and not each.inside[1]
            if local and not each.refused and not str(Path(each.path).resolve()).startswith(inside):
                raise AssertionError(f"{each.path} is outside")
        return found

    seed = b"# faces\nhttps://example.org/a.jpg\tmary\nfile:///etc/hostname\n../../x.jpg\ns3://bucket/a.jpg\nlist.txt\n"
    return Target("addresses", (seed,), listed)


# ---------------------------------------------------------------- our own files


def config() -> Target:
    from fusiform import recipes
    from fusiform.config import from_json, to_json

    recipe = recipes.find("mae-face-quick")

    def read(data: bytes, folder: Path) -> Any:
        values = as_json(data)
        return None if values is None else from_json(recipe, values)

    return Target("config", (json.dumps(to_json(recipe)).encode(),), read)


def ledger() -> Target:
    import pyarrow.parquet as pq

    from fusiform.ledger import LedgerRow, read_ledger, to_table, write_ledger

    with tempfile.TemporaryDirectory() as made:
        write_ledger(to_table([LedgerRow(path="a.jpg", outcome="no-face", source="a")]), Path(made) / "l.parquet")
        data = (Path(made) / "l.parquet").read_bytes()
    plain = io.BytesIO()  # without the checksums of pages, what lies behind them is reached
    pq.write_table(pq.read_table(io.BytesIO(data)), plain, compression="none", write_page_checksum=False)
    return Target("ledger", (data, plain.getvalue()), on_disk("ledger.parquet", read_ledger))


def results() -> Target:
    from fusiform.results import ResultRow, read_rows

    row = ResultRow(
        *("e", "0" * 64, "alignment", "london", "test", {"name": "linear"}, 0, "nme_box", 1.0, 0.5, 2.0, 9, 3, False),
        *({"normaliser": "box"}, "d" * 12, "2026-01-01"),
    )
    return Target("results", ((row.to_line() + "\n").encode() * 2,), on_disk("results.jsonl", read_rows))


def _face_set() -> dict[str, bytes]:
    """The files of a set of two faces, by their path below its folder."""
    from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
    from fusiform.ledger import LedgerRow
    from fusiform.measurement import Crop

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "set"
        faces = [StoredFace(f"f{i}", encoded("JPEG"), {"age": i}, encoded_map()) for i in range(2)]
        rows = [LedgerRow(path=f"{f.key}.jpg", outcome="kept", key=f.key, source="a") for f in faces]
        commit_chunk(folder, 0, faces, rows)
        finish_set(folder, name="s", crop=Crop("loose", 24, "drawn"), made_by="test", created="2026-01-01")
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def encoded_map() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels()[..., 0] % 11).save(file, "PNG")
    return file.getvalue()


def _read_set(folder: Path) -> Any:
    from fusiform.faces.faceset import FaceSet

    opened = FaceSet.open(folder)
    problems = opened.verify()
    rows = range(min(len(opened), 4))
    return problems, [(opened.image(row), opened.labels(row), opened.parsing(row), opened.key(row)) for row in rows]


def _set_target(name: str, mutate: str, fit: Callable[[dict[str, bytes]], None]) -> Target:
    """A set of which one file is mutated, and what names its checksum is fitted to it."""
    files = _face_set()

    def read(data: bytes, folder: Path) -> Any:
        now = {**files, mutate: data}
        fit(now)
        for path, content in now.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return _read_set(folder)

    return Target(name, (files[mutate],), read)


def shard() -> Target:
    return _set_target("shard", next(name for name in _face_set() if name.endswith(".tar")), lambda files: None)


def set_description() -> Target:
    from fusiform.faces.faceset import SET_FILE

    return _set_target("set-description", SET_FILE, lambda files: None)


def set_index() -> Target:
    return _index("set-index", mapped=False)


def set_mapped_index() -> Target:
    return _index("set-mapped-index", mapped=True)


def _index(name: str, *, mapped: bool) -> Target:
    import hashlib

    from fusiform.faces.faceset import INDEX_FILE, MAPPED_FILE, SET_FILE

    which = MAPPED_FILE if mapped else INDEX_FILE

    def fit(files: dict[str, bytes]) -> None:
        if not mapped:
            files.pop(MAPPED_FILE, None)
        info = json.loads(files[SET_FILE])
        info["files"][which] = {"bytes": len(files[which]), "sha256": hashlib.sha256(files[which]).hexdigest()}
        files[SET_FILE] = json.dumps(info).encode()

    return _set_target(name, which, fit)


def checkpoint() -> Target:
    import torch

    from fusiform import checkpoint as module
    from fusiform.durable import sealed_json

    with tempfile.TemporaryDirectory() as made:
        folder = module.write(Path(made), 3, {"a.weight": torch.ones(3, 2)}, {"epoch": 1}, b"{}\n")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    tensors = next(name for name in files if name.endswith(".safetensors"))

    def read(data: bytes, folder: Path) -> Any:
        import hashlib

        place = folder / module.folder_name(3)
        place.mkdir()
        manifest = json.loads(files["manifest.json"])
        manifest["files"][tensors] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, content in {**files, tensors: data, "manifest.json": sealed_json(manifest)}.items():
            (place / name).write_bytes(content)
        return module.read(place).tensors()

    return Target("checkpoint", (files[tensors],), read)


def manifest() -> Target:
    import torch

    from fusiform import checkpoint as module

    with tempfile.TemporaryDirectory() as made:
        folder = module.write(Path(made), 3, {"a.weight": torch.ones(3, 2)}, {"epoch": 1}, b"{}\n")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def read(data: bytes, folder: Path) -> Any:
        place = folder / module.folder_name(3)
        place.mkdir()
        for name, content in {**files, "manifest.json": resealed(data)}.items():
            (place / name).write_bytes(content)
        return module.read(place).tensors()

    return Target("manifest", (files["manifest.json"],), read)


def resealed(data: bytes) -> bytes:
    """JSON with a fitting checksum, where it is an object; else as it is."""
    from fusiform.durable import sealed_json

    values = as_json(data)
    try:
        return data if values is None else sealed_json(values)
    except (ValueError, RecursionError):  # NaN, lone surrogates
        return data


def tombstones() -> Target:
    from fusiform.curate.tombstones import TOMBSTONES_FILE, Tombstones, read_tombstones, write_tombstones

    with tempfile.TemporaryDirectory() as made:
        full = Tombstones(
            b"salt", frozenset({"ab"}), frozenset({"cd"}), frozenset({"ef"}), frozenset({"a.jpg"}), ((1, 2),)
        )
        write_tombstones(Path(made), full)
        seed = (Path(made) / TOMBSTONES_FILE).read_bytes()

    def read(data: bytes, folder: Path) -> Any:
        (folder / TOMBSTONES_FILE).write_bytes(resealed(data))
        return read_tombstones(folder)

    return Target("tombstones", (seed,), read)


def run_folder() -> Target:
    from fusiform.durable import sealed_json
    from fusiform.report.runs import RunSummary

    stored = {"recipe": "mae-face-quick", "method": "MAEFace", "config": {"about": "x", "optim": {"lr": 1e-3}}}
    log = b'{"step": 1, "epoch": 0.1, "loss": 0.5, "faces_per_second": 3.0}\n{"event": "resumed", "message": "m"}\n'
    whole = sealed_json(stored) + b"\0" + log

    def read(data: bytes, folder: Path) -> Any:
        settings, _, rows = data.partition(b"\0")
        (folder / "config.json").write_bytes(resealed(settings))
        (folder / "log.jsonl").write_bytes(rows)
        return RunSummary.read(folder)

    return Target("run-folder", (whole,), read)


# ---------------------------------------------------------------- labels of public sets


def bin_pairs() -> Target:
    from fusiform.tasks.sets.bin_pickle import read_bin

    pairs = tuple(pickle.dumps(([encoded("JPEG"), encoded("JPEG")], [True]), protocol=p) for p in (2, 4))
    return Target("bin", pairs, on_disk("lfw.bin", read_bin))


def points_text() -> Target:
    from fusiform.tasks.sets.w300 import read_pts

    seed = "version: 1\nn_points: 68\n{\n" + "".join(f"{i}.5 {i}\n" for i in range(68)) + "}\n"
    return Target("pts", (seed.encode(),), on_disk("a.pts", read_pts))


def matlab() -> Target:
    import scipy.io

    from fusiform.tasks.sets.lp300w import read_mat

    out = io.BytesIO()
    scipy.io.savemat(out, {"Pose_Para": np.ones((1, 7)) * 0.1, "pt2d": np.ones((2, 68))}, do_compression=True)
    return Target("matlab", (out.getvalue(),), on_disk("a.mat", read_mat))


def label_lines() -> Target:
    from fusiform.tasks.sets.folder import read_jsonl

    return Target(
        "label-lines", (b'{"image": "a.jpg", "yaw": 3}\n\n{"image": "b.jpg"}\n',), on_disk("l.jsonl", read_jsonl)
    )


# ---------------------------------------------------------------- weights


def torch_file() -> Target:
    import torch

    from fusiform.weights.reading import read

    saved = io.BytesIO()
    torch.save({"model": {"a.weight": torch.zeros(4, 4), "a.bias": torch.zeros(4)}, "epoch": 3}, saved)
    old = io.BytesIO()
    torch.save({"model": {"a.weight": torch.zeros(2)}}, old, _use_new_zipfile_serialization=False)
    return Target("torch-file", (saved.getvalue(), old.getvalue()), on_disk("w.pth", read))


def pickled() -> Target:
    """The pickle inside a torch file, which is where its danger lies; zip and checksums fit."""
    import torch

    from fusiform.weights.reading import read

    saved = io.BytesIO()
    torch.save({"model": {"a.weight": torch.zeros(4, 4), "a.bias": torch.zeros(4)}, "epoch": 3}, saved)
    with zipfile.ZipFile(saved) as whole:
        members = {info.filename: whole.read(info) for info in whole.infolist()}
    name = next(each for each in members if each.endswith("data.pkl"))

    def run(data: bytes, folder: Path) -> Any:
        with zipfile.ZipFile(folder / "w.pth", "w") as out:
            for each, content in members.items():
                out.writestr(each, data if each == name else content)
        return read(folder / "w.pth")

    return Target("pickle", (members[name],), run)


def safetensors() -> Target:
    from safetensors.numpy import save

    from fusiform.weights.reading import read

    seed = save({"a.weight": np.zeros((4, 4), np.float32), "b": np.ones(3, np.int64)})
    return Target("safetensors", (seed,), on_disk("w.safetensors", read))


def onnx_file() -> Target:
    from fusiform.export.loading import load_onnx

    return Target("onnx", (tiny_onnx(), tiny_onnx("2")), on_disk("m.onnx", load_onnx))


def detector_file() -> Target:
    from fusiform.faces.sessions import open_session

    free = {"x": ("n", 2), "y": ("n", 2)}
    return Target("onnx-session", (tiny_onnx(),), lambda data, folder: open_session(data, free=free))


def tiny_onnx(opset: str = "17") -> bytes:
    """y = relu(x + w), written by hand so that no package is needed to make it."""
    from fusiform.faces.protobuf import blob, number, value_info

    def node(kind: str, given: tuple[str, ...], made: str) -> bytes:
        return blob(1, b"".join(blob(1, name) for name in given) + blob(2, made) + blob(4, kind))

    weight = number(1, 2) + number(2, 1) + blob(8, "w") + blob(9, np.ones(2, np.float32).tobytes())
    graph = node("Add", ("x", "w"), "s") + node("Relu", ("s",), "y") + blob(2, "g") + blob(5, weight)
    graph += blob(11, value_info("x", ("n", 2))) + blob(12, value_info("y", ("n", 2)))
    about = blob(14, blob(1, "key") + blob(2, "value"))
    return number(1, 8) + blob(7, graph) + blob(8, number(2, int(opset) if opset != "2" else 13)) + about


def _encoder_files() -> dict[str, bytes]:
    from fusiform.config import ViTConfig
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop

    with tempfile.TemporaryDirectory() as place:
        shape = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
        folder = Encoder.untrained(shape, Crop(template="loose", size=20, detector="exact-points")).save(
            Path(place) / "e"
        )
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def encoder_card() -> Target:
    from fusiform.encoder import CARD, WEIGHTS, Encoder

    files = _encoder_files()

    def run(data: bytes, folder: Path) -> Any:
        (folder / WEIGHTS).write_bytes(files[WEIGHTS])
        (folder / CARD).write_bytes(resealed(data))
        return Encoder.load(folder)

    return Target("encoder-card", (files[CARD],), run)


def encoder_weights() -> Target:
    import hashlib

    from fusiform.durable import sealed_json
    from fusiform.encoder import CARD, WEIGHTS, Encoder

    files = _encoder_files()

    def run(data: bytes, folder: Path) -> Any:
        card = {**json.loads(files[CARD]), "weights_sha256": hashlib.sha256(data).hexdigest()}
        (folder / WEIGHTS).write_bytes(data)
        (folder / CARD).write_bytes(sealed_json(card))
        return Encoder.load(folder)

    return Target("encoder-weights", (files[WEIGHTS],), run)


TARGETS: dict[str, Callable[[], Target]] = {
    "picture": picture,
    "tar": tar,
    "zip": zipped,
    "parquet": parquet,
    "recordio": recordio,
    "lmdb": lmdb,
    "addresses": addresses,
    "config": config,
    "ledger": ledger,
    "results": results,
    "shard": shard,
    "set-description": set_description,
    "set-index": set_index,
    "set-mapped-index": set_mapped_index,
    "checkpoint": checkpoint,
    "manifest": manifest,
    "tombstones": tombstones,
    "run-folder": run_folder,
    "bin": bin_pairs,
    "pts": points_text,
    "matlab": matlab,
    "label-lines": label_lines,
    "torch-file": torch_file,
    "pickle": pickled,
    "safetensors": safetensors,
    "onnx": onnx_file,
    "onnx-session": detector_file,
    "encoder-card": encoder_card,
    "encoder-weights": encoder_weights,
}
"""What `make fuzz` goes through, by name; each makes its own seeds."""
