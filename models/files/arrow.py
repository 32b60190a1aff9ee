# SPDX-License-Identifier: Apache-2.0
"""Tables in Arrow streams (as Hugging Face `datasets` saves them) and Parquet files: sizes checked, values validated.

pyarrow reads them; nothing pickled is read, and extension types stay what they are stored as.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular

#: What the columns that are asked for may unpack to.
LARGEST_BYTES = 4 * 2**30


def read_stream(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Any:
    """A pyarrow.Table of Arrow stream files with one schema, memory-mapped where they are not compressed.

    Args:
        paths: the files, in their order.
        columns: which of the columns; None: all.

    Raises:
        UsageError: pyarrow is missing, a file is missing or damaged, lacks a column, or two of them differ.
    """
    pyarrow = _pyarrow()
    tables = []
    for path in paths:
        open_regular(path).close()  # a pipe would wait for a writer
        try:
            with pyarrow.memory_map(str(path)) as file:
                table = pyarrow.ipc.open_stream(file).read_all()
        except (pyarrow.ArrowException, OSError, MemoryError) as error:
            raise UsageError(f"{path} is no Arrow stream that can be read: {_first_line(error)}") from error
        tables.append(_chosen(table, columns, path))
    try:
        return pyarrow.concat_tables(tables)
    except pyarrow.ArrowException as error:
        raise UsageError(f"{paths[0].parent}: its files have different columns: {_first_line(error)}") from error


def read_parquet(path: Path) -> Any:
    """A pyarrow.Table of a Parquet file.

    Raises:
        UsageError: pyarrow is missing, the file is missing or damaged, or it unpacks to more than `LARGEST_BYTES`.
    """
    pyarrow = _pyarrow()
    from pyarrow.parquet import ParquetFile

    open_regular(path).close()
    try:
        with ParquetFile(str(path)) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            _refuse_large(sum(group.total_byte_size for group in groups), path)
            table = file.read()
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        raise UsageError(f"{path} is no Parquet file that can be read: {_first_line(error)}") from error
    return _chosen(table, None, path)


def _chosen(table: Any, columns: Sequence[str] | None, path: Path) -> Any:
    """These columns, once their offsets and sizes are known to stay inside of the file."""
    pyarrow = _pyarrow()
    missing = [name for name in columns or () if name not in table.column_names]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]!r}: it has {', '.join(map(str, table.column_names))}")
    table = table.select(list(columns)) if columns is not None else table
    try:
        table.validate(full=True)
        size = table.nbytes
    except (pyarrow.ArrowException, MemoryError) as error:
        raise UsageError(f"{path} is damaged: {_first_line(error)}") from error
    _refuse_large(size, path)
    return table


def _refuse_large(size: int, path: Path) -> None:
    if size > LARGEST_BYTES:
        raise UsageError(
            f"{path} unpacks to {size / 2**30:.1f} GiB; at most {LARGEST_BYTES // 2**30} are read: cut it into parts"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise UsageError("Arrow and Parquet files need pyarrow: install edgepress[arrow]") from None
    return pyarrow
