"""Families of bases: which are taken, from the folder to the export, and which are refused with what reason."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.client.conftest import JobMaker, start_for
from tests.client.families import ALL, REFUSED, TAKEN, WITH_TARGETS, tiny
from tests.client.rounds import GRAIN, PLAN, update
from tests.tiny import tiny_tokenizer
from yoriai.client.base.base_model import load_base
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.records.records import Record
from yoriai.client.session.export import save_peft
from yoriai.client.session.model_session import ModelSession
from yoriai.config import JobConfig, SpeedSection
from yoriai.errors import BaseModelError
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

IDS = torch.tensor([[5, 60, 70, 80, 90, 100]])
RECORDS = [Record(prompt=f"pump {index}", response="leaks " * (index + 1)) for index in range(3)]


def _session(family: str, folder: Path) -> ModelSession:
    tiny(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return ModelSession(load_base(str(folder), device=torch.device("cpu")), SpeedSection(threads=1))


def _job(make_job: JobMaker, family: str, **more: Any) -> JobConfig:
    settings: dict[str, Any] = {"lora__layers": "last:1", "lora__target_modules": WITH_TARGETS.get(family, ALL), **more}
    return make_job(**settings, task__kind="instruct", task__labels=())


def _losses_of_transformers(model: AdaptedModel, session: ModelSession, job: JobConfig) -> list[torch.Tensor]:
    """Each record's loss by the whole model in one piece, as transformers computes it."""
    losses = []
    for example in session.encode(RECORDS, job.task).examples:
        ids, targets = torch.from_numpy(example.token_ids).long()[None], torch.from_numpy(example.loss_mask)[None]
        losses.append(model.peft_model(input_ids=ids, labels=ids.where(targets, -100)).loss)
    return losses


@pytest.mark.parametrize("family", [*TAKEN, *WITH_TARGETS])
def test_a_family_is_taken_from_its_folder_to_the_export(family: str, tmp_path: Path, make_job: JobMaker) -> None:
    session, job = _session(family, tmp_path / "base"), _job(make_job, family)
    model, rule = session.model(job), job.federation.rule
    start = start_for(model, rule)
    found = update(
        model, rule, PLAN, records=session.prepare(RECORDS, job), head=session.head(job), start=start
    )  # One step over each record's own clipped gradient.
    model.load(start)
    parameters = list(model.set_trainable(get_rule(rule).trainable(0)).values())
    expected = np.zeros_like(found, np.float64)
    for loss in _losses_of_transformers(model, session, job):
        row = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]).double().numpy()
        assert np.linalg.norm(row) > 0
        expected -= row * min(1.0, PLAN.clip_norm / np.linalg.norm(row))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=5 * GRAIN)
    save_peft(model, get_rule(rule).to_peft(start), tmp_path / "adapter")
    with torch.no_grad():
        ours = model.peft_model(input_ids=IDS).logits
        fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        before = fresh(input_ids=IDS).logits
        exported = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(exported(input_ids=IDS).logits, ours, rtol=1e-4, atol=1e-5)
    assert (ours - before).abs().max() > 1e-4


def test_the_page_of_bases_has_a_row_for_each_family_that_is_tried() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bases.md").read_text()
    rows = dict(re.findall(r"^\| [^|]+ \| `(\w+)` \| (taken|refused)", page, re.MULTILINE))
    assert rows == dict.fromkeys([*TAKEN, *WITH_TARGETS], "taken") | dict.fromkeys(REFUSED, "refused")


@pytest.mark.parametrize("family", WITH_TARGETS)
def test_a_family_with_other_maps_is_refused_with_their_names_until_they_are_named(
    family: str, tmp_path: Path, make_job: JobMaker
) -> None:
    session = _session(family, tmp_path)
    expected = r"target_modules match no linear map.*expected names such as .*" + sorted(WITH_TARGETS[family])[-1]
    with pytest.raises(BaseModelError, match=expected):
        session.model(_job(make_job, family, lora__target_modules=ALL))
    session.model(_job(make_job, family))


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_of_another_build_is_refused_by_its_name(family: str, tmp_path: Path, make_job: JobMaker) -> None:
    session = _session(family, tmp_path)
    name = type(session.base.model).__name__
    with pytest.raises(BaseModelError, match=rf"another build than Yoriai knows; found {name}; .*choose another base"):
        session.model(_job(make_job, family))
