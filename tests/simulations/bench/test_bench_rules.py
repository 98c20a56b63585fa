"""The benchmark of the rules: equal effort for each, jobs that fit, errors by hand, measurements that survive."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.world import job_settings, save_tiny_base, write_sites
from yoriai import cli
from yoriai.client.records.records import Record, SiteRecords
from yoriai.config import JobConfig, override
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations import scenarios
from yoriai.simulations.bench.rules import plan, run, tables, training
from yoriai.simulations.bench.rules.combining import combine_seconds
from yoriai.simulations.bench.rules.plan import Scale, Setting, Training
from yoriai.simulations.bench.rules.product_error import product_error
from yoriai.simulations.bench.rules.store import Measured, Store
from yoriai.simulations.scenarios import Scenario
from yoriai.simulations.scenarios.partition import read_sites
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import built_in_rules, get_rule

RULES = tuple(rule.name for rule in built_in_rules())


class Inline(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def one(rule: str = "core", *, epsilon: float | None = 8.0, setting: Setting | None = None, **more: Any) -> Training:
    chosen = setting or plan.first_settings(rule)[0]
    fields = {"data": "excavators", "kind": "federated", "seed": 0, "validation": True, "scale": Scale()} | more
    return Training(rule=rule, epsilon=epsilon, setting=chosen, **fields)


def measured(accuracy: float) -> Measured:
    return Measured({"a": round(100 * accuracy)}, {"a": 100}, 1.5, 10, 20, (1e-8, 1e-7))


@pytest.mark.parametrize("private", [True, False])
def test_every_rule_is_tuned_with_the_same_number_of_trainings(private: bool) -> None:
    for rule in RULES:
        first = plan.first_settings(rule)
        last = plan.last_settings(first[0], private=private)
        assert (len(set(first)), len(set(last) - set(first))) == (plan.FIRST_TRIALS, plan.LAST_TRIALS)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("epsilon", [None, 3.0])
def test_every_setting_of_the_search_is_a_job_that_fits(rule: str, epsilon: float | None) -> None:
    settings = plan.first_settings(rule)
    for setting in (*settings, *plan.last_settings(settings[-1], private=epsilon is not None)):
        job = plan.job_of(one(rule, epsilon=epsilon, setting=setting), ())
        check_fit(job)
        rate = job.training if setting.optimizer == "none" else job.federation
        assert setting.learning_rate in (rate.model_dump().get("learning_rate"), job.federation.server_learning_rate)
        assert (job.privacy.noise == "none") is (epsilon is None)
        assert job.privacy.clip_norm == setting.clip_norm


def test_where_steps_follow_the_clip_norm_the_rate_makes_up_for_it() -> None:
    for optimizer in ("momentum", "none"):
        for setting in plan.last_settings(Setting(optimizer, 3.0), private=True):
            assert setting.learning_rate * setting.clip_norm == pytest.approx(3.0)
    assert {s.learning_rate for s in plan.last_settings(Setting("adam", 0.1), private=True)} == {0.1}


def test_product_error_by_hand() -> None:
    # One map, rank 1: A = (1 0), B = (1 0)ᵀ. Site s adds 1 to A's second and B's second entry, site t nothing.
    # fedavg: A = (1 ½), B = (1 ½)ᵀ, product [1 ½; ½ ¼]. True mean: ½ [1 1; 1 1] + ½ [1 0; 0 0] = [1 ½; ½ ½].
    # Off by ¼; the mean product has norm sqrt(1 + 3/4), and moved by sqrt(3/4).
    def state(a: list[float], b: list[float]) -> AdapterState:
        return AdapterState({"m:A": np.array([a], np.float64), "m:B": np.array(b, np.float64)[:, None]})

    current = state([1, 0], [1, 0])
    updates = {"s": (1.0, state([0, 1], [0, 1])), "t": (1.0, state([0, 0], [0, 0]))}
    assert product_error(get_rule("fedavg"), current, updates, 0) == pytest.approx((0.25 / 1.75**0.5, 0.25 / 0.75**0.5))
    assert max(product_error(get_rule("fedex"), _with_remainder(current), updates, 0)) < 1e-6


def _with_remainder(state: AdapterState) -> AdapterState:
    return AdapterState({**state.tensors, "m:W": np.zeros((2, 2), np.float32)})


def test_measurements_come_back_and_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "trainings.jsonl"
    Store(path).put(one("core"), measured(0.5))
    Store(path).put(one("ffa"), measured(0.25))
    path.write_text(path.read_text()[:-30])
    again = Store(path)
    assert again.get(one("core")) == measured(0.5)
    assert again.get(one("ffa")) is None
    assert again.get(one("core", epsilon=3.0)) is None


def test_a_measurement_after_a_cut_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "trainings.jsonl"
    Store(path).put(one("core"), measured(0.5))
    path.write_text(path.read_text()[:-30])
    Store(path).put(one("ffa"), measured(0.25))
    assert Store(path).get(one("ffa")) == measured(0.25)


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trainings.jsonl"
    path.write_text('{"training": 1}\n{}\n')
    with pytest.raises(CheckpointError, match="line 1"):
        Store(path)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A scenario of three small sites and a tiny base."""
    base = save_tiny_base(tmp_path / "base")
    sites = read_sites(write_sites(tmp_path / "sites", {"east": 20, "north": 12, "west": 16}))
    labels = ["cabin", "engine", "pump"]
    settings = job_settings(base, **{"task.kind": "classify", "task.labels": labels, "privacy.delta": 1e-3})
    ready = Scenario("tiny", "", "", "", lambda seed=0, *, validation=False: sites, lambda: _tiny_job(settings))
    monkeypatch.setitem(scenarios.SCENARIOS, "tiny", ready)  # type: ignore[arg-type]
    monkeypatch.setattr(plan, "LORA_RANK", 4)
    monkeypatch.setattr(plan, "CORE_RANK", 4)
    training._sites.cache_clear()
    training._session.cache_clear()
    return "tiny"


