"""The pages' own commands are run, block by block, in the order of the page, in an empty folder.

A line before a code block says what becomes of it: `<!-- run -->` is run by `make test`, `<!-- run: slow -->` by
`make test-all` (after the page's other blocks), `<!-- not run: REASON -->` by nobody. Pages of which every block of
commands says so are listed in `MARKED`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
MARKED = ("start", "tutorial", "infer", "export", "weights", "thresholds", "publish", "extending", "serve", "metrics")
"""Pages in which no block of commands may be without a mark."""
SECONDS = 1500
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^\s*(?:\$ )?(?:fusiform|make|pip|python3?|torchrun|curl) ", re.M)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def runs(self) -> str:
        """quick, slow, or "" for never."""
        return {"run": "quick", "run: slow": "slow"}.get(self.mark, "")


def blocks_of(page: str, text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match["language"], match["mark"] or "", match["text"]))
    return found


def pages() -> dict[str, list[Block]]:
    return {
        path.relative_to(DOCS).with_suffix("").as_posix(): blocks_of(path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(DOCS.rglob("*.md"))
        if "_build" not in path.parts
    }


PAGES = pages()
QUICK = [page for page, blocks in PAGES.items() if any(b.runs == "quick" for b in blocks)]
SLOW = [page for page, blocks in PAGES.items() if any(b.runs == "slow" for b in blocks)]


def test_marks_are_read():
    text = (
        "<!-- run -->\n```bash\nfusiform show\n```\n\n```\nplain\n```\n<!-- not run: needs a GPU -->\n```bash\nx\n```\n"
    )
    first, second, third = blocks_of("p", text)
    assert (first.runs, first.language, first.text) == ("quick", "bash", "fusiform show\n")
    assert (second.mark, second.language) == ("", "")
    assert (third.runs, third.mark) == ("", "not run: needs a GPU")
    assert third.line == 9


@pytest.mark.parametrize("page", MARKED)
def test_every_block_of_commands_is_run_or_says_why_not(page):
    for block in PAGES[page]:
        where = f"docs/{page}.md, line {block.line}"
        if block.language in ("bash", "python") or COMMAND.search(block.text):
            assert block.runs or re.fullmatch(r"not run: \S.{9,}", block.mark), f"{where}: no mark"
            assert block.language in ("bash", "python"), f"{where}: a block that is run names its language"


def test_marks_anywhere_are_well_formed():
    for page, blocks in PAGES.items():
        for block in blocks:
            if block.mark.startswith(("run", "not run")):
                assert block.runs or re.fullmatch(r"not run: \S.{9,}", block.mark), f"docs/{page}.md, {block.line}"


def test_commands_are_run_on_a_good_share_of_pages():
    assert len(QUICK) >= 2
    assert len(set(QUICK + SLOW)) >= 7


def prepare(folder: Path, data: Path, weights: Path) -> dict[str, str]:
    """What the pages call photo.jpg, PHOTOS, PEOPLE and labels.csv; and the environment."""
    london = data / "real" / "london"
    if not (london / "images").is_dir():
        pytest.skip(f"no photos at {london}")
    shutil.copy(london / "images" / "003_neutral.jpg", folder / "photo.jpg")
    (folder / "PHOTOS").mkdir()
    rows = [json.loads(line) for line in (london / "labels.jsonl").read_text().splitlines()]
    named = [row for row in rows if "points68" in row][:50]
    lines = ["image,person," + ",".join(f"x{i},y{i}" for i in range(68))]
    for row in named:
        name = Path(row["image"]).name
        shutil.copy(data / row["image"], folder / "PHOTOS" / name)
        lines.append(f"{name},{row['person']}," + ",".join(f"{v:.2f}" for point in row["points68"] for v in point))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for row in rows[:24]:
        place = folder / "PEOPLE" / row["person"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / row["image"], place / Path(row["image"]).name)
    shutil.copytree(REPOSITORY / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(folder)]),
        "FUSIFORM_WEIGHTS": str(weights),
        "FUSIFORM_CACHE": str(folder / ".cache"),
        "FUSIFORM_DATA": str(folder / "no-sets"),
        "OMP_NUM_THREADS": "1",
    }


def run(page: str, which: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
    for block in PAGES[page]:
        if block.runs not in which:
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, block.text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        said = f"docs/{page}.md, line {block.line}:\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said
        assert "Traceback" not in done.stderr, said


@pytest.mark.parametrize("page", QUICK)
def test_quick_commands_of_a_page_run(page, tmp_path, data_dir, weights_dir):
    run(page, ("quick",), tmp_path, prepare(tmp_path, data_dir, weights_dir))


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_commands_of_a_page_run(page, tmp_path, data_dir, weights_dir):
    run(page, ("quick", "slow"), tmp_path, prepare(tmp_path, data_dir, weights_dir))
