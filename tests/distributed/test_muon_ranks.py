"""Muon, whose products are of whole matrices in bf16, with whole and with sharded weights on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_ranks import LAST, rows
from tiny import content

from conftest import work


@pytest.mark.slow
def test_two_ranks_move_matrices_as_one_process_does(ground: Path) -> None:
    work(ground, 1, ["one-muon:muon-mae:"])
    work(ground, 2, ["two-muon:muon-mae:", "fsdp-muon:muon-mae:sharding=fsdp", "again-muon:muon-mae:"])
    runs = ground / "runs"
    for other in ("two-muon", "fsdp-muon"):
        theirs = rows(runs / other)
        assert len(theirs) == LAST
        for a, b in zip(rows(runs / "one-muon"), theirs, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4), (other, a["step"])
            assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-3), (other, a["step"])
    weights = Path("encoder") / "encoder.safetensors"
    assert content(runs / "two-muon" / weights) == content(runs / "again-muon" / weights)
