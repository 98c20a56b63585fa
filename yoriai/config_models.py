"""The settings of a job and of a site: names, types, bounds, defaults, and what they mean.

Settings that bear on privacy stand in [training] and [privacy]; [speed] holds those that change how fast a result comes
and never which one. Every model is frozen, strict and refuses unknown keys. The job template, the JSON Schema and the
texts of faults are all derived from these models.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from yoriai.config_faults import Expected

_PROMPT = "{prompt}"


def _whole(value: object) -> object:
    """In Python 1, 1.0 and True are equal, and so all of them would pass for the literal 1."""
    if type(value) is not int:
        raise ValueError("is not a whole number")
    return value


def _tuple_from_list(value: object) -> object:
    """TOML knows lists only; strict pydantic would refuse them for a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("names the same thing twice")
    return values


def _one_prompt(template: str) -> str:
    if template.count(_PROMPT) != 1:
        raise ValueError(f"must hold {_PROMPT} exactly once, and holds it {template.count(_PROMPT)} times")
    return template


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    Expected("1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or digit"),
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), Expected("64 lower-case hexadecimal digits (a SHA-256)")]
Template = Annotated[str, AfterValidator(_one_prompt), Expected(f"a text that holds {_PROMPT} exactly once")]
Layers = Annotated[str, Field(pattern=r"^(all|last:[1-9][0-9]*)$"), Expected('"all" or "last:K", K at least 1')]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda:[0-9]+)$"), Expected('"auto", "cpu" or "cuda:N"')]
# TOML's whole numbers have 64 bits; Python's would go beyond what a file can hold.
Whole = Annotated[int, Field(ge=0, lt=2**63), Expected("a whole number of at least 0 and below 2^63")]
Count = Annotated[int, Field(ge=1, lt=2**63), Expected("a whole number of at least 1 and below 2^63")]
NonEmpty = Annotated[str, Field(min_length=1), Expected("a text that is not empty")]
Version = Annotated[Literal[1], BeforeValidator(_whole)]
_LISTED = (BeforeValidator(_tuple_from_list), AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True}))
Texts = Annotated[tuple[NonEmpty, ...], *_LISTED, Expected("a list of texts, none of them empty, none twice")]
SomeTexts = Annotated[
    Texts, Field(min_length=1), Expected("a list of one or more texts, none of them empty, none twice")
]
Digests = Annotated[tuple[Digest, ...], *_LISTED, Expected("a list of SHA-256 digests in hexadecimal, none twice")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class BaseSection(_Table):
    """The language model that all sites adapt."""

    model: NonEmpty = Field(
        default="smollm2-135m-instruct",
        description="The base model: the name of a packaged one, a Hugging Face hub id, a folder, or a .gguf file.",
    )
    digest: Digest | None = Field(
        default=None,
        description="SHA-256 of the base model's weights, in hexadecimal. When given, a site refuses any other model.",
        examples=["0" * 64],
    )


class LoraSection(_Table):
    """The shape of the adapter."""

    rank: Count = Field(default=16, description="Rank of each low-rank factor pair (a count of directions).")
    alpha: float = Field(
        default=16.0, gt=0, description="LoRA's alpha: the adapter's product is scaled by alpha / rank (no unit)."
    )
    target_modules: SomeTexts = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Names of the linear maps in each transformer layer that get an adapter.",
    )
    layers: Layers = Field(
        default="last:8", description="Which transformer layers get an adapter: all, or the last K of them."
    )


class TaskSection(_Table):
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
    max_tokens: Count = Field(default=128, description="Longest record, in tokens.")
    too_long: Literal["cut", "refuse"] = Field(
        default="cut",
        description="What happens to a longer record: cut it to max_tokens and count it, or refuse the data set.",
    )


class TrainingSection(_Table):
    """Training at a site. Bears on privacy: sampling_rate and local_steps decide how much noise an epsilon needs."""

    local_steps: Count = Field(default=1, description="Optimiser steps that a site takes in a round.")
    sampling_rate: float = Field(
        default=0.12,
        gt=0,
        le=1,
        description="Probability with which each record enters a step's batch (Poisson sampling).",
    )
    records_per_weight: Count = Field(
        default=10,
        description="A public unit, in records: weight w in the roster stands for w * records_per_weight records, so "
        "that the exact size of a site's data set stays at the site.",
    )
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="The optimiser of the local steps.")
    learning_rate: float = Field(default=1.0, gt=0, description="Step size of the local optimiser (no unit).")
    seed: Whole = Field(
        default=0, description="Public seed of the initial factors only. Sampling and noise never come from it."
    )


class PrivacySection(_Table):
    """Differential privacy, enforced at each site before anything leaves it."""

    noise: Literal["local", "none"] = Field(
        default="local",
        description="local: each site adds noise enough for the whole guarantee by itself. none: no differential "
        "privacy; epsilon and delta are ignored, and a site takes part only if its policy allows it.",
    )
    epsilon: float = Field(
        default=8.0,
        gt=0,
        description="Privacy loss that the whole job may cost one record at a site (no unit; smaller is safer).",
    )
    delta: float = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="Probability with which epsilon may not hold; well below 1 / (records at a site).",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="Largest L2 norm of the gradient of one unit (L2 norm, unit of the gradient)."
    )
    unit: Literal["record"] = Field(default="record", description="What is protected: one record.")
    spare_rounds: Whole = Field(
        default=1,
        description="Rounds that may be repeated after an interruption, in all; noise is calibrated for them too.",
    )
    accountant: Literal["pld", "prv"] = Field(
        default="pld",
        description="How losses add up: by privacy loss distributions (pld) or privacy loss random variables (prv).",
    )


