"""From a file's bytes to rows of named values: JSON Lines, a JSON array, or CSV, in UTF-8 or an encoding that is named.

A fault names file and line, or record, and never shows text.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from yoriai.config import is_text_encoding
from yoriai.errors import ConfigError, RecordError

SUFFIXES: Final = (".jsonl", ".json", ".csv")
Row: TypeAlias = tuple[str, Mapping[str, object]]
"""A place that an error can name, and the values by key or column."""

_SEPARATORS = ",;\t|"
_LONGEST_FIELD = 2**31 - 1  # The csv module itself refuses texts of more than 131,072 characters.
# UTF-32's mark begins like UTF-16's, and goes first.
_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_REMEDIES: Final = {
    ".parquet": "convert it, with pandas: read_parquet(FILE).to_json(OTHER, orient='records', lines=True)",
    ".ndjson": "rename it to .jsonl",
    ".tsv": "rename it to .csv; a tab separates columns there too",
    ".xlsx": "save the sheet as CSV in UTF-8",
    ".xls": "save the sheet as CSV in UTF-8",
    ".gz": "unpack it",
    ".zip": "unpack it",
}
_SPACE = re.compile(r"[ \t\r\n]*")
_KINDS: Final = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}


def read_rows(path: Path, encoding: str = "") -> Iterator[Row]:
    """The rows of one file in their order; blank lines are skipped.

    Args:
        path: a `.jsonl`, `.json` or `.csv` file. A CSV's separator is a comma, semicolon, tab or bar, as its header
            has it.
        encoding: of the text; empty stands for UTF-8. A mark at the file's beginning goes before it.

    Raises:
        ConfigError: there is no such encoding.
        RecordError: the file is missing, malformed, in another encoding or of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise RecordError(
            f"{path}: unknown kind of file",
            expected=", ".join(SUFFIXES),
            remedy=_REMEDIES.get(suffix, "convert it"),
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be read",
            found=error.strerror or type(error).__name__,
            remedy="check the path and its rights",
        ) from None
    text = _decoded(path, data, encoding)
    yield from {".jsonl": _lines, ".json": _array, ".csv": _table}[suffix](path, text)


def kind_of(value: object) -> str:
    """What a JSON value is, in words that show nothing of it."""
    return _KINDS.get(type(value), "a number")


def _decoded(path: Path, data: bytes, named: str) -> str:
    if named and not is_text_encoding(named):
        raise ConfigError("there is no such encoding", found=repr(named), remedy="name one, such as cp932 or latin-1")
    encoding = next((own for mark, own in _MARKS.items() if data.startswith(mark)), named or "utf-8")
    remedy = "name its encoding (--encoding cp932, latin-1 or another; at a site, records.encoding), or convert it"
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data[:start].decode(encoding, "ignore").count("\n") + 1
        name = encoding.removesuffix("-sig")
        raise RecordError(
            f"{path} line {line}: not {named if named == name else name.upper()}",
            found=f"another sequence of bytes at offset {start}",
            expected="UTF-8, UTF-16 with its mark, or an encoding that is named",
            remedy=remedy,
        ) from None
    if (nul := text.find("\0")) >= 0:
        raise RecordError(
            f"{path} line {text.count(chr(10), 0, nul) + 1}: a NUL character, as in UTF-16 without its mark",
            remedy="name its encoding (--encoding utf-16-le or utf-16-be; at a site, records.encoding), or repair it",
        )
    return text


def _refuse_mark(place: str, text: str) -> None:
    if text.startswith("\ufeff"):
        raise RecordError(
            f"{place}: a byte-order mark in the middle of the file",
            remedy="files were joined; take their marks and headers out",
        )


def _lines(path: Path, text: str) -> Iterator[Row]:
    # Only a line feed ends a line: the other separators that Python knows may stand inside a JSON text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        if line.strip() == "[":
            raise RecordError(f"{place}: not JSON Lines", found="a JSON array", remedy="rename the file to .json")
        _refuse_mark(place, line)
        try:
            value = _DECODER.decode(line)
        except (_TwiceError, ValueError, RecursionError) as error:
            raise _not_json(place, error, "one JSON object a line") from None
        yield place, _object(place, value)


def _array(path: Path, text: str) -> Iterator[Row]:
    at = _after_space(text, 0)
    if text[at : at + 1] not in ("[", ""):
        found = "an object" if text[at] == "{" else "something else"
        remedy = "put the records into an array; one object a line is a .jsonl file"
        raise RecordError(f"{path}: not a JSON array", found=found, expected="[{…}, {…}, …]", remedy=remedy)
    at, number = _after_space(text, at + 1), 0
    ended = text[at : at + 1] in ("]", "")
    while not ended:
        number += 1
        place = f"{path} record {number}"
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (_TwiceError, ValueError, RecursionError) as error:
            raise _not_json(place, error, "an array of JSON objects") from None
        yield place, _object(place, value)
        at = _after_space(text, at)
        ended = text[at : at + 1] != ","
        at = at if ended else _after_space(text, at + 1)
    if text.strip() and (text[at : at + 1] != "]" or text[at + 1 :].strip()):
        raise RecordError(
            f"{path} after record {number}: not JSON",
            found="more after the array" if text[at : at + 1] == "]" else "no comma, and no end of the array",
            remedy="correct it, or export the file again",
        )


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _object(place: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RecordError(
            f"{place}: not a JSON object",
            found=kind_of(value),
            expected="an object for each record",
            remedy="correct it; one array of all records is a .json file" if isinstance(value, list) else "correct it",
        )
    return value


def _not_json(place: str, error: Exception, expected: str) -> RecordError:
    if isinstance(error, _TwiceError):
        return RecordError(f"{place}: an object has a key twice", remedy="keep one of them")
    if isinstance(error, json.JSONDecodeError):
        found = f"{error.msg}, at column {error.colno}"
    else:
        found = "too many levels" if isinstance(error, RecursionError) else "a number of too many digits"
    return RecordError(f"{place}: not JSON", found=found, expected=expected, remedy="correct it")


class _TwiceError(Exception):
    """A JSON object has a key twice, which readers understand differently."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _separator(text: str) -> str:
    """The one that cuts the header into the most columns; a comma if none does better."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _table(path: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_separator(text))
    header: list[str] | None = None
    first_line = 1
    try:
        for row in reader:
            place, first_line = f"{path} line {first_line}", reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = _header(place, row)
            else:
                _refuse_unlike(place, row, header)
                yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RecordError(
            f"{path} line {first_line}: not CSV",
            found=str(error),
            remedy="close each quote; quote texts that hold separators, line breaks or quotes, and double those quotes",
        ) from None


def _header(place: str, row: list[str]) -> list[str]:
    header = [name.strip() for name in row]
    if len(set(header)) != len(header):
        raise RecordError(f"{place}: two columns have the same name", remedy="rename one of them")
    return header


def _refuse_unlike(place: str, row: list[str], header: list[str]) -> None:
    _refuse_mark(place, row[0])
    if len(row) != len(header):
        raise RecordError(
            f"{place}: wrong number of columns",
            found=str(len(row)),
            expected=f"{len(header)} as in the header",
            remedy="quote texts that hold the separator, or mend the row",
        )
    if [name.strip() for name in row] == header:
        raise RecordError(f"{place}: the header again", remedy="files were joined; take the second header out")
