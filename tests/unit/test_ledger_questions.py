"""A ledger answers questions and does nothing else; its history cannot be edited unseen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from curate_fakes import ledger_rows, make, picture

from fusiform.cli import main
from fusiform.curate.atlas import AtlasOptions, atlas
from fusiform.errors import ConfigError, DataError
from fusiform.ledger_history import Change, note, read_history
from fusiform.ledger_query import query, rows_of
from fusiform.ledger_rights import for_card, rights_of_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ledger")
    (root / "photos").mkdir()
    for i in range(4):
        (root / "photos" / f"{i}.png").write_bytes(picture(1, seed=i))
    (root / "photos" / "4.png").write_bytes((root / "photos" / "0.png").read_bytes())
    (root / "photos" / "bad.txt").write_text("no photo")
    make(root / "photos", root / "set", licence="CC0-1.0", consent="signed", policy="off")
    return root / "set"


def test_conditions_and_sql(made: Path) -> None:
    assert query(made, "outcome = 'kept' and licence = 'CC0-1.0'").num_rows == 4
    counted = query(made, "select outcome, count(*) as n from ledger group by outcome order by n desc, outcome")
    assert counted.to_pylist() == [
        {"outcome": "kept", "n": 4},
        {"outcome": "duplicate", "n": 1},
        {"outcome": "not-an-image", "n": 1},
    ]
    assert query(made, "", limit=2).num_rows == 2


@pytest.mark.parametrize(
    "question",
    [
        "select * from read_text('/etc/hostname')",
        "select * from '/etc/hostname'",
        "copy ledger to '/tmp/ledger-copy.csv'",
        "select 1; drop table ledger",
        "install httpfs",
        "set enable_external_access = true",
        "attach '/tmp/other.db'",
        "delete from ledger",
        "made",
        "nothing = 1",
    ],
)
def test_nothing_but_the_ledger_is_reached(made: Path, question: str) -> None:
    with pytest.raises(ConfigError):
        query(made, question)
    assert not Path("/tmp/ledger-copy.csv").exists()


def test_rows_of_a_key_hash_and_path(made: Path) -> None:
    row = next(r for r in ledger_rows(made) if r["outcome"] == "kept")
    for name in (row["key"], row["path"]):
        assert rows_of(made, name)[0]["key"] == row["key"]
    assert row["key"] in {r["key"] for r in rows_of(made, row["sha256"][:12])}
    with pytest.raises(DataError, match="nothing called 'nobody'"):
        rows_of(made, "nobody")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_forms(made: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "query", str(made), "outcome = 'kept'", "--form", form]) == 0
    said = capsys.readouterr().out
    assert "CC0-1.0" in said
    if form == "json":
        assert len([json.loads(line) for line in said.splitlines()]) == 4
    assert main(["ledger", "card", str(made)]) == 0
    assert "4  photos: licence CC0-1.0, consent signed" in capsys.readouterr().out


def test_history_is_added_to_and_notices_edits(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = read_history(made)
    assert [(c.what, c.faces, c.before) for c in first] == [("curate", 4, "")]
    assert main(["ledger", "history", str(made)]) == 0
    assert "4 faces; new -> " in capsys.readouterr().out
    for i in range(3):
        note(tmp_path, Change("2020-02-02", "curate", "me", "", "", str(i), i))
    note(tmp_path, Change("2020-02-03", "curate", "me", "", "", "2", 2))  # changed nothing
    assert [c.after for c in read_history(tmp_path)] == ["0", "1", "2"]
    path = tmp_path / "history.jsonl"
    lines = path.read_text().splitlines()
    with path.open("a") as file:
        file.write('{"torn": ')
    note(tmp_path, Change("2020-02-03", "curate", "me", "", "", "9", 9))
    assert len(read_history(tmp_path)) == 4
    for damaged in ([lines[0].replace('"me"', '"you"'), *lines[1:]], [lines[0], lines[2]]):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(DataError, match="was changed, or a line before it"):
            read_history(tmp_path)


def test_rights_are_counted_for_a_card(made: Path) -> None:
    card = for_card(rights_of_set(made))
    assert card["licences_of_faces"] == {"CC0-1.0": 4}
    assert card["consents_of_faces"] == {"signed": 4}
    assert for_card(rights_of_set(made, "val"))["licences_of_faces"] == {}
    assert rights_of_set(made / "nowhere") == []


def test_an_encoder_inherits_rights(made: Path) -> None:
    from fusiform import recipes
    from fusiform.faces.faceset import FaceSet
    from fusiform.training import Training

    recipe = recipes.find("mae-face-quick")
    training = Training(recipe, recipe.method.build(recipe.vit), 10)
    card = training.encoder(FaceSet.open(made)).card
    assert card["licences_of_faces"] == {"CC0-1.0": 4}
    assert card["consents_of_faces"] == {"signed": 4}
    assert card["rights_of_faces"] == [{"source": "photos", "licence": "CC0-1.0", "consent": "signed", "faces": 4}]


def test_an_atlas_loads_nothing_and_shows_what_is_asked(made: Path) -> None:
    sizes = {}
    for pictures in ("show", "blur", "none"):
        page = atlas(made, AtlasOptions(pictures=pictures), today="2020-02-02")  # type: ignore[arg-type]
        assert not re.search(r'(?:src|href)="(?!data:)', page)
        assert "<script" not in page
        assert page.count("<circle") == 4
        sizes[pictures] = len(page)
        assert ("data:image/jpeg" in page) == (pictures != "none")
    assert sizes["none"] < sizes["blur"] < sizes["show"]
    again = atlas(made, AtlasOptions(), today="2020-02-02")
    assert again == atlas(made, AtlasOptions(), today="2020-02-02")
    with pytest.raises(ConfigError, match="--groups is 999"):
        AtlasOptions(groups=999)
