"""The model at work: one base in memory, the adapter of the job attached, records prepared for it.

A site has one session; in a simulation all sites share one, because the base is the same for all of them.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from yoriai.client.model.base_model import BaseModel
from yoriai.client.model.layers import adapted_maps, linear_maps, output_cap
from yoriai.client.model.lora import AdaptedModel, svd_factors
from yoriai.client.model.magnitude import check_state, weight_norms
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import LabelHead, LanguageHead, TaskHead, check_labels, label_vectors, untouched_logits
from yoriai.client.records.encoding import DEFAULT_TEMPLATES, EncodedRecords, check_task, encode
from yoriai.client.records.fitting import fitting
from yoriai.client.records.records import Record
from yoriai.client.records.units import owner_units
from yoriai.config import JobConfig, SpeedSection, TaskSection
from yoriai.errors import RecordError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule

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
        self._model: AdaptedModel | None = None
        self._heads: dict[str, TaskHead] = {}
        # Hidden states depend on the base and on the layer they enter, not on the adapter: jobs may share them.
        self._states: dict[bytes, torch.Tensor] = {}
        self._states_enter: int | None = None

    def model(self, job: JobConfig) -> AdaptedModel:
        """The base with the job's LoRA attached; replaces that of another job."""
        factors = get_rule(job.federation.rule).factors
        wanted = (job.lora, factors)
        if self._model is None or self._built_for != wanted:
            self._detach()  # First, so that nobody is handed a detached model should the next line fail.
            self._model, self._built_for = AdaptedModel(self.base, job.lora, factors=factors), wanted
            if self._model.first_layer != self._states_enter:
                self._states.clear()
                self._states_enter = self._model.first_layer
        return self._model

    def check_adapter(self, job: JobConfig, state: AdapterState) -> None:
        """See that the job's model would take the adapter, without putting it in the place of another job's.

        Raises:
            AdapterError: it would not.
            BaseModelError: the base has no such layers or maps, or a map is smaller than the rank.
        """
        maps = adapted_maps(self._linear, job.lora, int(self.base.model.config.num_hidden_layers))
        with nullcontext() if self._model is None else self._model.untouched():
            norms = weight_norms(self.base.model, maps)
        check_state(state, maps, norms, job.lora, get_rule(job.federation.rule).factors)

    def close(self) -> None:
        """Give the base back without an adapter, and forget what was built on it."""
        self._detach()
        self._states.clear()

    def _detach(self) -> None:
        if self._model is not None:
            self._model.detach()
        self._model = None
        self._heads.clear()

    def initial_adapter(self, job: JobConfig) -> AdapterState:
        """The adapter before round 0, with its fixed factors. Made once, when a job is submitted."""
        model, rule = self.model(job), get_rule(job.federation.rule)
        factors = svd_factors(model) if "U" in rule.factors else None
        return rule.initial(model.maps, job.lora.rank, job.training.seed, factors)

    def head(self, job: JobConfig) -> TaskHead:
        """The head of the job's task."""
        key = job.task.model_dump_json()
        if key not in self._heads:
            self._heads[key] = self._make_head(job)
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
        try:
            return PreparedRecords(model, fits.examples, known=self._known, units=fits.units, progress=progress)
        except Exception as error:  # No memory, or disk, for as many or as long ones. A batch needs less.
            tell(f"hidden states are computed anew for each batch, for want of room: {type(error).__name__}")
            return PreparedRecords(model, fits.examples, known=None, units=fits.units)

    @property
    def _known(self) -> dict[bytes, torch.Tensor] | None:
        return self._states if self.speed.prefix_cache else None

    def _make_head(self, job: JobConfig) -> TaskHead:
        model, task, tokenizer = self.model(job), job.task, self.base.tokenizer
        output_embedding = self.base.model.get_output_embeddings().weight
        if task.kind != "classify":
            return LanguageHead(output_embedding, tokenizer, output_cap(self.base.model.config))
        check_labels(tokenizer, task.labels)
        vectors = label_vectors(output_embedding, tokenizer, task.labels)
        template = task.template or DEFAULT_TEMPLATES["classify"]
        empty = encode(
            [Record(prompt="", response=task.labels[0])],
            tokenizer,
            task.model_copy(update={"template": template}),
            context_tokens=self.base.context_tokens,
        ).examples[0]
        ids = torch.from_numpy(empty.token_ids).long()[None].to(self.base.device)
        return LabelHead(vectors, untouched_logits(model, ids, vectors))
