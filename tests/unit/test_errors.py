"""Errors say four things, cross process borders whole, and end with the documented exit code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from fusiform import errors
from fusiform.errors import FusiformError, did_you_mean

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FusiformError)]


def test_message_has_four_parts_in_order() -> None:
    error = FusiformError("There is no recipe 'x'.", expected="a name.", do="fusiform show")
    assert str(error) == "There is no recipe 'x'. Expected: a name. Do: fusiform show."
    assert str(FusiformError("It is empty")) == "It is empty."


@pytest.mark.parametrize("kind", CLASSES)
def test_pickling_keeps_everything(kind: type[FusiformError]) -> None:
    error = kind("what", expected="expected", do="do")
    error.note = 3  # type: ignore[attr-defined]
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (str(back), back.what, back.expected, back.do, back.note) == (str(error), "what", "expected", "do", 3)


def test_exit_codes_are_distinct_and_documented() -> None:
    codes = {kind.__name__: kind.exit_code for kind in CLASSES if "exit_code" in vars(kind)}  # others inherit
    assert len(set(codes.values())) == len(codes)
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    documented = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)}
    assert documented == codes


def test_did_you_mean() -> None:
    assert did_you_mean("mae-fase", ["mae-face", "camd"]) == "Did you mean 'mae-face'?"
    assert did_you_mean("zzz", ["mae-face", "camd"]) == "Known: camd, mae-face."
    assert did_you_mean("zzz", []) == "Known: none."


def test_the_page_has_every_word_for_a_refused_photo() -> None:
    from fusiform.curate.reasons import FILE_REASONS

    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    documented = dict(re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", page, re.MULTILINE))
    assert documented == {word: meaning.sentence for word, meaning in FILE_REASONS.items()}


def test_the_page_of_symptoms_has_every_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
    codes = {str(kind.exit_code) for kind in CLASSES}
    assert codes <= set(re.findall(r"^### Exit code (\d+)", page, re.MULTILINE))
