"""Scanning: every entry is returned once, in one order, with a reason where it cannot be a photo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fusiform.curate.scan import SourceFile, label_sources, printable, scan
from fusiform.errors import DataError


def found(root: Path, **options: object) -> dict[str, SourceFile]:
    rows = list(scan(label_sources([root], {}), **options))  # type: ignore[arg-type]
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def test_everything_is_found_and_nothing_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (root / "a" / "b").mkdir(parents=True)
    (root / "empty").mkdir()
    for name in ("z.jpg", ".hidden", "a/b/no-extension", "a/x.txt", "UPPER.JPG", "ä ö.png"):
        (root / name).write_bytes(b"1234")
    (root / "zero.jpg").touch()
    os.mkfifo(root / "pipe.jpg")
    (root / "broken.jpg").symlink_to("nowhere")
    (root / "to-file.jpg").symlink_to("z.jpg")
    (root / "to-folder").symlink_to("a")
    (root / "a" / "loop").symlink_to("..")
    (root / "self").symlink_to("self")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        rows = found(root)
    assert {name: row.refused for name, row in rows.items() if row.refused} == {
        "photos/zero.jpg": "empty",
        "photos/pipe.jpg": "not-a-regular-file",
        "photos/socket": "not-a-regular-file",
        "photos/broken.jpg": "broken-link",
        "photos/self": "broken-link",
        "photos/to-folder/": "linked-folder",
        "photos/a/loop/": "linked-folder",
    }
    assert sorted(name for name, row in rows.items() if not row.refused) == sorted(
        f"photos/{n}"
        for n in ("z.jpg", ".hidden", "a/b/no-extension", "a/x.txt", "UPPER.JPG", "ä ö.png", "to-file.jpg")
    )
    assert rows["photos/z.jpg"].size == 4
    assert rows["photos/z.jpg"].mtime_ns == (root / "z.jpg").stat().st_mtime_ns


def test_links_are_entered_once_if_asked(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    (root / "z").mkdir(parents=True)
    elsewhere.mkdir()
    (root / "z" / "1.jpg").write_bytes(b"x")
    (elsewhere / "2.jpg").write_bytes(b"x")
    (root / "a-link").symlink_to("z")
    (root / "out").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    assert sorted(found(root, follow_links=True)) == ["photos/out/2.jpg", "photos/z/1.jpg"]


def test_odd_names_stay_apart_and_printable(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "photos")
    os.mkdir(root)
    names = [b"\xff\xfe.jpg", b"new\nline.jpg", b"back\\slash.jpg", b"\\xff\\xfe.jpg", b"\x1b[31mred.jpg", b"<b>&.jpg"]
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"x")
    rows = found(tmp_path / "photos")
    assert len(rows) == len(names)
    assert all(name.isprintable() and name.encode() for name in rows)
    assert "photos/\\xff\\xfe.jpg" in rows
    for row in rows.values():
        with open(row.path, "rb") as file:
            assert file.read() == b"x"


def test_the_order_depends_on_names_alone(tmp_path: Path) -> None:
    for turn, order in enumerate(["cab", "bca"]):
        for letter in order:
            folder = tmp_path / str(turn) / "photos" / letter
            folder.mkdir(parents=True)
            for name in order:
                (folder / name).write_bytes(b"x")
    first, second = ([row.name for row in found(tmp_path / t / "photos").values()] for t in "01")
    assert first == second == sorted(first)


def test_deep_nesting_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    depth = sys.getrecursionlimit() + 200
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("x").write_bytes(b"x")
        os.chdir(tmp_path)
        assert len(found(tmp_path)) == 1
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # pytest's own cleaning is recursive


def test_an_unreadable_folder_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos" / "secret").mkdir(parents=True)
    (tmp_path / "photos" / "x").write_bytes(b"x")
    listdir = os.listdir

    def guarded(path: str) -> list[str]:
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", guarded)
    rows = found(tmp_path / "photos")
    assert rows["photos/secret/"].refused == "unreadable-folder"
    assert rows["photos/secret/"].detail == "Permission denied"
    assert rows["photos/secret/"].retry
    assert "photos/x" in rows


def test_the_set_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "card.jpg").write_bytes(b"x")
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert [row.name for row in found(tmp_path, leave_out=[tmp_path / "set"]).values()] == [f"{tmp_path.name}/1.jpg"]


def test_sources_get_labels_that_last(tmp_path: Path) -> None:
    for name in ("a/photos", "b/photos", "a/photos/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one.jpg").write_bytes(b"x")
    first = label_sources([tmp_path / "a/photos", tmp_path / "a/photos/inner", tmp_path / "one.jpg"], {})
    assert list(first) == ["photos", "one.jpg"]  # the inner folder belongs to the outer one
    second = label_sources([tmp_path / "b/photos", tmp_path / "a" / ".." / "a" / "photos"], first)
    assert second == {"photos~2": str(tmp_path / "b/photos"), "photos": str(tmp_path / "a/photos")}
    assert [row.name for row in scan({"one.jpg": str(tmp_path / "one.jpg")})] == ["one.jpg"]


def test_a_missing_source_says_what_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="Did you mean 'photos'"):
        label_sources([tmp_path / "photo"], {})


def test_printable_is_one_to_one() -> None:
    paths = ["a", "a\\", "a\\\\", "\udcff", "\\xff", "ÿ", "\x7f", "\n", "\\n", "\u2028", "\u202e"]
    assert len({printable(p) for p in paths}) == len(paths)
    assert all(printable(p).isprintable() for p in paths)
