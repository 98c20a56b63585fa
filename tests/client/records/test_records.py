"""Reading records: every shape, and every fault by file and line without the text."""

import json
import pickle
from pathlib import Path

import pytest

from yoriai.client.records.columns import Reading
from yoriai.client.records.records import Record, fingerprint, read_records, read_sites
from yoriai.errors import RecordError

SECRET = "Zebedee"


def _write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _pair(prompt: str = "p", response: str = "r") -> dict[str, str]:
    return {"prompt": prompt, "response": response}


def test_prompt_and_response_with_owner_and_other_columns(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", {**_pair(), "owner": 7, "shift": "night", "crew": 3})
    assert read_records(path) == (Record(prompt="p", response="r", owner="7", fields={"shift": "night", "crew": "3"}),)


def test_texts_and_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    path = _write(tmp_path / "a.jsonl", {"text": "t"}, {"messages": messages})
    assert read_records(path) == (Record(text="t"), Record(messages=(("user", "hi"), ("assistant", "ho"))))


def test_csv_by_named_columns_with_a_line_break_in_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('order,system,site\n"one\ntwo",boom,A\nthree,"a, b",B\n', encoding="utf-8-sig")
    first, second = read_records(path, Reading(prompt_field="order", response_field="system"))
    assert first == Record(prompt="one\ntwo", response="boom", fields={"site": "A"})
    assert second == Record(prompt="three", response="a, b", fields={"site": "B"})
    assert second.place == f"{path} line 4"


def test_a_named_column_leaves_a_column_called_prompt_alone(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", {"q": "question", "a": "answer", "prompt": "other"})
    (record,) = read_records(path, Reading(prompt_field="q", response_field="a"))
    assert record == Record(prompt="question", response="answer", fields={"prompt": "other"})


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csvs_separator_is_that_of_its_header(separator: str, tmp_path: Path) -> None:
    rows = [["prompt", "response", "shift"], ["a, b; c", "r", "night"]]
    lines = [separator.join(f'"{cell}"' for cell in row) for row in rows]
    (tmp_path / "a.CSV").write_text("\n".join(lines) + "\n")
    (record,) = read_records(tmp_path / "a.CSV")
    assert (record.prompt, record.response, record.fields) == ("a, b; c", "r", {"shift": "night"})


def test_a_csv_of_one_column_may_hold_every_separator_in_its_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"a, b; c | d"\n')
    assert [record.text for record in read_records(tmp_path / "a.csv")] == ["a, b; c | d"]


def test_a_csvs_text_may_be_very_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'text\n"{"long " * 60_000}"\n')
    (record,) = read_records(tmp_path / "a.csv")
    assert len(record.text or "") == 300_000


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_a_mark_says_which_unicode_a_file_is_in(encoding: str, tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(_pair("ポンプ", "漏れ"), ensure_ascii=False) + "\n"
    (tmp_path / "a.JSONL").write_bytes(text.encode(encoding))
    assert read_records(tmp_path / "a.JSONL") == (Record(prompt="ポンプ", response="漏れ"),)


def test_half_a_character_of_utf16_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe" + "{}".encode("utf-16-le") + b"\x00")
    with pytest.raises(RecordError, match="line 1: not UTF-16"):
        read_records(tmp_path / "a.jsonl")


def test_a_key_that_stands_twice_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "' + SECRET + '", "text": "b"}\n')
    with pytest.raises(RecordError, match="line 2: an object has a key twice") as caught:
        read_records(tmp_path / "a.jsonl")
    assert SECRET not in str(caught.value)


def test_a_link_that_leads_nowhere_leaves_no_site_out(tmp_path: Path) -> None:
    for part in ("train", "test"):
        _write(tmp_path / "a" / f"{part}.JSONL", _pair())
    (tmp_path / "b").symlink_to(tmp_path / "gone")
    with pytest.raises(RecordError, match="a link leads nowhere; found b"):
        read_sites(tmp_path)
    (tmp_path / "b").unlink()
    assert [site.name for site in read_sites(tmp_path)] == ["a"]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\u2028two"}\n\n{"text": "three"}\n', encoding="utf-8")
    assert [record.place for record in read_records(path)] == [f"{path} line 1", f"{path} line 3"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f'{{"text": "{SECRET}"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        (f'["{SECRET}"]', "not a JSON object"),
        (f'{{"prompt": "{SECRET}"}}', "unknown kind of record"),
        (f'{{"response": "{SECRET}"}}', "unknown kind of record"),
        (f'{{"prompt": "{SECRET}", "response": "r", "text": "t"}}', "unknown kind of record"),
        (f'{{"note": "{SECRET}"}}', "none of the known fields"),
        (f'{{"prompt": "{SECRET}", "response": " "}}', "field response holds no text"),
        (f'{{"prompt": ["{SECRET}"], "response": "r"}}', "field prompt holds no text"),
        (f'{{"text": "{SECRET} \\ud800"}}', "not valid Unicode"),
        (f'{{"messages": "{SECRET}"}}', "nothing to learn"),
        (f'{{"messages": [{{"role": "user", "content": "{SECRET}"}}]}}', "nothing to learn"),
        (f'{{"messages": [{{"role": "assistant", "content": "{SECRET}"}}]}}', "nothing to learn"),
        (f'{{"messages": [{{"role": "{SECRET}", "content": "c"}}]}}', "known role"),
        (f'{{"messages": [{{"role": "user", "content": 1}}, "{SECRET}"]}}', "content holds no text"),
    ],
)
def test_a_fault_names_file_and_line_and_shows_no_text(line: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=what) as caught:
        read_records(path)
    assert f"{path} line 2" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "what", "line"),
    [
        (f"prompt,response\n{SECRET}\n", "wrong number of columns", 2),
        (f'prompt,response\na,b\n"{SECRET}"x,b\n', "not CSV", 3),
        (f"prompt,prompt\n{SECRET},b\n", "two columns", 1),
        (f"{SECRET},b\n{SECRET},d\n", "unknown kind of record", 2),
    ],
)
def test_a_csv_fault_names_the_line_and_shows_no_text(rows: str, what: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(RecordError, match=what) as caught:
        read_records(path)
    assert f"{path} line {line}" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_bytes_that_are_not_utf8_are_named_by_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"text": "a"}\n\n{"text": "\xff"}\n')
    with pytest.raises(RecordError, match="line 3: not UTF-8"):
        read_records(path)


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.csv", "prompt,response\n")])
def test_a_file_without_records_is_empty(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecordError, match="the file is empty"):
        read_records(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.jsonl: cannot be read"):
        read_records(tmp_path / "gone.jsonl")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="unknown kind of file"):
        read_records(tmp_path / "a.parquet")


