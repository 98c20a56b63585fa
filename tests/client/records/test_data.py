"""The kind of a task, label sets, the split, and partitions for simulations."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoriai.client.records.records import read_records
from yoriai.errors import ConfigError, RecordError
from yoriai.simulations.scenarios.partition import Record, infer_task_kind, label_set, partition, split


def _labelled(*responses: str) -> tuple[Record, ...]:
    return tuple(
        Record(prompt=f"prompt {number}", response=response, owner=f"owner {number % 2}", fields={"machine": response})
        for number, response in enumerate(responses)
    )


def _conversation() -> Record:
    return Record(messages=(("user", "a"), ("assistant", "b")))


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        (_labelled(*"ab" * 3), "classify"),
        (_labelled(*"ab" * 2), "instruct"),  # Twice each: not repeated enough.
        (_labelled(*"abc" * 3), "instruct"),  # 3 > max(2, 9 / 5): too many of them.
        (_labelled(*"abc" * 5), "classify"),
        (_labelled(*"a" * 9), "instruct"),  # One response is no choice.
        (_labelled(*[f"{number % 101}" for number in range(1010)]), "instruct"),
        (_labelled(*[f"{number % 100}" for number in range(1000)]), "classify"),
        ((Record(text="t"),), "lm"),
        ((_conversation(),), "instruct"),
    ],
)
def test_kind_follows_from_shape_and_repetition(records: tuple[Record, ...], kind: str) -> None:
    assert infer_task_kind(records)[0] == kind


def test_the_reason_gives_counts_and_no_text() -> None:
    _, reason = infer_task_kind(_labelled(*["secret", "hidden"] * 3))
    assert reason == "The 6 prompts have 2 distinct responses, each 3 times in the median, as labels would be."


def test_mixed_shapes_are_refused() -> None:
    with pytest.raises(RecordError, match="messages and texts"):
        infer_task_kind([Record(text="t"), _conversation()])


def test_label_set_is_sorted_and_distinct() -> None:
    assert label_set(_labelled("b", "a", "b")) == ("a", "b")


def test_label_set_names_the_record_without_a_response() -> None:
    with pytest.raises(RecordError, match=r"a\.jsonl line 3"):
        label_set([Record(text="t", place="a.jsonl line 3")])


@given(count=st.integers(0, 60), fraction=st.floats(0, 1), seed=st.integers(0, 5))
def test_split_keeps_every_record_once_and_in_order(count: int, fraction: float, seed: int) -> None:
    records = _labelled(*[f"{number:03}" for number in range(count)])
    train, test = split(records, fraction, seed)
    assert len(test) == round(count * fraction)
    assert sorted(train + test, key=lambda record: record.response or "") == list(records)
    assert list(train) == sorted(train, key=lambda record: record.response or "")


def test_split_is_the_same_on_every_machine() -> None:
    _, test = split(_labelled(*"abcdefghij"), 0.3, seed=0)
    assert [record.response for record in test] == ["b", "h", "i"]


def test_another_seed_splits_differently() -> None:
    records = _labelled(*[str(number) for number in range(50)])
    assert split(records, 0.5, 0) != split(records, 0.5, 1)


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.5", "by:machine"])
def test_partition_deals_every_record_once(how: str) -> None:
    records = _labelled(*"abcd" * 25)
    parts = partition(records, 4, how, seed=3)
    assert len(parts) == 4
    assert Counter(record.prompt for part in parts.values() for record in part) == Counter(r.prompt for r in records)


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.5"])
def test_partition_follows_from_the_seed(how: str) -> None:
    records = _labelled(*"abcd" * 25)
    assert partition(records, 4, how, seed=3) == partition(records, 4, how, seed=3)
    assert partition(records, 4, how, seed=3) != partition(records, 4, how, seed=4)


def test_iid_sites_are_of_one_size_and_sort_by_number() -> None:
    parts = partition(_labelled(*"a" * 25), 10, "iid", seed=0)
    assert sorted(map(len, parts.values())) == [2] * 5 + [3] * 5
    assert list(parts) == sorted(parts) == [f"site-{number:02}" for number in range(1, 11)]


def test_a_small_alpha_makes_sites_less_alike_than_a_large_one() -> None:
    records = _labelled(*"abcd" * 100)

    def largest_share(how: str) -> float:
        parts = partition(records, 4, how, seed=0).values()
        counts = [Counter(record.response for record in part) for part in parts]
        return sum(max(count.values()) for count in counts) / len(records)

    assert largest_share("dirichlet:0.1") > 0.6
    assert largest_share("dirichlet:1000") < 0.3


def test_by_field_takes_the_largest_values_or_all() -> None:
    records = _labelled(*"abbccc")
    assert {name: len(part) for name, part in partition(records, 2, "by:machine", 0).items()} == {"b": 2, "c": 3}
    assert {name: len(part) for name, part in partition(records, 0, "by:machine", 0).items()} == {
        "a": 1,
        "b": 2,
        "c": 3,
    }


@pytest.mark.parametrize(("name", "sites"), [("owner", ["owner 0", "owner 1"]), ("response", ["a", "b"])])
def test_by_field_knows_owner_and_response(name: str, sites: list[str]) -> None:
    assert list(partition(_labelled(*"aabb"), 0, f"by:{name}", 0)) == sites


def test_by_field_names_the_record_that_lacks_it() -> None:
    with pytest.raises(RecordError, match=r"a\.jsonl line 2: the record has no shift"):
        partition([Record(text="t", fields={}, place="a.jsonl line 2")], 1, "by:shift", 0)


@pytest.mark.parametrize("how", ["iid", "dirichlet:1", "by:machine"])
def test_more_sites_than_records_or_values_are_refused(how: str) -> None:
    with pytest.raises(RecordError, match="too few"):
        partition(_labelled(*"ab"), 3, how, 0)


def test_a_dirichlet_partition_that_starves_a_site_is_refused() -> None:
    with pytest.raises(RecordError, match="raise ALPHA"):
        partition(_labelled(*"aaaa"), 4, "dirichlet:0.001", 0)


def test_a_partition_by_no_field_says_so() -> None:
    with pytest.raises(ConfigError, match="by: names no field"):
        partition(_labelled(*"ab"), 2, "by:", 0)


def test_null_is_no_value_of_a_field(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"text": "a", "plant": null, "line": 0}\n')
    (record,) = read_records(path)
    assert record.fields == {"line": "0"}
    with pytest.raises(RecordError, match="line 1: the record has no plant"):
        partition([record], 0, "by:plant", 0)


@pytest.mark.parametrize("how", ["random", "dirichlet:", "dirichlet:0", "dirichlet:nan", "dirichlet:x"])
def test_an_unknown_partition_is_refused(how: str) -> None:
    with pytest.raises(ConfigError, match="unknown partition"):
        partition(_labelled(*"ab"), 2, how, 0)
