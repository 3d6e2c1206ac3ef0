"""The report: what it says about rows, runs and sets, and that it is safe to pass on and to open."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform.errors import DataError
from fusiform.recipes import find
from fusiform.report import DataSummary, Picture, RunSummary, Tile, report_command, table_text, write_report
from fusiform.report.charts import HEIGHT, WIDTH, curves, forest, nice_ticks
from fusiform.report.data import ModelUsed, Refusal, Rights
from fusiform.report.figures import decimals, hide_places, interval, number, span
from fusiform.report.pictures import load, save
from fusiform.report.runs import CurvePoint
from fusiform.report.verdicts import absent, cells, deciding, tally
from fusiform.report.words import glossary, limits, metric_words, shown_scores, spec_words, unit
from fusiform.results import ResultRow, append_rows
from fusiform.run import Run

DATE = "2026-01-02"
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
JPEG = b"\xff\xd8\xff\xe0 not a picture, but a page does not look inside"
MEASUREMENT: dict[str, Any] = {
    "crop": {
        "template": "loose",
        "size": 64,
        "detector": "yunet",
        "detector_sha256": "ab" * 32,
        "landmarks": "ibug-68",
    },
    "input_size": 64,
    "jitter": "none",
    "normalizer": "outer-eye-corners",
    "split_sha256": "cd" * 32,
}


def row(**fields: Any) -> ResultRow:
    values: dict[str, Any] = {
        "encoder": "mine",
        "encoder_sha256": "0" * 64,
        "task": "alignment",
        "dataset": "london",
        "split": "folds",
        "protocol": {"name": "linear", "layer": None},
        "seed": 0,
        "metric": "nme_interocular",
        "value": 0.06,
        "low": 0.055,
        "high": 0.065,
        "n": 52,
        "people": 50,
        "higher_is_better": False,
        "measurement": MEASUREMENT,
        "measurement_digest": "aaaabbbbcccc",
        "date": DATE,
    }
    return ResultRow(**{**values, **fields})


def compared(verdict: str = "better", gain: float = -0.02, **fields: Any) -> list[ResultRow]:
    """Trained, untrained and their difference."""
    trained = row(**fields)
    assert trained.value is not None
    before = trained.value - gain
    return [
        trained,
        replace(trained, encoder="untrained", value=before, low=before - 0.004, high=before + 0.004),
        replace(
            trained,
            metric=f"difference:{trained.metric}",
            value=gain,
            low=gain - 0.01,
            high=gain + 0.01,
            reference="untrained",
            verdict=verdict,  # type: ignore[arg-type]
        ),
    ]


def run_summary(**fields: Any) -> RunSummary:
    losses = [1.2 * 0.9**i + 0.5 for i in range(40)]
    values: dict[str, Any] = {
        "name": "a",
        "recipe": "demo",
        "about": "What is shown.",
        "method": "MAE-Face",
        "config": {
            "method": {"norm_pix": True, "mask_ratio": 0.75},
            "optim": {"seed": 3, "faces_per_step": 64},
            "data": {"split": "train"},
        },
        "curve": tuple(CurvePoint(10 * i, i / 4, loss) for i, loss in enumerate(losses)),
        "done": True,
        "faces_per_second": 640.0,
        "versions": {"torch": "2.0"},
        "revision": "0123456789abcdef+",
        "notes": {"arithmetic": {"device": "cpu"}, "hostname": "secret-host", "folder": "/home/alice/runs"},
    }
    return RunSummary(**{**values, **fields})


class Page(HTMLParser):
    """The page as a browser would see it: tags, attributes, text, and whether tags are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr", "path"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder: Path, **fields: Any) -> Page:
    values: dict[str, Any] = {
        "title": "A report",
        "runs": [run_summary()],
        "rows": compared(),
        "pictures": [
            Picture("Faces", "Some faces.", (Tile(JPEG, "a face", "below"),), ("one",), (("skin", "#ffaa00"),))
        ],
        "data": None,
        "commands": ["fusiform demo"],
        "date": DATE,
    }
    return Page(write_report(folder / "r.html", **{**values, **fields}).read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------ the page


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    seen = page(tmp_path)
    for tag, attributes in seen.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data"):
                assert value is not None
                assert value.startswith(("data:image/", "#")), (tag, value[:60])
    policy = next(a["content"] for a in seen.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    style = (tmp_path / "r.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    seen = page(tmp_path)
    assert all(a.get("alt") for a in seen.all("img"))
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in seen.all("a")} <= {f"#{i}" for i in ids}
    assert all(a.get("scope") in ("row", "col") for a in seen.all("th"))
    regions = [a for a in seen.all("div") if a.get("class") == "scroll"]
    assert regions
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)
    assert seen.all("html")[0]["lang"] == "en"


HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7*7 }}'&amp;"


