"""The gate of a job, condition by condition: what is not known fails, and what is not asked is not looked at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.versions_made import statement
from yoriai.config import GateSection, job_digest, parse_job
from yoriai.errors import ConfigError, IdentityError
from yoriai.privacy.statements.counts_statement import CountsStatement
from yoriai.privacy.statements.version_statement import PrivacyFacts
from yoriai.server.versions.gate import Line, gate_lines
from yoriai.server.versions.metrics import Audit, Metrics, SiteScore, read_audit, read_metrics
from yoriai.server.versions.verdicts import Check, Verdict, drift

DIGEST = "ab" * 32
NOISED = PrivacyFacts("local", "record", 8.0, 1e-5, 1.0, None)
BARE = replace(NOISED, noise="none", epsilon=None, delta=None, noise_multiplier=None)


def measured(accuracy: float | None = None, **sites: tuple[float | None, float]) -> Metrics:
    scores = {name: SiteScore(before=before, after=after) for name, (before, after) in sites.items()}
    return Metrics(adapter_digest=DIGEST, accuracy=accuracy, sites=scores)


def lines(
    gate: GateSection,
    metrics: Metrics | None = None,
    production: Metrics | None = None,
    *,
    privacy: PrivacyFacts = NOISED,
    is_first: bool = False,
    votes: list[Verdict] | None = None,
) -> list[Line]:
    return gate_lines(gate, statement("v", privacy=privacy), metrics, production, is_first=is_first, votes=votes)


def test_a_gate_that_asks_nothing_has_no_line() -> None:
    assert lines(GateSection()) == []


@pytest.mark.parametrize(("most", "holds"), [(8.0, True), (7.9, False)])
def test_epsilon_is_held_against_the_jobs(most: float, holds: bool) -> None:
    (line,) = lines(GateSection(epsilon=most))
    assert (line.holds, str(line)) == (holds, f"gate.epsilon: found 8, expected at most {most:g}")


def test_a_job_without_noise_fails_whatever_epsilon_is_asked() -> None:
    (line,) = lines(GateSection(epsilon=1000.0), privacy=BARE)
    assert (line.holds, line.found) == (False, "no guarantee")


@pytest.mark.parametrize(("drop", "holds"), [(0.0, False), (0.01, False), (0.02, True)])
def test_accuracy_may_be_so_much_lower_than_productions_and_no_more(drop: float, holds: bool) -> None:
    (line,) = lines(GateSection(accuracy_drop=drop), measured(0.795), measured(0.81))
    assert line.holds is holds


@pytest.mark.parametrize(("mine", "theirs"), [(None, 0.8), (0.8, None)])
def test_an_accuracy_that_is_not_known_fails(mine: float | None, theirs: float | None) -> None:
    (line,) = lines(GateSection(accuracy_drop=1.0), measured(mine), measured(theirs))
    assert not line.holds
    assert not lines(GateSection(accuracy_drop=1.0), None, None)[0].holds


def test_the_first_version_of_production_has_only_to_be_measured() -> None:
    gate = GateSection(accuracy_drop=0.0)
    assert lines(gate, measured(0.1), is_first=True)[0].holds
    assert not lines(gate, None, is_first=True)[0].holds


def test_each_site_that_loses_too_much_is_a_line_of_its_own() -> None:
    mine = measured(0.9, north=(0.5, 0.80), south=(0.5, 0.70), west=(0.6, 0.61))
    theirs = measured(0.9, north=(None, 0.81), south=(None, 0.80))
    found = lines(GateSection(site_drop=0.02), mine, theirs)
    assert [line.found for line in found] == ["south 0.7000"]
    assert "0.8000 before" in found[0].expected  # Production's, and not the bare base's.
    assert [line.holds for line in lines(GateSection(site_drop=0.1), mine, theirs)] == [True]


def test_a_site_that_production_does_not_know_is_held_against_the_bare_base() -> None:
    (line,) = lines(GateSection(site_drop=0.0), measured(north=(0.62, 0.61)))
    assert not line.holds
    (line,) = lines(GateSection(site_drop=0.0), measured(north=(None, 0.61)))
    assert (line.holds, "not known" in line.expected) == (False, True)


def test_a_gate_for_sites_fails_where_no_site_was_measured() -> None:
    assert [line.holds for line in lines(GateSection(site_drop=0.5), measured(0.9))] == [False]


def test_a_gate_bears_on_no_digest_and_a_job_without_one_reads_as_before() -> None:
    bare = parse_job('schema = 1\nname = "a"\n')
    gated = parse_job('schema = 1\nname = "a"\n[gate]\naccuracy_drop = 0.01\nepsilon = 4.0\n')
    assert job_digest(bare, "00" * 32) == job_digest(gated, "00" * 32)
    assert "gate" not in bare.model_dump()
    assert gated.gate == GateSection(accuracy_drop=0.01, epsilon=4.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        f'{{"schema": 2, "adapter_digest": "{DIGEST}"}}',
        f'{{"schema": 1, "adapter_digest": "{DIGEST}", "accuracy": 1.1}}',
        f'{{"schema": 1, "adapter_digest": "{DIGEST}", "accuracy": NaN}}',
        f'{{"schema": 1, "adapter_digest": "{DIGEST}", "more": 1}}',
        '{"adapter": {}}',
    ],
)
def test_a_file_that_holds_no_metrics_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no metrics of a version"):
        read_metrics(path)


def test_a_runs_report_gives_the_accuracy_of_its_federated_adapter(tmp_path: Path) -> None:
    site = {"name": "north", "base": {"accuracy": 0.5}, "federated": {"accuracy": 0.75}}
    unmeasured = {"name": "south", "base": {"accuracy": 0.5}, "federated": None}
    report = {"adapter": {"digest": DIGEST}, "overall": {"federated": {"accuracy": 0.7}}, "sites": [site, unmeasured]}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    assert read_metrics(path) == measured(0.7, north=(0.5, 0.75))


# The audit.

AUDIT = Audit(
    epsilon_claimed=7.9,
    epsilon_lower=1.2,
    confidence=0.95,
    trained_by="core",
    noise="local",
    delta=1e-5,
    refuted=False,
    control_holds=True,
)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"epsilon_lower": 8.1}, False),
        ({"epsilon_claimed": 12.0}, False),
        ({"refuted": True}, False),
        ({"control_holds": False}, False),
        ({"trained_by": "head"}, False),
        ({"noise": "distributed"}, False),
        ({"delta": 1e-6}, False),
    ],
)
def test_an_audits_bound_may_not_be_above_the_jobs_epsilon_and_must_be_of_its_settings(
    changes: dict[str, object], holds: bool
) -> None:
    (line,) = lines(
        GateSection(audit=True), measured(0.8).model_copy(update={"audit": AUDIT.model_copy(update=changes)})
    )
    assert line.holds is holds, str(line)


def test_a_gate_that_asks_for_an_audit_fails_without_one_and_without_noise() -> None:
    (line,) = lines(GateSection(audit=True), measured(0.8))
    assert (line.holds, line.found) == (False, "not known")
    known = measured(0.8).model_copy(update={"audit": AUDIT})
    assert not lines(GateSection(audit=True), known, privacy=BARE)[0].holds


def test_an_audit_is_read_from_what_the_command_writes(tmp_path: Path) -> None:
    settings = {"rule": "core", "noise": "local", "delta": 1e-5, "rounds": 3}
    found = {"epsilon_ledger": 7.9, "epsilon_lower_white_box": 0.4, "epsilon_lower_black_box": 1.2, "confidence": 0.95}
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({**found, "refuted": False, "control_holds": True, "settings": settings}))
    assert read_audit(path) == AUDIT
    whole = {**found, "refuted": False, "control_holds": True, "settings": settings}
    path.write_text(json.dumps(whole | {"epsilon_lower_black_box": float("nan")}))
    with pytest.raises(ConfigError, match="holds no audit"):
        read_audit(path)
    path.write_text(json.dumps({**found, "settings": settings}))
    with pytest.raises(ConfigError, match="holds no audit"):
        read_audit(path)


# Votes.


def votes(*pairs: tuple[int, int], deviation: float = 2.0) -> list[Verdict]:
    return [Verdict(f"site-{n}", gained, lost, deviation) for n, (gained, lost) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        (votes((5, 1), (3, 2)), True),
        (votes((5, 1)), False),  # Too few sites.
        (votes((0, 3), (1, 3)), True),  # 5 lost, with noise of 4: within what chance explains.
        (votes((0, 5), (1, 4)), False),  # 8 lost.
        ([], False),
    ],
)
def test_sites_must_have_voted_and_not_have_found_it_worse_than_their_noise_explains(
    given: list[Verdict], holds: bool
) -> None:
    (line,) = lines(GateSection(votes=2), votes=given)
    assert line.holds is holds, str(line)


def test_no_site_can_say_a_noise_with_which_nothing_can_be_added_up() -> None:
    said = {"federation": "miyagi", "site": "north", "purpose": "vote", "run_id": "r", "adapter_digest": DIGEST}
    figures = {"number": 1, "period": 0, "first": 0, "second": 0, "epsilon": 0.5, "delta": 1e-5}
    with pytest.raises(IdentityError):
        CountsStatement(**said, **figures, deviation=1e200)  # type: ignore[arg-type]
    largest = CountsStatement(**said, **figures, deviation=2.0**52)  # type: ignore[arg-type]
    assert lines(GateSection(votes=1), votes=[Verdict("north", 0, 0, largest.deviation)] * 1000)[0].holds


def test_where_no_vote_can_be_there_yet_none_is_asked_for() -> None:
    assert lines(GateSection(votes=2), votes=None) == []


# Drift.


def checked(period: int, *pairs: tuple[int, int], deviation: float = 2.0) -> Check:
    return Check(period, 0.0, tuple(votes(*pairs, deviation=deviation)), ())


def test_a_check_that_fell_by_more_than_chance_and_noise_is_drift() -> None:
    first = checked(1, (90, 10), (80, 20))
    found = drift([first, checked(2, (88, 12), (80, 20)), checked(3, (70, 30), (60, 40))])
    assert found is not None
    assert (round(found[0], 2), 0 < found[1] < 0.1) == (0.2, True)


@pytest.mark.parametrize(
    "last",
    [
        checked(2, (88, 12), (75, 25)),
        checked(2, (70, 30), (60, 40), deviation=60.0),  # The noise could be all of it.
        checked(2),
        checked(2, (-5, 2), (1, -3)),
    ],
)
def test_what_chance_or_noise_explains_or_nobody_has_said_is_no_drift(last: Check) -> None:
    assert drift([checked(1, (90, 10), (80, 20)), last]) is None
    assert drift([last]) is None


def test_drift_is_seen_over_the_sites_that_answered_both_times() -> None:
    """The second site is worse, and was not there at first."""
    assert drift([checked(1, (90, 10)), checked(2, (90, 10), (10, 90))]) is None
