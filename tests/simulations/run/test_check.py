"""`job check` foretells what a run then really spends and moves."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.simulations.conftest import Run
from tests.world import job_settings
from yoriai.config import JobConfig
from yoriai.errors import RecordError
from yoriai.simulations.check.job_check import Check, check, print_check
from yoriai.simulations.experiment.experiment import DataSource
from yoriai.simulations.run.api import simulate

# Names and numbers of a message's header differ in length by a few characters.
HEADER_SLACK = 40


def checked(base: Path, sites: Path, **more: object) -> Check:
    """The tiny job, looked at."""
    return check(JobConfig(name="tiny"), DataSource(sites), job_settings(base) | more)


def shown(found: Check, width: int = 80) -> str:
    """What the terminal shows."""
    console = Console(file=io.StringIO(), width=width)
    print_check(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_it_foretells_noise_epsilon_and_bytes_of_the_run(run: Run, base: Path, sites: Path) -> None:
    found, report = checked(base, sites), run.report
    assert found.noise_multiplier == report.privacy.noise_multiplier
    assert all(site.epsilon == pytest.approx(found.epsilon) for site in report.sites)
    assert found.epsilon is not None
    assert found.epsilon_with_spares is not None
    assert found.epsilon < found.epsilon_with_spares <= 8.0
    assert found.n_params == report.adapter.parameters_trained


def test_it_says_how_many_such_jobs_a_sites_default_budget_bears(base: Path, sites: Path) -> None:
    found = checked(base, sites)
    assert f"{found.jobs_that_fit} such jobs fit the default budget of a site, epsilon 16" in " ".join(
        shown(found).split()
    )
    dear = checked(base, sites, **{"privacy.epsilon": 15.9})
    assert dear.jobs_that_fit == 1
    assert "1 such job fit" in (said := " ".join(shown(dear).split()))
    assert "it is meant for 3" in said


def test_it_foretells_the_bytes_of_rounds_in_the_clear(base: Path, sites: Path, tmp_path: Path) -> None:
    plain = {"secure_aggregation.enabled": False, "federation.rounds": 2}
    found = checked(base, sites, **plain)
    report = simulate(data=sites, settings=job_settings(base) | plain, out=tmp_path / "run")
    # The first round carries the offer.
    first, second = report.rounds
    assert second.bytes_up == pytest.approx(3 * found.traffic.bytes_up, abs=3 * HEADER_SLACK)
    assert second.bytes_down == pytest.approx(3 * found.traffic.bytes_down, abs=3 * HEADER_SLACK)
    offered = first.bytes_down - second.bytes_down
    assert offered == pytest.approx(3 * found.traffic.bytes_offer, abs=3 * HEADER_SLACK)


def test_it_foretells_the_size_of_a_masked_update(base: Path, sites: Path, run: Run) -> None:
    found = checked(base, sites)
    # Weights 3, 2 and 2 add up to 7, which takes three bits more than the sixteen of one value.
    assert found.traffic.word_bits == 19
    assert f"words of {found.traffic.word_bits} bits" in " ".join(shown(found).split())
    masked = 3 * found.traffic.bytes_up
    assert masked < run.report.rounds[-1].bytes_up < masked + 3 * 10_000


def test_the_screen_holds_every_figure_and_fits_80_columns(base: Path, sites: Path) -> None:
    found = checked(base, sites)
    text = shown(found)
    assert all(len(line) <= 80 for line in text.splitlines())
    flat = " ".join(text.split())
    assert f"noise multiplier {found.noise_multiplier:.4f}" in flat
    assert f"epsilon {found.epsilon:.3f} for 3 rounds, {found.epsilon_with_spares:.3f} with 1 spare" in flat
    assert "masking 16 bits a value" in flat
    for line in ("a 30 12 3 0", "b 24 12 2 0", "c 20 12 2 0"):
        assert f"{line} {found.epsilon:.3f} 1e-05" in flat


def test_a_comparison_that_cannot_be_made_is_left_out_and_the_check_passes(base: Path, sites: Path) -> None:
    """Distributed noise has a largest variance; a job whose noise is local has no use for it."""
    found = checked(base, sites, **{"privacy.epsilon": 1e-4})
    assert found.modes is None
    text = " ".join(shown(found).split())
    assert "noise on the sum" not in text
    assert f"noise multiplier {found.noise_multiplier:.4f}" in text
    assert checked(base, sites).modes is not None


def test_at_a_tiny_delta_the_noise_is_what_theory_asks_for_and_rdp_is_named(base: Path, sites: Path) -> None:
    usual, tiny = checked(base, sites), checked(base, sites, **{"privacy.delta": 1e-15})
    assert usual.noise_multiplier is not None
    assert tiny.noise_multiplier is not None
    assert usual.noise_multiplier < tiny.noise_multiplier < 3 * usual.noise_multiplier
    assert (usual.accountant, tiny.accountant) == ("pld", "rdp")


def test_without_privacy_it_says_so(base: Path, sites: Path) -> None:
    found = checked(base, sites, **{"privacy.noise": "none"})
    assert (found.noise_multiplier, found.epsilon, found.epsilon_with_spares) == (None, None, None)
    assert "no differential privacy" in shown(found)


def test_cut_records_are_counted_for_each_site(base: Path, sites: Path) -> None:
    found = checked(base, sites, **{"task.max_tokens": 12, "task.template": "{prompt}: it is"})
    assert all(0 < cut <= count for cut, count in zip(found.findings.cut, (42, 36, 32), strict=True))
    assert f"{sum(found.findings.cut)} of 110 records are longer than 12 tokens" in " ".join(shown(found).split())


def test_a_fault_of_a_record_names_its_site_and_place(base: Path, sites: Path) -> None:
    with pytest.raises(RecordError, match=r"site a: .*train.jsonl line \d+: a label outside the set"):
        checked(base, sites, **{"task.labels": ["cabin", "engine"]})


def test_nothing_is_written(base: Path, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked(base, sites)
    assert list(tmp_path.iterdir()) == []


def test_rules_whose_factors_take_turns_are_counted_at_most(base: Path, sites: Path) -> None:
    core, both = checked(base, sites), checked(base, sites, **{"federation.rule": "fedavg"})
    ffa = checked(base, sites, **{"federation.rule": "ffa"})
    assert core.traffic.bytes_up < ffa.traffic.bytes_up < both.traffic.bytes_up
    assert core.n_params == 14 * 4 * 4