class FederationSection(_Table):
    """What the coordinator does with the sites' updates."""

    rule: NonEmpty = Field(
        default="core",
        description="The aggregation rule: which factors train in a round, and how a sum becomes the next adapter.",
    )
    rounds: Count = Field(default=50, description="Rounds in the job.")
    min_sites: Count = Field(default=2, description="Fewest sites whose updates make a round count.")
    participation: float = Field(default=1.0, gt=0, le=1, description="Share of the sites that is asked in each round.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="linear", description="How the server's learning rate falls from the first round to the last."
    )
    server_optimizer: Literal["none", "momentum", "adam"] = Field(
        default="adam", description="The optimiser that the coordinator applies to the averaged update."
    )
    server_learning_rate: float = Field(
        default=0.01, gt=0, description="Step size of the server's optimiser (no unit)."
    )
    server_learning_rate_without_noise: float | None = Field(
        default=None,
        gt=0,
        description="Step size where privacy.noise is none; noise averages out over rounds, and so bears longer steps "
        "than plain gradients do. Left out, it is the same.",
        examples=[0.005],
    )
    server_momentum: float = Field(
        default=0.9, ge=0, lt=1, description="Share of the former step that is kept in each round (no unit)."
    )
    seed: Whole = Field(default=0, description="Public seed of the choice of sites in each round.")


class SecureAggregationSection(_Table):
    """How updates are masked, so that the coordinator opens only their sum. Bears on who must be trusted."""

    enabled: bool = Field(
        default=True,
        description="Whether updates leave a site masked only. false lets the coordinator read single updates; each "
        "site's policy must allow that.",
    )
    bits: int = Field(default=16, ge=2, le=32, description="Bits of one quantised value of an update.")
    value_range: float | None = Field(
        default=None,
        ge=1e-30,
        le=1e30,
        description="Largest absolute value that the first round can carry; later rounds adapt it from the public "
        "count of clipped values. Left out, it follows from the noise.",
        examples=[0.5],
    )


class DeadlinesSection(_Table):
    """How long the coordinator waits for replies before it goes on without a site."""

    offer_s: float = Field(default=3600.0, gt=0, description="Seconds to look at a job and prepare for it.")
    keys_s: float = Field(
        default=300.0, gt=0, description="Seconds for each stage of secure aggregation that does not train."
    )
    train_s: float = Field(default=3600.0, gt=0, description="Seconds to train a round and answer with the update.")


class EvaluationSection(_Table):
    """When the adapter is measured on the sites' test records."""

    every: Whole = Field(
        default=10, description="Rounds between two evaluations; 0 evaluates only before and after the job."
    )


class SpeedSection(_Table):
    """How fast a result comes; nothing here bears on privacy or on what is learnt."""

    device: Device = Field(
        default="auto", description="Where a site computes: the first GPU if there is one (auto), the CPU, or one GPU."
    )
    physical_batch_size: Count = Field(
        default=64, description="Records that pass through the model at once; lower it when memory runs out."
    )
    threads: Whole = Field(default=0, description="CPU threads to compute with; 0 leaves the choice to the libraries.")
    prefix_cache: bool = Field(
        default=True,
        description="Compute the layers below the lowest adapter once for each record, and keep the result in memory.",
    )


class JobConfig(_Table):
    """A job: what the sites train together, under which guarantee."""

    schema_: Version = Field(default=1, alias="schema", description="Version of this file's format.")
    name: Name = Field(description="Name of the job: in the run's folder, in ledgers and in logs.", examples=["my-job"])
    base: BaseSection = Field(default_factory=BaseSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    task: TaskSection = Field(default_factory=TaskSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    federation: FederationSection = Field(default_factory=FederationSection)
    secure_aggregation: SecureAggregationSection = Field(default_factory=SecureAggregationSection)
    deadlines: DeadlinesSection = Field(default_factory=DeadlinesSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    speed: SpeedSection = Field(default_factory=SpeedSection)


class PolicySection(_Table):
    """What this site allows, whatever a job asks for."""

    epsilon_budget: float = Field(
        default=8.0, gt=0, description="Privacy loss that all jobs together may cost one record of this site (no unit)."
    )
    delta: float = Field(
        default=1e-5, gt=0, lt=1, description="Largest delta that a job may use, and the one the budget is counted at."
    )
    min_sites: Count = Field(default=2, description="Fewest sites in a job's rounds for this site to take part.")
    base_digests: Digests = Field(
        default=(),
        description="SHA-256 digests, in hexadecimal, of the base models that this site trains. Empty: any.",
    )
    allow_plain_updates: bool = Field(
        default=False, description="Whether this site takes part in jobs without secure aggregation."
    )
    allow_no_privacy: bool = Field(
        default=False,
        description="Whether this site takes part in jobs without differential privacy. In those a coordinator that "
        "cheats can repeat a round with one site fewer and subtract the sums.",
    )


class SiteConfig(_Table):
    """A site: its name and its policy."""

    schema_: Version = Field(default=1, alias="schema", description="Version of this file's format.")
    name: Name = Field(description="Name of the site, as in the roster.", examples=["north"])
    policy: PolicySection = Field(default_factory=PolicySection)
