"""Libraries that torch.compile keeps: torn ones go, whole ones and those being written stay."""

import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fusiform.compiled import drop_torn, is_whole


@pytest.fixture
def library() -> Path:
    found = Path(torch._C.__file__)
    if found.read_bytes()[:4] != b"\x7fELF":
        pytest.skip("libraries of this system are not ELF files")
    return found


def test_a_library_that_was_cut_anywhere_goes(library: Path, tmp_path: Path) -> None:
    whole = tmp_path / "ab" / "whole.main.so"
    whole.parent.mkdir()
    shutil.copyfile(library, whole)
    data = library.read_bytes()
    cuts = (0, 1, 4, 63, 64, len(data) // 2, len(data) * 9 // 10)
    torn = [tmp_path / "ab" / f"torn{cut}.main.so" for cut in cuts]
    for path, cut in zip(torn, cuts, strict=True):
        path.write_bytes(data[:cut])
    zeros = tmp_path / "ab" / "zeros.main.so"  # what a linker that writes the header last leaves
    zeros.write_bytes(bytes(4096))
    assert sorted(drop_torn(tmp_path)) == sorted([*torn, zeros])
    assert whole.read_bytes() == data
    assert not any(path.exists() for path in [*torn, zeros])
    assert drop_torn(tmp_path) == []


def test_a_library_that_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "ab" / "key.main.so"
    path.parent.mkdir()
    path.write_bytes(b"\x7fELF")
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / "key.lock"):
        assert drop_torn(tmp_path) == []
    assert drop_torn(tmp_path) == [path]


def test_no_cache_is_no_error(tmp_path: Path) -> None:
    assert drop_torn(tmp_path / "none") == []
    assert is_whole(tmp_path / "none")
