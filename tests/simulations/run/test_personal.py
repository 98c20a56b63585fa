"""Personal adapters in a simulated run: shared against personal, what it costs, and that none of it leaves a site."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import yoriai
from tests.simulations.conftest import Run
from tests.world import Notebook, Stop, job_settings
from yoriai.client.site.personal import PersonalTraining
from yoriai.client.site.personal import train_personal as real_train_personal
from yoriai.errors import TrainingError
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.simulations.engines.in_process import InProcessTransport
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.simulations.report.file import load_report, report_json
from yoriai.simulations.report.report import Report
from yoriai.simulations.run import personal_adapters as module
from yoriai.simulations.run.api import resume, simulate
from yoriai.simulations.run.options import Options
from yoriai.strategies.adapter import AdapterState

SEEDED = Options(noise_seed=b"seed")
OWN: dict[str, object] = {"personal.rounds": 2, "personal.epsilon": 2.0}
# What the coordinator keeps: see server/round/registry.py.
REGISTRY = ("checkpoint.json", "adapters", "state")


def settings(base: Path, **more: object) -> dict[str, object]:
    return job_settings(base, **OWN, **more)


def files(folder: Path, *parts: str) -> dict[Path, bytes]:
    """Contents of all files under these parts of a folder, or under all of it."""
    places = [folder / part for part in parts] or [folder]
    found = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return {path: path.read_bytes() for path in found if path.is_file()}


def own_factors(folder: Path, site: str) -> AdapterState:
    return AdapterState.from_bytes((folder / "personal" / site / "factors.safetensors").read_bytes())


def own_charges(folder: Path, site: str) -> list[bool]:
    """Whether each charge for the site's own adapter was released."""
    path = folder / "ledgers" / f"{site}.sqlite"
    with Ledger.existing(path) as ledger:
        return [charge.released for charge in ledger.charges() if charge.job_id.endswith("/personal")]


