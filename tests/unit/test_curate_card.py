"""The data card: true numbers, one file, and strangers' names as text."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from curate_fakes import FakeModels, make, picture

from fusiform.curate.card import CARD_HTML, describe, read_card, render, summary
from fusiform.curate.histogram import histogram, years
from fusiform.curate.reasons import FACE_REASONS, FILE_REASONS, RETRIED
from fusiform.errors import DataError
from fusiform.faces.decode import REASONS, decode

HOSTILE = [
    "<script>alert(1)<.png",
    "<img src=x onerror=alert(1)>",
    "&lt;u&gt;&amp;",
    "'\"><svg onload=alert(1)>",
    "{{ 7*7 }}",
]


@pytest.fixture
def set_folder(tmp_path: Path) -> Path:
    photos = tmp_path / "<b>photos"
    photos.mkdir()
    for i, name in enumerate(HOSTILE):
        (photos / name).write_bytes(picture(i % 2, seed=i))
        (photos / (name + "x")).write_bytes(b"no picture")
    (photos / "small").write_bytes(picture(1, seed=9, side=28))
    make(photos, tmp_path / "set", contact_sheet=5, licence="<i>CC0</i>", consent="<u>all</u>")
    return tmp_path / "set"


def test_the_page_is_one_file_and_everything_foreign_is_text(set_folder: Path) -> None:
    page = (set_folder / CARD_HTML).read_text(encoding="utf-8")
    for name in [*HOSTILE, "<i>CC0</i>", "<u>all</u>", "<b>photos"]:
        assert name not in page or html.escape(name) == name
        assert str(html.escape(name)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    assert "<script" not in page
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(?!data:)[a-z]*:?//""", page)
    assert "default-src 'none'" in page


def test_its_pictures_decode(set_folder: Path) -> None:
    page = (set_folder / CARD_HTML).read_text(encoding="utf-8")
    sheets = [base64.b64decode(b) for b in re.findall(r"base64,([A-Za-z0-9+/=]+)", page)]
    shapes = [decode(sheet).pixels.shape for sheet in sheets]
    assert shapes == [(88, 2 * 88, 3), (88, 3 * 88, 3), (88, 88, 3)]  # faces; then no-face, face-too-small


def test_the_numbers_add_up(set_folder: Path) -> None:
    card = read_card(set_folder)
    counts = card["counts"]
    assert counts["seen"] == 11 == counts["kept"] + counts["refused"]
    assert {r["reason"]: r["count"] for r in card["refused"]} == {"not-an-image": 5, "no-face": 3, "face-too-small": 1}
    assert sum(r["faces"] for r in card["rights"]) == counts["faces"] == 2
    assert card["rights"][0] == {"source": "<b>photos", "licence": "<i>CC0</i>", "consent": "<u>all</u>", "faces": 2}
    assert card["models"][0]["training_data"] == "none"
    assert "/" not in card["command"].replace("</", "")  # no absolute paths
    text = summary(card)
    assert "refused: not-an-image" in text
    assert text.endswith("11 seen = 2 kept + 9 refused")


def test_a_missing_card_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run curate again"):
        read_card(tmp_path)


def test_unknown_licences_are_said(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a").write_bytes(picture(1))
    make(tmp_path / "photos", tmp_path / "set")
    assert any("licence of 1 face is unknown" in note for note in read_card(tmp_path / "set")["notes"])


def test_a_card_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a").write_bytes(picture(1))
    make(tmp_path / "photos", tmp_path / "set", FakeModels(notes=("said",)), contact_sheet=0)
    page = (tmp_path / "set" / CARD_HTML).read_text(encoding="utf-8")
    assert "base64" not in page
    assert "said" in page


def test_every_reason_is_explained() -> None:
    assert set(REASONS) <= set(FILE_REASONS)
    assert set(FILE_REASONS) >= RETRIED
    assert all(meaning.sentence for meaning in [*FILE_REASONS.values(), *FACE_REASONS.values()])


def test_histogram() -> None:
    plot = histogram("x", np.array([1.0, 1.0, 2.0, 100.0, np.nan]), logarithmic=True)
    assert plot is not None
    assert sum(bar["count"] for bar in plot["bars"]) == plot["total"] == 4
    assert (plot["low"], plot["high"], plot["median"]) == ("1", "100", "1.5")
    assert all(bar["y"] >= 0 and bar["y"] + bar["height"] <= 90.01 for bar in plot["bars"])
    assert histogram("x", np.array([])) is None
    same = histogram("x", np.array([3.0, 3.0]))
    assert same is not None
    assert sum(bar["count"] for bar in same["bars"]) == 2
    assert histogram("x", np.zeros(3)) is not None


def test_years_are_whole() -> None:
    one = years("x", np.array([2026.2, 2026.9]))
    assert one is not None
    assert (one["low"], one["median"], one["high"]) == ("2026", "2026", "2026")
    assert [(bar["label"], bar["count"]) for bar in one["bars"]] == [("2026", 2)]
    some = years("x", np.array([2024.1, 2026.9, np.nan]))
    assert some is not None
    assert [(bar["label"], bar["count"]) for bar in some["bars"]] == [("2024", 1), ("2026", 1)]
    many = years("x", np.array([1970.5, 2000.0, 2026.3]))
    assert many is not None
    assert [bar["label"] for bar in many["bars"]] == ["1970 to 1972", "2000 to 2002", "2024 to 2026"]
    assert sum(bar["count"] for bar in many["bars"]) == many["total"] == 3
    assert years("x", np.array([])) is None


def test_json_and_page_come_from_one_description(set_folder: Path) -> None:
    card = json.loads((set_folder / "card.json").read_text())
    assert render(card)
    assert describe.__doc__
