"""Reading a site's records from JSON Lines or CSV files, with every fault named by file and line.

An error never shows text, and a record's repr does not either: both may travel further than the record is allowed to.
"""

import codecs
import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from yoriai.errors import RecordError

_SUFFIXES: Final = (".jsonl", ".csv")
_SEPARATORS = ",;\t|"
_LONGEST_FIELD = 2**31 - 1  # The csv module itself refuses texts of more than 131,072 characters.
_ROLES: Final = ("system", "user", "assistant")
_SHAPES: Final = '{"prompt", "response"}, {"text"} or {"messages": [{"role", "content"}, ...]}'


@dataclass(frozen=True, repr=False)
class Record:
    """One record: a prompt with its response, a plain text, or a conversation of (role, content); the rest is None.

    `owner` is who the record is about (for the privacy unit), `fields` holds every other column as text, and `place`
    is the file and line that an error can name; it does not count when records are compared.
    """

    prompt: str | None = None
    response: str | None = None
    text: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    owner: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    place: str = field(default="", compare=False)

    @property
    def shape(self) -> str:
        """What kind of record this is, in a word or two that an error can show."""
        if self.messages is not None:
            return "messages"
        if self.text is not None:
            return "texts"
        return "prompts with responses" if None not in (self.prompt, self.response) else "prompts without responses"

    def __repr__(self) -> str:
        return f"Record({self.place or 'not from a file'})"


@dataclass(frozen=True)
class SiteRecords:
    """What one site holds: records to train on, and records that only ever measure."""

    name: str
    train: tuple[Record, ...]
    test: tuple[Record, ...]


def fingerprint(records: Iterable[Record]) -> str:
    """SHA-256 (hex) over the records in canonical form, whatever their order and the file they came from.

    By it a data set's ledger knows its records again. Texts and owners count; other fields, which nothing trains on,
    do not.
    """
    digests = sorted(
        sha256(json.dumps((r.prompt, r.response, r.text, r.messages, r.owner)).encode()).digest() for r in records
    )
    return sha256(b"yoriai/records/1\0" + b"".join(digests)).hexdigest()