@dataclass
class Watched(Notebook):
    """Notes the coordinator's messages, and its files when the first personal round ends."""

    folder: Path
    exchanges: int = 0
    exchanges_before: int | None = None
    registry_before: dict[Path, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def advance(self, what: str, done: int, total: int) -> None:
        super().advance(what, done, total)
        if what.startswith("personal rounds") and self.exchanges_before is None:
            self.exchanges_before, self.registry_before = self.exchanges, files(self.folder, *REGISTRY)


@pytest.fixture(scope="module")
def watched(base: Path, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Watched]:
    """The shared run of these tests once more, with personal adapters and without comparisons."""
    folder = tmp_path_factory.mktemp("personal") / "run"
    watch, real = Watched(folder), InProcessTransport.exchange

    def counting(self: InProcessTransport, *values: Any) -> Any:
        watch.exchanges += 1
        return real(self, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcessTransport, "exchange", counting)
        report = simulate(data=sites, settings=settings(base), out=folder, options=SEEDED, observer=watch)
    return Run(folder, report, watch), watch


@pytest.fixture(scope="module")
def own(watched: tuple[Run, Watched]) -> Run:
    return watched[0]


def test_every_site_is_scored_by_its_own_adapter_too(own: Run) -> None:
    assert own.report.overall["personal"].records == 36
    assert own.report.overall["personal"].loss != own.report.overall["federated"].loss
    for site in own.report.sites:
        assert site.personal is not None
        assert site.personal.records == 12
        assert site.paired_personal is not None
    gained = [site.paired_personal.gained for site in own.report.sites if site.paired_personal]
    assert own.report.paired_personal is not None
    assert own.report.paired_personal.gained == sum(gained)


def test_each_site_has_an_adapter_of_its_own_with_the_shared_basis(own: Run) -> None:
    adapters = {site: own_factors(own.folder, site) for site in "abc"}
    assert len({adapter.digest() for adapter in adapters.values()} | {own.report.adapter.digest}) == 4
    assert len({adapter.select(("A", "U")).digest() for adapter in adapters.values()}) == 1


def test_a_job_that_trains_a_head_gives_each_site_a_head_of_its_own_which_answers(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    given = {key: value for key, value in settings(base).items() if key != "federation.rule"}
    head = {"task.head": "trained", "head.directions": 8, "head.words": 32}
    report = simulate(data=sites, settings=given | head, out=tmp_path / "run", options=SEEDED)
    heads = {site: own_factors(tmp_path / "run", site) for site in "abc"}
    assert len({own.digest() for own in heads.values()} | {report.adapter.digest}) == 4
    assert len({own.select(("D", "M")).digest() for own in heads.values()}) == 1
    assert [own_charges(tmp_path / "run", site) for site in "abc"] == [[True]] * 3
    texts = ["replace the pump", "clean the cabin", "start the engine"]
    shared = yoriai.load(tmp_path / "run" / "adapter", base=str(base)).probabilities(texts)
    own = yoriai.load(tmp_path / "run" / "personal" / "a", base=str(base)).probabilities(texts)
    assert not torch.allclose(own, shared, atol=1e-4)


def test_peft_loads_a_personal_adapter_which_answers_otherwise_than_the_shared_one(own: Run, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompt = torch.tensor([[1, 5, 6]])

    def answer(folder: Path) -> torch.Tensor:
        logits: torch.Tensor = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))(
            prompt
        ).logits
        return logits

    assert not torch.allclose(answer(own.folder / "personal" / "a"), answer(own.folder / "adapter"))
    assert json.loads((own.folder / "personal" / "a" / "task.json").read_text())["labels"]


def test_the_price_is_the_jobs_the_adapters_and_what_the_ledger_makes_of_both(own: Run, run: Run) -> None:
    assert [site.epsilon for site in own.report.sites] == [site.epsilon for site in run.report.sites]
    for site in own.report.sites:
        assert site.epsilon is not None
        assert site.epsilon_personal is not None
        assert site.epsilon_together is not None
        assert 1.9 < site.epsilon_personal <= 2.0
        assert site.epsilon_together > site.epsilon
        with Ledger.existing(own.folder / "ledgers" / f"{site.name}.sqlite") as ledger:
            assert site.epsilon_together == ledger.spent()
        assert own_charges(own.folder, site.name) == [True]
    assert f"{own.report.epsilon_together:.2f}" in (own.folder / "report.html").read_text()


def test_the_federation_itself_is_as_without_personal_adapters(own: Run, run: Run) -> None:
    assert own.report.adapter.digest == run.report.adapter.digest
    assert [(r.bytes_up, r.bytes_down) for r in own.report.rounds] == [
        (r.bytes_up, r.bytes_down) for r in run.report.rounds
    ]


def test_no_message_and_no_file_of_the_coordinator_comes_after_personal_training(
    watched: tuple[Run, Watched],
) -> None:
    run, watch = watched
    assert watch.exchanges_before == watch.exchanges > 0
    assert watch.registry_before == files(run.folder, *REGISTRY)
    assert watch.registry_before


def test_no_file_outside_the_sites_folder_holds_a_factor_of_its_own_adapter(own: Run) -> None:
    content = files(own.folder)
    for site in "abc":
        folder = own.folder / "personal" / site
        outside = [data for path, data in content.items() if folder not in path.parents]
        for name, tensor in own_factors(own.folder, site).select(("R",)).tensors.items():
            assert tensor.tobytes() in content[folder / "factors.safetensors"]
            assert not any(tensor.tobytes() in data for data in outside), name


def test_the_report_reads_back_equal(own: Run) -> None:
    assert load_report(own.folder) == own.report


def test_a_run_without_personal_adapters_has_no_trace_of_them(run: Run) -> None:
    assert "personal" not in run.report.overall
    assert not (run.folder / "personal").exists()
    assert "Shared against personal" not in (run.folder / "report.html").read_text()
    assert "personal" not in run.report.seconds


def test_a_report_from_before_there_were_any_still_loads(run: Run, tmp_path: Path) -> None:
    content = json.loads(report_json(run.report))
    del content["paired_personal"]
    for site in content["sites"]:
        for key in ("personal", "paired_personal", "epsilon_personal", "epsilon_together"):
            del site[key]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert load_report(tmp_path) == run.report


def test_a_budget_without_room_leaves_the_shared_adapter_and_says_so(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SiteSpec, "epsilon_budget", lambda spec: spec.job.privacy.epsilon)
    heard = Notebook()
    report = simulate(data=sites, settings=settings(base), out=tmp_path / "run", options=SEEDED, observer=heard)
    assert report.status == "done"
    assert "federated" in report.overall
    assert "personal" not in report.overall
    assert not any(site.epsilon_personal for site in report.sites)
    assert not (tmp_path / "run" / "personal").exists()
    assert sum("answers with the shared one: data set" in note for note in report.notes) == 3
    assert any("no personal adapter" in line for line in heard.said)
    assert not any(what.startswith("personal rounds") for what, _, _ in heard.advances)


def test_over_all_sites_one_without_its_own_adapter_answers_with_the_shared_one(
    base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing_at_b(training: PersonalTraining, *values: Any, **named: Any) -> AdapterState:
        if training.weight == 2:  # 24 records at 10 a weight; a has 3, c has 2.
            raise TrainingError("training diverged")
        return real_train_personal(training, *values, **named)

    monkeypatch.setattr(module, "train_personal", failing_at_b)
    more = {"privacy.noise": "none"}
    report: Report = simulate(data=sites, settings=settings(base, **more), out=tmp_path / "run", options=SEEDED)
    a, b, c = report.sites
    assert a.personal is not None
    assert (b.personal, b.paired_personal, c.personal) == (None, None, None)
    assert report.overall["personal"].records == 36
    assert report.paired_personal == a.paired_personal
    assert [site.epsilon_personal for site in report.sites] == [None, None, None]
    assert [note.split(":")[1].strip() for note in report.notes if "answers with" in note] == ["training diverged"] * 2


def test_an_interrupted_run_goes_on_with_the_adapters_it_has_and_charges_no_site_twice(
    own: Run, base: Path, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    stop = Stop("personal rounds at b", 1)
    with pytest.raises(KeyboardInterrupt):
        simulate(data=sites, settings=settings(base), out=folder, options=SEEDED, observer=stop)
    assert {site: own_charges(folder, site) for site in "abc"} == {"a": [True], "b": [False], "c": []}
    report = resume(folder, options=SEEDED)
    assert {site: own_charges(folder, site) for site in "abc"} == {"a": [True], "b": [True], "c": [True]}
    assert own_factors(folder, "a") == own_factors(own.folder, "a")
    assert report.sites == tuple(
        site.model_copy(update={"seconds": again.seconds})
        for site, again in zip(own.report.sites, report.sites, strict=True)
    )
    assert report.overall == own.report.overall
    assert report.notes == own.report.notes


@pytest.mark.parametrize("rule", ["rolora", "fedsvd", "flora", "fedex"])
def test_other_rules_run_to_the_end(base: Path, sites: Path, tmp_path: Path, rule: str) -> None:
    more: dict[str, object] = {"federation.rule": rule, "privacy.noise": "none", "federation.rounds": 2}
    if rule == "fedsvd":
        more |= {"federation.server_optimizer": "momentum"}
    if rule in ("flora", "fedex"):
        more |= {
            "federation.server_optimizer": "none",
            "federation.server_learning_rate": 1.0,
            "federation.schedule": "constant",
            "secure_aggregation.enabled": False,
        }
    report = simulate(data=sites, settings=settings(base) | more, out=tmp_path / "run")
    assert report.overall["personal"].records == 36
    assert (tmp_path / "run" / "personal" / "a" / "adapter_model.safetensors").exists()
