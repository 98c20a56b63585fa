"""`yoriai site witness`: the way back for a site whose ledger's second place is lost."""

import json
from pathlib import Path

import pytest

from tests.commands import site, yoriai
from yoriai.client.cli.own_ledger import places_of
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import EXIT_REFUSED
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.ledger.ledger import Ledger

EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0)


@pytest.fixture
def north(tmp_path: Path) -> SiteFolder:
    """A site with one charge, whose second place is gone."""
    folder = SiteFolder(site(tmp_path / "north", "north"))
    path, place = places_of(folder)
    with Ledger.open(path, dataset="records", epsilon_budget=8.0, delta=1e-5, witness=place) as ledger:
        ledger.reserve("run-1", 2, EVENT)
    place.unlink()
    return folder


def test_it_says_how_far_the_ledger_goes_and_asks_before_anything_is_written(north: SiteFolder) -> None:
    path, place = places_of(north)
    before = path.read_bytes()
    done = yoriai("site", "witness", north.path, "--reason", "its disk died", answers="n\n")
    assert (done.code, "nothing was changed" in done.screen) == (EXIT_REFUSED, True)
    assert all(told in done.screen for told in ("data set records, 4 rows", "1 charges; the last is round 3 of run-1"))
    assert (path.read_bytes(), place.exists()) == (before, False)


def test_the_site_works_on_afterwards_and_its_budget_shows_the_operators_word(north: SiteFolder) -> None:
    assert "site witness DIR" in yoriai("site", "budget", north.path).screen.replace("\n", " ")
    done = yoriai("site", "witness", north.path, "--reason", "its disk died", "--yes")
    assert (done.code, "recorded as row 5" in done.screen) == (0, True)
    shown = " ".join(yoriai("site", "budget", north.path).screen.split())
    assert "its second place was lost; it was begun anew: its disk died" in shown
    screen = yoriai("site", "budget", north.path, "--json").screen
    (ledger,) = json.loads(screen[screen.index("{") :])["ledgers"]
    assert [(renewal["row"], renewal["reason"]) for renewal in ledger["witness_renewed"]] == [(5, "its disk died")]
    assert len(ledger["charges"]) == 1


def test_a_second_place_that_is_there_stays(north: SiteFolder) -> None:
    assert yoriai("site", "witness", north.path, "--reason", "its disk died", "--yes").code == 0
    again = yoriai("site", "witness", north.path, "--reason", "to be sure", "--yes")
    assert again.code != 0
    assert "is not lost" in again.screen
