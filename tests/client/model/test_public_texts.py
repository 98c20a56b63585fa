"""Public texts: those that come with Yoriai, the operator's own, and what the base writes."""

from pathlib import Path

import pytest

from yoriai.client.base.base_model import BaseModel
from yoriai.client.model.public_texts import (
    found_public,
    own_texts,
    public_texts,
    shipped_texts,
    text_digest,
    written_texts,
)
from yoriai.config import PublicSection, TaskSection
from yoriai.errors import ConfigError

TASK = TaskSection(kind="classify", labels=("a",), template="Fault: {prompt}. It is the")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_shipped_texts_are_many_short_and_distinct() -> None:
    texts = shipped_texts()
    assert len(texts) >= 200
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip() and 2 <= len(text) <= 500 for text in texts)
    scripts = {"ja": "の", "zh": "的", "ko": "다", "pl": "ł", "tr": "ğ", "de": "ß", "es": "ñ"}
    assert all(any(letter in text for text in texts) for letter in scripts.values())


def test_own_texts_are_the_lines_that_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes("\ufeffone\n\n  two \r\nポンプ\n".encode())
    assert own_texts(path) == ("one", "two", "ポンプ")


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_file_without_texts_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"public\.texts: .*own\.txt"):
        own_texts(path)


def test_what_the_base_writes_is_seeded_and_leaves_the_global_seed_alone(base: BaseModel) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = written_texts(base, "Fault:", 6, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert 0 < len(first) <= 6
    assert written_texts(base, "Fault:", 6, seed=1) == first
    assert written_texts(base, "Fault:", 6, seed=2) != first


def test_what_the_base_wrote_is_kept(base: BaseModel, cache: Path) -> None:
    public = PublicSection(written=4, seed=3)
    first = public_texts(base, TASK, public)
    assert len(first) > len(shipped_texts())
    (kept,) = (cache / "public-texts").iterdir()
    kept.write_text('["kept"]')
    assert public_texts(base, TASK, public) == (*shipped_texts(), "kept")
    kept.write_text("[")  # A damaged file is written again.
    assert public_texts(base, TASK, public) == first


def test_a_cache_that_cannot_be_written_costs_no_more_than_time(base: BaseModel, cache: Path) -> None:
    cache.write_text("a file in the folder's place")
    assert len(public_texts(base, TASK, PublicSection(written=2))) >= len(shipped_texts())


def test_a_site_counts_its_records_among_the_public_texts_and_says_nothing_where_there_are_none() -> None:
    public = PublicSection(digests=tuple(map(text_digest, ("Replace  BEARING", "other"))))
    told = found_public(["replace bearing", "a pump", "Replace bearing "], public)
    assert told.startswith("2 of the records")
    assert "bearing" not in told
    assert found_public(["a pump"], public) == ""
    assert found_public(["replace bearing"], PublicSection()) == ""


def test_own_texts_come_last_and_nothing_is_written_unasked(base: BaseModel, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("one\n")
    assert public_texts(base, TASK, PublicSection(texts=str(path))) == (*shipped_texts(), "one")
    assert not cache.exists()
