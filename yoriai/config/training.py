"""What the sites of a job train, and how: the settings of base model, adapter, task and local steps."""

from typing import Literal

from pydantic import Field

from yoriai.config.types import Digest, Layers, NonEmpty, SomeTexts, States, Table, Template, Texts, Whole


class BaseSection(Table):
    """The language model that all sites adapt."""

    model: NonEmpty = Field(
        default="smollm2-135m-instruct",
        description="The base model: the name of a packaged one, a Hugging Face hub id, a folder, or a .gguf file.",
    )
    digest: Digest | None = Field(
        default=None,
        description="What names the base model's weights, tokenizer and chat template, in hexadecimal. When given, a "
        "site refuses any other model.",
        examples=["0" * 128],
    )


class LoraSection(Table):
    """The shape of the adapter."""

    rank: int = Field(
        default=16,
        ge=1,
        le=8192,
        description="Rank of each low-rank factor pair (a count of directions). Left out, the task decides.",
    )
    alpha: float = Field(
        default=16.0,
        ge=1e-3,
        le=1e4,
        description="LoRA's alpha: the adapter's product is scaled by alpha / rank (no unit). "
        "Left out, the task decides.",
    )
    target_modules: SomeTexts = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Names of the linear maps in each transformer layer that get an adapter.",
    )
    layers: Layers = Field(
        default="last:8",
        description="Which transformer layers get an adapter: all, or the last K of them. Left out, the task decides.",
    )
    factors: Literal["svd", "public"] = Field(
        default="svd",
        description="Where the fixed factors of the rule core come from. svd: the base's weights. public: what public "
        "texts send into each map, and how they want its output to move; see [public]. Left out, the task decides.",
    )


class TaskSection(Table):
    """What the records teach."""

    kind: Literal["auto", "lm", "instruct", "classify"] = Field(
        default="auto",
        description="auto looks at the records and says what it chose; lm learns whole texts; instruct learns "
        "responses to prompts; classify chooses one of a few labels.",
    )
    template: Template | None = Field(
        default=None,
        description="The text around a prompt, for instruct and classify. Left out, a default suits the kind.",
        examples=["Question: {prompt}\nAnswer:"],
    )
    labels: Texts = Field(
        default=(),
        description="The labels of a classify task, in order. Empty: every distinct response in the records is one.",
    )
    head: Literal["auto", "trained", "labels"] = Field(
        default="auto",
        description="How a classify task answers. trained: a matrix on conditioned states of the frozen base, which is "
        "all that trains; see [head]. labels: fixed vectors of the labels' own words, while an adapter trains by "
        "federation.rule. auto: trained, or labels where the job names a rule.",
    )
    max_tokens: int = Field(default=128, ge=1, le=1_000_000, description="Longest record, in tokens.")
    too_long: Literal["cut", "refuse"] = Field(
        default="cut",
        description="What happens to a longer record: cut it to max_tokens and count it, or refuse it. A simulation "
        "then refuses the data set; a site of a deployment leaves the record out.",
    )


class HeadSection(Table):
    """What a head that trains reads of a record; for task.head = "trained" alone."""

    states: States = Field(
        default=("mean", "last"),
        description="States of the frozen base: last is the last position after the last layer, mean:K the mean over "
        "all positions after layer K, mean the same after four fifths of the layers.",
        examples=[["last", "mean:24"]],
    )
    directions: int = Field(
        default=128,
        ge=1,
        le=8192,
        description="Directions that are kept of each state: those in which public texts differ most (a count).",
    )
    words: int = Field(
        default=768,
        ge=0,
        le=65_536,
        description="Buckets for the prompt's own words, which are read beside the states; 0 for none.",
    )

    @property
    def features(self) -> int:
        """Entries of what the head reads of a record."""
        return len(self.states) * self.directions + self.words


class PublicSection(Table):
    """Public texts, whose states condition what trains. They are read where the job is prepared, and stay there."""

    texts: NonEmpty | None = Field(
        default=None,
        description="A file of the operator's own public or synthetic texts, one a line. Whoever names it says that no "
        "site's records are in it.",
        examples=["public.txt"],
    )
    digests: Texts = Field(
        default=(),
        description="Made of that file where the job is prepared: a site finds its own records among them by it.",
    )
    written: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Texts that the base itself writes after the beginning of the template (a count), beside those "
        "that come with Yoriai.",
    )
    seed: Whole = Field(default=0, description="Seed of the texts that the base writes.")


class TrainingSection(Table):
    """Training at a site. Bears on privacy: sampling_rate and local_steps decide how much noise an epsilon needs."""

    local_steps: int = Field(default=1, ge=1, le=10_000, description="Optimiser steps that a site takes in a round.")
    sampling_rate: float = Field(
        default=0.12,
        ge=1e-6,
        le=1,
        description="Probability with which each record, or each owner with all of their records, enters a step's "
        "batch (Poisson sampling); which of the two, privacy.unit says. Left out, the task decides.",
    )
    records_per_weight: int = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="A public unit, in records: weight w in the roster stands for w * records_per_weight records, so "
        "that the exact size of a site's data set stays at the site. Where privacy.unit is owner, it counts owners.",
    )
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="The optimiser of the local steps.")
    learning_rate: float = Field(
        default=1.0, ge=1e-8, le=1e4, description="Step size of the local optimiser (no unit)."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How the local learning rate falls from the first round to the last."
    )
    proximal_mu: float = Field(
        default=0.0,
        ge=0,
        le=1e4,
        description="FedProx: how strongly later local steps are pulled back to the round's adapter (no unit).",
    )
    lowpass: bool = Field(
        default=False,
        description="Smooth the noised gradient along the features of each map; costs no privacy, and not for core.",
    )
    seed: Whole = Field(
        default=0, description="Public seed of the initial factors only. Sampling and noise never come from it."
    )
