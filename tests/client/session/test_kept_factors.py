"""Fixed factors of public texts, from the cache: the same to the bit, made anew whenever anything differs."""

import io
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import JobMaker
from yoriai.client.base.base_model import BaseModel
from yoriai.client.session import kept_factors as module
from yoriai.client.session.kept_factors import kept_factors
from yoriai.client.session.model_session import ModelSession
from yoriai.strategies.factors import BaseFactors

TEXTS = ("the pump leaks", "the cabin is cold")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps whatever was made, however quickly."""
    monkeypatch.setenv("YORIAI_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_KEPT", replace(module._KEPT, worth_s=0.0))
    return tmp_path / "public-factors"


class Maker:
    """Makes other factors each time; counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> BaseFactors:
        self.times += 1
        generator = np.random.default_rng(self.times)
        return {f"model.{n}": (generator.random((4, 2), np.float32), generator.random((2, 3))) for n in range(2)}


def same(one: BaseFactors, other: BaseFactors) -> bool:
    return list(one) == list(other) and all(
        left.dtype == right.dtype and np.array_equal(left, right)
        for path in one
        for left, right in zip(one[path], other[path], strict=True)
    )


@pytest.mark.usefixtures("cache")
def test_what_was_made_once_is_read_to_the_bit(base: BaseModel, make_job: JobMaker) -> None:
    make = Maker()
    first = kept_factors(base, make_job(), TEXTS, make)
    assert same(kept_factors(base, make_job(federation__rounds=9, name="other"), TEXTS, make), first)
    assert make.times == 1


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "differs",
    [
        lambda asked: asked | {"base": replace(asked["base"], digest="0" * 64)},
        lambda asked: asked | {"texts": TEXTS[:1]},
        lambda asked: asked | {"job": asked["make_job"](lora__rank=2)},
        lambda asked: asked | {"job": asked["make_job"](task__template="{prompt}?")},
        lambda asked: asked | {"code": "other"},
        lambda asked: asked | {"library": "numpy"},
        lambda asked: asked | {"library": "peft"},
    ],
)
def test_of_another_base_text_setting_code_or_library_they_are_made_anew(
    base: BaseModel, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, differs: Callable[[dict[str, Any]], Any]
) -> None:
    make, asked = Maker(), {"base": base, "job": make_job(), "texts": TEXTS, "make_job": make_job}
    kept_factors(base, make_job(), TEXTS, make)
    asked = differs(asked)
    if code := asked.get("code"):
        monkeypatch.setattr(module, "code_digest", lambda *_: code)
    if library := asked.get("library"):
        here = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == library else here(name))
    kept_factors(asked["base"], asked["job"], asked["texts"], make)
    assert make.times == 2


def plain_array(_: bytes) -> bytes:
    """A file of numpy's other kind, which is one array and no archive."""
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-40], lambda data: b"", lambda data: data.replace(b"|1", b"|2"), plain_array]
)
def test_a_spoilt_file_costs_time_alone(
    base: BaseModel, make_job: JobMaker, cache: Path, spoil: Callable[[bytes], bytes]
) -> None:
    make = Maker()
    kept_factors(base, make_job(), TEXTS, make)
    (file,) = cache.iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    made = kept_factors(base, make_job(), TEXTS, make)
    assert (make.times, same(kept_factors(base, make_job(), TEXTS, make), made)) == (2, True)


def test_a_cache_that_cannot_be_written_costs_time_alone(base: BaseModel, make_job: JobMaker, cache: Path) -> None:
    cache.write_text("no folder")
    assert same(kept_factors(base, make_job(), TEXTS, Maker()), Maker()())


def test_what_is_made_in_no_time_is_not_kept(
    base: BaseModel, make_job: JobMaker, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT", replace(module._KEPT, worth_s=60.0))
    kept_factors(base, make_job(), TEXTS, Maker())
    assert not cache.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"task__head": "trained", "head__directions": 8, "head__words": 32},
        {"task__kind": "lm", "task__labels": (), "lora__factors": "public"},
    ],
)
def test_a_jobs_first_adapter_is_the_same_from_the_cache(
    base: BaseModel, make_job: JobMaker, cache: Path, settings: dict[str, Any]
) -> None:
    job, passes = make_job(public__written=0, **settings), []
    first = ModelSession(base, job.speed)
    made = first.initial_adapter(job, lambda done, total: passes.append(done))
    first.close()
    assert list(cache.iterdir())
    assert passes
    passes.clear()
    again = ModelSession(base, job.speed)
    assert again.initial_adapter(job, lambda done, total: passes.append(done)) == made
    again.close()
    assert not passes
