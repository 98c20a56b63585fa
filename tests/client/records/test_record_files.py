"""Files of every kind and encoding that records come in: taken, or refused by place without their text."""

import json
from pathlib import Path

import pytest

from yoriai.client.records.columns import Reading
from yoriai.client.records.records import Record, read_records, read_site, read_sites
from yoriai.config import parse_site
from yoriai.errors import ConfigError, RecordError

SECRET = "Zebedee"


def _file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _rows(path: Path, *rows: object) -> Path:
    return _file(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_a_text_next_to_a_label_is_asked_about_with_the_options(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", f"text,label\n{SECRET},x\n")
    with pytest.raises(RecordError, match="--prompt-field text --response-field label") as caught:
        read_records(path)
    assert SECRET not in str(caught.value)
    (pair,) = read_records(path, Reading(prompt_field="text", response_field="label"))
    assert (pair.prompt, pair.response, pair.text) == (SECRET, "x", None)
    (text,) = read_records(path, Reading(prompt_field="text"))
    assert (text.text, text.fields) == (SECRET, {"label": "x"})


def test_a_response_that_is_named_takes_the_text_for_its_prompt(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", "text,label\nt,x\n")
    assert read_records(path, Reading(response_field="label")) == (Record(prompt="t", response="x"),)


def test_named_columns_win_over_text_and_messages(tmp_path: Path) -> None:
    path = _rows(tmp_path / "a.jsonl", {"q": "p", "a": "r", "text": "t", "messages": []})
    (record,) = read_records(path, Reading(prompt_field="q", response_field="a"))
    assert (record.prompt, record.response, record.shape) == ("p", "r", "prompts with responses")


def test_one_named_column_is_the_text_or_the_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    path = _rows(tmp_path / "a.jsonl", {"body": "t"}, {"body": turns})
    expected = (Record(text="t"), Record(messages=(("user", "hi"), ("assistant", "ho"))))
    assert read_records(path, Reading(prompt_field="body")) == expected


def test_one_named_column_next_to_a_response_is_its_prompt(tmp_path: Path) -> None:
    path = _rows(tmp_path / "a.jsonl", {"q": "p", "response": "r"})
    assert read_records(path, Reading(prompt_field="q")) == (Record(prompt="p", response="r"),)


@pytest.mark.parametrize("reading", [Reading(prompt_field="order"), Reading("", "text", "order")])
def test_a_column_that_is_named_and_missing_is_no_guess(reading: Reading, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="line 1: no column or key 'order'"):
        read_records(_rows(tmp_path / "a.jsonl", {"text": "t"}), reading)


def test_one_column_is_not_both() -> None:
    with pytest.raises(ConfigError, match="prompt and response are one column"):
        Reading(prompt_field="a", response_field="a")


@pytest.mark.parametrize(("encoding", "text"), [("cp932", "ポンプ"), ("latin-1", "défaut"), ("utf-16-le", "насос")])
def test_a_named_encoding_is_read(encoding: str, text: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", f"text\r\n{text}\r\n".encode(encoding))
    assert read_records(path, Reading(encoding=encoding)) == (Record(text=text),)
    with pytest.raises(RecordError, match=r"--encoding.*records\.encoding"):
        read_records(path)


def test_a_files_own_mark_goes_before_the_named_encoding(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", "\ufefftext\nдом\n".encode("utf-16-le"))
    assert read_records(path, Reading(encoding="latin-1")) == (Record(text="дом"),)


def test_the_fault_of_an_encoding_has_its_line_and_byte(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", b"text\nabc\nd\xe9f\n")
    with pytest.raises(RecordError, match="line 3: not UTF-8; found another sequence of bytes at offset 10"):
        read_records(path)
    with pytest.raises(RecordError, match="line 3: not ascii"):
        read_records(path, Reading(encoding="ascii"))


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13", "a\0b", "undefined"])
def test_what_is_no_encoding_of_texts_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such encoding"):
        read_records(_file(tmp_path / "a.csv", "text\na\n"), Reading(encoding=name))


def test_a_sites_file_names_encoding_and_columns(tmp_path: Path) -> None:
    for part in ("train", "test"):
        _file(tmp_path / f"{part}.csv", "meldung;grund\nundicht;défaut\n".encode("latin-1"))
    named = 'encoding = "latin-1"\nprompt_field = "meldung"\nresponse_field = "grund"\n'
    told = f'schema = 1\nname = "north"\n[records]\n{named}'
    site = read_site("north", tmp_path, Reading.of(parse_site(told).records))
    assert site.train == (Record(prompt="undicht", response="défaut"),)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('encoding = "klingon"', "encoding is no encoding that Python knows"),
        ('prompt_field = "a"\nresponse_field = "a"', "response_field is prompt_field too"),
    ],
)
def test_a_sites_file_with_another_encoding_or_one_column_for_both_is_refused(line: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_site(f'schema = 1\nname = "north"\n[records]\n{line}\n')


@pytest.mark.parametrize("blank", ["", "\n ", "\ufeff"])
def test_a_json_array_of_objects_is_read_with_a_place_for_each(blank: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.json", blank + '[{"text": "a"},\n {"text": "b"} ]\n')
    assert [(record.text, record.place) for record in read_records(path)] == [
        ("a", f"{path} record 1"),
        ("b", f"{path} record 2"),
    ]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "the file is empty"),
        ("[]", "the file is empty"),
        ("[", "the file is empty|not JSON"),
        (f'{{"data": [{{"text": "{SECRET}"}}]}}', "not a JSON array; found an object"),
        (f'[{{"text": "{SECRET}"}}', "after record 1: not JSON"),
        (f'[{{"text": "{SECRET}"}},]', "record 2: not JSON"),
        (f'[{{"text": "{SECRET}"}}] [', "after record 1: not JSON; found more after the array"),
        (f'[{{"text": "a"}}, "{SECRET}"]', "record 2: not a JSON object; found a text"),
        (f'[{{"text": "a"}}, {{"text": "{SECRET}", "text": "b"}}]', "record 2: an object has a key twice"),
        (f'[{{"text": "{SECRET}"}}, {"[" * 100_000}', "record 2: not JSON; found too many levels"),
        (f'[{{"text": "{SECRET}", "n": {"9" * 5000}}}]', "record 1: not JSON; found a number of too many digits"),
    ],
)
def test_what_is_no_array_of_objects_is_refused(content: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=what) as caught:
        read_records(_file(tmp_path / "a.json", content))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", f'["{SECRET}"]\n', "found an array.*a .json file"),
        ("a.jsonl", f'[\n {{"text": "{SECRET}"}}\n]\n', "line 1: not JSON Lines.*rename the file to .json"),
        ("a.jsonl", f'{{"text": "a"}}\n\ufeff{{"text": "{SECRET}"}}\n', "line 2: a byte-order mark in the middle"),
        ("a.csv", f"text\na\n\ufefftext\n{SECRET}\n", "line 3: a byte-order mark in the middle"),
        ("a.csv", f"text,a\nb,c\ntext,a\n{SECRET},d\n", "line 3: the header again"),
        ("a.csv", f"text\n{SECRET}\0\n", "line 2: a NUL character.*utf-16-le"),
        ("a.csv", f'text\nfine\n"{SECRET}\nmore\n', "line 3: not CSV.*close each quote"),
        ("a.csv", f"text;a;;\n{SECRET};b;;\n", "two columns have the same name"),
        ("a.jsonl", f'{{"prompt": "{SECRET}", "response": NaN}}\n', "response holds no text; found a number"),
        ("a.jsonl", f'{{"prompt": "{SECRET}", "response": null}}\n', "response holds no text; found null"),
        ("a.jsonl", f'{{"prompt": "{SECRET}", "response": ["r"]}}\n', "response holds no text; found an array"),
    ],
)
def test_malformed_files_are_refused_by_place(name: str, content: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=what) as caught:
        read_records(_file(tmp_path / name, content))
    assert SECRET not in str(caught.value)


def test_line_ends_of_windows_and_of_old_macintoshes_end_a_row(tmp_path: Path) -> None:
    assert len(read_records(_file(tmp_path / "a.csv", "text\r\na\r\n\r\nb\r\n"))) == 2
    assert len(read_records(_file(tmp_path / "b.csv", "text\ra\rb\r"))) == 2
    assert read_records(_file(tmp_path / "a.jsonl", '{"text": "a"}\r\n\r\n')) == (Record(text="a"),)


def test_blank_lines_before_a_header_and_spaces_around_its_names_do_not_count(tmp_path: Path) -> None:
    assert read_records(_file(tmp_path / "a.csv", "\n\n text , plant \na,b\n")) == (
        Record(text="a", fields={"plant": "b"}),
    )


def test_a_mark_inside_a_text_is_a_part_of_it(tmp_path: Path) -> None:
    assert read_records(_rows(tmp_path / "a.jsonl", {"text": "a\ufeffb"})) == (Record(text="a\ufeffb"),)


@pytest.mark.parametrize(("name", "remedy"), [("a.parquet", "to_json"), ("a.XLSX", "as CSV"), ("a.csv.gz", "unpack")])
def test_another_kind_of_file_comes_with_its_conversion(name: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=f"unknown kind of file.*{remedy}"):
        read_records(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "label"),
    [("1", "1"), ("1.0", "1"), ('"1"', "1"), ('"1.0"', "1.0"), ("-0.0", "0"), ("0.5", "0.5"), ("true", "true"),
     ('"True"', "True"), ("12345678901234567890", "12345678901234567890")],
)  # fmt: skip
def test_a_number_or_truth_value_is_a_label_as_json_writes_it(value: str, label: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.jsonl", f'{{"prompt": "p", "response": {value}}}\n')
    assert [record.response for record in read_records(path)] == [label]


def test_one_owner_in_two_spellings_of_a_number_is_one(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.jsonl", '{"text": "a", "owner": 7}\n{"text": "b", "owner": 7.0}\n')
    assert {record.owner for record in read_records(path)} == {"7"}


def test_nan_is_no_value_of_a_field(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.jsonl", '{"text": "a", "plant": NaN, "owner": NaN}\n')
    assert read_records(path) == (Record(text="a"),)


def _site(home: Path, *parts: str) -> None:
    for part in parts:
        _rows(home / f"{part}.jsonl", {"text": "t"})


@pytest.mark.parametrize("stray", ["east.jsonl", "east.parquet", "east.zip", "notes.txt"])
def test_what_lies_beside_the_sites_folders_is_named(stray: str, tmp_path: Path) -> None:
    _site(tmp_path / "north", "train", "test")
    _file(tmp_path / stray, "x")
    with pytest.raises(RecordError, match=f"something beside the sites' folders; found {stray}"):
        read_sites(tmp_path)


def test_a_readme_and_a_licence_may_lie_beside_the_sites(tmp_path: Path) -> None:
    _site(tmp_path / "north", "train", "test")
    for name in ("README.md", "LICENSE", ".DS_Store"):
        _file(tmp_path / name, "x")
    assert [site.name for site in read_sites(tmp_path)] == ["north"]


def test_each_site_that_lacks_a_file_is_named(tmp_path: Path) -> None:
    _site(tmp_path / "a", "train", "test")
    _site(tmp_path / "b", "train")
    (tmp_path / "c").mkdir()
    with pytest.raises(RecordError, match=r"b: its test records.*c: its train records.*c: its test records"):
        read_sites(tmp_path)


def test_an_entry_that_cannot_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _site(tmp_path / "north", "train", "test")
    (tmp_path / "south").mkdir()
    listed = Path.iterdir

    def closed(path: Path) -> object:  # Root may read every folder.
        if path.name == "south":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(RecordError, match="south: cannot be read; found Permission denied"):
        read_sites(tmp_path)


def test_a_link_in_a_circle_is_no_missing_site(tmp_path: Path) -> None:
    _site(tmp_path / "north", "train", "test")
    (tmp_path / "south").symlink_to(tmp_path / "south")
    with pytest.raises(RecordError, match="a link leads nowhere; found south"):
        read_sites(tmp_path)


@pytest.mark.parametrize("twin", ["cafe\u0301", "CAFÉ", "café ", "ca\u200bfé"])
def test_two_folders_of_one_name_are_refused(twin: str, tmp_path: Path) -> None:
    for name in ("café", twin):
        _site(tmp_path / name, "train", "test")
    with pytest.raises(RecordError, match="two sites have the same name"):
        read_sites(tmp_path)
