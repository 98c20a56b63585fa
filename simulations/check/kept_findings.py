"""Findings of earlier checks, kept on this machine: to load the libraries and the base takes longer than all the rest.

They are found by the base's files, the settings that bear on them, the machine, the libraries and the code. Epsilon,
rounds and learning rates do not bear on them. Of the records a file says how many tokens each has and, by a digest with
a salt of its own, whether they are the same. Bases of a hub and rules of other packages are looked at anew each time.
"""

import datetime
import hashlib
import json
import os
import platform
import secrets
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from yoriai.client.base.base_files import base_files
from yoriai.client.base.kept import Kept, code_digest, stamps
from yoriai.simulations.check.findings import Findings
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.simulations.experiment.machine import cards, hardware
from yoriai.simulations.experiment.observers import Observer
from yoriai.strategies.rule import built_in_rules
from yoriai.system.files import PRIVATE

_ROOMS: Final = (  # Whose code has a part in them.
    *(f"client/{room}" for room in ("base", "model", "records", "session", "site", "training")),
    *("privacy/dp", "simulations/check", "simulations/run", "strategies"),
)
_LIBRARIES: Final = ("numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")
_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def findings_of(experiment: Experiment, observer: Observer, *, keep: bool = False, anew: bool = False) -> Findings:
    """What the base tells of a job and its records, now or at an earlier check.

    Args:
        keep: take what is in the cache, and put there what is not; otherwise it is found out, and nothing is kept.
        anew: what is in the cache is replaced.

    Raises:
        YoriaiError: as `with_base.find`.
    """

    def find() -> Findings:
        observer.advance("loading libraries", 0, 0)
        from yoriai.simulations.check import with_base

        return with_base.find(experiment, observer)

    asked = _asked(experiment) if keep else None
    return find() if asked is None else _kept_for(experiment).made(asked, find, anew=anew)


@dataclass(frozen=True)
class _File:
    salt: str
    records: str
    findings: Findings


_FORM: Final = TypeAdapter(_File)


def _kept_for(experiment: Experiment) -> Kept[Findings]:
    """Where findings of these records are kept; those of others are not read."""

    def read(data: bytes) -> Findings:
        file = _FORM.validate_json(data)
        if file.records != _salted(experiment, file.salt):
            raise ValueError
        return file.findings

    def write(found: Findings) -> bytes | None:
        if found.remarks:  # They are said anew.
            return None
        salt, today = secrets.token_hex(16), datetime.datetime.now().astimezone().date()
        dated = replace(found, step=replace(found.step, measured_on=today))
        return _FORM.dump_json(_File(salt, _salted(experiment, salt), dated))

    return Kept("job-checks", read, write, mode=PRIVATE)


def _salted(experiment: Experiment, salt: str) -> str:
    """Digest of the records, and of labels that may have been read off them."""
    known = json.dumps([experiment.records_digest(), experiment.job.task.labels])
    return hashlib.blake2b(known.encode(), key=salt.encode()).hexdigest()


def _asked(experiment: Experiment) -> object | None:
    """All else that has a part in the findings; None where this machine's files do not tell all of it."""
    job = experiment.job
    base, texts = base_files(job.base.model), job.public.texts
    if not base or job.trained_by not in ("head", *(rule.name for rule in built_in_rules())):
        return None
    try:
        files = stamps([*base, *([Path(texts).expanduser()] if texts else [])])
    except OSError:
        return None
    sections = [part.model_dump(mode="json") for part in (job.base, job.lora, job.head, job.public, job.speed)]
    task = job.task.model_dump(mode="json", exclude={"labels"})
    others = [job.trained_by, job.training.sampling_rate, job.privacy.noise == "none"]
    records = [experiment.data.source, [[len(site.train), len(site.test)] for site in experiment.sites]]
    machine = [hardware(), cards(), [os.environ.get(name) for name in _VARIABLES]]
    software = [platform.python_version(), [metadata.version(name) for name in _LIBRARIES], code_digest(*_ROOMS)]
    return [files, sections, task, others, records, machine, software]
