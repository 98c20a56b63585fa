"""The redaction bench counts what is left of what was marked, and what else is taken."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from yoriai.cli import app
from yoriai.client.routing.redaction import Span
from yoriai.errors import ConfigError
from yoriai.simulations.bench.redact.run import measure, own, read_marked, rows, shipped


def test_marks_are_taken_off_and_their_places_kept() -> None:
    (one,) = read_marked(["# a remark", "", "en\tAsk {PERSON:Ann Lee} in {PLACE:Cork}."])
    assert one.text == "Ask Ann Lee in Cork."
    assert [one.text[span.start : span.end] for span in one.spans] == ["Ann Lee", "Cork"]


def test_whole_part_and_other_letters_are_counted_by_hand() -> None:
    (one,) = read_marked(["en\tAsk {PERSON:Ann Lee} in {PLACE:Cork}."])
    found = measure([one], [lambda _text: [Span(0, 7, "X"), Span(15, 19, "X")]])  # "Ask Ann" and "Cork"
    assert found["kinds"] == {
        "PERSON": {"marked": 1, "whole": 0, "part": 1},
        "PLACE": {"marked": 1, "whole": 1, "part": 0},
    }
    assert (found["other_letters"], found["other_letters_taken"]) == (5, 3)
    assert rows({"en": found})[1] == ["en", "1", "0 of 1, 1 in part", "1 of 1", "60%"]


def test_the_shipped_texts_have_three_languages_with_some_texts_that_name_nothing() -> None:
    texts = shipped()
    for language in ("en", "es", "ja"):
        of_it = [one for one in texts if one.language == language]
        assert len(of_it) == 15
        assert sum(not one.spans for one in of_it) == 3


def test_a_line_of_another_form_is_refused_by_its_number_alone(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("en\tfine\nprivate words\n")
    with pytest.raises(ConfigError, match="line 2 has no language") as caught:
        own(file)
    assert "private" not in str(caught.value)


def test_the_command_finds_numbers_in_every_language_by_patterns_alone() -> None:
    result = CliRunner().invoke(app, ["bench", "redact", "--patterns", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for language in ("en", "es", "ja"):
        numbers = found[language]["kinds"]["NUMBER"]
        assert numbers["whole"] == numbers["marked"]
        assert found[language]["kinds"]["PERSON"]["whole"] == 0