def _tiny_job(settings: dict[str, object]) -> JobConfig:
    return override(JobConfig(name="tiny"), settings)


def test_a_rule_exact_on_paper_is_exact_in_a_training_and_fedavg_is_not(tiny: str) -> None:
    scale = Scale(layers="last:2", rounds=3)
    found = {}
    for rule in RULES:
        optimizer = "none" if get_rule(rule).server_optimizers == ("none",) else "momentum"
        result = training.measure(one(rule, data=tiny, setting=Setting(optimizer, 1.0), epsilon=None, scale=scale), 1)
        assert result.records == {"east": 12, "north": 12, "west": 12}
        assert result.product_error is not None
        found[rule] = result.product_error[0]
        assert (result.bytes_up, result.bytes_down) > (0, 0)
    assert found.pop("fedavg") > 1e-4
    assert max(found.values()) < 1e-5


def test_the_whole_benchmark_in_small_and_nothing_is_trained_twice(tiny: str, tmp_path: Path) -> None:
    said: list[str] = []
    asked = run.RulesPlan(tiny, ("core", "fedsvd"), (8.0,), 2, Scale(layers="last:1", rounds=2), 1, said.append)
    found = run.run(asked, Store(tmp_path / "t.jsonl"), Inline())
    kinds = [(result.kind, result.rule, len(result.finals)) for result in found.results]
    assert kinds == [("federated", "core", 2), ("federated", "fedsvd", 2), ("local", "core", 2), ("central", "core", 2)]
    trainings = 2 * (plan.FIRST_TRIALS + plan.LAST_TRIALS) + 4 * 2
    assert len(said) == trainings
    assert set(found.trained_nothing) == {"base", "majority", "naive_bayes_own", "naive_bayes_all"}
    again = run.run(asked, Store(tmp_path / "t.jsonl"), Inline())
    assert len(said) == trainings
    assert again.results == found.results

    document = json.loads(json.dumps(tables.as_json(found, "yoriai bench rules", {"core": 0.1})))
    assert [entry["rule"] for entry in document["results"]] == ["core", "fedsvd", "core", "core"]
    assert document["results"][0]["accuracy"]["by_seed"] == [final.accuracy for final in found.results[0].finals]
    lines = tables.markdown(tables.rows(document["results"], document["trained_nothing"])).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "core",
        "fedsvd",
        "core, alone",
        "core, one place",
        "untouched base",
        "naive Bayes, own",
        "naive Bayes, all",
        "commonest label",
    ]


def test_the_search_takes_the_setting_that_was_most_accurate(tiny: str, tmp_path: Path) -> None:
    store, scale = Store(tmp_path / "t.jsonl"), Scale(layers="last:1", rounds=1)
    settings = plan.first_settings("core")
    for number, setting in enumerate(settings):
        store.put(one(data=tiny, setting=setting, scale=scale), measured(0.9 if number == 2 else 0.1))
    for setting in plan.last_settings(settings[2], private=True):
        store.put(one(data=tiny, setting=setting, scale=scale), measured(0.5))
    asked = run.RulesPlan(tiny, ("core",), (8.0,), 1, scale, 1, lambda _: None)
    assert {result.setting for result in run.run(asked, store, Inline()).results} == {settings[2]}


def test_combining_is_timed_for_every_rule_of_sums() -> None:
    seconds = combine_seconds(200_000, repeats=1)
    assert set(seconds) == {"core", "fedavg", "fedsvd", "ffa", "rolora"}
    assert min(seconds.values()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "nope"), "no such scenario; found 'nope'; expected commands or excavators"),
        (("--rule", "fedavgg"), 'did you mean "fedavg"?'),
        (("--epsilon", "much"), "--epsilon; found much"),
    ],
)
def test_bad_options_are_refused_before_anything_is_made(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["yoriai", "bench", "rules", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_setting_in_place_of_the_search_is_that_of_every_training() -> None:
    assert plan.setting_of("momentum:0.3:2") == Setting("momentum", 0.3, 2.0)
    for wrong in ("adam", "adam:x:1", "adam:1:2:3"):
        with pytest.raises(ConfigError, match="--setting"):
            plan.setting_of(wrong)


def test_distributed_noise_needs_all_sites_and_the_secure_sum_and_only_the_federation_has_it() -> None:
    sites = tuple(
        SiteRecords(name, (Record(prompt="p", response="r"),) * count, ()) for name, count in (("a", 6), ("b", 9))
    )
    scale = Scale(noise="distributed")
    shared = plan.job_of(one("core", scale=scale), sites)
    assert (shared.privacy.noise, shared.secure_aggregation.enabled) == ("distributed", True)
    assert (shared.federation.min_sites, shared.training.records_per_weight) == (2, 8)
    check_fit(shared)
    for kind in ("central", "central_rdp", plan.FEDERATED_LOCAL):
        other = plan.job_of(one("core", scale=scale, kind=kind), sites)
        assert other.privacy.noise == "local"
        assert other.privacy.accountant == ("rdp" if kind == "central_rdp" else "pld")


def test_records_dealt_out_anew_are_all_there_and_tests_are_measured_once() -> None:
    own, dealt = (training._sites("excavators", 0, False, sites) for sites in (None, 50))
    assert len(dealt) == 50
    for part in ("train", "test"):
        before, after = (sorted(r.prompt for s in sites for r in getattr(s, part)) for sites in (own, dealt))
        assert before == after
