"""The in-process engine: what it hands over, in which order, and what a failing site looks like."""

import logging
from pathlib import Path

import pytest

from yoriai.client.records.records import SiteRecords
from yoriai.client.site.personal import personal_event
from yoriai.config import JobConfig, override
from yoriai.privacy.dp.randomness import RandomSource, SeededSource, SystemSource
from yoriai.simulations.engines.in_process import InProcessTransport
from yoriai.simulations.engines.site_spec import SiteSpec
from yoriai.simulations.experiment.experiment import event_of, noise_multiplier

JOB = override(JobConfig(name="small"), {"privacy.epsilon": 3.0, "privacy.delta": 1e-6, "federation.min_sites": 3})


def spec(folder: Path, *, name: str = "north", noise_seed: bytes | None = None, **settings: object) -> SiteSpec:
    job = override(JOB, {key.replace("__", "."): value for key, value in settings.items()})
    path = folder / "ledgers" / "site.sqlite"
    return SiteSpec(
        job, SiteRecords(name, (), ()), path, event=event_of(job, noise_multiplier(job)), noise_seed=noise_seed
    )


def test_replies_come_back_by_site_and_sites_are_asked_in_order_of_names() -> None:
    asked = []

    def handler(name: str, data: bytes) -> bytes:
        asked.append(name)
        return data + name.encode()

    transport = InProcessTransport({name: lambda data, name=name: handler(name, data) for name in "cab"})
    assert transport.sites() == ("a", "b", "c")
    assert transport.exchange("train", {"c": b"3", "a": b"1"}, 1.0) == {"a": b"1a", "c": b"3c"}
    assert asked == ["a", "c"]


def test_site_that_raises_is_a_missing_reply_and_its_words_stay_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing(data: bytes) -> bytes:
        raise RuntimeError("the pump of machine A leaks")

    transport = InProcessTransport({"a": failing, "b": lambda data: data})
    with caplog.at_level(logging.ERROR):
        assert transport.exchange("train", {"a": b"1", "b": b"2"}, 1.0) == {"b": b"2"}
    assert "site a failed in stage train: RuntimeError" in caplog.text
    assert "pump" not in caplog.text


def test_interruption_is_not_taken_for_a_failing_site() -> None:
    def interrupted(data: bytes) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InProcessTransport({"a": interrupted}).exchange("train", {"a": b"1"}, 1.0)


def test_time_inside_the_sites_is_booked_by_site(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("yoriai.simulations.engines.in_process.time.monotonic", lambda: now)

    def slow(data: bytes) -> bytes:
        nonlocal now
        now += 2.5
        return data

    transport = InProcessTransport({"a": slow, "b": slow, "c": slow})
    transport.exchange("offer", {"a": b"", "b": b""}, 1.0)
    transport.exchange("train", {"a": b""}, 1.0)
    assert transport.seconds == {"a": 5.0, "b": 2.5, "c": 0.0}


def test_progress_tells_stage_and_sites_done() -> None:
    told: list[tuple[str, int, int]] = []
    transport = InProcessTransport(
        {"a": lambda data: data, "b": lambda data: data}, on_site=lambda *values: told.append(values)
    )
    transport.exchange("train", {"a": b"", "b": b""}, 1.0)
    assert told == [("train", 0, 2), ("train", 1, 2), ("train", 2, 2)]


def test_policy_of_a_simulated_site_allows_what_its_job_asks_and_no_more(tmp_path: Path) -> None:
    policy = spec(tmp_path).site_config().policy
    assert (policy.epsilon_budget, policy.delta, policy.min_sites) == (3.0, 1e-6, 3)
    assert not policy.allow_no_privacy
    assert spec(tmp_path, privacy__noise="none").site_config().policy.allow_no_privacy


def test_budget_holds_the_job_with_its_spare_rounds_and_the_personal_adapter_as_a_ledger_adds_them(
    tmp_path: Path,
) -> None:
    own = spec(tmp_path, personal__rounds=2, federation__rounds=3)
    alone, round_of_job = personal_event(own.job), event_of(own.job, noise_multiplier(own.job))
    assert alone is not None
    assert round_of_job is not None
    with own.open_ledger() as ledger:
        for index in range(4):
            ledger.reserve("run", index, round_of_job)
        ledger.approve("run/personal", alone, 1)
        ledger.reserve("run/personal", 0, alone)
        assert ledger.spent() == pytest.approx(own.epsilon_budget())
    assert own.site_config().policy.epsilon_budget == own.epsilon_budget() > 3.0


def test_budget_is_the_jobs_alone_without_a_personal_adapter_or_without_privacy(tmp_path: Path) -> None:
    assert spec(tmp_path).epsilon_budget() == 3.0
    assert spec(tmp_path, personal__rounds=2, privacy__noise="none").epsilon_budget() == 3.0


def test_noise_is_the_systems_own_unless_a_test_seeds_it(tmp_path: Path) -> None:
    assert isinstance(spec(tmp_path).randomness("run", 0), SystemSource)
    assert isinstance(spec(tmp_path, noise_seed=b"x").randomness("run", 0), SeededSource)


def test_seeded_noise_is_of_the_site_and_the_round_and_not_of_the_run(tmp_path: Path) -> None:
    def draw(source: RandomSource) -> bytes:
        return source.gaussian(8).tobytes()

    same = {draw(spec(tmp_path, noise_seed=b"x").randomness(run, 0)) for run in ("run-1", "run-2")}
    assert len(same) == 1
    others = {
        draw(spec(tmp_path, noise_seed=b"x", name="south").randomness("run-1", 0)),
        draw(spec(tmp_path, noise_seed=b"x").randomness("run-1", 1)),
        draw(spec(tmp_path, noise_seed=b"y").randomness("run-1", 0)),
    }
    assert len(same | others) == 4


def test_ledger_is_made_with_its_folder_at_the_jobs_budget(tmp_path: Path) -> None:
    with spec(tmp_path).open_ledger() as ledger:
        assert ledger.spent() == 0.0
    assert spec(tmp_path).ledger_path.is_file()
