"""Nothing is sent anywhere: no module opens a connection or loads a network client when it is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "fusiform"
CLIENTS = (
    "requests",
    "httpx",
    "aiohttp",
    "boto3",
    "ray",
    "botocore",
    "s3fs",
    "huggingface_hub",
    "wandb",
    "sentry_sdk",
    "posthog",
)
SENDERS = ("mediapipe", "wandb", "sentry_sdk", "posthog", "segment", "comet_ml", "mlflow")
"""Packages that report usage by themselves; none may be used at all."""


def test_no_module_imports_what_reports_usage() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            assert not {name.split(".")[0] for name in names} & set(SENDERS), path


def test_importing_everything_opens_no_connection() -> None:
    """Every module is imported while sockets are forbidden; afterwards no network client is loaded."""
    modules = sorted(
        ".".join(("fusiform", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if path.stem != "__main__" and not {"serve", "templates"} & set(path.parts)
    )
    code = f"""
import importlib, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
missing = []
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fusiform"):
            missing.append(str(error))
found = [name for name in {CLIENTS!r} if name in sys.modules]
assert not found, found
assert not missing, missing
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
