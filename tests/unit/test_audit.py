"""The dependency audit: a finding fails, a machine without advisories does not, and neither is called the other."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", REPOSITORY / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
HIT = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.1"]}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def test_an_advisory_fails_and_names_the_repair(audit):
    said, code = audit.verdict({"dependencies": [CLEAN, HIT, SKIPPED]})
    assert code == 1
    assert "2 of 3 packages looked up, 1 advisories" in said
    assert "pillow 9.0: PYSEC-1, repaired in 9.1" in said


def test_a_clean_audit_passes_and_says_how_much_it_saw(audit):
    assert audit.verdict({"dependencies": [CLEAN, SKIPPED]}) == (
        "dependency audit: 1 of 2 packages looked up, 0 advisories",
        0,
    )


@pytest.mark.parametrize("report", [None, {"dependencies": [SKIPPED]}, {"dependencies": []}])
def test_an_audit_that_saw_nothing_is_not_called_clean(audit, report):
    said, code = audit.verdict(report, "osv: no route")
    assert code == 0
    assert "not made" in said
    assert "looked up" not in said


def test_without_a_network_the_second_service_is_asked_and_the_reason_is_said(audit, monkeypatch, capsys):
    asked = []

    def offline(words: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        asked.append(words[words.index("-s") + 1])
        return subprocess.CompletedProcess(words, 1, "", "Traceback\n  ...\nConnectionError: no route to host\n")

    monkeypatch.setattr(subprocess, "run", offline)
    assert audit.main() == 0
    assert asked == ["pypi", "osv"]
    assert "osv: ConnectionError: no route to host" in capsys.readouterr().out


def test_every_requirement_has_an_exact_version_that_is_audited():
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = re.findall(r'"([A-Za-z][\w.-]*)(?:\[[\w,]*\])?>=', (REPOSITORY / "pyproject.toml").read_text())
    missing = {name.lower().replace("_", "-") for name in wanted} - pins - {"hatchling"}
    assert not missing
