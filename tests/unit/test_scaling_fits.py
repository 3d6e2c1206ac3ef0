"""`python -m bench.sizes`: the slopes and leads that it prints, on errors whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench import sizes
from bench.methods import FLOPS

from fusiform.compare.arms import parse_arms
from fusiform.compare.budget import Flops
from fusiform.compare.cells import CellFolder, Result
from fusiform.results import ResultRow

PEOPLE_NOISE = np.random.default_rng(7).normal(0, 0.05, 200)


def row(task, value, higher):
    return ResultRow(
        encoder="x",
        encoder_sha256="0" * 64,
        task=task,
        dataset="shades",
        split="test",
        protocol={"name": "linear"},
        seed=0,
        metric="m",
        value=value,
        low=None,
        high=None,
        n=10,
        people=8,
        higher_is_better=higher,
        measurement={},
        measurement_digest="",
        date="2026-11-24",
    )


def measured(out, place, error, seed=0):
    """A cell with one task of errors and one of scores, hard people being hard at every size."""
    folder = CellFolder(
        out / "cells" / Flops(FLOPS * place.budget).name / place.arm / f"seed-{seed}", {"arm": place.arm, "seed": seed}
    )
    draws = error * np.exp(PEOPLE_NOISE)
    folder.put("points", {}, Result((row("points", error, False),), (), {"m": draws}))
    folder.put("parts", {}, Result((row("parts", 1 - error, True),), (), {"m": 1 - draws}))


def test_a_fall_by_a_tenth_is_found_and_so_is_a_lead(tmp_path):
    for number, place in enumerate(sizes.places("muon-mae")["weights"]):
        measured(tmp_path, place, 0.4 * 0.9**number)
    for number, place in enumerate(sizes.places("camd")["weights"]):
        measured(tmp_path, place, 0.5 * 0.9**number)
    own, other = (
        [sizes.errors(tmp_path, place) for place in sizes.places(name)["weights"]] for name in ("muon-mae", "camd")
    )
    found = sizes.slope(own, 0.0)
    assert math.exp(found.value) == pytest.approx(0.9)
    assert found.error == pytest.approx(0.0, abs=1e-12)  # who is tested moves all sizes alike
    assert math.exp(sizes.gap(own[0], other[0], 0.0).value) == pytest.approx(0.8)
    assert sizes.slope(own, 0.0, other).value == pytest.approx(0.0, abs=1e-12)
    # a run's own noise: the ends of three sizes decide, each with half the weight
    assert sizes.slope(own, 0.02).error == pytest.approx(0.02 * math.sqrt(0.5))
    assert sizes.slope(own, 0.02, other).error == pytest.approx(0.02)


def test_noise_between_seeds_is_pooled_and_what_is_unfinished_is_not_compared(tmp_path):
    middle = sizes.places("camd")["weights"][1]
    for seed, error in enumerate((0.5, 0.52)):
        measured(tmp_path, middle, error, seed)
    spread = sizes.seed_spread([sizes.errors(tmp_path, middle)])
    assert spread == pytest.approx(math.log(0.52 / 0.5) / math.sqrt(2))
    assert math.isnan(sizes.seed_spread([]))
    assert "| camd | not measured |" in sizes.tables(tmp_path, ["camd"])
    for place in sizes.places("camd")["people"][:2]:
        measured(tmp_path, place, 0.6)
    assert any(line.startswith("| camd | 2 | 0.6000 | 0.6000 | 0.5099 |") for line in sizes.tables(tmp_path, ["camd"]))
    (tmp_path / "cells" / Flops(FLOPS).name / "camd-p1" / "seed-0" / "results" / "points.json").unlink()
    assert not any(line.startswith("| camd | 2") for line in sizes.tables(tmp_path, ["camd"]))


def test_all_sizes_are_arms_that_compare_takes():
    for method in sizes.METHODS:
        own, others = sizes.arms(method)
        found = parse_arms([own, *others])
        places = {place.arm for axis in sizes.places(method).values() for place in axis}
        assert {arm.label for arm in found} == places
        assert [arm.recipe(teacher="x").vit.width for arm in found] == [192, 192, 192, 96, 384]
