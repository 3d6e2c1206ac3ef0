"""Whether a table may be used as a set's index. A checksum says that it is the one somebody wrote, not that they meant
well: offsets that lie outside their buffers would be read from memory that is not the table's."""

from __future__ import annotations

import pyarrow as pa


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
