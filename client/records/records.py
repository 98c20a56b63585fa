"""Reading a site's records from files and folders, with every fault named by file and line.

An error never shows text, and a record's repr does not either: both may travel further than the record is allowed to.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from yoriai.client.records.columns import Reading, as_text, contents, is_missing
from yoriai.client.records.likeness import alike
from yoriai.client.records.rows import SUFFIXES, read_rows
from yoriai.errors import RecordError

_AS_IT_IS = Reading()
_FILES = " or ".join(f"{{part}}{suffix}" for suffix in SUFFIXES)
# Of many faults of one kind, as many are listed.
_LISTED = 10


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
    """What one site holds: records to train on, and records that only ever measure.

    Attributes:
        name: the site's identifier, as a file's name.
        given_name: what the user calls it, in any script, where that is something else.
    """

    name: str
    train: tuple[Record, ...]
    test: tuple[Record, ...]
    given_name: str = ""

    @property
    def shown(self) -> str:
        """The site as reports and messages call it."""
        return self.given_name or self.name


def text_of(record: Record) -> str:
    """What a record says before its answer."""
    if record.messages is not None:
        return "\n".join(content for _, content in record.messages)
    return record.prompt if record.prompt is not None else record.text or ""


def fingerprint(records: Iterable[Record]) -> str:
    """SHA-256 (hex) over the records in canonical form, whatever their order and the file they came from.

    By it a data set's ledger knows its records again. Texts and owners count; other fields, which nothing trains on,
    do not.
    """
    digests = sorted(
        sha256(json.dumps((r.prompt, r.response, r.text, r.messages, r.owner)).encode()).digest() for r in records
    )
    return sha256(b"yoriai/records/1\0" + b"".join(digests)).hexdigest()


def read_records(path: Path, reading: Reading = _AS_IT_IS) -> tuple[Record, ...]:
    """Read one `.jsonl`, `.json` or `.csv` file: an object a line, an array of objects, or a row a record.

    Raises:
        ConfigError: there is no such encoding.
        RecordError: the file is missing, empty, malformed or in another encoding, or a record has none of the known
            shapes.
    """
    records = tuple(_record(place, row, reading) for place, row in read_rows(path, reading.encoding))
    if not records:
        raise RecordError(f"{path}: the file is empty", expected="at least one record", remedy="fill or remove it")
    return records


def is_site(folder: Path) -> bool:
    """Whether a folder is one site's own, with its training records in it, and no folder of sites."""
    return folder.is_dir() and bool(_files(folder)["train"])


def read_sites(folder: Path, reading: Reading = _AS_IT_IS, *, tests_may_lack: bool = False) -> tuple[SiteRecords, ...]:
    """Read a folder a site, each with `train` and `test`; sorted by the folders' names, which may be of any script.

    What is hidden is skipped, and so are README and LICENSE. Anything else that is no site is refused, so that no site
    is left out for a slip.

    Args:
        folder: the folder of sites.
        reading: how their files are read.
        tests_may_lack: whether a site may have no test file, and then has no test records.

    Raises:
        ConfigError: there is no such encoding.
        RecordError: as `read_records`; something there is no site, or no longer readable; a site lacks a file or has
            it twice; two sites have the same name.
    """
    homes = _homes(folder)
    faults, found = [], []
    for home in homes:
        files: dict[str, Path | None] = {}
        for part in ("train", "test"):
            try:
                there = _files(home)
                lacks = part == "test" and tests_may_lack and not there[part]
                files[part] = None if lacks else _only_file(home, part, there)
            except RecordError as fault:
                faults.append(fault)
        found.append(files)
    if faults:
        raise _together(faults)

    def read(path: Path | None) -> tuple[Record, ...]:
        return read_records(path, reading) if path is not None else ()

    return tuple(
        SiteRecords(home.name, read(files["train"]), read(files["test"]))
        for home, files in zip(homes, found, strict=True)
    )


