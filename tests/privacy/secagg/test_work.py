"""Work that the parties of one process share: the same bytes, errors of each one's own, secrets for two alone."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.privacy.secagg.cohort import Cohort, Round
from yoriai.client.site_identity import SiteIdentity
from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.member import Member
from yoriai.privacy.secagg.work import OwnWork, SharedWork


class Sharing(Cohort):
    """A cohort in one process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.work = SharedWork()

    def member(self, i: int) -> Member:
        return replace(super().member(i), work=self.work)


def test_shared_work_sends_and_opens_the_same_bytes() -> None:
    games = [Round(cohort((1,) * 5), {"mask": [2]}) for cohort in (Cohort, Sharing)]
    for opened in ([game.run() for game in games], [game.next() for game in games]):
        assert games[0].sent == games[1].sent
        assert np.array_equal(*(one.levels for one in opened if one is not None))


def test_the_secrets_of_a_pair_are_forgotten_when_both_ends_have_them() -> None:
    cohort = Sharing((1,) * 5)
    Round(cohort).run()
    assert not cohort.work._ends


def test_a_forgery_is_refused_by_each_party_and_spoils_nothing_for_the_next() -> None:
    def tampered(stage: str, site: int, payload: bytes) -> bytes:
        return payload[:-1] + bytes([payload[-1] ^ 1]) if (stage, site) == ("advertise", 3) else payload

    game = Round(Sharing((1,) * 5), tamper=tampered)
    with pytest.raises(ProtocolError):
        game.run()
    assert set(game.sent["sign keys"]) == {0, 1, 2}


def test_what_fails_is_asked_again() -> None:
    work, asked = SharedWork(), []

    def fails() -> None:
        asked.append(1)
        raise ProtocolError("no")

    for _ in range(2):
        with pytest.raises(ProtocolError):
            work.once("key", fails)
    assert asked == [1, 1]


def test_simulations_alone_share_work() -> None:
    """A deployed site's work is its own: nothing but a simulation makes the other kind."""
    root = Path(__file__).parents[3]
    named = {
        path.resolve().relative_to(root).parts[0]
        for folder in ("client", "privacy", "server", "simulations", "strategies", "yoriai")
        for path in (root / folder).rglob("*.py")
        if path.name != "work.py" and "SharedWork(" in path.read_text(encoding="utf-8")
    }
    assert named == {"simulations"}
    assert [one.default_factory for one in fields(SiteIdentity) if one.name == "work"] == [OwnWork]
