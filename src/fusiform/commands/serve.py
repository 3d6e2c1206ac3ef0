"""`fusiform serve`: photos in over HTTP, faces out; and a page for people."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fusiform.cli import parse
from fusiform.errors import ConfigError, DataError
from fusiform.serve.settings import Limits, access_for, is_loopback

if TYPE_CHECKING:
    from fusiform.serve.model import Model

KEY = "FUSIFORM_API_KEY"


@dataclass(frozen=True)
class ServeFlags:
    """Answer for a model over HTTP, with a page for people at /. Only this machine can ask unless --host says
    otherwise. No photo is kept: none is written to a disk, and none is in a log.

    The API key is the environment's FUSIFORM_API_KEY, or the first line of --key-file."""

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of a model (fusiform head), of an encoder, or of a finished run. Or an .onnx file of `fusiform export`, or
    a folder of them: onnxruntime then answers, without torch."""
    host: str = "127.0.0.1"
    """Name or address to listen at. Others than this machine's own need an API key, or --no-key."""
    port: int = 8000
    """0 takes a free one and says which."""
    runs: Path | None = None
    """Folder whose runs and reports the page shows, read only."""
    key_file: Path | None = None
    """File with the API key."""
    no_key: bool = False
    """Let everybody ask who reaches --host. Say it aloud only behind something that checks who asks."""
    allow_host: tuple[str, ...] = ()
    """Further names that the service answers under, as they stand in the address bar without the port."""
    trust_proxy: tuple[str, ...] = ()
    """Addresses or networks of proxies before the service, such as 127.0.0.1: what they write into X-Forwarded-For is
    then taken for the client's address. Without it the header is not read."""
    limits: Limits = field(default_factory=Limits)
    """Bounds of every request and of all together."""
    device: str = "cpu"
    """Where the encoder runs: cpu, cuda, mps."""


def serve(words: list[str]) -> int:
    flags = parse(ServeFlags, words, "serve")
    if not flags.model.exists():
        raise DataError(
            f"There is no model at '{flags.model}'",
            expected="a folder of `fusiform head`, of an encoder or of a run, or files of `fusiform export`",
        )
    if not 0 <= flags.port <= 65535:
        raise ConfigError(f"--port is {flags.port}", expected="0 to 65535")
    if flags.runs is not None and not flags.runs.is_dir():
        raise DataError(f"There is no folder '{flags.runs}' to show", do="leave --runs out")
    access = access_for(
        flags.host,
        key=_key(flags.key_file),
        no_key=flags.no_key,
        allowed=flags.allow_host,
        runs=flags.runs,
        proxies=flags.trust_proxy,
    )
    try:
        from fusiform.serve.running import listen, run
        from fusiform.serve.service import service
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The service needs the package '{error.name}'", do="pip install 'fusiform[serve]'"
        ) from error
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    door = listen(flags.host, flags.port)
    port = door.getsockname()[1]
    if not is_loopback(flags.host):
        who = "everybody who reaches it may ask" if access.key is None else "it asks for the API key"
        _say(
            f"WARNING: other machines reach this service at {flags.host}; {who}. "
            "HTTP is not encrypted: put TLS before it"
        )

    def load() -> Model:
        import numpy as np

        from fusiform.infer.analyzer import onnx_files
        from fusiform.serve.model import Asked, load_model

        if not onnx_files(flags.model):
            import torch

            from fusiform.world import tune_cpu

            tune_cpu(torch.device(flags.device))
        model = load_model(flags.model, device=flags.device)
        model.see([Asked(np.full((480, 640, 3), 127, np.uint8))])  # so that the first photo does not wait for set-up
        return model

    shown = f"[{flags.host.strip('[]')}]" if ":" in flags.host else flags.host
    _say(f"listening at http://{shown}:{port}/ (stop with Ctrl-C)")
    run(service(flags.limits, access, load), door, say=_say)
    _say("stopped")
    return 0


def _key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(KEY) or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The key file {file} cannot be read ({error})") from error
    if not lines or not lines[0].strip():
        raise DataError(f"The key file {file} has no key in its first line")
    return lines[0].strip()


def _say(message: str) -> None:
    sys.stderr.write(f"fusiform serve: {message}\n")
    sys.stderr.flush()