def test_text_from_files_stays_text(tmp_path: Path) -> None:
    data = DataSummary(
        name=HOSTILE,
        faces=10,
        files=3,
        kept=2,
        rights=(Rights(HOSTILE, HOSTILE, HOSTILE, 10),),
        refused=(Refusal(HOSTILE, HOSTILE, 1),),
        left_out=(Refusal(HOSTILE, HOSTILE, 1),),
        models=(ModelUsed(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        crop={"template": HOSTILE, "size": HOSTILE},
        notes=(HOSTILE,),
        splits={HOSTILE: 1, "b": 2},
        contact_sheet=Tile(JPEG, HOSTILE),
    )
    hostile = compared(
        encoder=HOSTILE,
        task=HOSTILE,
        dataset=HOSTILE,
        note=HOSTILE,
        protocol={"name": HOSTILE},
        measurement={"crop": {"template": HOSTILE, "detector": HOSTILE}, "normalizer": HOSTILE, "class_map": HOSTILE},
        measurement_digest=HOSTILE,
        metric=HOSTILE,
    )
    run = run_summary(
        name=HOSTILE, recipe=HOSTILE, about=HOSTILE, method=HOSTILE, events=(HOSTILE,), revision=HOSTILE,
        versions={HOSTILE: HOSTILE}, notes={HOSTILE: {HOSTILE: HOSTILE}}, config={"vit": {"width": HOSTILE}},
    )  # fmt: skip
    seen = page(
        tmp_path,
        title=HOSTILE,
        date=HOSTILE,
        runs=[run, replace(run, name="b")],
        rows=[*hostile, absent(HOSTILE, HOSTILE, HOSTILE, DATE)],
        data=data,
        commands=[HOSTILE],
        pictures=[Picture(HOSTILE, HOSTILE, (Tile(JPEG, HOSTILE, HOSTILE),), (HOSTILE,), ((HOSTILE, "#000000"),))],
    )
    assert seen.all("script") == []
    assert len(seen.all("img")) == 2
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert seen.text.count("onerror=alert(1)") > 25
    assert "49" not in seen.text
    with pytest.raises(DataError, match="#rrggbb"):
        Picture("a", "b", (), (), (("skin", "red;background:url(x)"),))


def test_what_it_says_first(tmp_path: Path) -> None:
    rows = [
        *compared("better"),
        *compared("worse", gain=0.01, task="head-pose", metric="mae", dataset="rendered"),
        *compared("cannot tell", gain=-0.001, task="parsing"),
    ]
    data = DataSummary(name="set", faces=8400, splits={"train": 7000, "test": 1400})
    text = " ".join(page(tmp_path, rows=rows, data=data).text.split())
    assert "MAE-Face was trained on 7,000 faces, 9.78 times each." in text
    assert "better on 1 of 3 measurements, worse on 1, and on 1 the faces are too few to tell" in text
    assert "▲ better" in text
    assert "▼ worse" in text
    assert "◆ cannot tell" in text


def test_without_anything_but_a_run_it_says_what_to_type(tmp_path: Path) -> None:
    text = page(tmp_path, rows=[], pictures=[], commands=[]).text
    assert "Nothing was measured yet. Type fusiform evaluate RUN." in text
    assert "not known here" in text


def test_no_host_no_user_no_folder_is_passed_on(tmp_path: Path) -> None:
    data = DataSummary(
        name="s", faces=1, notes=("read from /home/alice/photos",), rights=(Rights("/home/alice/p", "", "", 1),)
    )
    page(
        tmp_path,
        data=data,
        commands=["fusiform curate /home/alice/photos --out '/home/alice/my set'"],
        rows=[*compared(), absent("verification", "congress", "is not at '/home/alice/data'", DATE)],
        runs=[run_summary(events=("damaged: /home/alice/runs/a/step-2",))],
    )
    html = (tmp_path / "r.html").read_text()
    assert "alice" not in html
    assert "secret-host" not in html
    assert "fusiform curate .../photos" in html


def test_a_failed_write_leaves_the_old_page(tmp_path: Path) -> None:
    page(tmp_path)
    before = (tmp_path / "r.html").read_bytes()
    with pytest.raises(AttributeError):
        page(tmp_path, rows=["not a row"])
    assert (tmp_path / "r.html").read_bytes() == before


def test_the_same_input_makes_the_same_bytes(tmp_path: Path) -> None:
    page(tmp_path)
    first = (tmp_path / "r.html").read_bytes()
    page(tmp_path)
    assert (tmp_path / "r.html").read_bytes() == first


def test_it_needs_no_torch() -> None:
    code = "import sys, fusiform.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ------------------------------------------------------------------------------------------ verdicts


def test_a_verdict_is_that_of_the_difference_row() -> None:
    (cell,) = cells(compared("better"))
    assert cell.status == "better"
    assert (cell.encoder, cell.reference) == ("mine", "untrained")
    assert cell.trained is not None
    assert cell.trained.value == 0.06
    assert cell.untrained is not None
    assert cell.untrained.value == pytest.approx(0.08)
    (alone,) = cells(compared("better")[:2])  # intervals that do not overlap are not a verdict
    assert alone.status == "not compared"


def test_seeds_are_averaged_and_must_agree() -> None:
    rows = [
        r for seed in range(3) for r in compared(seed=seed, value=0.06 + 0.01 * seed, low=0.05, high=0.07 + 0.01 * seed)
    ]
    (cell,) = cells(rows)
    assert cell.trained is not None
    assert (cell.trained.seeds, cell.trained.low) == (3, 0.05)
    assert cell.trained.high == pytest.approx(0.09)
    assert cell.trained.value == pytest.approx(0.07)
    assert cell.status == "better"
    rows[-1] = replace(rows[-1], verdict="cannot tell")
    assert cells(rows)[0].status == "cannot tell"


def test_numbers_measured_again_replace_the_older_ones() -> None:
    (cell,) = cells([*compared("worse"), *compared("better")])
    assert cell.status == "better"
    assert cell.trained is not None
    assert cell.trained.seeds == 1


def test_numbers_that_were_measured_otherwise_do_not_stand_side_by_side() -> None:
    trained, untrained, _ = compared()
    other = replace(untrained, measurement={**MEASUREMENT, "normalizer": "box"}, measurement_digest="x")
    first, second = cells([trained, other])
    assert first.untrained is None
    assert second.trained is None
    smaller = replace(untrained, measurement={**MEASUREMENT, "input_size": 32}, measurement_digest="y")
    assert len(cells([trained, smaller])) == 1  # two encoders may have different input sizes


def test_a_set_that_came_later_is_no_longer_missing() -> None:
    missing = absent("alignment", "london", "export FUSIFORM_DATA=...", DATE)
    assert ResultRow.from_line(missing.to_line()) == missing
    (cell,) = cells([missing, missing])
    assert (cell.status, cell.notes) == ("not available", ("export FUSIFORM_DATA=...",))
    assert [c.status for c in cells([missing, *compared()])] == ["better"]


def test_the_first_metric_decides_and_is_counted() -> None:
    rows = [*compared("better"), *compared("worse", metric="FR@10"), *compared("worse", task="parsing")]
    first = deciding(cells(rows))
    assert [(c.task, c.metric) for c in first] == [("alignment", "nme_interocular"), ("parsing", "nme_interocular")]
    assert tally(first) == {"better": 1, "worse": 1, "cannot tell": 0}


def test_protocols_of_one_name_are_told_apart() -> None:
    rows = [row(), row(protocol={"name": "linear", "layer": 4}), row(protocol={"name": "knn", "k": 20})]
    assert [c.protocol for c in cells(rows)] == ["linear (layer default)", "linear (layer 4)", "knn"]


def test_error_removed_is_positive_where_things_got_better() -> None:
    (lower,) = cells(compared(gain=-0.02))  # .08 -> .06, and 0 is perfect
    assert lower.error_removed() == pytest.approx((25.0, 12.5, 37.5))
    (higher,) = cells(compared(gain=0.1, metric="AUC", value=0.7, higher_is_better=True))  # .6 -> .7 of 1
    assert higher.error_removed() == pytest.approx((25.0, 22.5, 27.5))
    (per_cent,) = cells(compared(gain=10.0, metric="accuracy", value=70.0, higher_is_better=True))
    assert per_cent.perfect == 100.0
    (perfect,) = cells(compared(gain=-0.1, metric="AUC", value=0.9, higher_is_better=True))
    assert perfect.untrained is not None
    assert perfect.untrained.value == 1.0
    assert perfect.error_removed() is None


def test_undefined_numbers_are_said_to_be_undefined(tmp_path: Path) -> None:
    rows = [row(value=float("nan"), low=None, high=None, note="no positive"), row(encoder="untrained")]
    (cell,) = cells(rows)
    assert cell.status == "undefined"
    assert shown_scores(cell).trained == (NONE, "")
    assert "undefined" in page(tmp_path, rows=rows).text


# ------------------------------------------------------------------------------------------ words and figures


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/data/team/photos", ".../photos"),
        ("fusiform curate /a/b c/d", "fusiform curate .../b c/d"),
        ("at '/home/x/my.jpg', 3 of 4", "at '.../my.jpg', 3 of 4"),
        ("--out=/a/b/", "--out=.../b"),
        (r"C:\Users\me\photos", ".../photos"),
        ("~/photos/me", ".../me"),
        ("file:///home/me/a.html", ".../a.html"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("runs/a and faces/s", "runs/a and faces/s"),
        ("2·hits / (predicted + true)", "2·hits / (predicted + true)"),
        ("640 faces/s", "640 faces/s"),
    ],
)
def test_absolute_paths_are_shortened(text: str, hidden: str) -> None:
    assert hide_places(text) == hidden


def test_figures() -> None:
    assert number(-0.0004, 3) == "0.000"
    assert number(-1234.5, 1) == f"{MINUS}1,234.5"
    assert number(0.5, 2, signed=True) == "+0.50"
    assert number(None) == NONE
    assert interval(1.0, None, 1) == ""
    assert [decimals([v]) for v in (0.5, 5.0, 50.0, 5000.0)] == [3, 2, 1, 0]
    assert [span(s) for s in (20, 400, 7300)] == ["20 s", "7 min", "2 h 2 min"]


def test_shares_are_shown_in_per_cent_where_the_field_does() -> None:
    (cell,) = cells(compared(gain=-0.02))
    assert shown_scores(cell).trained == ("6.00", "[5.50, 6.50]")
    assert shown_scores(cell).difference == (f"{MINUS}2.00", f"[{MINUS}3.00, {MINUS}1.00]")
    assert unit("alignment", "AUC@10").scale == 1.0
    assert unit("head-pose", "mae_yaw").name == "°"
    assert unit("action-units", "mae").name == ""


def test_every_metric_of_the_tasks_is_explained() -> None:
    names = (
        "nme_interocular nme_box AUC@10 FR@10 f1_mean f1_l_eye AUC EER TAR@FAR=0.01 accuracy rank-1 rank-5 mae mae_age"
    )
    names += " nearest_neighbour icc icc_AU12 pearson f1 geodesic balanced_accuracy f1_macro auc_mean auc_glasses"
    assert [n for n in names.split() if not metric_words(n)] == []
    words = glossary(
        cells([row(metric=m, task="parsing") for m in ("f1_mean", "f1_skin", "f1_nose", "f1_hair", "f1_neck")])
    )
    assert [name for name, _ in words.metrics] == ["f1_mean", "f1_skin, f1_nose, ... f1_neck"]
    assert words.tasks[0][0] == "parsing"


def test_what_is_common_to_all_measurements_is_said_once() -> None:
    exact = {**MEASUREMENT, "crop": {**MEASUREMENT["crop"], "detector": "exact-points"}, "normalizer": ""}
    facts = spec_words([("a", "1", MEASUREMENT), ("a", "1", MEASUREMENT), ("b", "2", exact)])
    where = {(f.label, f.words): f.where for f in facts}
    assert where["The encoder sees", "64 \N{MULTIPLICATION SIGN} 64 px"] == ()
    assert where["Faces found by", "no detector: the points of rendered faces are known exactly"] == ("b",)
    assert where["Errors are divided by", "outer eye corners"] == ("a",)
    assert facts[-1].words == "a: 1; b: 2"


def test_limits_name_what_is_missing() -> None:
    found = cells([*compared(dataset="rendered"), absent("verification", "congress", "", DATE)])
    said = " ".join(limits(found, deciding(found), seeds=1, unknown_licence=3, faces=10))
    for words in ("50 people", "1 training run", "not photos", "congress", "3 of 10", "equally well for everybody"):
        assert words in said


# ------------------------------------------------------------------------------------------ table


def test_the_table_fits_a_terminal() -> None:
    long = compared(
        task="a-task-with-a-very-long-name" * 3,
        metric="a_metric_with_a_very_long_name" * 3,
        protocol={"name": "linear", "layer": 4, "what": "x" * 80},
        note="n" * 200,
    )
    missing = absent(
        "verification", "congress", "The set is not there. " + "Do: export FUSIFORM_DATA=FOLDER " * 5, DATE
    )
    text = table_text([*compared(), *compared(metric="FR@10"), *long, missing])
    assert max(map(len, text.splitlines())) <= 110
    assert "6.00 [5.50, 6.50]" in text
    assert "8.00 [7.60, 8.40]" in text
    assert "52 faces of 50 people" in text
    assert "not available" in text
    assert "FR@10" not in text
    assert "of 2 comparisons: better on 2, worse on 0" in text
    assert "FR@10" in table_text(compared(metric="FR@10"), every_metric=True)
    assert table_text([]) == "Nothing was measured.\n"


# ------------------------------------------------------------------------------------------ charts


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_span_their_range(low: float, extent: float, about: int) -> None:
    ticks = nice_ticks(low, low + extent, about)
    slack = 1e-6 * (extent + abs(low))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + extent - slack
    assert 2 <= len(ticks) <= about + 3


def test_the_curve_stays_in_its_box() -> None:
    long = run_summary(curve=tuple(CurvePoint(i, i / 100, 1 / (1 + i)) for i in range(5000)))
    found = curves([run_summary(), long])
    assert found is not None
    for line in found.lines:
        points = [tuple(map(float, p.split())) for p in line.path[1:].split(" L")]
        assert 2 <= len(points) <= 240
        assert all(-0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1 for x, y in points)
    assert found.guess is not None
    assert curves([run_summary(config={})]).guess is None  # type: ignore[union-attr]
    assert curves([run_summary(curve=())]) is None


def test_a_bar_lies_where_its_numbers_say() -> None:
    chart = forest(deciding(cells([*compared("better"), *compared("worse", gain=0.03, task="parsing")])))
    assert chart is not None
    better, worse = chart.bars
    assert better.middle > chart.zero > worse.middle
    assert better.left > chart.zero  # the whole interval is on the good side
    assert all(b.left >= 0 and b.left + b.width <= 100.5 for b in chart.bars)
    huge = forest(cells(compared("worse", gain=0.3, value=0.31)))  # thirty times the untrained error
    assert huge is not None
    assert huge.bars[0].clipped
    assert forest(cells(compared()[:2])) is None


# ------------------------------------------------------------------------------------------ runs


def a_run(folder: Path, losses: Sequence[float]) -> Path:
    recipe = find("mae-face-quick")
    with Run.open(folder, recipe, notes={"faces": {"identity": "i", "name": "set"}}) as run:
        for i, loss in enumerate(losses):
            run.log({"step": 10 * i, "epoch": i / 4, "loss": loss, "faces_per_second": 500.0 + i})
    return folder


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    run = RunSummary.read(a_run(tmp_path / "r", [1.0, 0.8, 0.7, 0.65, 0.6]))
    assert (run.name, run.recipe, run.method, run.seed, run.norm_pix, run.done) == (
        "r",
        "mae-face-quick",
        "MAE-Face",
        0,
        True,
        False,
    )
    assert [p.loss for p in run.curve] == [1.0, 0.8, 0.7, 0.65, 0.6]
    assert run.faces_seen == 41 * 128
    assert run.seconds == pytest.approx(41 * 128 / 502)
    assert "not finished" in dict(run.facts())["State"]
    with pytest.raises(DataError):
        RunSummary.read(tmp_path)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([1.0 - 0.02 * i for i in range(30)], "It was still falling"),
        ([0.5 + 0.5 * 0.6**i for i in range(60)], "fell by 50 % (from 1.00 to 0.50). It had levelled off"),
        ([1.0] * 30, "did not fall"),
        ([0.5, 1.0] * 15, "did not fall"),
        ([1.0, 0.9], "too few to say"),
        ([], "0 rows: too few"),
    ],
)
def test_whether_it_learned(losses: list[float], words: str) -> None:
    curve = tuple(CurvePoint(i, float(i), loss) for i, loss in enumerate(losses))
    assert words in run_summary(curve=curve).learned()


