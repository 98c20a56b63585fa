"""The model card of an adapter: what an offline reader finds in it, and what of a job it does not take for markup."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.server.faulty import small_job
from tests.server.versions_made import statement
from yoriai.config import override
from yoriai.privacy.documents.adapter_facts import AdapterFacts, facts_of_version
from yoriai.privacy.documents.model_card import Measure, card_text
from yoriai.privacy.statements.version_statement import PrivacyFacts, SumFacts

CLASSIFY = {"task.kind": "classify", "task.labels": ("cabin", "pump"), "task.head": "labels"}


def facts(settings: dict[str, object] | None = None, **said: object) -> AdapterFacts:
    return facts_of_version(statement("pumps", **said), override(small_job(), CLASSIFY | (settings or {})))


def test_hugging_faces_own_reader_finds_base_task_and_measures(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(card_text(facts(), [Measure("accuracy", 0.81, (0.7, 0.9), 0.6, 418)]), encoding="utf-8")
    card = ModelCard.load(path)
    assert (card.data.base_model, card.data.pipeline_tag) == ("smollm2-135m-instruct", "text-classification")
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results or ()] == [("accuracy", 0.81)]
    assert "| accuracy | 0.600 | 0.810 | 0.700 to 0.900 | 418 |" in card.text


def test_epsilon_stands_with_delta_unit_neighbours_and_accountant() -> None:
    text = card_text(facts(), ())
    assert "epsilon = 8.00 at delta = 1e-5, per record (add or remove one record), by PLD or RDP." in text


def test_a_small_epsilon_is_not_shown_as_none() -> None:
    text = card_text(facts(privacy=PrivacyFacts("local", "record", 0.0012, 1e-5, 1.0, None)), ())
    assert "epsilon = 0.0012 at" in text


def test_without_noise_the_card_promises_nothing_and_warns() -> None:
    nothing = PrivacyFacts("none", "record", None, None, None, None)
    text = card_text(facts({"privacy.noise": "none"}, privacy=nothing), ())
    assert "no privacy guarantee is given" in text
    assert "Do not pass it on." in text
    assert "epsilon =" not in text


def test_a_figure_without_an_interval_says_so_and_none_is_made_up() -> None:
    text = card_text(facts(), [Measure("accuracy", 0.81)])
    assert "| accuracy | not known | 0.810 | none is known | not known |" in text
    assert "Each site measures for itself" in card_text(facts(), ())


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a | b", "# title\n---\nlicense: mit", "[x](http://y)"])
def test_texts_of_a_job_are_no_markup_of_the_card(text: str) -> None:
    plain, shown = (card_text(facts({"purpose": one}), ()) for one in ("for pumps", text))
    assert len(plain.splitlines()) == len(shown.splitlines())
    assert "<script>" not in shown
    assert ModelCard(shown).data.to_dict() == ModelCard(plain).data.to_dict()


def test_a_base_in_a_folder_is_named_without_the_way_to_it() -> None:
    text = card_text(facts({"base.model": "/srv/anna/models/tiny-base"}), ())
    assert "tiny-base" in text
    assert "anna" not in text


def test_the_card_says_who_could_collude() -> None:
    shared = {"privacy.noise": "distributed", "secure_aggregation.enabled": True, "federation.min_sites": 6}
    shared |= {"federation.rule": "core", "privacy.colluding": 2}
    said = {"privacy": PrivacyFacts("distributed", "record", 8.0, 1e-5, 1.0, 2), "secure_sum": SumFacts(True, 16, 7)}
    text = card_text(facts(shared, **said), ())
    assert "against the coordinator together with up to 2 sites of a round" in text
    assert "by RDP" in text
