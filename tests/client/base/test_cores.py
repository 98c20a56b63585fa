"""Passes side by side: one a core, each with one thread, and nothing in them depends on the others."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from tests.client.conftest import LABELS, JobMaker
from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.cores import side_by_side, torch_threads
from yoriai.client.base.states import FrozenStates, places
from yoriai.client.records.records import Record
from yoriai.client.session.model_session import ModelSession

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_on_a_cpu_as_many_passes_as_cores_are_at_work_at_once_each_with_one_thread() -> None:
    both, threads = threading.Barrier(2, timeout=60), []

    def work(_item: int) -> None:
        both.wait()  # One after the other they would wait for each other until the test fails.
        threads.append(torch.get_num_threads())

    told: list[int] = []
    side_by_side(work, range(6), CPU, told.append)
    assert threads == [1] * 6
    assert told == list(range(6))
    assert torch.get_num_threads() == 2


def test_elsewhere_they_come_one_after_the_other_in_the_callers_thread() -> None:
    seen: list[tuple[int, int]] = []
    side_by_side(lambda item: seen.append((item, threading.get_ident())), range(3), torch.device("meta"))
    assert seen == [(item, threading.get_ident()) for item in range(3)]


def test_what_fails_is_raised_and_ends_what_was_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise MemoryError
        time.sleep(0.05)

    with pytest.raises(MemoryError):
        side_by_side(work, range(1000), CPU)
    assert len(begun) < 1000
    assert torch.get_num_threads() == 2


def test_contexts_that_overlap_in_two_threads_end_with_the_number_from_before_the_first() -> None:
    seen: dict[str, int] = {}
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def second() -> None:
        assert first_is_in.wait(60)
        with torch_threads(1):
            with torch_threads(3):
                pass
            seen["inside"] = torch.get_num_threads()
            second_is_in.set()
            assert first_is_out.wait(60)
        seen["second"] = torch.get_num_threads()

    thread = threading.Thread(target=second)
    thread.start()
    with torch_threads(1):
        first_is_in.set()
        assert second_is_in.wait(60)
    first_is_out.set()
    thread.join()
    later = threading.Thread(target=lambda: seen.update(later=torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == {"inside": 1, "second": 2, "later": 2}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_passes_have_as_much_of_autograd_as_their_caller(mode: Callable[[], AbstractContextManager[None]]) -> None:
    layer, given = nn.Linear(2, 2), torch.ones(1, 2)
    found: list[torch.Tensor] = []
    with mode():
        here = layer(given)
        side_by_side(lambda _item: found.append(layer(given)), range(2), CPU)
    assert [(one.requires_grad, one.is_inference()) for one in found] == [(here.requires_grad, here.is_inference())] * 2


def test_passes_that_share_their_layers_read_what_is_their_own(base: BaseModel) -> None:
    read, texts = (
        FrozenStates(base, places(("mean:1", "last"), 4)),
        [torch.tensor([[5, 6, 7]]), torch.tensor([[9, 3, 4]])],
    )
    alone = [read(ids, torch.tensor([3])) for ids in texts]
    both, found = threading.Barrier(2, timeout=60), [torch.zeros(0)] * 2

    def wait(*_: object) -> None:
        both.wait()  # Neither goes on before both have passed the layer that is read.

    def work(place: int) -> None:
        found[place] = read(texts[place], torch.tensor([3]))

    hook = base.model.model.layers[1].register_forward_hook(wait)
    side_by_side(work, range(2), CPU)
    hook.remove()
    assert all(map(torch.equal, found, alone))
    assert not torch.equal(*found)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("states", [("last", "mean:2"), ("mean",)])
def test_states_are_those_of_one_core_to_the_bit(
    session: ModelSession, make_job: JobMaker, states: tuple[str, ...]
) -> None:
    small = {"head__directions": 8, "head__words": 32, "public__written": 0, "head__states": states}
    job = make_job(task__head="trained", **small)
    records = [Record(prompt="pump leaks " * (1 + n % 7) + str(n), response=LABELS[n % 3]) for n in range(150)]
    found = {}
    for cores in (2, 1):
        torch.set_num_threads(cores)
        fresh = ModelSession(session.base, session.speed)
        first = fresh.initial_adapter(job)
        found[cores] = first.digest(), torch.cat(fresh.prepare(records, job, for_training=False).kept_states() or [])
    assert found[1][0] == found[2][0]
    assert torch.equal(found[1][1], found[2][1])
