"""Finds the canonical tables of a shop: each is a file or a folder of files, Parquet or CSV.

shop/
  orders/month=2026-01/part-0.parquet     a folder of files, at any depth; keys of partitions are columns
  items.csv.gz                            CSV, also compressed; its separators are `CsvFormat`
  users.parquet
"""

import csv as csv_module
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

# Suffix → format, in lower case.
FORMATS = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv"}
NO_USER = ("", "nan", "null", "none", "n/a", "<na>")  # in lower case: what programs write for a guest
# The zone of a time, after a blank or without a colon (10:00:00 -0500), and how parsers take it.
OFFSET = r"(:\d{2}(?:\.\d+)?)\s*([+-]\d{2}):?(\d{2})$"
STANDARD_OFFSET = r"\1\2:\3"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # what Hive and Spark write for null


class TableFileError(ValueError):
    """A table exists twice, has no file, or mixes formats. The message names the files and the remedy."""


@dataclass(frozen=True)
class CsvFormat:
    """The format of CSV files. Raises ValueError for a delimiter that is not a single character."""

    delimiter: str = ","  # the two characters \t for a tab
    decimal: str = "."
    time_format: str | None = None  # of times, as in strptime; None: ISO 8601 or Unix seconds

    def __post_init__(self) -> None:
        object.__setattr__(self, "delimiter", self.delimiter.replace("\\t", "\t"))
        if len(self.delimiter) != 1 or len(self.decimal) != 1 or self.delimiter == self.decimal:
            raise ValueError(
                f"CSV with delimiter '{self.delimiter}' and decimal mark '{self.decimal}': expected two "
                "different characters"
            )


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A canonical table on disk. `str()` gives the table's label, else its path.

    Args:
        path: a file, or a folder of files.
        files: the file, or the files of the folder at any depth, in the order of their paths as text.
        csv: how CSV files are written; None for Parquet.
        partitions: keys of folders `key=value` between `path` and its files.
        columns: canonical column → its name in the files, where that differs.
        integers: canonical columns of ids that are whole numbers, however the files write them.
        label: the table's name in messages, if the files are copies.
    """

    path: Path
    files: tuple[Path, ...]
    csv: CsvFormat | None = None
    partitions: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    integers: tuple[str, ...] = ()
    label: str = ""

    def __str__(self) -> str:
        return self.label or str(self.path)

    def name_in_file(self, column: str) -> str:
        """The name of a canonical column in the files."""
        return self.columns.get(column, column)

    def partition_values(self, key: str) -> dict[str, str | None]:
        """Map each value of a partition key, as the folder spells it, to the decoded value.

        Hive's null maps to None.
        """
        texts = {_partition_values(self.path, file)[key] for file in self.files}
        return {text: None if text == HIVE_NULL else unquote(text) for text in sorted(texts)}


def find_table(folder: Path, name: str, csv: CsvFormat | None = None) -> TableFile | None:
    """Finds the table `name` in a folder: `<name>` with a suffix of FORMATS, or a folder of such files.

    None if it does not exist. Raises TableFileError for a table that exists twice, and as `open_table`.
    """
    names = [name, *(f"{name}{suffix}" for suffix in FORMATS)]
    paths = sorted(path for path in folder.iterdir() if path.name.lower() in names)
    if len(paths) > 1:
        first, second = (path.name for path in paths[:2])
        raise TableFileError(f"{folder}: both {first} and {second} exist; remove one of them")
    return open_table(paths[0], csv) if paths else None


def open_table(path: Path, csv: CsvFormat | None = None) -> TableFile:
    """The table of a file, or of the files of a folder at any depth.

    Files whose names begin with _ or . are ignored, because programs name their internal files so. Raises
    TableFileError for a path that does not exist or has another format, a folder without tables, a folder
    with both formats, and partition keys that not all files have.
    """
    if not path.is_dir():
        file_format(path)
    if not path.exists():
        raise TableFileError(f"{path}: there is no such file")
    files = [path]
    if path.is_dir():
        files = sorted((file for file in path.rglob("*") if _is_table(file, path)), key=str)
        if not files:
            raise TableFileError(f"{path}: no Parquet file and no CSV file in this folder")
    formats = {file_format(file) for file in files}
    if len(formats) > 1:
        examples = (next(str(f) for f in files if file_format(f) == kind) for kind in sorted(formats))
        raise TableFileError(f"{path}: the files have two formats ({', '.join(examples)}); write all as one")
    partitions = {tuple(_partition_values(path, file)) for file in files}
    if len(partitions) > 1:
        raise TableFileError(
            f"{path}: files lie under different partitions ({', '.join(map('/'.join, sorted(partitions)))}); "
            "write all with the same keys"
        )
    is_csv = formats == {"csv"}
    return TableFile(
        path=path,
        files=tuple(files),
        csv=(csv or CsvFormat()) if is_csv else None,
        partitions=partitions.pop(),
    )


def check_files(table: TableFile) -> None:
    """Raise TableFileError that names the file for Parquet that is cut off, or CSV without a header.

    Only the ends of Parquet files and the first lines of CSV files are read.
    """
    for file in table.files:
        try:
            if table.csv is None:
                pq.read_metadata(file)
            else:
                with open_csv(file) as text:
                    if not text.readline().strip():
                        raise TableFileError(
                            f"{file}: cannot be read: {file.name} is empty, expected a header line"
                        )
        except UnicodeDecodeError as error:
            reason = f"it is not UTF-8 ({error}); {utf8_remedy(file)}"
            raise TableFileError(f"{file}: cannot be read: {reason}") from error
        except (pa.ArrowException, OSError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TableFileError(f"{file}: cannot be read: {reason} Write it again.") from error


def utf8_remedy(file: Path) -> str:
    """The remedy for a file with another encoding."""
    if file.name.lower().endswith(".gz"):
        command = f"gzip -dc '{file}' | iconv -f cp1252 -t utf-8 | gzip > NEW.csv.gz"
    else:
        command = f"iconv -f cp1252 -t utf-8 '{file}' > NEW.csv"
    return f"write it again as UTF-8, of Windows or Latin-1 by: {command}"


def find_uneven_record(table: TableFile) -> str:
    """Describe the first CSV record with fewer or more fields than the header; "" if there is none.

    The end of a cut-off file is such a record.
    """
    assert table.csv is not None
    for path in table.files:
        try:
            with open_csv(path) as text:
                reader = csv_module.reader(text, delimiter=table.csv.delimiter)
                columns = len(next(reader))
                for fields in reader:
                    if fields and len(fields) != columns:
                        line = "line" if path == table.path else f"{path.relative_to(table.path)}: line"
                        return f"{line} {reader.line_num} has {len(fields)} fields, the header has {columns}"
        except (OSError, EOFError, ValueError, StopIteration, csv_module.Error):
            pass  # the caller reports the first error
    return ""


def file_format(path: Path) -> str:
    """`parquet` or `csv`. Raises TableFileError for a file of another kind."""
    for suffix, name in FORMATS.items():
        if path.name.lower().endswith(suffix):
            return name
    raise TableFileError(f"{path}: expected a file of {', '.join(FORMATS)}")


def open_csv(path: Path) -> TextIO:
    """The text of a CSV file, compressed or not, for the module csv."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _is_table(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    is_hidden = any(part[0] in "_." for part in parts)
    return not is_hidden and file.name.lower().endswith(tuple(FORMATS)) and file.is_file()


def _partition_values(path: Path, file: Path) -> dict[str, str]:
    """Returns key → value, from the folders `key=value` between a table's folder and one of its files."""
    if file == path:
        return {}
    pairs = [part.partition("=") for part in file.relative_to(path).parts[:-1] if "=" in part]
    return {key: value for key, _, value in pairs}
