"""When the present window still serves a round, by what is known of its members; whole runs: test_secure_windows.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.faulty import BASE_DIGEST, RUN_ID, small_job
from yoriai import wire
from yoriai.privacy.secagg import WindowTerms
from yoriai.server.round.windows import Windows, _Open

SITES = tuple("abcdef")


def windows(accepted: set[str], reachable: set[str], **state: Any) -> Windows:
    """A run's windows with one of six members and a quorum of five."""
    nobody: Any = SimpleNamespace(reachable=lambda: reachable)
    present: Any = SimpleNamespace(accepted=accepted)
    found = Windows(
        small_job(), base_digest=BASE_DIGEST, noise_multiplier=None, run_id=RUN_ID, directory=nobody,
        messenger=nobody, attendance=present, keys_s=1.0,
    )  # fmt: skip
    window: Any = SimpleNamespace(members=SITES, keys=SimpleNamespace(quorum=5))
    terms = WindowTerms(bytes(16), 0, 3, bytes(32), bytes(32))
    fields: dict[str, Any] = {"chosen": SITES, "absent": {}, "out_of_reach": set(), **state}
    found._open = _Open(window, terms, **fields)
    return found


@pytest.mark.parametrize(
    ("accepted", "reachable", "state", "serves"),
    [
        ("abcdef", "", {}, True),
        ("abcdef", "", {"used": 3}, False),
        ("abcde", "", {"lost": {"f"}}, True),  # It has declined the job since, and is not waited for.
        ("abcdef", "", {"lost": {"f"}}, False),
        ("abcd", "", {"lost": {"e", "f"}}, False),
        ("abcd", "", {}, False),
        ("abcdefg", "g", {"chosen": (*SITES, "g")}, False),
        ("abcdefg", "g", {"chosen": (*SITES, "g"), "absent": {"g": "late"}}, True),
        ("abcdefg", "", {"chosen": (*SITES, "g"), "absent": {"g": "away"}, "out_of_reach": {"g"}}, True),
        ("abcdefg", "g", {"chosen": (*SITES, "g"), "absent": {"g": "away"}, "out_of_reach": {"g"}}, False),
    ],
)
def test_a_window_serves_while_it_has_slots_enough_members_and_all_that_should_be_in_it(
    accepted: str, reachable: str, state: dict[str, Any], serves: bool
) -> None:
    chosen = windows(set(accepted), set(reachable), **state).chosen()
    assert (chosen is not None) == serves


def test_members_that_have_no_keys_are_lost_and_others_that_refuse_are_not() -> None:
    run = windows(set(SITES), set())
    assert run._open is not None
    flags: dict[str, dict[str, bool]] = {"a": {"unknown_job": True}, "b": {"unknown_window": True}, "c": {}}
    run._open.note({s: wire.Refusal(run_id=RUN_ID, site=s, reason="no", **more) for s, more in flags.items()})
    assert run._open.lost == {"a", "b"}
