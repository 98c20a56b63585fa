"""How a reader walks through one masked round of a site: a trace of `Site.handle`, which seldom turns back.

    python -m tests.simulations.test_round_path     the walk, and its count

Counted within `client/`, each function at its first call: the libraries below (`privacy/`, `strategies/`) answer and
come back, which a reader need not follow. A turn back is a step into a file that the walk was in before. There were 24
when a site handed five callables to its secure rounds, which called back; gradients that the tail's maps leave, pieces
that are halved where memory runs out, and the threads that a round has, have added some.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from tests.simulations.miniature import Miniature
from tests.simulations.secure_world import Dropping, World

MOST_TURNS_BACK = 33


def walk(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call returns, and the files below `yoriai/client/` that it steps into, in order."""
    seen: set[object] = set()
    files: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        place = code.co_filename.partition("/yoriai/client/")[2]
        if event == "call" and place and code not in seen and not code.co_name.startswith("<"):
            seen.add(code)
            files.append(place)

    sys.setprofile(note)
    try:
        result = call()
    finally:
        sys.setprofile(None)
    return result, [file for file, _ in groupby(files)]


class Walked(Dropping):
    """Notes the walk of one site through its second masked update."""

    walked: list[str]

    def exchange(self, stage: str, payloads: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        if stage != "mask" or self.stages.count("mask") != 1:
            return super().exchange(stage, payloads, timeout_s)
        rest = super().exchange(stage, {site: data for site, data in payloads.items() if site != "north"}, timeout_s)
        reply, self.walked = walk(lambda: self._handlers["north"](payloads["north"]))
        self.said.append(reply)
        return {**rest, "north": reply}


def second_round(folder: Path) -> list[str]:
    """The walk of the second round, for which nothing is made for the first time."""
    with ExitStack() as stack:
        world = World(Miniature.make(folder / "mini"), folder / "world", stack, **{"federation.rounds": 2})
        transport = Walked(world.sites)
        world.run(transport)
        return transport.walked


def turns_back(files: list[str]) -> int:
    """Steps into files that the walk was in before."""
    return len(files) - len(set(files))


def test_one_round_of_a_site_turns_back_seldom(tmp_path: Path) -> None:
    files = second_round(tmp_path)
    assert files[0] == "site/site.py"
    assert {"site/round_trainer.py", "site/secure_round.py", "training/train.py"} <= set(files)
    assert turns_back(files) <= MOST_TURNS_BACK, " > ".join(files)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = second_round(Path(place))
    print(*found, sep="\n")  # noqa: T201
    print(f"{len(found)} stops, {len(set(found))} files, {turns_back(found)} turns back")  # noqa: T201
