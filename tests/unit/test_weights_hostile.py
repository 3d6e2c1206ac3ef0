"""Weight files made to do harm: each is refused before torch reads it, and nothing in it runs."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from fusiform.errors import WeightsError
from fusiform.weights import pickles
from fusiform.weights.reading import read


class Calls:
    """Unpickles to whatever `function(*args)` gives."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def save(path: Path, value: Any, *, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def rewritten(path: Path, to: Path, member: str, change: Any) -> Path:
    """An archive with one member changed, or left out where `change` gives None."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(member):
                data = change(data)
            if data is not None:
                new.writestr(info.filename, data)
    return to


@pytest.mark.parametrize("legacy", [False, True])
def test_what_releases_save_is_read(tmp_path, legacy):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3])
    whole = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "args": argparse.Namespace(lr=1e-3, names=("a", "b"), nothing=None),
        "epoch": 2**70,
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "half": torch.ones(3, dtype=torch.float16),
        "shared": [model[0].weight.detach(), model[0].weight.detach()[:2]],
        "counts": collections.Counter("aab"),
        "empty": torch.zeros(0),
    }
    found = read(save(tmp_path / "a.pth", whole, legacy=legacy))
    assert torch.equal(found["model"]["0.weight"], model[0].weight)
    assert found["args"].names == ("a", "b")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("function", "args"),
    [
        (bytearray, (10**11,)),
        (eval, ("1",)),
        (print, ("x",)),
        (torch.hub.load, ("x", "y")),
        (collections.deque, ()),
    ],
)
def test_names_that_no_weights_need_are_refused(tmp_path, function, args, legacy, monkeypatch):
    path = save(tmp_path / "a.pth", {"model": {"x": torch.ones(2)}, "y": Calls(function, *args)}, legacy=legacy)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked to read it"))
    with pytest.raises(WeightsError, match=rf"names '\S*{function.__name__}', which would be run"):
        read(path)


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_other_protocols_hide_nothing(tmp_path, protocol, monkeypatch):
    path = tmp_path / "a.pth"
    torch.save({"y": Calls(eval, "1")}, path, pickle_protocol=protocol)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked to read it"))
    with pytest.raises(WeightsError, match=r"names '\S*eval'|instruction"):
        read(path)


def test_a_storage_must_have_the_length_that_it_declares(tmp_path):
    whole = save(tmp_path / "a.pth", {"model": {"x": torch.arange(200.0)}})
    for change in (lambda d: d[:-4], lambda d: d + b"1234", lambda d: None):
        bad = rewritten(whole, tmp_path / "bad.pth", "data/0", change)
        with pytest.raises(WeightsError, match="declares 800 bytes for storage 0 and stores"):
            read(bad)
    huge = rewritten(
        whole, tmp_path / "huge.pth", "data.pkl", lambda d: d.replace(b"K\xc8tq", b"J\xff\xff\xff\x7ftq", 1)
    )
    with pytest.raises(WeightsError, match=r"declares 8,589,934,588 bytes"):
        read(huge)


def test_an_old_file_cannot_declare_more_than_it_has(tmp_path):
    data = save(tmp_path / "a.pth", {"model": {"x": torch.arange(200.0)}}, legacy=True).read_bytes()
    assert data.count(b"K\xc8N") == 1  # the storage's 200 elements
    (tmp_path / "bad.pth").write_bytes(data.replace(b"K\xc8N", b"J" + struct.pack("<i", 2**31 - 1) + b"N"))
    with pytest.raises(WeightsError, match=r"declares storages of 8,589,934,588 bytes and has"):
        read(tmp_path / "bad.pth")


def test_a_program_of_torchscript_has_its_own_message(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as new:  # the members that torch.jit.save writes
        for name in ("data.pkl", "code/__torch__.py", "code/__torch__.py.debug_pkl", "data/0", "constants.pkl"):
            new.writestr(f"a/{name}", b"\x80\x02N.")
    with pytest.raises(WeightsError, match=r"TorchScript program.*transformers"):
        read(tmp_path / "a.pt")


def test_archives_that_contradict_themselves(tmp_path):
    whole = save(tmp_path / "a.pth", {"model": {"x": torch.ones(2)}})
    rewritten(whole, tmp_path / "none.pth", "data.pkl", lambda d: None)
    with pytest.raises(WeightsError, match=r"0 members data\.pkl"):
        read(tmp_path / "none.pth")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "two.pth", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        new.writestr("b/data.pkl", b"\x80\x02N.")
    with pytest.raises(WeightsError, match=r"2 members data\.pkl"):
        read(tmp_path / "two.pth")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (b"\x80\x02(dt.", "instructions|cannot|no file"),
        (b"\x80\x02X\x01\x00\x00\x00xQ.", "no storage"),
        (b"\x80\x02)R.", "instructions do not fit"),
        (b"\x80\x02K\x01)R.", "calls what it names nowhere"),
        (b"\x80\x02h\x07.", "instructions do not fit"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02N", "."),
        (b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00.", "."),
    ],
)
def test_broken_instructions(code, says, tmp_path):
    whole = save(tmp_path / "a.pth", {"model": {"x": torch.ones(2)}})
    bad = rewritten(whole, tmp_path / "bad.pth", "data.pkl", lambda _: code)
    with pytest.raises(WeightsError, match=says):
        read(bad)
    (tmp_path / "bare.pth").write_bytes(code)
    with pytest.raises(WeightsError):
        read(tmp_path / "bare.pth")


def test_the_list_holds_nothing_that_calls(tmp_path):
    assert not {"builtins.bytearray", "builtins.eval", "torch.load", "torch.Tensor"} & pickles.ALLOWED
    buffer = io.BytesIO()
    pickle.dump({"x": 1}, buffer, protocol=2)
    (tmp_path / "plain.pkl").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match="does not begin as"):
        read(tmp_path / "plain.pkl")
