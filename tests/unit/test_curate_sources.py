"""Containers as sources: each member becomes a row with its bytes and labels; hostile ones cost only themselves."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_fakes import FakeModels, ledger_rows, make, outcomes, picture

from fusiform.curate.card import read_card
from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile
from fusiform.curate.sources import MemberRefused, members, read
from fusiform.curate.sources.web import is_public
from fusiform.faces.faceset import FaceSet
from fusiform.faces.recordio import MAGIC, RecordFile, pack, unpack, write_record


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def fill_tar(path: Path, count: int, kind: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=kind) as tar:
        for i in range(count):
            add(tar, f"deep/{i:05d}.png", picture(1, seed=i))
            add(tar, f"deep/{i:05d}.json", json.dumps({"person": f"p{i // 2}", "age": 20 + i}).encode())


def fill_zip(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            how = zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"a/{i}.png"), picture(1, seed=i), how)


def fill_parquet(path: Path, count: int) -> None:
    rows = [{"bytes": picture(1, seed=i), "path": f"{i}.png"} for i in range(count)]
    table = pa.table({"image": rows, "identity": [f"p{i // 2}" for i in range(count)], "age": list(range(count))})
    pq.write_table(table, path, row_group_size=5)


def fill_lmdb(path: Path, count: int) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as view:
        for i in range(count):
            view.put(f"{i:05d}".encode(), picture(1, seed=i))


def fill_rec(path: Path, count: int, *, index: bool = True) -> None:
    """As InsightFace lays it out: a header record, images, then a record a person."""
    lines = []
    with path.open("wb") as file:
        lines.append((0, write_record(file, pack((float(count + 1), float(count + 1 + count // 2)), 0, b""))))
        for i in range(count):
            lines.append((i + 1, write_record(file, pack(float(i // 2), i + 1, picture(1, seed=i)))))
        for p in range(count // 2):
            lines.append((count + 1 + p, write_record(file, pack((2.0 * p + 1, 2.0 * p + 3), 0, b""))))
    if index:
        path.with_suffix(".idx").write_text("".join(f"{number}\t{at}\n" for number, at in lines))


FILLS: dict[str, Any] = {
    "x.tar": fill_tar,
    "x.zip": fill_zip,
    "x.parquet": fill_parquet,
    "x.lmdb": fill_lmdb,
    "x.rec": fill_rec,
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with the same six pictures in a container of every kind, and the set that is made of it."""
    root = tmp_path_factory.mktemp("boxes")
    (root / "box").mkdir()
    for name, fill in FILLS.items():
        fill(root / "box" / name, 6)
    make(root / "box", root / "set", chunk_files=5)
    return root / "box", root / "set"


def test_every_container_gives_the_pictures_that_lie_in_it(boxes: tuple[Path, Path]) -> None:
    rows = ledger_rows(boxes[1])
    want = {hashlib.sha256(picture(1, seed=i)).hexdigest() for i in range(6)}
    for name in FILLS:
        inside = [row for row in rows if row["path"].startswith(f"box/{name}/") and row["outcome"] != "not-an-image"]
        assert {row["sha256"] for row in inside} == want, name
        assert len(inside) == 6
    found = [row["outcome"] for row in rows]
    assert found.count("kept") == 6
    assert found.count("duplicate") == 6 * (len(FILLS) - 1)
    assert found.count("not-an-image") == 2  # x.idx and lock.mdb


def test_what_a_container_says_about_a_face_comes_along(boxes: tuple[Path, Path]) -> None:
    rows = {row["path"].removeprefix("box/"): row for row in ledger_rows(boxes[1])}
    assert [rows[f"x.tar/deep/{i:05d}.png"]["subject"] for i in range(6)] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert [rows[f"x.parquet/{i:09d}"]["subject"] for i in range(6)] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert [rows[f"x.rec/{i:09d}"]["subject"] for i in range(1, 7)] == ["0", "0", "1", "1", "2", "2"]
    assert {rows[f"x.zip/a/{i}.png"]["subject"] for i in range(6)} == {""}
    faces = FaceSet.open(boxes[1])
    # the copies in x.lmdb, a container that says nothing, come first in the scan and are those that are kept
    assert all("about" not in faces.labels(i) for i in range(6))