def read_records(path: Path, *, prompt_field: str = "prompt", response_field: str = "response") -> tuple[Record, ...]:
    """Read one `.jsonl` or `.csv` file, a record a line or row; blank lines are skipped.

    UTF-8, or UTF-16 with its mark. A CSV's separator is a comma, semicolon, tab or bar, as its header has it.

    Args:
        path: the file.
        prompt_field: the column that holds the prompt.
        response_field: the column that holds the response.

    Raises:
        RecordError: the file is missing, empty, malformed or in another encoding, or a record has none of the known
            shapes.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise RecordError(f"{path}: unknown kind of file", expected=" or ".join(_SUFFIXES), remedy="convert it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be read",
            found=error.strerror or type(error).__name__,
            remedy="check the path and its rights",
        ) from None
    text = _decoded(path, data)
    rows = _json_rows(path, text) if path.suffix.lower() == ".jsonl" else _csv_rows(path, text)
    records = tuple(_record(place, row, prompt_field, response_field) for place, row in rows)
    if not records:
        raise RecordError(f"{path}: the file is empty", expected="at least one record", remedy="fill or remove it")
    return records


def read_sites(
    folder: Path, *, prompt_field: str = "prompt", response_field: str = "response"
) -> tuple[SiteRecords, ...]:
    """Read a folder a site, each with `train` and `test` as `.jsonl` or `.csv`; sorted by site name.

    Hidden folders are skipped.

    Raises:
        RecordError: as `read_records`; a site lacks a file or has it twice; two sites have the same name.
    """
    expected = "a folder a site, each with train.jsonl and test.jsonl (or .csv)"
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder", expected=expected, remedy="correct the path")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if dangling := [path.name for path in entries if path.is_symlink() and not path.exists()]:
        raise RecordError(f"{folder}: a link leads nowhere", found=dangling[0], remedy="mend or remove it")
    homes = [path for path in entries if path.is_dir()]
    if not homes:
        raise RecordError(f"{folder}: holds no site", expected=expected, remedy="make one folder for each site")
    seen: dict[str, str] = {}
    for home in homes:
        # Names that differ only in case or in how accents are written are one folder on other systems.
        twin = seen.setdefault(unicodedata.normalize("NFKC", home.name).casefold(), home.name)
        if twin != home.name:
            raise RecordError(
                f"{folder}: two sites have the same name", found=f"{twin} and {home.name}", remedy="rename one of them"
            )
    return tuple(read_site(home.name, home, prompt_field=prompt_field, response_field=response_field) for home in homes)


def read_site(name: str, home: Path, *, prompt_field: str = "prompt", response_field: str = "response") -> SiteRecords:
    """Read one site's folder, with `train` and `test` as `.jsonl` or `.csv`.

    Raises:
        RecordError: as `read_records`; a file is missing or there twice.
    """

    def read(part: str) -> tuple[Record, ...]:
        return read_records(_only_file(home, part), prompt_field=prompt_field, response_field=response_field)

    return SiteRecords(name, read("train"), read("test"))


def _only_file(home: Path, part: str) -> Path:
    names = {part + suffix for suffix in _SUFFIXES}
    beside = sorted(home.iterdir()) if home.is_dir() else []
    present = [path for path in beside if path.stem + path.suffix.lower() in names and path.is_file()]
    if len(present) != 1:
        raise RecordError(
            f"site folder {home}: its {part} records are {'there twice' if present else 'missing'}",
            found=" and ".join(path.name for path in present),
            expected=f"one file, {part}.jsonl or {part}.csv",
            remedy="remove one of them" if present else "add the file; split your records into train and test",
        )
    return present[0]


def _decoded(path: Path, data: bytes) -> str:
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if marked else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        expected = "UTF-8, or UTF-16 with its mark"
        raise RecordError(
            f"{path} line {line}: not {encoding[:6].upper()}", expected=expected, remedy="convert the file"
        ) from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    # Only a line feed ends a line: the other separators that Python knows may stand inside a JSON text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique)
        except _TwiceError:
            raise RecordError(f"{place}: an object has a key twice", remedy="keep one of them") from None
        except (ValueError, RecursionError):
            raise RecordError(
                f"{place}: not JSON", expected="one JSON object a line", remedy="correct the line"
            ) from None
        if not isinstance(row, dict):
            raise RecordError(f"{place}: not a JSON object", found=type(row).__name__, expected=_SHAPES)
        yield place, row


class _TwiceError(Exception):
    """A JSON object has a key twice, which readers understand differently."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _separator(text: str) -> str:
    """The one that cuts the header into the most columns; a comma if none does better."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_separator(text))
    header: list[str] | None = None
    first_line = 1
    try:
        for row in reader:
            place, first_line = f"{path} line {first_line}", reader.line_num + 1
            if header is None:
                header = row
                if len(set(header)) != len(header):
                    raise RecordError(f"{place}: two columns have the same name", remedy="rename one of them")
            elif row:
                if len(row) != len(header):
                    raise RecordError(
                        f"{place}: wrong number of columns",
                        found=str(len(row)),
                        expected=f"{len(header)} as in the header",
                    )
                yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RecordError(
            f"{path} line {first_line}: not CSV", found=str(error), remedy="quote texts that hold commas or quotes"
        ) from None


def _record(place: str, row: Mapping[str, object], prompt_field: str, response_field: str) -> Record:
    pair = (prompt_field, response_field)
    known = [key for key in (*pair, "text", "messages") if key in row]
    if known not in ([*pair], ["text"], ["messages"]):
        raise RecordError(
            f"{place}: unknown kind of record",
            found="the fields " + ", ".join(known) if known else "none of the known fields",
            expected=_SHAPES,
            remedy="rename the fields, or name the columns that hold prompt and response",
        )
    prompt, response = (_filled(place, key, row[key]) for key in pair) if prompt_field in row else (None, None)
    owner = row.get("owner")
    return Record(
        prompt=prompt,
        response=response,
        text=_filled(place, "text", row["text"]) if "text" in row else None,
        messages=_messages(place, row["messages"]) if "messages" in row else None,
        owner=None if owner in (None, "") else _as_text(owner),
        fields={
            key: _as_text(value) for key, value in row.items() if key not in (*known, "owner") and value is not None
        },
        place=place,
    )


def _messages(place: str, value: object) -> tuple[tuple[str, str], ...]:
    """Turns that a chat template can render and a loss can be taken on: somebody speaks before the assistant does."""
    turns: list[tuple[str, str]] = []
    for turn in value if isinstance(value, list) else ():
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in _ROLES:
            raise RecordError(f"{place}: a message without a known role", expected=", ".join(_ROLES))
        turns.append((role, _filled(place, "content", turn.get("content"))))
    roles = [role for role, _ in turns]
    if "assistant" not in roles or roles[0] == "assistant":
        raise RecordError(
            f"{place}: nothing to learn from these messages", expected="an assistant's turn after another's"
        )
    return tuple(turns)


def _filled(place: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "an empty text" if isinstance(value, str) else type(value).__name__
        raise RecordError(f"{place}: field {key} holds no text", found=found, expected="a text that is not empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RecordError(f"{place}: field {key} is not valid Unicode", found="half of a surrogate pair")
    return value


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
