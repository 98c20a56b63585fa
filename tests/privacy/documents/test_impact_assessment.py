"""The form of an impact assessment: what the regulation asks for, what a job fills in, and the page in the docs."""

import re
from pathlib import Path

import pytest
import tomli_w

from tests.commands import yoriai
from tests.server.faulty import small_job
from yoriai.config import override
from yoriai.errors import EXIT_BAD_INPUT
from yoriai.privacy.documents.impact_assessment import assessment

ROOT = Path(__file__).parents[3]


def test_the_page_of_the_docs_is_the_blank_form() -> None:
    remedy = "write assessment(None) there"
    assert (ROOT / "docs/operate/impact-assessment.md").read_text(encoding="utf-8") == assessment(None), remedy


@pytest.mark.parametrize("article", ["35.1", "35.2", "35.7 a", "35.7 b", "35.7 c", "35.7 d", "35.9", "35.11", "(36)"])
def test_all_that_the_regulation_asks_for_has_its_place(article: str) -> None:
    assert article in assessment(None)
    assert article in assessment(small_job())


def test_a_job_fills_in_what_it_says_and_leaves_what_it_cannot_know() -> None:
    text = assessment(override(small_job(), {"purpose": "Sort | orders.", "privacy.epsilon": 3.0}))
    assert "Sort \\| orders." in text
    assert "epsilon 3.00 per record (add or remove one record), by PLD or RDP, delta 1e-5" in text
    assert "not masked: the coordinator sees each site's by itself" in text
    assert 0 < text.count("[…]") < assessment(None).count("[…]")
    assert not re.search(r"\]\((?!http)", text)  # Links of the docs lead nowhere from a file of its own.


def test_a_job_without_noise_is_not_said_to_bound_anything() -> None:
    text = assessment(override(small_job(), {"privacy.noise": "none"}))
    assert "no noise: nothing bounds it" in text
    assert "epsilon 8" not in text


def test_the_command_writes_it_and_never_over_answers(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(tomli_w.dumps({"schema": 1, "name": "pumps"}))
    assert yoriai("job", "assessment", job).code == 0
    written = tmp_path / "job.assessment.md"
    assert written.read_text(encoding="utf-8").startswith("# Impact assessment: pumps")
    written.write_text("answered")
    assert yoriai("job", "assessment", job).code == EXIT_BAD_INPUT
    assert written.read_text() == "answered"
