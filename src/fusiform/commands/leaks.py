"""`fusiform leaks`: do the people or pictures of a test set appear in a training set?"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fusiform.cli import parse
from fusiform.errors import DataError

SHOWN = 10


@dataclass(frozen=True)
class LeaksFlags:
    """Compare two sets by their bytes, looks, subjects and, with --encoder, features. The answer is written as
    leaks.json and leaks.html, with keys and without pictures; `fusiform evaluate --without leaks.json` scores without
    the suspects."""

    train: Annotated[Path, tyro.conf.Positional]
    """The set that is trained on."""
    test: Annotated[str, tyro.conf.Positional]
    """The set that is tested on; or the name of a task, such as verification, with --photos or --rendered."""
    train_split: str = "all"
    """Only these faces of the training set."""
    test_split: str = "all"
    """Only these faces of the test set."""
    photos: Path | None = None
    """Folder of the labelled photo sets, for a task; without it the one that FUSIFORM_DATA names."""
    rendered: Path | None = None
    """Set of rendered faces, for a task."""
    encoder: Path | None = None
    """A finished run, or an encoder's folder, whose features are compared too."""
    threshold: float = 0.95
    """Cosine from which two faces are near by their features."""
    out: Path = Path("leaks.json")
    """The answer; the page lies beside it."""
    fail: bool = False
    """Exit with an error where anything is found."""


def leaks(words: list[str]) -> int:
    flags = parse(LeaksFlags, words, "leaks")
    from fusiform import leaks as leaking
    from fusiform.durable import replace_file
    from fusiform.faces.faceset import FaceSet

    train = leaking.side_of_set(FaceSet.open(flags.train), flags.train_split)
    encoder = None
    if flags.encoder is not None:
        from fusiform.commands.measuring import encoder_folder
        from fusiform.encoder import Encoder

        encoder = Encoder.load(encoder_folder(flags.encoder))
    sides = _tested(flags, train.crop.size)
    failed = 0
    for number, test in enumerate(sides):
        found = leaking.leaks(train, test, encoder=encoder, threshold=flags.threshold)
        out = flags.out if len(sides) == 1 else flags.out.with_stem(f"{flags.out.stem}-{number}")
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, json.dumps(found.to_json(), indent=1, ensure_ascii=False).encode() + b"\n")
        replace_file(out.with_suffix(".html"), page(found).encode())
        sys.stdout.write(_said(found) + f"{out}, {out.with_suffix('.html')}\n")
        failed += len(found.keys)
    return DataError.exit_code if failed and flags.fail else 0


def _tested(flags: LeaksFlags, size: int) -> list[Any]:
    """A set's faces, or those of a task on every set that it has."""
    from fusiform.errors import SetMissing
    from fusiform.faces.faceset import FaceSet
    from fusiform.leaks import side_of_set, side_of_task

    if Path(flags.test).exists() or "/" in flags.test:
        return [side_of_set(FaceSet.open(flags.test), flags.test_split)]
    from fusiform.protocols import LinearProbe
    from fusiform.suite import cells

    chosen = cells(rendered=flags.rendered, root=flags.photos, learned=LinearProbe(), names=(flags.test,))
    sides = []
    for cell in chosen:
        try:
            sides.append(side_of_task(cell.task.read(size)))
        except SetMissing as error:
            sys.stderr.write(f"{cell.name}: not available. {error}\n")
    if not sides:
        raise DataError(f"No set of the task '{flags.test}' is here", do="--photos FOLDER or --rendered SET")
    return sides


def _said(found: Any) -> str:
    lines = [f"{found.test['faces']:,} faces of {found.test['name']} against {found.train['faces']:,} of "]
    lines[0] += f"{found.train['name']}: {len(found.keys):,} are suspect"
    for kind, count in found.pairs.items():
        lines.append(f"    {kind:<14} {count:>9,} pairs, {found.suspects[kind]:,} test faces")
        for leak in [each for each in found.leaks if each.kind == kind][:SHOWN]:
            who = f"  '{leak.subject}'" if leak.subject else ""
            lines.append(f"        {leak.test}  is like  {leak.train}  {leak.value:g}{who}")
    return "\n".join([*lines, *found.notes]) + "\n"


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Leaks: {{ test.name }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 28px auto; padding: 0 20px; color: #1d2327 }
table { border-collapse: collapse; width: 100%; margin: 12px 0 } th, td { text-align: left; padding: 5px 10px;
border-top: 1px solid #dfe4e8; overflow-wrap: anywhere } td.n, th.n { text-align: right } code { font-size: 13px }
</style></head><body>
<h1>Does {{ train.name }} know {{ test.name }}?</h1>
<p>{{ "{:,}".format(keys | length) }} of {{ "{:,}".format(test.faces) }} test faces are suspect, against
{{ "{:,}".format(train.faces) }} training faces. There are no pictures on this page.</p>
<table><tr><th>by</th><th class="n">pairs</th><th class="n">test faces</th></tr>
{% for kind, count in pairs.items() %}<tr><td>{{ kind }}</td><td class="n">{{ "{:,}".format(count) }}</td>
<td class="n">{{ "{:,}".format(suspects[kind]) }}</td></tr>{% endfor %}</table>
{% for note in notes %}<p>{{ note }}</p>{% endfor %}
<p>Without them: <code>fusiform evaluate RUN --without leaks.json</code></p>
{% if leaks %}<table><tr><th>by</th><th>test face</th><th>training face</th><th class="n">value</th>
<th>subject</th></tr>
{% for leak in leaks[:2000] %}<tr><td>{{ leak.kind }}</td><td><code>{{ leak.test }}</code></td>
<td><code>{{ leak.train }}</code></td><td class="n">{{ leak.value }}</td><td>{{ leak.subject }}</td></tr>{% endfor %}
</table>{% if leaks | length > 2000 %}<p>{{ leaks | length - 2000 }} more are in the JSON file.</p>{% endif %}
{% endif %}</body></html>
"""


def page(found: Any) -> str:
    """The answer as one HTML page. Keys come from strangers: everything is escaped."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(**{n: getattr(found, n) for n in vars(found)})
