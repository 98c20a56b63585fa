"""What jobs cost, added up in a process with limits: the same answers, and an end whenever one is called for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.waiting import is_alive, wait_for
from yoriai.client.offer import costing
from yoriai.client.offer.costing import CostWorker
from yoriai.errors import ConfigError, PolicyError
from yoriai.privacy.dp.accounting import Accountant, Event, SampledGaussian, SampledSkellam, cost

DELTA = 1e-5
HONEST = SampledGaussian(0.12, 1.0, 51)
SKELLAM = SampledSkellam(0.12, variance=10**10, squared_l2=10**10, l1=10**7, coordinates=10**5, draws=10)


@pytest.fixture(scope="module")
def worker() -> Iterator[CostWorker]:
    with closing(CostWorker("north")) as made:
        yield made


def process_of(worker: CostWorker) -> int | None:
    """The process in which it adds up now."""
    return worker._process and worker._process.pid


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("accountant", ["pld", "prv", "rdp"])
@pytest.mark.parametrize(
    "history",
    [
        [],
        [(HONEST, 1)],
        [(HONEST, 2), (SampledGaussian(1.0, 6.0), 3)],
        [(SKELLAM, 51)],
        [(SampledGaussian(0.5, 0.01), 9)],
    ],
)
def test_its_answers_are_those_of_the_accountants(
    worker: CostWorker, accountant: Accountant, history: list[tuple[Event, int]]
) -> None:
    assert worker(history, DELTA, accountant) == cost(history, DELTA, accountant)


def test_one_process_serves_for_all_questions_and_an_answer_is_kept(worker: CostWorker) -> None:
    worker([HONEST], DELTA)
    first = process_of(worker)
    worker([SampledGaussian(0.12, 1.1, 51)], DELTA)
    assert process_of(worker) == first is not None
    worker.close()
    worker([HONEST], DELTA)
    assert process_of(worker) is None


def test_quick_questions_need_no_process() -> None:
    quick = CostWorker("north")
    quick([HONEST], DELTA, "rdp")
    quick([SKELLAM], DELTA)
    quick([HONEST], 1e-15)
    assert process_of(quick) is None


@pytest.mark.parametrize(("delta", "accountant"), [(0.0, "pld"), (DELTA, "moments")])
def test_nonsense_is_refused_as_by_the_accountants(worker: CostWorker, delta: float, accountant: Accountant) -> None:
    with pytest.raises(ConfigError, match=r"delta|accountant"):
        worker([HONEST], delta, accountant)


@pytest.mark.parametrize(
    ("limits", "found"), [({"timeout_s": 0.0}, "no answer after 0 s"), ({"memory_bytes": 2**20}, "limit of 1,048,576")]
)
def test_a_question_beyond_the_limits_ends_the_process_and_is_refused_by_name(
    limits: dict[str, float], found: str
) -> None:
    pids: list[int | None] = []
    worker = CostWorker("north", **limits, checkpoint=lambda: pids.append(process_of(worker)))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=rf"site north: .* within this site's limits; found .*{found}"):
        worker([HONEST], DELTA)
    assert process_of(worker) is None
    assert pids[0]
    assert not is_there(pids[0])


def test_what_the_process_waits_for_a_processor_does_not_count() -> None:
    stopped_for: list[int] = []

    def busy_machine() -> None:
        pid = process_of(worker)
        if pid is not None and worker._timeout_s < 1.0:
            stopped_for.append(pid)
            os.kill(pid, signal.SIGCONT if len(stopped_for) > 5 else signal.SIGSTOP)

    with closing(CostWorker("north", checkpoint=busy_machine)) as worker:
        worker([HONEST], DELTA)
        worker._timeout_s = 0.9  # Less than the process stands still.
        other = SampledGaussian(0.12, 2.0, 51)
        assert worker([other], DELTA) == cost([other], DELTA)
    assert len(stopped_for) > 5


def test_the_limit_is_one_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing, "_PATIENCE", 1e6)
    worker = CostWorker("north", timeout_s=0.2)  # Its libraries alone take longer to load.
    with pytest.raises(PolicyError, match=r"no answer after 0.2 s of a processor"):
        worker([HONEST], DELTA)
    assert process_of(worker) is None


def test_a_question_that_is_given_up_ends_the_process_and_the_next_one_is_answered() -> None:
    class GivenUp(BaseException):
        pass

    pids: list[int | None] = []

    def give_up_once() -> None:
        pids.append(process_of(worker))
        if len(pids) == 1:
            raise GivenUp

    with closing(CostWorker("north", checkpoint=give_up_once)) as worker:
        with pytest.raises(GivenUp):
            worker([HONEST], DELTA)
        assert pids[0]
        assert not is_there(pids[0])
        other = SampledGaussian(0.12, 2.0, 51)
        assert worker([other], DELTA) == cost([other], DELTA)


def test_a_process_that_was_killed_between_two_questions_costs_one_refusal(worker: CostWorker) -> None:
    worker([SampledGaussian(0.12, 1.2, 51)], DELTA)
    pid = process_of(worker)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PolicyError, match="an end without an answer"):
        worker([SampledGaussian(0.12, 1.3, 51)], DELTA)
    assert worker([SampledGaussian(0.12, 1.3, 51)], DELTA).accountant == "pld"


def test_the_process_ends_with_the_site_however_that_ends() -> None:
    code = (
        "from yoriai.client.offer.costing import CostWorker\n"
        "from yoriai.privacy.dp.accounting import SampledGaussian\n"
        "import os, signal\n"
        "worker = CostWorker('north')\n"
        "worker([SampledGaussian(0.12, 1.0, 51)], 1e-5)\n"
        "print(worker._process.pid, flush=True)\n"
        "os.kill(worker._process.pid, signal.SIGSTOP)\n"  # It cannot see that nobody asks any more.
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr
    wait_for(lambda: not is_alive(int(found.stdout)))
