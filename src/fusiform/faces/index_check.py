"""Whether what a set says of itself may be believed: its list of files, and the table of its index.

A checksum says that it is the one somebody wrote, not that they meant well: offsets that lie outside their buffers
would be read from memory that is not the table's.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa


def names_files(files: Any) -> bool:
    """Whether files below the set's folder are named, each with its length and hash."""
    return isinstance(files, dict) and all(
        isinstance(about, dict)
        and isinstance(about.get("bytes"), int)
        and isinstance(about.get("sha256"), str)
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        and "\0" not in name
        for name, about in files.items()
    )


def wrong_with(table: pa.Table, schema: pa.Schema, *, values: bool) -> str | None:
    """What is wrong, in words; None where nothing is.

    Args:
        schema: which columns, of which types; none may have a value missing.
        values: look at every value, and not only at the columns.
    """
    try:
        if table.schema.names != schema.names or table.schema.types != schema.types:
            return f"has other columns than {', '.join(schema.names)}"
        table.validate(full=values)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        return f"is damaged ({str(error).splitlines()[0]})"
    holes = [name for name in schema.names if table[name].null_count]
    return f"lacks values of {holes[0]}" if holes else None
