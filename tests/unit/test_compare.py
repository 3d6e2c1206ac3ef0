"""A whole comparison on tiny sets: equal budgets, nothing computed twice, and a stop anywhere costs nothing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from labelled_faces import rendered_set
from PIL import Image

from fusiform.commands.comparing import CompareFlags, compare, plan_of
from fusiform.compare import running
from fusiform.compare.arms import parse_arms
from fusiform.compare.budget import Faces, Flops, within
from fusiform.compare.cells import CellFolder, Result, SliceScore
from fusiform.compare.data import joined, refuse_shared_people, training_rows
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.measurement import Crop
from fusiform.recipes import find
from fusiform.run import Run

SMALL = (
    "vit.image_size=16,vit.patch_size=8,vit.width=16,vit.depth=2,vit.heads=2,method.decoder_width=16,"
    "method.decoder_depth=1,method.decoder_heads=2,optim.faces_per_step=8,loop.checkpoint_every=4,loop.threads=1,"
    "loop.precision=fp32,loop.log_every=1"
)
MAE = f"mae=mae-face-quick:{SMALL}"
TASKS = ("head-pose", "attributes")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return rendered_set(tmp_path_factory.mktemp("compare") / "set").folder


def words(faces, out, *more, arms=("untrained", MAE), seeds=2):
    return [
        *("--out", str(out), "--data", str(faces), "--rendered", str(faces), "--tasks", *TASKS),
        *("--faces", "96", "--seeds", str(seeds), "--arms", *arms, *more),
    ]


@pytest.fixture(scope="module")
def done(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    assert compare(words(faces, out, arms=("untrained", "supervised", MAE))) == 0
    return out


def test_it_says_what_was_found(done, capsys):
    page = (done / "report.html").read_text()
    assert "head-pose on shades" in page
    assert "Against untrained" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    with (done / "verdicts.csv").open() as file:
        verdicts = list(csv.DictReader(file))
    # two arms against the reference, and the best against its rival, in two tasks
    assert len(verdicts) == 6
    assert {v["verdict"] for v in verdicts} <= {"better", "worse", "cannot tell"}
    for one in verdicts:
        assert one["p"] == "nan" or float(one["p_holm"]) >= float(one["p"])
    with (done / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["arm"], r["seed"]) for r in rows} == {(a, s) for a in ("untrained", "supervised", "mae") for s in "01"}
    pose = {r["seed"]: float(r["value"]) for r in rows if (r["arm"], r["metric"]) == ("mae", "geodesic")}
    assert pose["0"] != pose["1"]


def test_equal_budgets(done):
    spent = json.loads((done / "cells" / "96-faces" / "mae" / "seed-0" / "spent.json").read_text())
    assert spent["faces"] == 96
    assert spent["flops"] == pytest.approx(96 * spent["flops_per_face"])
    seconds = json.loads((done / "cells" / "96-faces" / "mae" / "seed-0" / "seconds.json").read_text())
    assert seconds["pretrain"] > 0
    own = json.loads((done / "cells" / "96-faces" / "supervised" / "seed-0" / "supervised.json").read_text())
    assert set(own) == {"head-pose on rendered", "attributes on rendered"}


def test_what_is_done_is_not_done_again(done, faces, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a finished cell was touched")

    before = (done / "rows.csv").read_bytes()
    monkeypatch.setattr(running, "evaluate", refuse)
    monkeypatch.setattr(running, "pretrain", refuse)
    assert compare(words(faces, done, arms=("untrained", "supervised", MAE))) == 0
    assert (done / "rows.csv").read_bytes() == before


def test_more_seeds_compute_only_the_new_ones(done, faces, tmp_path, monkeypatch):
    import shutil

    out = tmp_path / "more"
    shutil.copytree(done, out)
    measured = []
    real = running.evaluate
    monkeypatch.setattr(running, "evaluate", lambda *a, **k: measured.append(k["seed"]) or real(*a, **k))
    assert compare(words(faces, out, seeds=3)) == 0
    assert measured == [2] * 4  # two arms, two tasks


def test_a_killed_comparison_ends_like_one_that_was_not(done, faces, tmp_path, monkeypatch):
    """Stopped in the middle of a run, and again between two measurements."""
    out = tmp_path / "killed"

    class Killed(BaseException):
        pass

    real_pretrain, real_evaluate, steps = running.pretrain, running.evaluate, []

    def dies(recipe, data, folder, *, watch, **more):
        def count(clock, row):
            watch(clock, row)
            steps.append(clock.step)
            if len(steps) == 7:
                raise Killed

        return real_pretrain(recipe, data, folder, watch=count, **more)

    monkeypatch.setattr(running, "pretrain", dies)
    with pytest.raises(Killed):
        compare(words(faces, out, seeds=1))
    assert steps == list(range(7))
    calls = []

    def dies_later(*args, **kwargs):
        if calls:
            raise Killed
        calls.append(1)
        return real_evaluate(*args, **kwargs)

    monkeypatch.setattr(running, "evaluate", dies_later)
    with pytest.raises(Killed):
        compare(words(faces, out, seeds=1))
    assert steps[7] == 4  # from the checkpoint, not from the beginning
    monkeypatch.setattr(running, "evaluate", lambda *a, **k: calls.append(1) or real_evaluate(*a, **k))
    assert compare(words(faces, out, seeds=1)) == 0
    assert len(calls) == 2  # one before the kill and one after it: the untrained arm had been done
    one, other = (
        Encoder.load(where / "cells" / "96-faces" / "mae" / "seed-0" / "run" / "encoder").sha256
        for where in (done, out)
    )
    assert one == other


def test_a_cell_that_changed_is_refused(done, faces):
    with pytest.raises(ConfigError, match=r"other settings .*changes.*lr_per_256"):
        compare(words(faces, done, arms=("untrained", MAE + ",optim.lr_per_256=1e-3")))
    assert (done / "cells" / "96-faces" / "mae" / "seed-0" / "run" / "done.json").is_file()


def test_another_budget_stands_beside_the_first(done, faces, tmp_path):
    plans = [
        plan_of(CompareFlags(arms=("untrained", MAE), out=done, data=(faces,), rendered=faces, tasks=TASKS, faces=n))
        for n in (96, 384)
    ]
    mae, untrained = plans[0].arms[1], plans[0].arms[0]
    assert plans[0].folder(mae, 0) != plans[1].folder(mae, 0)
    assert plans[0].folder(untrained, 0) == plans[1].folder(untrained, 0)  # it spends nothing


def test_flops_decide_the_steps():
    recipe = find("camd-quick")
    recipe = replace(recipe, optim=replace(recipe.optim, faces_per_step=256))
    spent = within(recipe, Flops(1e12), step_flops=2.5e10, faces=1024, seed=3)
    assert round(spent.optim.epochs * 4) == 40
    assert spent.optim.seed == 3
    share = recipe.optim.warmup_epochs / recipe.optim.epochs
    assert spent.optim.warmup_epochs / spent.optim.epochs == pytest.approx(share)
    paco = find("paco-fr-quick")
    twice = Faces(round(2048 * 2 * paco.optim.epochs))
    longer = within(paco, twice, step_flops=1.0, faces=2048, seed=0)
    assert longer.method.incubation_epochs == pytest.approx(2 * paco.method.incubation_epochs)
    with pytest.raises(ConfigError, match="at least 10 steps"):
        within(recipe, Flops(1e10), step_flops=2.5e10, faces=1024, seed=0)


def test_a_teacher_of_its_own_is_paid_from_the_budget(faces, tmp_path):
    arm = f"mcf=mcf-quick:{SMALL},method.feature_layers=[0],method.projector_hidden=16,method.projector_width=8,"
    arm += "method.feature_encoder=@mae-face-quick"
    small = find("mae-face-quick")
    plan = plan_of(
        CompareFlags(arms=("untrained", arm), out=tmp_path, data=(faces,), rendered=faces, tasks=TASKS, faces=400)
    )
    spent = {}

    def record(_plan, _arm, recipe, budget, _seed, _folder, place, stage, _begin=None):
        spent[stage] = (recipe.name, budget.faces, getattr(recipe.method, "feature_encoder", None))
        Encoder.untrained(small.vit, plan.crop).save(place / "encoder")
        return {"faces": float(budget.faces), "flops": 1.0}

    original, running._pretrain = running._pretrain, record
    try:
        folder = CellFolder(plan.folder(plan.arms[1], 0), running.about(plan, plan.arms[1], 0))
        running.train(plan, plan.arms[1], 0, folder)
    finally:
        running._pretrain = original
    assert spent["teacher"][:2] == ("mae-face-quick", 200)
    assert spent["pretrain"][:2] == ("mcf-quick", 200)
    assert spent["pretrain"][2] == str(folder.folder / "teacher")
    assert folder.noted("spent")["teacher_faces"] == 200


def test_fewer_people_are_seen_more_often_within_the_same_budget(faces, tmp_path):
    half = f"half=mae-face-quick:{SMALL},data.people=true,data.share_of_people=0.5"
    plan = plan_of(CompareFlags(arms=("untrained", half), out=tmp_path, data=(faces,), rendered=faces, faces=96))
    arm = plan.arms[1]
    cell = CellFolder(plan.folder(arm, 0), running.about(plan, arm, 0))
    running.train(plan, arm, 0, cell)
    run = cell.folder / "run"
    drawn = json.loads((run / "config.json").read_text())["notes"]["people"]
    assert drawn["faces_of_people_not_drawn"] > 0
    steps = [row["step"] for row in Run.read_log(run) if "loss" in row]
    assert len(steps) == cell.noted("spent")["steps"] == 96 / 8


def test_an_arm_starts_from_a_run_of_its_own_or_from_one_that_is_there(faces, tmp_path):
    begun = f"begun=mae-face-quick:{SMALL},start=@mae-face-quick"
    with pytest.raises(ConfigError, match="trains both"):
        parse_arms(["untrained", f"{begun},method.feature_encoder=@mae-face-quick"])
    with pytest.raises(ConfigError, match="goes on from another run"):
        parse_arms(["untrained", "mae-face-second-quick"])
    first = tmp_path / "first"
    plan = plan_of(CompareFlags(arms=("untrained", MAE), out=first, data=(faces,), rendered=faces, faces=96, seeds=1))
    arm = plan.arms[1]
    cell = CellFolder(plan.folder(arm, 0), running.about(plan, arm, 0))
    before = running.train(plan, arm, 0, cell)
    run = cell.folder / "run"

    late = f"late=mae-face-quick:{SMALL},optim.lr_per_256=1e-9,start={run}"
    plan = plan_of(CompareFlags(arms=("untrained", late), out=first, data=(faces,), rendered=faces, faces=96, seeds=1))
    arm = plan.arms[1]
    assert arm.start == str(run)
    cell = CellFolder(plan.folder(arm, 0), running.about(plan, arm, 0))
    after = running.train(plan, arm, 0, cell)
    for one, other in zip(before.vit.parameters(), after.vit.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-5)  # it began there and hardly moved
    assert cell.noted("started") == {"from": str(run), "taken": "everything that trained", "within_budget": False}
    assert Encoder.load(cell.folder / "run" / "encoder").card["start"]["sha256"] == running.about(plan, arm, 0)["start"]
    (_, wide) = parse_arms(["untrained", late.replace("vit.width=16", "vit.width=32")])
    with pytest.raises(ConfigError, match="another shape"):
        running.about(plan, wide, 0)


def test_alarms_of_trainings_stand_in_the_report(done):
    from fusiform.compare.cells import read_alarms
    from fusiform.compare.findings import find
    from fusiform.report.compare_page import summary_text, write_comparison

    cells = {"mae": {0: done / "cells/96-faces/mae/seed-0", 1: done / "cells/96-faces/mae/seed-1"}}
    assert all("probes" in (folder / "run/log.jsonl").read_text() for folder in cells["mae"].values())  # it was watched
    logs = [folder / "run" / "log.jsonl" for folder in cells["mae"].values()]
    kept = {log: log.read_text() for log in logs}
    try:
        for log, text in kept.items():  # pictures of noise have alarms of their own
            log.write_text("".join(line for line in text.splitlines(True) if '"alarm"' not in line))
        row = {"step": 4, "event": "alarm", "alarm": "collapse", "message": "the encoder says the same of all: rank 1"}
        logs[1].write_text(logs[1].read_text() + json.dumps(row) + "\n" + '{"step": 5, "event": "alarm", "al')
        assert read_alarms(cells["mae"][1]) == [("run", 4, row["message"])]
        findings = find(cells, [], reference="mae")
        (worry,) = findings.worries
        assert (worry.arm, worry.seeds, worry.step) == ("mae", (1,), 4)
        assert "ALARM mae, seed 1, step 4: the encoder says the same" in summary_text(findings)
        page = write_comparison(done / "worried.html", findings, budget="", command="", date="2026-01-01").read_text()
        assert "1 alarm in training" in page
    finally:
        for log, text in kept.items():
            log.write_text(text)


def test_parts_have_errors_where_there_are_enough_faces_and_people(faces, monkeypatch):
    from fusiform.compare import slices
    from fusiform.compare.findings import _parts
    from fusiform.evaluate import evaluate
    from fusiform.protocols import LinearProbe
    from fusiform.tasks.attributes import Attributes
    from fusiform.tasks.head_pose import HeadPose

    monkeypatch.setattr(slices, "FEWEST_FACES", 8)
    encoder = Encoder.untrained(parse_arms(["untrained", MAE])[1].recipe().vit, Crop("loose", 20, "exact-points"))
    spread = []
    for task in (HeadPose(path=faces), Attributes(path=faces)):  # from sums over faces, and from faces drawn again
        read = task.read(16)
        rng = np.random.default_rng(0)
        read = replace(read, extra={**read.extra, "photo_side": rng.uniform(10, 90, len(read))})
        measured = evaluate(encoder, task, LinearProbe(), date="2026-01-01", faces=read, resamples=0)
        every = slices.slice_scores(task, measured, read)
        assert {"sharpness", "brightness", "yaw", "resolution"} <= {each.group for each in every}
        assert {each.people >= 6 and each.faces >= 8 for each in every if each.value is not None} == {True}
        assert all(each.value is None and each.error is None for each in every if each.faces < 8 or each.people < 6)
        parts = _parts([Result(measured.rows, every, {}), Result(measured.rows, every, {})])
        known = [part for part in parts if part.value is not None and part.low is not None]
        assert known
        assert all(part.low <= part.value <= part.high for part in known)
        spread += [part.high - part.low for part in known]
        by_hand = [each for each in every if each.group == "resolution" and each.error is not None]
        assert by_hand
    assert max(spread) > 0
    monkeypatch.setattr(slices, "FEWEST_PEOPLE", 99)
    assert all(each.value is None for each in slices.slice_scores(task, measured, read))


def test_resolution_is_that_of_the_photo():
    from fusiform.compare.slices import _by_resolution, _photo_side

    names = _by_resolution(np.array([10.0, 20, 30, 40, 50, np.nan]))["resolution"]
    assert names.tolist() == ["under 24 px", "under 24 px", "24 to 37 px", "37 px or more", "37 px or more", ""]
    assert _by_resolution(np.full(4, 64.0)) == {}
    placed = {"placement": {"matrix": [[0.6, -0.8, 0], [0.8, 0.6, 0]], "size": 80}, "camera": {"low_resolution": 2.0}}
    assert _photo_side(placed) == 40
    assert np.isnan(_photo_side({}))


def test_arms_as_typed(tmp_path):
    Encoder.untrained(find("mae-face-quick").vit, Crop("loose", 80, "exact-points")).save(tmp_path / "run" / "encoder")
    arms = parse_arms(["untrained", "low=mae-face-quick:optim.lr_per_256=5e-4", str(tmp_path / "run")])
    assert [(a.label, a.kind) for a in arms] == [("untrained", "untrained"), ("low", "recipe"), ("run", "encoder")]
    assert arms[1].recipe().optim.lr_per_256 == 5e-4
    for wrong, said in (
        (["mae-face-quik", "untrained"], "Did you mean 'mae-face-quick'"),
        (["mae-face-quick:optim.lr=1", "untrained"], "no setting"),
        (["mae-face-quick:optim.epochs=many", "untrained"], "many"),
        (["untrained"], "two or more"),
        (["untrained", "untrained"], "called 'untrained'"),
        (["mae-face-quick:optim.epochs", "untrained"], "group.setting=value"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_arms(wrong)


def other_set(folder, size=20, person="someone"):
    data = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(data, "JPEG")
    commit_chunk(folder, 0, [StoredFace("a", data.getvalue(), person=person, licence="CC0-1.0")], [])
    return finish_set(folder, name="other", crop=Crop("loose", size, "yunet"), made_by="a test", created="2026-01-01")


def test_several_sets_become_one(faces, tmp_path):
    from fusiform.faces.faceset import FaceSet

    first, second = FaceSet.open(faces), other_set(tmp_path / "other")
    both = joined([first, second], tmp_path / "both", today="2026-01-01")
    assert len(both) == len(training_rows(first)) + 1
    assert joined([first, second], tmp_path / "both", today="2026-01-02").digest == both.digest
    assert not both.verify()
    with pytest.raises(ConfigError, match="other sets"):
        joined([second, first], tmp_path / "both", today="2026-01-01")
    crop = Crop("arcface", 20, "yunet")
    tight = finish_set(second.folder, name="tight", crop=crop, made_by="a test", created="2026-01-01")
    with pytest.raises(DataError, match="template: 'loose' and 'arcface'"):
        joined([first, tight], tmp_path / "no", today="2026-01-01")


def test_nobody_is_trained_on_and_scored(faces, tmp_path):
    second = other_set(tmp_path / "other", person="p3")
    with pytest.raises(DataError, match=r"1 people are scored by pose .* 'p3'"):
        refuse_shared_people(second, [("pose", np.array(["p3", "p7"]))])
    plan = plan_of(
        CompareFlags(
            arms=("untrained", MAE),
            out=tmp_path / "o",
            data=(faces, second.folder),
            rendered=faces,
            tasks=TASKS,
            faces=96,
        )
    )
    with pytest.raises(DataError, match="in the training faces"):
        running.run(plan)


def test_results_survive_the_disk_and_damage_is_seen(tmp_path):
    cell = CellFolder(tmp_path / "cell", {"seed": 0})
    draws = {"TAR@FAR=1e-3": np.linspace(0, 1, 5)}
    cell.put("a", {"task": "x"}, Result((), (SliceScore("yaw", "wide", 40, 9, 0.5),), draws, "why"))
    back = cell.get("a")
    assert back.note == "why"
    assert back.slices[0].value == 0.5
    np.testing.assert_array_equal(back.draws["TAR@FAR=1e-3"], draws["TAR@FAR=1e-3"])
    assert cell.has("a", {"task": "x"})
    with pytest.raises(ConfigError, match="measured otherwise"):
        cell.has("a", {"task": "y"})
    with pytest.raises(ConfigError, match="seed: stored 0, asked 1"):
        CellFolder(tmp_path / "cell", {"seed": 1})
    stored = tmp_path / "cell" / "results" / "a.npz"
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="damaged"):
        cell.get("a")


def test_a_budget_and_faces_are_asked_for(faces, tmp_path):
    with pytest.raises(ConfigError, match="--budget-flops"):
        running.run(plan_of(CompareFlags(arms=("untrained", MAE), out=tmp_path, data=(faces,), rendered=faces)))
    with pytest.raises(ConfigError, match="Two budgets"):
        plan_of(CompareFlags(arms=("untrained", MAE), out=tmp_path, faces=9, budget_flops=9.0))


def test_curves_over_labels_have_the_intervals_of_every_arm():
    from fusiform.compare.findings import Contest, Entry
    from fusiform.compare.statistics import Estimate
    from fusiform.report.compare_charts import HEIGHT, label_curves

    def contest(share, better):
        settings = {"name": "linear"} | ({"shots": {"fraction": share}} if share < 1 else {})
        entries = tuple(
            Entry(arm, Estimate(v, v - 0.1, v + 0.1, 0.5, 0.1, 0.0), {0: v}) for arm, v in (("a", better), ("b", 0.3))
        )
        return Contest(
            "parsing", "london", "linear", settings, "f1_mean", True, 90, 9, entries, versus=(), top=None, near=()
        )

    (chart,) = label_curves([contest(1.0, 0.7), contest(0.1, 0.4)])
    assert [line.name for line in chart.lines] == ["a", "b"]
    assert len(chart.bars) == 2
    assert all(bar.count("M") == 2 for bar in chart.bars)  # one at each share
    heights = [float(part.split(" ")[1]) for part in chart.bars[0].split("M")[1:]]
    assert all(0 <= y <= HEIGHT for y in heights)
    assert "0.700 with all, 0.400 with 10%" in chart.lines[0].summary
