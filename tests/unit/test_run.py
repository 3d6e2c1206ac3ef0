"""A run's folder: created, reopened, logged to, resumed from."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusiform import checkpoint
from fusiform.config import LoopConfig, OptimConfig, Recipe, to_json
from fusiform.errors import ConfigError, DataError, FusiformWarning, RunBusy
from fusiform.run import Run


@dataclass(frozen=True)
class Inner:
    mask_ratio: float = 0.75


@dataclass(frozen=True)
class SomeMethod:
    depth: int = 2
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class OtherMethod:
    depth: int = 2
    inner: Inner = field(default_factory=Inner)


RECIPE = Recipe("tiny", SomeMethod())
NOTES = {"faces": "b4a1", "arithmetic": {"precision": "fp32", "threads": 1}, "tuning": {"malloc": "left"}}


def tensors(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"w": torch.randn(30, 40, generator=generator), "n": torch.tensor(step)}


def test_a_new_run_records_everything_that_decides_its_result(tmp_path: Path) -> None:
    with Run.open(tmp_path / "deep" / "a", RECIPE, notes=NOTES) as run:
        assert run.latest() is None
        assert run.rows() == []
        assert not run.done
    stored = Run.read_config(tmp_path / "deep" / "a")
    assert stored == run.config
    assert stored["recipe"] == "tiny"
    assert stored["identity"] == RECIPE.identity
    assert stored["config"] == to_json(RECIPE)
    assert stored["notes"] == NOTES
    assert stored["method"].endswith("SomeMethod")
    assert stored["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "revision" in stored


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = {
        "f64": torch.randn(3, dtype=torch.float64),
        "f32": torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45]),
        "f16": torch.randn(2, 3).half(),
        "bf16": torch.randn(5).bfloat16(),
        "i64": torch.tensor([2**62, -1]),
        "i32": torch.arange(4, dtype=torch.int32),
        "i16": torch.arange(3, dtype=torch.int16),
        "i8": torch.tensor([-128, 127], dtype=torch.int8),
        "u8": torch.arange(7, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 6).t(),
        "strided": torch.randn(10)[::3],
        "ünïcode.weight": torch.ones(1, requires_grad=True),
    }
    with Run.open(tmp_path / "a", RECIPE) as run:
        path = run.save(7, saved, {"step": 7, "note": "ü", "nested": {"list": [1, 2.5, None]}})
        last = run.latest()
    assert last is not None
    assert last.state == {"step": 7, "note": "ü", "nested": {"list": [1, 2.5, None]}}
    assert (last.step, last.folder) == (7, path)
    for loaded in (last.tensors(), load_file(path / "tensors.safetensors")):
        assert loaded.keys() == saved.keys()
        for name, tensor in saved.items():
            assert loaded[name].dtype == tensor.dtype
            assert loaded[name].shape == tensor.shape
            meant = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(loaded[name].reshape(-1).view(torch.uint8), meant), name
    assert json.loads((path / "config.json").read_bytes())["identity"] == RECIPE.identity


def test_old_checkpoints_go_and_the_newest_stay(tmp_path: Path) -> None:
    recipe = replace(RECIPE, loop=LoopConfig(keep_checkpoints=2))
    with Run.open(tmp_path / "a", recipe) as run:
        for step in (5, 10, 15, 20):
            run.save(step, tensors(step), {})
        assert checkpoint.steps(run.folder) == [15, 20]
    with Run.open(tmp_path / "a", recipe) as run:
        assert run.latest().step == 20
        run.save(25, tensors(25), {})
        assert checkpoint.steps(run.folder) == [20, 25]


def test_keeping_none_still_keeps_the_last(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", replace(RECIPE, loop=LoopConfig(keep_checkpoints=0))) as run:
        run.save(1, tensors(1), {})
        run.save(2, tensors(2), {})
        assert run.latest().step == 2


def test_a_step_that_is_done_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        run.save(5, tensors(1), {"try": 1})
        run.save(5, tensors(2), {"try": 2})
        last = run.latest()
        assert last.state == {"try": 2}
        assert torch.equal(last.tensors()["w"], tensors(2)["w"])
        assert [p.name for p in run.folder.iterdir() if p.name.startswith("step")] == ["step-00000005"]


def test_finish_marks_the_run_and_does_not_save_twice(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        path = run.save(5, tensors(5), {})
        before = (path / "manifest.json").stat().st_mtime_ns
        assert run.finish(5, tensors(5), {}) == path
        assert (path / "manifest.json").stat().st_mtime_ns == before
    with Run.open(tmp_path / "a", RECIPE) as run:
        assert run.done
        assert run.latest().step == 5
        run.save(4, tensors(4), {})  # its last checkpoint was damaged, say, and the steps before it are done again
        assert not run.done


def test_other_settings_are_refused_field_by_field_with_the_flags_to_type(tmp_path: Path) -> None:
    Run.open(tmp_path / "a", RECIPE, notes=NOTES).close()
    asked = replace(
        RECIPE,
        method=SomeMethod(depth=3, inner=Inner(0.9)),
        optim=OptimConfig(lr_per_256=1e-3, betas=(0.9, 0.99)),
    )
    with pytest.raises(ConfigError) as refused:
        Run.open(tmp_path / "a", asked, notes={**NOTES, "faces": "77ff"})
    message = str(refused.value)
    for part in (
        "method.depth: stored 2, asked 3",
        "method.inner.mask_ratio: stored 0.75, asked 0.9",
        "optim.lr_per_256: stored 0.00015, asked 0.001",
        "optim.betas: stored [0.9, 0.95], asked [0.9, 0.99]",
        "faces (note): stored b4a1, asked 77ff",
        "--method.depth 2",
        "--method.inner.mask-ratio 0.75",
        "--optim.lr-per-256 0.00015",
        "--optim.betas 0.9 0.95",
        "name another folder",
    ):
        assert part in message, part
    assert "loop" not in message
    Run.open(tmp_path / "a", RECIPE, notes=NOTES).close()


def test_another_method_with_the_same_settings_is_another_run(tmp_path: Path) -> None:
    Run.open(tmp_path / "a", RECIPE).close()
    with pytest.raises(ConfigError, match=r"SomeMethod, asked .*OtherMethod"):
        Run.open(tmp_path / "a", replace(RECIPE, method=OtherMethod()))


def test_changes_to_the_loop_are_allowed_and_recorded(tmp_path: Path) -> None:
    Run.open(tmp_path / "a", RECIPE).close()
    first = Run.read_config(tmp_path / "a")
    other = replace(RECIPE, loop=LoopConfig(workers=3, log_every=7))
    Run.open(tmp_path / "a", other).close()
    stored = Run.read_config(tmp_path / "a")
    assert stored["created"] == first["created"]
    assert stored["config"]["loop"]["workers"] == 3
    [entry] = stored["history"]
    assert entry["changes"] == {"config.loop.log_every": [20, 7], "config.loop.workers": [0, 3]}


def test_other_arithmetic_is_allowed_but_said_aloud(tmp_path: Path) -> None:
    Run.open(tmp_path / "a", RECIPE, notes=NOTES).close()
    other = {**NOTES, "arithmetic": {"precision": "bf16", "threads": 1}, "tuning": {"malloc": "tuned"}}
    with pytest.warns(FusiformWarning, match=r"no longer bit for bit.*precision fp32 -> bf16"):
        run = Run.open(tmp_path / "a", RECIPE, notes=other)
    with run:
        assert run.rows()[0]["event"] == "no longer bit-exact"
        assert run.config["notes"]["arithmetic"]["precision"] == "bf16"
    Run.open(tmp_path / "a", RECIPE, notes=other).close()


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"is not a run: it holds 1 other things \(holiday.jpg\)"):
        Run.open(tmp_path / "photos", RECIPE)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
    with pytest.raises(ConfigError, match="is a file"):
        Run.open(tmp_path / "photos" / "holiday.jpg", RECIPE)


def test_two_in_one_process_are_one_too_many(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE), pytest.raises(RunBusy, match="in use by process"):
        Run.open(tmp_path / "a", RECIPE)
    Run.open(tmp_path / "a", RECIPE).close()


def test_rows_are_json_whatever_is_in_them(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        run.log({"step": 0, "loss": torch.tensor(0.5), "lr": np.float32(0.25), "n": np.int64(3), "name": "ü\n"})
        run.log({"step": 1, "loss": float("nan"), "parts": {"a": float("-inf"), "b": [1.0, float("inf")]}})
        rows = run.rows()
    assert rows[0] == {"step": 0, "loss": 0.5, "lr": 0.25, "n": 3, "name": "ü\n"}
    assert rows[1]["loss"] is None
    assert rows[1]["parts"] == {"a": None, "b": [1.0, None]}
    assert rows[1]["not_finite"] == {"loss": "nan", "parts.a": "-inf", "parts.b.1": "inf"}

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_row_is_in_the_file_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        run.log({"step": 0})
        assert Run.read_log(tmp_path / "a") == [{"step": 0}]


def test_rewind_takes_back_steps_but_not_history(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        for step in range(6):
            run.log({"step": step})
        run.log({"event": "probe", "step": 5})
        run.log({"seconds": 1})
        run.rewind(3)
        run.log({"step": 3, "again": True})
        assert run.rows() == [
            *({"step": step} for step in range(3)),
            {"event": "probe", "step": 5},
            {"seconds": 1},
            {"step": 3, "again": True},
        ]


def test_a_torn_last_row_is_cut_off_on_reopening(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        run.log({"step": 0})
    with (tmp_path / "a" / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "lo')
    assert Run.read_log(tmp_path / "a") == [{"step": 0}]
    with Run.open(tmp_path / "a", RECIPE) as run:
        run.log({"step": 1})
        assert run.rows() == [{"step": 0}, {"step": 1}]


def test_damaged_rows_are_counted_aloud(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        for step in range(3):
            run.log({"step": step})
    lines = (tmp_path / "a" / "log.jsonl").read_bytes().split(b"\n")
    lines[1] = b"\xff" + lines[1]
    (tmp_path / "a" / "log.jsonl").write_bytes(b"\n".join(lines))
    with pytest.warns(FusiformWarning, match=r"1 damaged rows left out, lines \[2\]"):
        assert Run.read_log(tmp_path / "a") == [{"step": 0}, {"step": 2}]


def test_no_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.jsonl"):
        Run.read_log(tmp_path)


def test_reading_a_run_does_not_import_torch(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        run.log({"step": 0, "loss": 1.0})
    code = (
        "import sys; from pathlib import Path; from fusiform.run import Run; folder = Path(sys.argv[1]);"
        "assert Run.read_log(folder)[0]['loss'] == 1.0; assert Run.read_config(folder)['recipe'] == 'tiny';"
        "assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
