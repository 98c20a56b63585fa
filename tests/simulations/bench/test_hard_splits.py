"""The work orders dealt out the hard way: what each split promises, on small records and with the real ones."""

from collections import Counter
from pathlib import Path

import pytest

from tests.commands import yoriai
from yoriai.client.records.records import Record, SiteRecords, read_sites
from yoriai.config import load_job
from yoriai.simulations.bench.hard_splits import MANY, SPLITS, disjoint, fifty, one_label, write_splits
from yoriai.simulations.experiment.experiment import DataSource, resolve
from yoriai.simulations.scenarios.excavators import excavators


def _sites() -> tuple[SiteRecords, ...]:
    """Two machines: 180 training and 60 test records of six labels, the first label twice as often as another."""
    labels = [f"label {number % 7 % 6}" for number in range(240)]
    records = [Record(prompt=f"text {number}", response=label) for number, label in enumerate(labels)]
    return (
        SiteRecords("A", tuple(records[:60]), tuple(records[180:190])),
        SiteRecords("B", tuple(records[60:180]), tuple(records[190:])),
    )


def _all(sites: tuple[SiteRecords, ...], part: str) -> Counter[Record]:
    return Counter(record for site in sites for record in getattr(site, part))


def test_fifty_sites_have_all_records_and_about_as_many_each() -> None:
    dealt = fifty(_sites())
    assert len(dealt) == MANY
    assert {len(site.train) for site in dealt} == {3, 4}
    assert {len(site.test) for site in dealt} == {1, 2}
    assert all(_all(dealt, part) == _all(_sites(), part) for part in ("train", "test"))


def test_the_commonest_label_is_trained_at_the_largest_machine_alone() -> None:
    small, large = one_label(_sites())
    assert "label 0" not in {record.response for record in small.train}
    assert large == _sites()[1]
    assert small.test == _sites()[0].test
    assert len(small.train) == sum(record.response != "label 0" for record in _sites()[0].train)


def test_no_two_sites_train_on_one_label_and_all_are_tested() -> None:
    dealt = disjoint(_sites())
    holders = Counter(label for site in dealt for label in {record.response for record in site.train})
    assert set(holders.values()) == {1}
    assert len(holders) == 6
    assert [len({record.response for record in site.train}) for site in dealt] == [3, 3]
    assert all(len({record.response for record in site.test}) == 6 for site in dealt)
    assert all(_all(dealt, part) == _all(_sites(), part) for part in ("train", "test"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    write_splits(folder)
    return folder


@pytest.mark.parametrize(("split", "trained"), [("fifty", 1672), ("one-label", 1531), ("disjoint", 1672)])
def test_what_is_written_is_what_a_simulation_reads(split: str, trained: int, written: Path) -> None:
    read = read_sites(written / split)
    dealt = {site.name: site for site in SPLITS[split](excavators())}
    texts = {site.name: [[(r.prompt, r.response) for r in part] for part in (site.train, site.test)] for site in read}
    assert texts == {
        name: [[(r.prompt, r.response) for r in part] for part in (site.train, site.test)]
        for name, site in dealt.items()
    }
    assert sum(len(site.train) for site in read) == trained


def test_the_job_leaves_open_what_the_task_decides(written: Path) -> None:
    experiment = resolve(load_job(written / "job.toml"), DataSource(written / "disjoint"), {"privacy.noise": "none"})
    assert experiment.job.trains_head
    assert experiment.job.federation.rounds == 12


def test_the_command_names_what_to_run_next_and_keeps_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "hard"
    done = yoriai("bench", "splits", folder)
    assert f"yoriai simulate {folder / 'job.toml'} --data {folder / 'fifty'} --noise distributed" in done.screen
    again = yoriai("bench", "splits", folder)
    assert again.code == 2
    assert f"{folder} exists" in again.screen
