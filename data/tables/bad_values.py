"""Texts of errors about unreadable values, with examples and the setting that may make them readable."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product

import pyarrow as pa

from data.errors import DataError
from data.tables.contract import FALSE_TEXTS, TABLES, TRUE_TEXTS
from data.tables.row_locations import describe_rows
from serving.table_files import TableFile

# Rejected share of a table under quarantine that is a warning, or an error: a setting is probably wrong.
WARNED_SHARE, REFUSED_SHARE = 0.01, 0.2
MIN_REFUSED_ROWS = 5  # with fewer rows, a share does not indicate a wrong setting
MAX_REPORTED_REASONS = 8  # per table
MAX_SHOWN_VALUES = 2
MAX_COMPARED_ROWS = 20_000  # rejected rows whose values are tried with other settings
MAX_SUGGESTED_FORMATS = 3
DATE_FORMATS = (
    "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%m-%Y", "%m-%d-%Y",
    "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%Y%m%d",
)  # fmt: skip
TIME_FORMATS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S", ", %H:%M", ", %H:%M:%S")
THOUSANDS = r"\s*[-+]?\d{1,3}([.,' \u00a0\u202f]\d{3})+([.,]\d+)?\s*"
DECIMAL_COMMA = r"\s*[-+]?[\d.' \u00a0\u202f]*\d,\d+\s*"
# Reasons for which the error shows the value.
SHOWN_REASONS = ("cannot be read as", "is outside", "already given", "several users", "is not one of")


def describe_rejected(rejected: pa.Table, name: str, file: TableFile, has_gaps: bool) -> str:
    """An error's lines, one for each reason, with the count, example values, the first rows and a remedy.

    Args:
        rejected: `row, reason, content` (data/tables/checks.py).
        has_gaps: whether row numbers have gaps, so that the file of a row is unknown.
    """
    rows_of: dict[str, list[int]] = {}
    values_of: dict[str, dict[str, None]] = {}
    lists = (rejected[column].to_pylist() for column in ("row", "reason", "content"))
    for n, (row, reasons, content) in enumerate(zip(*lists, strict=True)):
        fields = json.loads(content) if n < MAX_COMPARED_ROWS else {}
        for reason in reasons.split("; "):
            rows_of.setdefault(reason, []).append(row)
            value = fields.get(reason.split(" ")[0])
            if value is not None and any(words in reason for words in SHOWN_REASONS):
                values_of.setdefault(reason, {})[str(value)] = None
    n_rows = f"{rejected.num_rows} bad row{'s' * (rejected.num_rows != 1)}"
    lines = [f"{file}: {n_rows} in table '{name}' (row 1 follows the header)"]
    for reason, rows in sorted(rows_of.items(), key=lambda kv: -len(kv[1]))[:MAX_REPORTED_REASONS]:
        values = list(values_of.get(reason, {}))
        shown = f" ({list_values(values)})" if values else ""
        where = describe_rows(file, rows, has_gaps)
        lines.append(f"  {reason}: {len(rows)}{shown} ({where}){_hint(reason, values, name, file)}")
    if len(rows_of) > MAX_REPORTED_REASONS:
        lines.append(f"  and {len(rows_of) - MAX_REPORTED_REASONS} more reasons")
    return "\n".join(lines)


def quarantine_warnings(
    rejected: Mapping[str, pa.Table],
    totals: Mapping[str, int],
    files: Mapping[str, TableFile],
    has_gaps: bool,
) -> list[str]:
    """A warning for each table with WARNED_SHARE of its rows rejected. Raises DataError at REFUSED_SHARE."""
    warnings, errors = [], []
    for name, rows in rejected.items():
        n, total = rows.num_rows, totals[name]
        if n < WARNED_SHARE * total:
            continue
        if n >= REFUSED_SHARE * total and n >= MIN_REFUSED_ROWS:
            described = describe_rejected(rows, name, files[name], has_gaps)
            errors.append(f"{described}\n  That is {n / total:.0%} of {total:,} rows.")
        elif n:
            warnings.append(
                f"{files[name]}: {n:,} of {total:,} rows of '{name}' ({n / total:.1%}) are rejected: "
                f"{_count_reasons(rows)}"
            )
    if errors:
        raise DataError(
            "\n".join(errors) + "\ndata.bad_rows=quarantine leaves bad rows out only if they are less than "
            f"{REFUSED_SHARE:.0%} of a table. Correct the setting that reads these values, or the files."
        )
    return warnings


def _count_reasons(rejected: pa.Table) -> str:
    """Counts rows by reason: `price is negative: 12, ts is null: 3`."""
    counts: dict[str, int] = {}
    for reasons in rejected["reason"].to_pylist():
        for reason in reasons.split("; "):
            counts[reason] = counts.get(reason, 0) + 1
    by_count = sorted(counts.items(), key=lambda kv: -kv[1])
    return ", ".join(f"{reason}: {count:,}" for reason, count in by_count[:MAX_REPORTED_REASONS])


def list_values(values: Sequence[str]) -> str:
    """The first values in quotes, with … if there are more."""
    shown = [f"'{value}'" for value in values[:MAX_SHOWN_VALUES]]
    return ", ".join([*shown, "…"] if len(values) > MAX_SHOWN_VALUES else shown)


def reading_hint(logical_type: str, values: Sequence[str], file: TableFile) -> str:
    """The end of a sentence: the setting that may make text readable as a type. "" if none is known."""
    if logical_type == "time":
        return _time_hint(values, file)
    if logical_type == "number":
        return _number_hint(values, file)
    if logical_type == "flag":
        return f"; true is {', '.join(TRUE_TEXTS)}, false is {', '.join(FALSE_TEXTS)}, in any case"
    return ""


def fitting_formats(values: Sequence[str]) -> list[str]:
    """The usual time formats (strptime) that fit all values."""
    formats = (date + time for date, time in product(DATE_FORMATS, TIME_FORMATS))
    return [f for f in formats if values and all(_fits(value.strip(), f) for value in values)]


def _hint(reason: str, values: Sequence[str], name: str, file: TableFile) -> str:
    column = reason.split(" ")[0]
    if "cannot be read as" in reason:
        return reading_hint(TABLES[name][column].logical_type, values, file)
    # Digits alone are read as Unix seconds, so 20091201 is a day of 1970.
    if "is outside" in reason and TABLES[name][column].logical_type == "time" and file.csv is not None:
        formats = fitting_formats(values)
        return f"; give its format: {_setting(formats)}" if formats else ""
    return ""


def _time_hint(values: Sequence[str], file: TableFile) -> str:
    formats = fitting_formats(values)
    given = None if file.csv is None else file.csv.time_format
    if given is None:
        return f"; give its format: {_setting(formats or ['%d.%m.%Y %H:%M'])}"
    misfit = f"; '{values[0]}' does not fit data.csv.time_format='{given}'" if values else ""
    return f"{misfit}. The values fit {_setting(formats)}" if formats else misfit


def _setting(formats: Sequence[str]) -> str:
    first, *further = formats[:MAX_SUGGESTED_FORMATS]
    return " or ".join([f"data.csv.time_format='{first}'", *(f"'{f}'" for f in further)])


def _number_hint(values: Sequence[str], file: TableFile) -> str:
    hint = ""
    separated = next((value for value in values if re.fullmatch(THOUSANDS, value)), None)
    if separated is not None:
        hint += f"; '{separated}' has a thousands separator: write numbers without it"
    has_commas = any(re.fullmatch(DECIMAL_COMMA, value) for value in values)
    if has_commas and (file.csv is None or file.csv.decimal != ","):
        hint += "; decimal commas: \"data.csv.decimal=','\""
    return hint


def _fits(value: str, time_format: str) -> bool:
    if time_format.startswith("%Y%m%d") and not re.match(r"\d{8}(\D|$)", value):
        return False  # strptime would also accept 2009121
    try:
        datetime.strptime(value, time_format)
    except ValueError:
        return False
    return True