def read_site(name: str, home: Path, reading: Reading = _AS_IT_IS) -> SiteRecords:
    """Read one site's folder, with `train` and `test` as `.jsonl`, `.json` or `.csv`.

    Raises:
        ConfigError: there is no such encoding.
        RecordError: as `read_records`; a file is missing or there twice.
    """
    files = _files(home) if home.is_dir() else {"train": [], "test": []}
    train, test = (read_records(_only_file(home, part, files), reading) for part in ("train", "test"))
    return SiteRecords(name, train, test)


def _homes(folder: Path) -> list[Path]:
    """The folders of sites in a folder that holds nothing else."""
    expected = "a folder a site, each with train.jsonl and test.jsonl (or .json, or .csv)"
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder", expected=expected, remedy="correct the path")
    entries = _listed(folder)
    if dangling := [path.name for path in entries if path.is_symlink() and not path.exists()]:
        raise RecordError(f"{folder}: a link leads nowhere", found=_some(dangling), remedy="mend or remove it")
    homes = [path for path in entries if path.is_dir()]
    strays = [path.name for path in entries if path not in homes]
    if strays := [name for name in strays if not name.lower().startswith(("readme", "license", "licence"))]:
        raise RecordError(
            f"{folder}: something beside the sites' folders" if homes else f"{folder}: holds no site",
            found=_some(strays),
            expected=expected,
            remedy="give each site a folder of its own, or move what is no site away; --data FILE --sites N splits one "
            "file",
        )
    if not homes:
        raise RecordError(f"{folder}: holds no site", expected=expected, remedy="make one folder for each site")
    seen: dict[str, str] = {}
    for home in homes:
        # Names that differ only in case or in how accents are written are one folder on other systems.
        twin = seen.setdefault(alike(home.name), home.name)
        if twin != home.name:
            raise RecordError(
                f"{folder}: two sites have the same name",
                found=_some([twin, home.name], " and "),
                remedy="rename one of them",
            )
    return homes


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden; each entry can be looked at."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in entries:
            path.is_dir()
    except OSError as error:
        raise RecordError(
            f"{error.filename or folder}: cannot be read",
            found=error.strerror or type(error).__name__,
            remedy="check its rights",
        ) from None
    return entries


def _files(home: Path) -> dict[str, list[Path]]:
    """The files of a site's folder that are its training and test records by their names."""
    there = [path for path in _listed(home) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    return {part: [path for path in there if path.stem == part] for part in ("train", "test")}


def _only_file(home: Path, part: str, files: Mapping[str, list[Path]]) -> Path:
    present = files[part]
    if len(present) != 1:
        raise RecordError(
            f"site folder {home}: its {part} records are {'there twice' if present else 'missing'}",
            found=" and ".join(path.name for path in present),
            expected="one file, " + _FILES.format(part=part),
            remedy="remove one of them"
            if present
            else "add the file; or split your records into train and test"
            + (", which a simulation does with --test-fraction 0.2" if part == "test" else ""),
        )
    return present[0]


def _together(faults: list[RecordError]) -> RecordError:
    """The first fault, with the others named in it."""
    first, others = faults[0], [fault.what for fault in faults[1:]]
    what = first.what + (f"; also: {_some(others, '; ')}" if others else "")
    return RecordError(what, found=first.found, expected=first.expected, remedy=first.remedy)


def _some(names: list[str], between: str = ", ") -> str:
    """Names in a line; what a terminal cannot show in them is escaped, and of many the first are given."""
    shown = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in name) for name in names[:_LISTED]]
    return between.join(shown) + (f"{between}and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _record(place: str, row: Mapping[str, object], reading: Reading) -> Record:
    held = contents(place, row, reading)
    others = {
        key: as_text(place, value) for key, value in row.items() if key not in held.keys and not is_missing(value)
    }
    return Record(
        prompt=held.prompt,
        response=held.response,
        text=held.text,
        messages=held.messages,
        owner=others.pop("owner", "") or None,
        fields=others,
        place=place,
    )