def test_labels_of_a_container_are_stored_with_the_face(tmp_path: Path) -> None:
    fill_tar(tmp_path / "x.tar", 2)
    faces = make(tmp_path / "x.tar", tmp_path / "set")
    assert sorted(faces.labels(i)["about"]["age"] for i in range(2)) == [20, 21]


def test_containers_with_more_workers_and_a_second_run(boxes: tuple[Path, Path], tmp_path: Path) -> None:
    box, whole = boxes
    three = make(box, tmp_path / "three", workers=3, chunk_files=5)
    assert three.digest == FaceSet.open(whole).digest
    assert ledger_rows(tmp_path / "three") == ledger_rows(whole)
    again = make(box, tmp_path / "three", FakeModels(loads=False), chunk_files=5)
    assert again.digest == three.digest


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_and_long_names(kind: int, tmp_path: Path) -> None:
    name = "/".join(["folder"] * 12) + "/x.png" if kind == tarfile.USTAR_FORMAT else "ü" * 150 + "/x.png"
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=kind) as tar:
        add(tar, name, b"one")
        add(tar, "y.png", b"second")
    container = SourceFile("x.tar", str(path), path.stat().st_size, 1)
    found = list(members(container, "tar", CurateOptions()))
    assert [file.name for file in found] == [f"x.tar/{name}", "x.tar/y.png"]
    assert [read(file).data for file in found] == [b"one", b"second"]


