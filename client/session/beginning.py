"""What a job begins with: the model that its factors live in, their first values, and the task's head."""

from collections.abc import Callable, Sequence

import torch

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.cores import side_by_side
from yoriai.client.base.layers import adapted_maps, output_cap
from yoriai.client.model.conditioning import conditioning
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.head_model import HeadModel, HeadShape, path_of
from yoriai.client.model.lora import AdaptedModel, svd_factors
from yoriai.client.model.magnitude import check_state, weight_norms
from yoriai.client.model.public_factors import moments, public_factors
from yoriai.client.model.public_texts import public_texts
from yoriai.client.model.tasks import (
    LabelHead,
    LanguageHead,
    TaskHead,
    TrainedHead,
    check_labels,
    label_vectors,
    untouched_logits,
)
from yoriai.client.records.encoding import Example, encode
from yoriai.client.records.records import Record
from yoriai.client.session.base_answers import empty_prompt
from yoriai.client.session.kept_factors import kept_factors
from yoriai.config import JobConfig
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import BaseFactors, Maps
from yoriai.strategies.head import HEAD_PATH
from yoriai.strategies.rule import rule_of

Progress = Callable[[int, int], None]

_PUBLIC_AT_ONCE = 16


def built_of(job: JobConfig, base: BaseModel) -> tuple[object, ...]:
    """Equal for jobs that one model serves."""
    return (HeadShape.of(job, base),) if job.trains_head else (job.lora, rule_of(job).factors)


def build(job: JobConfig, base: BaseModel) -> FactorModel:
    """The base with what the job trains on it.

    Raises:
        BaseModelError: the base has no such layers or maps, or a map is smaller than the rank.
    """
    if job.trains_head:
        return HeadModel(base, HeadShape.of(job, base))
    return AdaptedModel(base, job.lora, factors=rule_of(job).factors)


def check_first(job: JobConfig, state: AdapterState, base: BaseModel, linear: Maps) -> None:
    """See that the job's model would take a state, without building it; the base is bare.

    Args:
        linear: the base's own linear maps.

    Raises:
        AdapterError: it would not.
        BaseModelError: as `build`.
    """
    if job.trains_head:
        HeadShape.of(job, base).check(state)
        return
    maps = adapted_maps(linear, job.lora, int(base.model.config.num_hidden_layers))
    check_state(state, maps, weight_norms(base.model, maps), job.lora, rule_of(job).factors)


def first_adapter(model: FactorModel, job: JobConfig, progress: Progress | None = None) -> AdapterState:
    """The factors before round 0. Made once, when a job is submitted.

    Raises:
        ConfigError: the job's public texts cannot be read, or are fewer than its directions.
    """
    rule = rule_of(job)
    if isinstance(model, HeadModel):
        shape = model.head_shape
        factors = head_conditioning(model, job, progress)
        return rule.initial({HEAD_PATH: (shape.labels, shape.features)}, 0, job.training.seed, factors)
    assert isinstance(model, AdaptedModel)
    return rule.initial(model.maps, job.lora.rank, job.training.seed, _fixed_factors(model, job, progress))


def _fixed_factors(model: AdaptedModel, job: JobConfig, progress: Progress | None) -> BaseFactors | None:
    """U (out, r) and A (r, in) of every adapted map, for a rule that has such: of its weight, or of public texts."""
    if "U" not in rule_of(job).factors:
        return None
    if job.lora.factors == "svd":
        return svd_factors(model)
    texts = public_texts(model.base, job.task, job.public, progress)

    def made() -> BaseFactors:
        records = [_public_record(text, job.task.kind) for text in texts]
        found = moments(model, task_head(model, job), _public_examples(records, job, model.base), progress)
        return {path: public_factors(found[path], svd) for path, svd in svd_factors(model).items()}

    return kept_factors(model.base, job, texts, made)


def _public_examples(records: Sequence[Record], job: JobConfig, base: BaseModel) -> Sequence[Example]:
    """Public texts in tokens; a long one is cut, whatever the job says of a site's long records."""
    task = job.task.model_copy(update={"too_long": "cut"})
    return encode(records, base.tokenizer, task, context_tokens=base.context_tokens).examples


def _public_record(text: str, kind: str) -> Record:
    """A public text as a record: whole, or its first third as a prompt that the rest answers."""
    if kind == "lm":
        return Record(text=text)
    third = len(text) // 3
    cut = place if (place := text.find(" ", third)) >= 0 else third  # Some scripts have no spaces.
    return Record(prompt=text[:cut], response=text[cut:].lstrip())


def head_conditioning(model: HeadModel, job: JobConfig, progress: Progress | None = None) -> BaseFactors:
    """The public conditioning of each state that the head reads, by its path: (M (1, H), D (q, H))."""
    texts = public_texts(model.base, job.task, job.public, progress)

    def made() -> BaseFactors:
        records = [Record(prompt=text, response=job.task.labels[0]) for text in texts]
        states = _states(model, _public_examples(records, job, model.base), progress)  # (n, places · H and words)
        shape = model.head_shape
        parts = zip(shape.places, shape.parts(states), strict=False)
        return {path_of(place): conditioning(part.numpy(), shape.directions) for place, part in parts}

    return kept_factors(model.base, job, texts, made)


def _states(model: HeadModel, examples: Sequence[Example], progress: Progress | None) -> torch.Tensor:
    """The entering states of public examples, (n, F). They may share passes as they like: nothing of them is secret."""
    by_length = sorted(range(len(examples)), key=lambda place: len(examples[place].token_ids))
    found = torch.empty(len(examples), model.state_width)

    def enter(places: Sequence[int]) -> None:
        longest = len(examples[places[-1]].token_ids)
        found[places] = model.enter([examples[place] for place in places], longest)[:, 0].float().cpu()

    def tell(places: Sequence[int]) -> None:
        if progress is not None:
            progress(by_length.index(places[-1]) + 1, len(by_length))

    starts = range(0, len(by_length), _PUBLIC_AT_ONCE)
    side_by_side(enter, [by_length[start : start + _PUBLIC_AT_ONCE] for start in starts], model.base.device, tell)
    return found


def task_head(model: FactorModel, job: JobConfig) -> TaskHead:
    """The head of the job's task.

    Raises:
        ConfigError: the base cannot tell two labels apart that are answered by their own words.
    """
    if job.trains_head:
        return TrainedHead(len(job.task.labels))
    base, task = model.base, job.task
    output_embedding = base.model.get_output_embeddings().weight
    if task.kind != "classify":
        return LanguageHead(output_embedding, base.tokenizer, output_cap(base.model.config))
    check_labels(base.tokenizer, task.labels)
    vectors = label_vectors(output_embedding, base.tokenizer, task.labels)
    empty = torch.from_numpy(empty_prompt(base, task).token_ids).long()[None].to(base.device)
    assert isinstance(model, AdaptedModel)
    return LabelHead(vectors, untouched_logits(model, empty, vectors))