def test_sites_come_sorted_by_name_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    for name in ("south", "north", ".hidden"):
        _write(tmp_path / name / "train.jsonl", _pair(name))
    _write(tmp_path / "north" / "test.jsonl", _pair("n"))
    (tmp_path / "south" / "test.csv").write_text("prompt,response\ns,r\n")
    sites = read_sites(tmp_path)
    assert [(site.name, len(site.train), site.test[0].prompt) for site in sites] == [
        ("north", 1, "n"),
        ("south", 1, "s"),
    ]


def test_a_site_without_test_records_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "north" / "train.jsonl", _pair())
    with pytest.raises(RecordError, match="north: its test records are missing"):
        read_sites(tmp_path)


def test_a_site_with_train_records_twice_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "north" / "train.jsonl", _pair())
    (tmp_path / "north" / "train.csv").write_text("prompt,response\ns,r\n")
    with pytest.raises(RecordError, match="north: its train records are there twice"):
        read_sites(tmp_path)


def test_two_sites_that_differ_only_in_case_are_one_name(tmp_path: Path) -> None:
    (tmp_path / "North").mkdir()
    (tmp_path / "north").mkdir()
    with pytest.raises(RecordError, match="North and north"):
        read_sites(tmp_path)


@pytest.mark.parametrize("folder", [".", "gone"])
def test_a_folder_without_sites_is_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="a folder a site"):
        read_sites(tmp_path / folder)


def test_a_repr_shows_no_text() -> None:
    assert SECRET not in repr(Record(prompt=SECRET, response=SECRET, fields={"a": SECRET}))


def test_records_survive_pickling_and_count_as_equal_wherever_they_stood() -> None:
    record = Record(text="t", fields={"a": "b"}, place="a.jsonl line 1")
    assert pickle.loads(pickle.dumps(record)) == record == Record(text="t", fields={"a": "b"}, place="elsewhere")


def test_a_fingerprint_is_of_the_records_whatever_their_file_and_order(tmp_path: Path) -> None:
    rows = [_pair("p1"), _pair("p2", "s"), {**_pair("p3"), "owner": "x"}]
    here = read_records(_write(tmp_path / "a.jsonl", *rows))
    renamed = read_records(_write(tmp_path / "elsewhere" / "b.jsonl", *reversed(rows)))
    assert fingerprint(here) == fingerprint(renamed)
    assert fingerprint([]) != fingerprint(here)


@pytest.mark.parametrize(
    "changed",
    [
        [_pair("p1"), _pair("p2", "t")],
        [_pair("p1")],
        [_pair("p1"), _pair("p2", "s"), _pair("p2", "s")],
        [_pair("p1"), {**_pair("p2", "s"), "owner": "x"}],
        [_pair("p1s"), _pair("p2", "")],
    ],
)
def test_a_fingerprint_changes_with_any_record(changed: list[dict[str, str]]) -> None:
    before = fingerprint([Record(prompt="p1", response="r"), Record(prompt="p2", response="s")])
    assert fingerprint([Record(**row) for row in changed]) != before