def test_a_page_from_a_run_folder(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "r", [1.0, 0.8, 0.7, 0.65, 0.6])
    assert "Nothing was measured yet" in report_command(folder, date=DATE).read_text()
    append_rows(folder / "results.jsonl", compared())
    save([Picture("Some faces", "c", (Tile(JPEG, "a"),))], folder / "pictures")
    (folder / "set.json").write_text(json.dumps({"name": "s", "faces": 1234, "licences": {"CC0": 1234}, "people": 9}))
    text = " ".join(Page(report_command(folder, tmp_path / "x.html", date=DATE).read_text()).text.split())
    for words in (
        "MAE-Face on 1,234 faces",
        "better on 1 of 1",
        "Some faces",
        "CC0",
        "of 9 people",
        "fusiform pretrain",
    ):
        assert words in text
    with pytest.raises(DataError, match="not a set"):
        report_command(folder, date=DATE, set_folder=tmp_path)
    with pytest.raises(DataError, match="no run"):
        report_command(tmp_path / "nowhere", date=DATE)
    (folder / "config.json").write_text("{}")
    with pytest.raises(DataError):
        report_command(folder, date=DATE)


def test_the_commands_say_what_was_changed_and_import_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = find("mae-face-quick")
    recipe = replace(recipe, optim=replace(recipe.optim, epochs=2.0, betas=(0.8, 0.9)))
    with Run.open(tmp_path / "r", recipe):
        pass
    text = page_text(report_command(tmp_path / "r", date=DATE))
    assert "fusiform pretrain mae-face-quick --faces SET --optim.epochs 2.0 --optim.betas 0.8 0.9 --out r" in text
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    with Run.open(tmp_path / "s", replace(recipe, name="evil:RECIPE")):
        pass
    assert "evil:RECIPE" in page_text(report_command(tmp_path / "s", date=DATE))


