"""General texts before and after an adapter: shipped for this alone, measured by hand, and nothing lost by a head."""

from pathlib import Path

import pytest
import torch

from tests.client.conftest import JobMaker
from tests.client.last_adapters import last_adapter
from yoriai.client.base.base_model import BaseModel, choose_device, load_base
from yoriai.client.evaluation.language import guess
from yoriai.client.model.public_texts import shipped_texts, text_digest
from yoriai.client.session.export import save_adapter
from yoriai.client.session.forgetting import forgetting, general_texts, losses_of
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")


def test_there_are_five_texts_in_each_of_ten_languages() -> None:
    languages = [language for language, _ in general_texts()]
    assert len(set(languages)) == 10
    assert all(languages.count(language) == 5 for language in set(languages))
    by_language = {name: [text for language, text in general_texts() if language == name] for name in languages}
    assert {name: guess(texts) for name, texts in by_language.items()} == {name: name for name in languages}


def test_no_general_text_is_one_that_conditioning_has_seen() -> None:
    general = {text_digest(text) for _, text in general_texts()}
    assert len(general) == 50
    assert not general & {text_digest(text) for text in shipped_texts()}


def test_every_token_is_predicted_from_those_before_it(base: BaseModel) -> None:
    text = "the pump leaks"
    ids = torch.tensor([[base.start_token, *base.tokenizer.encode(text, add_special_tokens=False)]])
    with torch.no_grad():
        shares = base.model(input_ids=ids).logits[0].log_softmax(-1)
    by_hand = -sum(float(shares[place, token]) for place, token in enumerate(ids[0, 1:].tolist()))
    found = losses_of(base, base.model, [text])
    assert found.losses[0] == pytest.approx(by_hand, rel=1e-5)
    assert (found.units[0], found.target_bytes[0]) == (ids.shape[1] - 1, len(text.encode()))


def _saved(folder: Path, base_folder: Path, job: JobConfig, *, trained: bool) -> Path:
    session = ModelSession(load_base(str(base_folder), device=choose_device("cpu")), SpeedSection(threads=1))
    save_adapter(session, job, last_adapter(session, job) if trained else session.initial_adapter(job), folder)
    return folder


def test_an_adapter_that_did_not_train_forgets_nothing_and_one_that_did_shows_a_change(
    tmp_path: Path, base_folder: Path, make_job: JobMaker
) -> None:
    job = make_job()
    still = forgetting(_saved(tmp_path / "still", base_folder, job, trained=False), device="cpu")
    moved = forgetting(_saved(tmp_path / "moved", base_folder, job, trained=True), device="cpu")
    assert still.after == pytest.approx(still.before, abs=1e-6)
    assert moved.before == pytest.approx(still.before)
    assert abs(moved.change) > 1e-3
    assert moved.low <= moved.change <= moved.high
    assert f"{moved.change:+.3f}" in moved.told()


def test_a_head_leaves_the_base_as_it_is(tmp_path: Path, base_folder: Path, make_job: JobMaker) -> None:
    job = make_job(task__head="trained", head__states=("last",), head__directions=8, head__words=0)
    found = forgetting(_saved(tmp_path / "head", base_folder, job, trained=True), device="cpu")
    assert found.untouched
    assert (found.change, found.low, found.high) == (0.0, 0.0, 0.0)
    assert "the base is not changed" in found.told()
