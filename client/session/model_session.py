"""The model at work: one base in memory, the adapter of the job attached, records prepared for it.

A site has one session; in a simulation all sites share one, because the base is the same for all of them.
"""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.layers import linear_maps
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.head_model import HeadModel
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.public_texts import found_public
from yoriai.client.model.tasks import TaskHead
from yoriai.client.records.encoding import EncodedRecords, check_task, encode
from yoriai.client.records.fitting import fitting
from yoriai.client.records.records import Record
from yoriai.client.records.units import owner_units
from yoriai.client.session.beginning import build, built_of, check_first, first_adapter, task_head
from yoriai.config import JobConfig, SpeedSection, TaskSection
from yoriai.errors import RecordError
from yoriai.strategies.adapter import AdapterState

PrefixProgress = Callable[[int, int], None]


class ModelSession:
    """Builds, and keeps while they serve, the adapted model, the task's head and prepared records.

    Args:
        base: frozen, on its device.
        speed: threads, prefix cache, physical batch size.

    Attributes:
        lock: held by whoever trains or answers with it; one job at a time.
    """

    def __init__(self, base: BaseModel, speed: SpeedSection) -> None:
        self.base, self.speed = base, speed
        self.lock = threading.Lock()
        if speed.threads:
            torch.set_num_threads(speed.threads)
        self._linear = linear_maps(base.model)
        self._built_for: tuple[object, ...] | None = None
        self._model: FactorModel | None = None
        self._heads: dict[str, TaskHead] = {}
        self._conditioned: dict[str, AdapterState] = {}
        self._states: dict[bytes, torch.Tensor] = {}
        self._states_key: object = None

    def model(self, job: JobConfig) -> FactorModel:
        """The base with what the job trains; replaces that of another job."""
        wanted = built_of(job, self.base)
        if self._model is None or self._built_for != wanted:
            self._detach()  # First, so that nobody is handed a detached model should the next line fail.
            self._model, self._built_for = build(job, self.base), wanted
            if self._model.states_key != self._states_key:
                self._states.clear()
                self._states_key = self._model.states_key
        return self._model

    def adapted(self, job: JobConfig) -> AdaptedModel:
        """The model of a job that trains an adapter: it can write, which one with a head cannot."""
        model = self.model(job)
        assert isinstance(model, AdaptedModel)
        return model

    def check_adapter(self, job: JobConfig, state: AdapterState) -> None:
        """See that the job's model would take the adapter, without putting it in the place of another job's.

        Raises:
            AdapterError: it would not.
            BaseModelError: the base has no such layers or maps, or a map is smaller than the rank.
        """
        with nullcontext() if self._model is None else self._model.untouched():
            check_first(job, state, self.base, self._linear)

    def close(self) -> None:
        """Give the base back without an adapter, and forget what was built on it."""
        self._detach()
        self._states.clear()

    def _detach(self) -> None:
        if self._model is not None:
            self._model.detach()
        self._model = None
        self._heads.clear()

    def initial_adapter(self, job: JobConfig, progress: PrefixProgress | None = None) -> AdapterState:
        """The adapter before round 0, with its fixed factors; see `first_adapter`."""
        if not job.is_conditioned:
            return first_adapter(self.model(job), job, progress)
        # Of one job it is asked for again and again, and public texts take their time.
        key = json.dumps([part.model_dump(mode="json") for part in (job.task, job.head, job.public, job.lora)])
        if key not in self._conditioned:
            self._conditioned = {key: first_adapter(self.model(job), job, progress)}
        return self._conditioned[key]

    def head(self, job: JobConfig) -> TaskHead:
        """The head of the job's task."""
        key = job.task.model_dump_json()
        if key not in self._heads:
            self._heads[key] = task_head(self.model(job), job)
        return self._heads[key]

    def check_task(self, task: TaskSection) -> None:
        """Raise ConfigError, as `encoding.check_task`, if no record could be encoded for the task with this base."""
        check_task(task, self.base.tokenizer, context_tokens=self.base.context_tokens)

    def encode(self, records: Sequence[Record], task: TaskSection) -> EncodedRecords:
        """Tokens of the records; see `encoding.encode` for what is refused."""
        if not records:
            raise RecordError("a site has no records", remedy="put records into its folder, or leave the site out")
        return encode(records, self.base.tokenizer, task, context_tokens=self.base.context_tokens)

    def prepare(
        self,
        records: Sequence[Record],
        job: JobConfig,
        *,
        for_training: bool = True,
        progress: PrefixProgress | None = None,
    ) -> PreparedRecords:
        """Records encoded and, if speed.prefix_cache says so, run through the frozen prefix.

        Equal token rows only once.

        Args:
            for_training: False for records that only ever measure; these need no owners.

        Raises:
            RecordError: records do not fit the task, or one lacks the owner that the job's unit of privacy asks for.
        """
        return PreparedRecords(
            self.model(job),
            self.encode(records, job.task).examples,
            known=self._known,
            units=owner_units(records, job.privacy) if for_training else None,
            progress=progress,
        )

    def prepare_fitting(
        self,
        records: Sequence[Record],
        job: JobConfig,
        *,
        tell: Callable[[str], None],
        progress: PrefixProgress | None = None,
    ) -> PreparedRecords:
        """Prepare the records that fit the job for training; there may be none. Why is in `client.records.fitting`.

        Args:
            tell: given, for the site's own eyes, a line on the records that do not fit, or on what went wrong.

        Raises:
            ConfigError: as `check_task`; nothing else, whatever the records are.
        """
        self.check_task(job.task)
        model, tokenizer = self.model(job), self.base.tokenizer
        try:
            fits = fitting(records, job.task, job.privacy, tokenizer, context_tokens=self.base.context_tokens)
        except Exception as error:  # No memory for their tokens, say.
            tell(f"no record can be used: {type(error).__name__}")
            return PreparedRecords(model, (), known=None)
        if told := fits.told():
            tell(told)
        read = (record.prompt or record.text or "" for record in records)
        if job.is_conditioned and (told := found_public(read, job.public)):
            tell(told)
        try:
            return PreparedRecords(model, fits.examples, known=self._known, units=fits.units, progress=progress)
        except Exception as error:  # No memory, or disk, for as many or as long ones. A batch needs less.
            tell(f"hidden states are computed anew for each batch, for want of room: {type(error).__name__}")
            return PreparedRecords(model, fits.examples, known=None, units=fits.units)

    @property
    def _known(self) -> dict[bytes, torch.Tensor] | None:
        heads = isinstance(self._model, HeadModel)  # One small row a record, and all of the base in each.
        return self._states if self.speed.prefix_cache or heads else None