def page_text(path: Path) -> str:
    return " ".join(Page(path.read_text(encoding="utf-8")).text.split())


# ------------------------------------------------------------------------------------------ pictures and sets


def test_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n..."
    pictures = [
        Picture(
            "A <b>", "c", (Tile(JPEG, "one", "below"), Tile(png, "two")), ("x", "y"), (("skin", "#0a0B0c"),), wide=True
        ),
        Picture("B", "d", (Tile(png, "three"),)),
    ]
    save(pictures, tmp_path / "p")
    assert load(tmp_path / "p") == pictures
    save(pictures[1:], tmp_path / "p")
    assert load(tmp_path / "p") == pictures[1:]
    assert len(list((tmp_path / "p").iterdir())) == 2
    assert load(tmp_path / "nowhere") == []


def test_pictures_read_no_file_outside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    save([Picture("A", "c", (Tile(JPEG, "one"),))], tmp_path / "p")
    described = json.loads((tmp_path / "p" / "00.json").read_text())
    described["tiles"][0]["file"] = "../secret.jpg"
    (tmp_path / "p" / "00.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "p")
    (tmp_path / "p" / "00.json").write_text('{"title": "A"}')
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "p")
    with pytest.raises(DataError, match="JPEG or PNG"):
        Tile(b"<svg onload=alert(1)>", "x")


