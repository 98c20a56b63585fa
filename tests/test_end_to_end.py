"""The real default base on a few real records, from the packaged file to an adapter that PEFT loads."""

import json
from pathlib import Path

import pytest
import torch

from tests.world import write_records
from yoriai.client.base import assets
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.simulations.run.api import simulate
from yoriai.simulations.scenarios.excavators import ASSET, LABELS, TEMPLATE, load_work_orders
from yoriai.simulations.scenarios.partition import Record

RECORDS = 12


def _two_sites(folder: Path) -> Path:
    orders = load_work_orders(assets.fetch(ASSET))
    for machine in ("C", "D"):
        own = [record for record in orders if record.fields["machine"] == machine]
        write_records(folder / machine / "train.jsonl", [_row(record) for record in own[:RECORDS]])
        write_records(folder / machine / "test.jsonl", [_row(record) for record in own[RECORDS : RECORDS + 4]])
    return folder


def _row(record: Record) -> dict[str, object]:
    return {"prompt": record.prompt, "response": record.response}


@pytest.mark.slow
@pytest.mark.timeout(600)  # A fresh machine downloads and dequantises the base first.
def test_the_default_base_learns_at_two_sites_and_peft_loads_the_adapter(tmp_path: Path) -> None:
    from peft import PeftModel

    settings: dict[str, object] = {
        "task.kind": "classify",
        "task.labels": list(LABELS),
        "task.template": TEMPLATE,
        "federation.rule": "core",
        "lora.layers": "last:1",
        "lora.rank": 4,
        "lora.alpha": 4.0,
        "training.sampling_rate": 0.5,
        "federation.rounds": 1,
    }
    report = simulate(data=_two_sites(tmp_path / "data"), settings=settings, out=tmp_path / "run")

    assert report.base.licence == "Apache-2.0"
    assert [(site.train_records, site.test_records) for site in report.sites] == [(RECORDS, 4)] * 2
    assert all(site.epsilon is not None and 0 < site.epsilon <= 8.0 for site in report.sites)
    assert report.overall["base"].loss is not None
    assert report.overall["federated"].loss is not None
    task = json.loads((tmp_path / "run" / "adapter" / "task.json").read_text())
    assert tuple(task["labels"]) == LABELS
    assert len(task["prior"]) == len(LABELS)

    base = load_base("smollm2-135m-instruct", device=choose_device("cpu"))
    assert base.digest == report.base.digest
    prompt = base.tokenizer(TEMPLATE.replace("{prompt}", "hydraulic hose leaks"), return_tensors="pt")
    with torch.no_grad():
        before = base.model(**prompt).logits
        adapted = PeftModel.from_pretrained(base.model, str(tmp_path / "run" / "adapter"))
        after = adapted(**prompt).logits
        generated = adapted.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert torch.isfinite(after).all()
    assert not torch.allclose(before, after)
    assert generated.shape[1] > prompt["input_ids"].shape[1]