def test_a_hostile_tar_costs_only_itself(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    with tarfile.open(box / "x.tar", "w") as tar:
        add(tar, "../../escape.png", picture(1, seed=1))
        add(tar, "/root.png", picture(1, seed=2))
        add(tar, "twice.png", picture(1, seed=3))
        add(tar, "twice.png", picture(1, seed=4))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "bad.png", picture(1, seed=5))
        add(tar, "bad.json", b"[" * 100_000)
        add(tar, "alone.json", b"{}")
        add(tar, "empty.png", b"")
        add(tar, "inner.tar", b"x" * 600)
    data = (box / "x.tar").read_bytes()
    with tarfile.open(box / "cut.tar", "w") as tar:
        add(tar, "whole.png", picture(1, seed=8))
        add(tar, "cut.png", picture(1, seed=9))
    whole = (box / "cut.tar").read_bytes()
    (box / "cut.tar").write_bytes(whole[: len(whole) - 12_000])
    (box / "garbage.tar").write_bytes(data[:512] + b"\xff" * 5000)
    (box / "x.tar.gz").write_bytes(b"\x1f\x8b" + bytes(50))
    make(box, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert got == {
        "x.tar/../../escape.png": "escaping-name",
        "x.tar/root.png": "escaping-name",
        "x.tar/twice.png": "kept",
        "x.tar/twice.png~2": "kept",
        "x.tar/link.png": "linked-member",
        "x.tar/bad.png": "bad-labels",
        "x.tar/alone.json": "not-an-image",
        "x.tar/empty.png": "empty",
        "x.tar/inner.tar": "not-an-image",
        "cut.tar/whole.png": "kept",
        "cut.tar/cut.png": "truncated",
        "garbage.tar/../../escape.png": "truncated",
        "x.tar.gz": "compressed-archive",
    }
    counts = read_card(tmp_path / "set")["counts"]
    assert counts["seen"] == len(got) == counts["kept"] + counts["refused"]
    assert not (tmp_path / "escape.png").exists()


def test_zip_bombs_are_refused_unread(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    with zipfile.ZipFile(box / "flat.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", bytes(50 << 20))
        archive.writestr("fine.png", picture(1, seed=1))
        archive.writestr("../out.png", picture(1, seed=2))
        for i in range(40):
            archive.writestr(f"{i}.bin", np.random.default_rng(i).bytes(20_000))
    with zipfile.ZipFile(box / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.bmp", bytes(60 << 20))
    fill_zip(box / "lies.zip", 2)
    raw = bytearray((box / "lies.zip").read_bytes())
    at = raw.rfind(b"PK\1\2")
    struct.pack_into("<I", raw, at + 24, 5)  # a member that is larger than the directory says
    (box / "lies.zip").write_bytes(raw)
    (box / "cut.zip").write_bytes(bytes(raw[:-30]))
    with zipfile.ZipFile(box / "locked.zip", "w") as archive:
        archive.writestr("a.png", picture(1, seed=3))
    raw = bytearray((box / "locked.zip").read_bytes())
    raw[raw.rfind(b"PK\1\2") + 8] |= 1
    (box / "locked.zip").write_bytes(raw)
    make(box, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert got["flat.zip/bomb.bmp"] == "archive-bomb"
    assert got["flat.zip/fine.png"] == "kept"
    assert got["flat.zip/../out.png"] == "escaping-name"
    assert got["whole.zip"] == "archive-bomb"
    assert got["lies.zip/a/0.png"] == "kept"
    assert got["lies.zip/a/1.png"] == "archive-bomb"
    assert got["cut.zip"] == "damaged-archive"
    assert got["locked.zip/a.png"] == "encrypted-member"


def test_a_table_without_pictures_and_damaged_ones_are_named(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    pq.write_table(pa.table({"name": ["a"], "age": [3]}), box / "plain.parquet")
    null = [None, {"bytes": None, "path": "elsewhere.png"}, {"bytes": picture(1, seed=51), "path": ""}]
    pq.write_table(pa.table({"image": null}), box / "null.parquet")
    fill_parquet(box / "good.parquet", 3)
    raw = bytearray((box / "good.parquet").read_bytes())
    raw[2000:2100] = b"\xff" * 100
    (box / "flipped.parquet").write_bytes(raw)
    (box / "cut.parquet").write_bytes(raw[:500])
    (box / "good.parquet").unlink()
    make(box, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert got["plain.parquet"] == "no-pictures"
    assert got["cut.parquet"] == "damaged-archive"
    assert [got[f"null.parquet/{i:09d}"] for i in range(3)] == ["empty", "empty", "kept"]
    assert sum(name.startswith("flipped.parquet") for name in got) == 3


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    magic = struct.pack("<I", MAGIC)
    payloads = [b"", b"abc", magic, b"1234" + magic * 2 + b"5", b"12" + magic, pack((1.0, 2.0), 7, b"image")]
    with path.open("wb") as file:
        offsets = [write_record(file, payload) for payload in payloads]
    with RecordFile(path) as records:
        assert [at for _, at in records.offsets()] == offsets
        assert [records.read(at) for at in offsets] == payloads
    entry = unpack(payloads[-1])
    assert (entry.labels, entry.id, entry.image, entry.person) == ((1.0, 2.0), 7, b"image", "1")


@pytest.mark.parametrize("damage", ["cut", "flag", "index", "no-index"])
def test_damaged_record_files_cost_only_what_is_damaged(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    fill_rec(path, 4, index=damage != "no-index")
    raw = bytearray(path.read_bytes())
    with RecordFile(path) as records:
        offsets = [at for _, at in records.offsets()]
    want = {"kept": 4}
    if damage == "cut":
        path.write_bytes(raw[: offsets[4] + 500])
        want = {"kept": 3, "damaged-archive": 1}
    elif damage == "flag":
        struct.pack_into("<I", raw, offsets[2] + 8, 0x7FFFFFFF)
        path.write_bytes(raw)
        want = {"kept": 3, "damaged-archive": 1}
    elif damage == "index":
        path.with_suffix(".idx").write_text("1\t99999999999999999999\nx\ty\n")
        want = {"damaged-archive": 2}
    got: list[str] = []
    for file in members(SourceFile("x.rec", str(path), path.stat().st_size, 1), "rec", CurateOptions()):
        try:
            got.append(file.refused or "kept" * bool(read(file).data))
        except MemberRefused as error:
            got.append(error.reason)
    assert {outcome: got.count(outcome) for outcome in set(got)} == want


def test_frames_of_a_video(tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "x.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (106, 116))
    if not video.isOpened():
        pytest.skip("this OpenCV writes no video")
    for i in range(25):
        frame = np.zeros((116, 106, 3), np.uint8)  # black where the fake finder reads how many faces there are
        frame[20:100, 10 + i : 60 + i] = 200
        video.write(frame)
    video.release()
    make(path, tmp_path / "closed")
    assert len(ledger_rows(tmp_path / "closed")) == 1
    make(path, tmp_path / "set", video_every=1.0)
    rows = ledger_rows(tmp_path / "set")
    assert [row["path"] for row in rows] == [f"x.avi/frame-{frame:08d}" for frame in (0, 10, 20)]
    assert {(row["width"], row["height"], row["format"]) for row in rows} == {(106, 116, "bmp")}
    assert len({row["sha256"] for row in rows}) == 3
    (tmp_path / "bad.avi").write_bytes(path.read_bytes()[:300])
    make(tmp_path / "bad.avi", tmp_path / "bad", video_every=1.0)
    assert {row["outcome"] for row in ledger_rows(tmp_path / "bad")} == {"damaged-archive"}


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/a.png":
            self.answer(200, picture(1, seed=1))
        elif self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/a2.png")
            self.end_headers()
        elif self.path == "/a2.png":
            self.answer(200, picture(1, seed=2))
        elif self.path == "/endless":
            self.send_response(302)
            self.send_header("Location", "/endless")
            self.end_headers()
        elif self.path == "/huge.png":
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
        else:
            self.answer(404, b"no")

    def answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_lists_of_addresses(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}"
    lists, secret = tmp_path / "lists", tmp_path / "secret"
    lists.mkdir()
    secret.mkdir()
    (secret / "s.png").write_bytes(picture(1, seed=9))
    (lists / "near.png").write_bytes(picture(1, seed=3))
    (lists / "link.png").symlink_to(secret / "s.png")
    lines = [
        f"{site}/a.png\tann",
        "# a comment",
        "",
        f"{site}/moved.png\tbob",
        f"{site}/endless",
        f"{site}/huge.png",
        f"{site}/gone.png",
        "near.png\teve",
        f"file://{secret}/s.png",
        "link.png",
        "../secret/s.png",
        "ftp://example.org/x.png",
        "missing.png",
    ]
    (lists / "all.txt").write_text("\n".join(lines))
    try:
        make(f"@{lists / 'all.txt'}", tmp_path / "refused")
        make(f"@{lists / 'all.txt'}", tmp_path / "set", allow_private=True)
    finally:
        server.shutdown()
    refused = [row["outcome"] for row in sorted(ledger_rows(tmp_path / "refused"), key=lambda r: r["path"])]
    assert refused[:5] == ["private-address"] * 5
    rows = sorted(ledger_rows(tmp_path / "set"), key=lambda r: r["path"])
    assert [(row["outcome"], row["subject"]) for row in rows] == [
        ("kept", "ann"),
        ("kept", "bob"),
        ("unreachable", ""),
        ("too-large-file", ""),
        ("unreachable", ""),
        ("kept", "eve"),
        ("outside-roots", ""),
        ("outside-roots", ""),
        ("outside-roots", ""),
        ("unsupported-address", ""),
        ("unreadable", ""),
    ]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fd00::1", False),
        ("nonsense", False),
    ],
)
def test_which_addresses_are_of_the_open_internet(address: str, public: bool) -> None:
    assert is_public(address) is public
