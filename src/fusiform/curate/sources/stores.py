"""Object stores (`s3://bucket/folder`, `gs://`, `az://`, `abfs://`) through fsspec, with the user's own settings, and
single http(s) addresses. Needs `pip install "fusiform[cloud]"` but for http(s)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile, printable
from fusiform.curate.sources import MemberRefused
from fusiform.curate.sources.web import STORES


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Every object below the address, by name. Size and time of change come from the store's own listing."""
    address = container.path
    scheme = address.split("://", 1)[0].lower()
    if scheme in ("http", "https"):
        yield SourceFile(container.name, address, 0, 0, inside=("web", address, "", options.allow_private))
        return
    if scheme not in STORES:
        raise MemberRefused("unsupported-address", f"'{scheme}' is none of http, https, {', '.join(STORES)}")
    try:
        import fsspec

        opened: Any = fsspec.core.url_to_fs
        store, root = opened(address)
        found = store.find(root, detail=True)
    except ImportError as error:
        raise MemberRefused("needs-a-package", f'{error}; pip install "fusiform[cloud]"'[:200]) from None
    except Exception as error:  # each store has errors of its own
        raise MemberRefused("unreachable", f"{type(error).__name__}: {error}"[:200]) from None
    for path in sorted(found):
        name = path[len(root) :].strip("/") or path.rsplit("/", 1)[-1]
        inside = ("web", store.unstrip_protocol(path), "", options.allow_private)
        size = int(found[path].get("size") or 0)
        yield SourceFile(f"{container.name}/{printable(name)}", address, size, _changed(found[path]), inside=inside)


def _changed(info: dict[str, Any]) -> int:
    """Time of the last change in nanoseconds; 0 where the store does not say."""
    when = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("updated")
    if isinstance(when, datetime):
        return int(when.timestamp() * 1e9)
    return int(when * 1e9) if isinstance(when, int | float) else 0
