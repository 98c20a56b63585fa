"""`job suggest`: whose records it takes, when it moves a default, and a file that a job can be run from."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.commands import yoriai
from tests.world import WORDS, save_tiny_base, write_sites
from yoriai.config import JobConfig, load_job, override, parse_job
from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.simulations.experiment.experiment import DataSource
from yoriai.simulations.experiment.observers import Silent
from yoriai.simulations.report.report import Change
from yoriai.simulations.suggest.job_file import job_file
from yoriai.simulations.suggest.trials import Proposal, Split, Suggestion, Tried, check_public, suggest

SECRET = "zzsecret"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites of classify records, and test records that no trial may look at."""
    folder = write_sites(tmp_path_factory.mktemp("data") / "sites", {"a": 80, "b": 60})
    for site in folder.iterdir():
        (site / "test.jsonl").write_text(json.dumps({"prompt": SECRET, "response": "cabin"}) + "\n")
    return folder


def small(base: Path, **more: object) -> JobConfig:
    """A job on the tiny base that leaves open what is tried."""
    settings: dict[str, object] = {"base.model": str(base), "speed.threads": 1, "task.kind": "classify"}
    settings |= {"task.labels": tuple(WORDS), "deadlines.gather_s": 0.0, "head.directions": 8, "head.words": 32}
    return override(JobConfig(name="tiny"), settings | more)


@pytest.fixture(scope="module")
def found(base: Path, sites: Path) -> Suggestion:
    """The trials over rounds and rate of a small head, whole."""
    return suggest(DataSource(path=sites), Silent(), declared_public=True, job=small(base), minutes=60)


def test_records_that_nobody_declared_public_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not declared public") as caught:
        check_public(DataSource(path=tmp_path / "nothing"), declared=False)
    assert "no epsilon covers what is suggested" in str(caught.value)
    assert "--declared-public" in caught.value.remedy
    check_public(DataSource(), declared=False)  # A scenario is public.


def test_the_command_refuses_them_too_and_writes_nothing(sites: Path, tmp_path: Path) -> None:
    done = yoriai("job", "suggest", tmp_path / "job.toml", "--data", sites)
    assert done.code == EXIT_BAD_INPUT
    assert not (tmp_path / "job.toml").exists()


def test_what_the_job_names_stays_and_is_not_tried(found: Suggestion, base: Path) -> None:
    tried = {proposal.key for proposal in found.proposals}
    assert tried == {"federation.rounds", "federation.server_learning_rate"}
    assert (found.job.head.directions, found.job.base.model) == (8, str(base))


def test_held_out_records_come_from_training_and_the_test_records_are_put_away(found: Suggestion) -> None:
    assert (found.train, found.validation) == (112, 28)


def test_a_default_moves_only_where_another_value_is_better_beyond_chance(found: Suggestion) -> None:
    for proposal in found.proposals:
        better = [one for one in proposal.tried if one.change is not None and one.change.low > 0]
        assert proposal.is_default == (not better)
        assert proposal.value in ([one.value for one in better] or [proposal.value])
        assert len(proposal.tried) == 2


def test_the_file_is_a_job_with_the_proposals_and_tells_of_each_what_was_tried(found: Suggestion) -> None:
    text = job_file(found, "the tests' own records")
    job = parse_job(text)
    rounds = next(one for one in found.proposals if one.key == "federation.rounds")
    assert job.federation.rounds == rounds.value
    assert job.task.labels == found.job.task.labels
    assert " ".join(line.removeprefix("# ") for line in text.splitlines()).count("95 % interval") == 2
    assert "per record (add or remove one record)" in " ".join(text.replace("#", " ").split())


def test_no_record_stands_in_the_file(found: Suggestion, sites: Path) -> None:
    text = job_file(found, "the tests' own records")
    prompts = {json.loads(line)["prompt"] for path in sites.rglob("*.jsonl") for line in path.read_text().splitlines()}
    assert SECRET in prompts
    assert [prompt for prompt in prompts if prompt in text] == []


def test_with_no_time_left_one_trial_is_made_and_the_rest_is_said_to_be_left_out(base: Path, sites: Path) -> None:
    ticking: Iterator[int] = count(0, 100)
    found = suggest(
        DataSource(path=sites),
        Silent(),
        declared_public=True,
        job=small(base, **{"federation.rounds": 2}),
        minutes=0,
        clock=lambda: float(next(ticking)),
    )
    assert [proposal.tried for proposal in found.proposals] == [()]
    assert len(found.proposals[0].left_out) == 2
    assert found.split is None
    assert "No time for" in job_file(found, "records")


def _fake(found: Suggestion, *proposals: Proposal, **changes: Any) -> str:
    return job_file(replace(found, proposals=proposals, **changes), "records")


def test_a_rate_that_the_task_chooses_stays_open_and_one_that_won_is_named(found: Suggestion) -> None:
    key, change = "federation.server_learning_rate", Change(change=0.1, low=0.05, high=0.15)
    rate = Proposal(key, 5.0, True, (Tried(10.0, Change(change=0.0, low=-0.1, high=0.1)),))
    assert "\n#server_learning_rate = 5.0\n" in _fake(found, rate)
    assert "\nserver_learning_rate = 10.0\n" in _fake(found, Proposal(key, 10.0, False, (Tried(10.0, change),)))


def test_epsilon_is_split_where_a_sites_own_adapter_is_worth_it(found: Suggestion) -> None:
    change = Change(change=0.1, low=0.05, high=0.15)
    job = parse_job(_fake(found, split=Split(6.0, 2.0, change)))
    assert (job.privacy.epsilon, job.personal.epsilon, job.personal.rounds) == (6.0, 2.0, 4)
    whole = parse_job(_fake(found, split=Split(8.0, 0.0, change)))
    assert (whole.privacy.epsilon, whole.personal.rounds) == (8.0, 0)


def test_too_few_records_to_tell_settings_apart_are_refused(base: Path, tmp_path: Path) -> None:
    few = write_sites(tmp_path / "few", {"a": 30, "b": 30})
    with pytest.raises(ConfigError, match="too few records"):
        suggest(DataSource(path=few), Silent(), declared_public=True, job=small(base))


def test_the_command_writes_a_file_that_job_files_readers_take(base: Path, sites: Path, tmp_path: Path) -> None:
    tables = small(base, **{"federation.rounds": 2}).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "own.toml").write_text(tomli_w.dumps({"schema": 1, **tables}))
    out = tmp_path / "job.toml"
    command = ("job", "suggest", out, "--data", sites, "--declared-public", "--job", tmp_path / "own.toml")
    done = yoriai(*command, "--minutes", 0)
    assert done.code == 0, done.screen
    assert load_job(out).federation.rounds == 2
    assert yoriai(*command).code == EXIT_BAD_INPUT  # It exists.