def test_a_card_is_read_as_curate_writes_it(tmp_path: Path) -> None:
    card = {
        "name": "photos",
        "counts": {"seen": 12, "kept": 8, "refused": 4, "faces": 9},
        "rights": [
            {"source": "a", "licence": "CC0-1.0", "consent": "unknown", "faces": 6},
            {"source": "b", "licence": "unknown", "consent": "unknown", "faces": 3},
        ],
        "refused": [{"reason": "no-face", "count": 4, "meaning": "None found", "do": "", "examples": []}],
        "left_out": [{"reason": "not-largest", "count": 2, "meaning": "Another is larger", "do": ""}],
        "people": {"count": 5},
        "splits": [{"split": "train", "faces": 9}],
        "models": [{"role": "detector", "id": "yunet", "licence": "MIT", "training_data": "WIDER FACE", "sha256": "0"}],
        "notes": ["something"],
        "command": "fusiform curate photos --out SET",
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    data = DataSummary.read(tmp_path)
    assert data is not None
    assert (data.faces, data.files, data.kept, data.people, data.unknown_licence) == (9, 12, 8, 5, 3)
    assert data.refused == (Refusal("no-face", "None found", 4),)
    assert data.left_out[0].count == 2
    assert data.made_by == "fusiform curate photos --out SET"
    (tmp_path / "card.json").write_text("[1]")
    with pytest.raises(DataError, match="JSON object"):
        DataSummary.read(tmp_path)
    (tmp_path / "card.json").write_text('{"rights": [{}]}')
    with pytest.raises(DataError, match="not understood"):
        DataSummary.read(tmp_path)
    assert DataSummary.read(tmp_path / "nowhere") is None


def test_a_set_without_a_card_still_shows_its_faces(tmp_path: Path) -> None:
    import io

    from PIL import Image

    from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
    from fusiform.ledger import KEPT, LedgerRow
    from fusiform.measurement import Crop

    faces = []
    for i in range(30):
        out = io.BytesIO()
        Image.new("RGB", (16, 16), (8 * i, 0, 0)).save(out, "JPEG")
        faces.append(StoredFace(f"f{i:02}", out.getvalue(), person=f"p{i % 3}", licence="rendered"))
    kept = [
        LedgerRow(f"{f.key}.jpg", KEPT, source="renderer", licence="CC0", consent="rendered", key=f.key) for f in faces
    ]
    commit_chunk(tmp_path, 0, faces, [*kept, LedgerRow("x.jpg", "no-face")])
    finish_set(
        tmp_path, name="renders", crop=Crop("loose", 16, "exact-points"), made_by="fusiform render", created=DATE
    )
    data = DataSummary.read(tmp_path)
    assert data is not None
    assert (data.faces, data.people, data.rights) == (30, 3, (Rights("renderer", "CC0", "rendered", 30),))
    assert data.refused == (Refusal("no-face", "", 1),)
    assert data.contact_sheet is not None
    assert "30 of 30 faces" in data.contact_sheet.alt
    sheet = Image.open(io.BytesIO(data.contact_sheet.image))
    assert sheet.size == (12 * 96, 3 * 96)
    assert sheet.getpixel((48, 48))[0] < 20  # type: ignore[index]
    assert sheet.getpixel((5 * 96 + 48, 2 * 96 + 48))[0] > 200  # type: ignore[index]
