"""The command line: a verb, then typed flags. `fusiform --help` and `fusiform VERB --help` import no torch."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fusiform import __version__
from fusiform.errors import ConfigError, FusiformError, RankLost, did_you_mean


class Verb(NamedTuple):
    about: str
    place: str
    """`module:function`, imported when the verb is typed. The function takes the words after the verb."""


VERBS: dict[str, Verb] = {
    "demo": Verb("photos or rendered faces to a measured encoder and a report", "fusiform.commands.demo:demo"),
    "render": Verb("make faces whose labels are known exactly", "fusiform.commands.rendering:render"),
    "curate": Verb("photos to a set of aligned faces, with ledger and data card", "fusiform.commands.faces:curate"),
    "shards": Verb("check a set's files, or export its faces", "fusiform.commands.faces:shards"),
    "ledger": Verb("ask where a set's faces come from and who changed it", "fusiform.commands.ledger:ledger"),
    "forget": Verb("take a person, picture or source out of everything", "fusiform.commands.forget:forget"),
    "leaks": Verb("do the test people or pictures appear in training?", "fusiform.commands.leaks:leaks"),
    "weights": Verb("published encoders and face models: list, fetch, import", "fusiform.commands.weights:weights"),
    "show": Verb("what a recipe is: settings, parameters, cost", "fusiform.commands.training:show"),
    "pretrain": Verb("train an encoder on a set", "fusiform.commands.training:pretrain"),
    "evaluate": Verb("measure an encoder beside the untrained one", "fusiform.commands.measuring:evaluate"),
    "head": Verb("train a head for a task and keep it in a model's folder", "fusiform.commands.head:head"),
    "infer": Verb("photos, folders and videos to faces and what the heads say", "fusiform.commands.infer:infer"),
    "threshold": Verb("an operating point for a false-accept rate", "fusiform.commands.recognising:threshold"),
    "verify": Verb("do two photos show one person", "fusiform.commands.recognising:verify"),
    "identify": Verb("who of a gallery is in a photo, or nobody", "fusiform.commands.recognising:identify"),
    "compare": Verb(
        "encoders and recipes side by side, at equal budget, with verdicts", "fusiform.commands.comparing:compare"
    ),
    "doctor": Verb(
        "is this machine ready; are labelled sets what their makers published", "fusiform.commands.doctor:doctor"
    ),
    "publish": Verb("an encoder with its model card, ready to hand on", "fusiform.commands.publish:publish"),
    "export": Verb("an encoder or a trained task as ONNX and other files", "fusiform.commands.export:export"),
    "serve": Verb("answer for a model over HTTP, with a page for people", "fusiform.commands.serve:serve"),
    "report": Verb("one HTML page about a run", "fusiform.commands.measuring:report"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/errors.md)."""
    words = list(sys.argv[1:] if words is None else words)
    # Idle OpenMP threads that spin make two threads slower than one where neighbours want the cores too. It is read
    # once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("WORLD_SIZE", "1") != "1":  # DDP warns, on every rank, of what fusiform.parallel does on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return _run(words)
    except FusiformError as error:
        size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
        who = "fusiform" if size == "1" else f"fusiform (rank {rank} of {size})"
        print(f"{who}: {error}", file=sys.stderr)
        if size != "1" and isinstance(error, RankLost):  # threads that still wait for that rank abort Python's own end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        print("fusiform: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `fusiform ... | head`
        sys.stderr.close()
        return 141


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"fusiform {__version__}")
        return 0
    name, *rest = words
    if name not in VERBS:
        raise ConfigError(f"There is no command '{name}'", do=did_you_mean(name, VERBS))
    module, _, function = VERBS[name].place.partition(":")
    command: Callable[[list[str]], int | None] = getattr(importlib.import_module(module), function)
    return command(rest) or 0


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            f"fusiform {__version__}: self-supervised facial representation learning",
            "",
            "usage: fusiform COMMAND [FLAGS]",
            "",
            *lines,
            "",
            "`fusiform COMMAND --help` lists a command's flags. Start with `fusiform demo`.",
        ]
    )


def parse(cls: type, words: list[str], command: str, *, default: Any = None) -> Any:
    """The flags of a command as a value of the frozen dataclass `cls`; tyro prints what is wrong with them."""
    import tyro

    about = (cls.__doc__ or "").strip()
    given = {} if default is None else {"default": default}
    return tyro.cli(cls, args=words, prog=f"fusiform {command}", description=about, **given)


def subcommand(words: list[str], command: str, verbs: dict[str, Callable[[list[str]], int | None]]) -> int:
    """Dispatch `fusiform COMMAND VERB ...`."""
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: fusiform {command} {{{','.join(verbs)}}} ...")
        for name, function in verbs.items():
            print(f"  {name:<8} {(function.__doc__ or '').strip().splitlines()[0]}")
        return 0
    if words[0] not in verbs:
        raise ConfigError(f"There is no command '{command} {words[0]}'", do=did_you_mean(words[0], verbs))
    return verbs[words[0]](words[1:]) or 0


def today() -> str:
    """The one place where the command line reads the calendar."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def replace_path(value: Any, path: str, new: Any) -> Any:
    """A copy of nested dataclasses with the field at the dotted `path` replaced."""
    head, _, rest = path.partition(".")
    return dataclasses.replace(value, **{head: replace_path(getattr(value, head), rest, new) if rest else new})


if __name__ == "__main__":
    sys.exit(main())
