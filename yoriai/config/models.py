"""The settings of a job: names, types, bounds, defaults, and what they mean.

Settings that bear on privacy stand in [training] and [privacy]; [speed] holds those that change how fast a result comes
and never which one. Every model is frozen, strict and refuses unknown keys. The job template, the JSON Schema and the
texts of faults are all derived from these models.

No number has to be above 0 and nothing else: each has the range that the arithmetic bears. Training computes in float32
and releases from float64, and a job that asks for 1e-36 or 1e25 asks for something else than training. What the sites
train, and how, is in `training.py`.
"""

from typing import Literal

from pydantic import Field

from yoriai.config.kpi import KpiSection
from yoriai.config.training import (
    BaseSection,
    HeadSection,
    LoraSection,
    PublicSection,
    TaskSection,
    TrainingSection,
)
from yoriai.config.types import Count, Device, Name, NonEmpty, Seconds, Table, Version, Whole


class PrivacySection(Table):
    """Differential privacy, enforced at each site before anything leaves it."""

    noise: Literal["local", "distributed", "none"] = Field(
        default="local",
        description="local: each site adds noise enough for the whole guarantee by itself, and trusts nobody. "
        "distributed: each site adds a share of it within the secure sum, so that the sum carries about as much as one "
        "site would add; it holds as long as at most `colluding` sites work together with the coordinator. none: no "
        "differential privacy; epsilon and delta are ignored. Sites take part in the last two only if their policy "
        "allows it.",
    )
    colluding: Count = Field(
        default=1,
        description="For distributed noise: sites that may work together with the coordinator, or add no noise, at "
        "most. Each share is sized so that federation.min_sites less these add up to the whole noise. At least 1, for "
        "every site knows its own share; at most a third of min_sites, or all but one of them.",
    )
    epsilon: float = Field(
        default=8.0,
        ge=1e-6,
        le=1e3,
        description="Privacy loss that the whole job may cost one record or owner at a site, as it is added or removed "
        "(no unit; smaller is safer).",
    )
    delta: float = Field(
        default=1e-5,
        ge=1e-15,
        le=0.5,
        description="Probability with which epsilon may not hold; well below 1 / (records, or owners, at a site).",
    )
    clip_norm: float = Field(
        default=1.0,
        ge=1e-6,
        le=1e6,
        description="Largest L2 norm of the gradient of one unit (L2 norm, unit of the gradient).",
    )
    unit: Literal["record", "owner"] = Field(
        default="record",
        description="What is protected: one record, or one owner with all of their records at a site. An owner is "
        "drawn, clipped and charged for as one; every record must then name its owner.",
    )
    records_per_owner: Count | None = Field(
        default=None,
        description="Records of an owner that train, at most: the first ones in the order of the file. It saves time, "
        "and epsilon does not depend on it. Left out, all do. For privacy.unit = owner only.",
        examples=[10],
    )
    spare_rounds: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="Rounds that may be repeated after an interruption, in all; noise is calibrated for them too.",
    )
    accountant: Literal["pld", "prv", "rdp"] = Field(
        default="pld",
        description="How losses add up: by privacy loss distributions (pld), privacy loss random variables (prv), or "
        "Rényi divergences (rdp), which ask for a little more noise. Distributed noise is always added up by the last.",
    )


class FederationSection(Table):
    """What the coordinator does with the sites' updates."""

    rule: NonEmpty = Field(
        default="core",
        description="The aggregation rule of an adapter: which factors train in a round, and how a sum becomes the "
        "next one. Left out, a classify task trains a head, and the others take core.",
    )
    rounds: int = Field(default=50, ge=1, le=100_000, description="Rounds in the job. Left out, the task decides.")
    min_sites: Count = Field(default=2, description="Fewest sites whose updates make a round count.")
    participation: float = Field(
        default=1.0, ge=1e-6, le=1, description="Share of the sites that is asked in each round."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="linear",
        description="How the server's learning rate falls from the first round to the last. Left out, the task "
        "decides.",
    )
    aggregation: Literal["mean", "median", "trimmed_mean", "krum"] = Field(
        default="mean",
        description="How updates become one: the weighted mean, or a rule that bears some false updates. All but the "
        "mean are unweighted, need 3 updates or more, and look at single ones: secure_aggregation.enabled = false.",
    )
    trim_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share of the updates that trimmed_mean drops at each end of a coordinate: rounded down, and at "
        "least one.",
    )
    byzantine_sites: Count = Field(
        default=1,
        description="False updates that krum is to bear, at most (a count); min_sites must be 2 * byzantine_sites + 3 "
        "or more.",
    )
    update_norm_bound: float | None = Field(
        default=None,
        ge=1e-6,
        le=1e6,
        description="Largest L2 norm of one site's update; a longer one is scaled down. With secure aggregation the "
        "sites enforce it, so it holds for honest ones only. Left out, there is none.",
        examples=[1.0],
    )
    server_optimizer: Literal["none", "damped", "momentum", "adam", "yogi"] = Field(
        default="adam",
        description="The optimiser that the coordinator applies to the averaged update. Left out, the task decides.",
    )
    server_learning_rate: float = Field(
        default=0.01,
        ge=1e-8,
        le=1e4,
        description="Step size of the server's optimiser (no unit). "
        "Left out, the task decides; for a head, the noise too.",
    )
    server_learning_rate_without_noise: float | None = Field(
        default=None,
        ge=1e-8,
        le=1e4,
        description="Step size where privacy.noise is none; noise averages out over rounds, and so bears longer steps "
        "than plain gradients do. Left out, the task decides, or it is the same.",
        examples=[0.005],
    )
    server_momentum: float = Field(
        default=0.9, ge=0, lt=1, description="Share of the former step that is kept in each round (no unit)."
    )
    seed: Whole = Field(default=0, description="Public seed of the choice of sites in each round.")


class SecureAggregationSection(Table):
    """How updates are masked, so that the coordinator opens only their sum. Bears on who must be trusted."""

    enabled: bool = Field(
        default=True,
        description="Whether updates leave a site masked only. false lets the coordinator read single updates; each "
        "site's policy must allow that.",
    )
    window: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Rounds whose keys are agreed on at once. Each round then takes three exchanges, and four more "
        "open a window; keys are held in memory for as long.",
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


class DeadlinesSection(Table):
    """How long the coordinator waits for replies before it goes on without a site."""

    offer_s: Seconds = Field(default=3600.0, description="Seconds to look at a job and prepare for it.")
    keys_s: Seconds = Field(
        default=300.0, description="Seconds for each stage of secure aggregation that does not train."
    )
    train_s: Seconds = Field(default=3600.0, description="Seconds to train a round and answer with the update.")
    gather_s: float = Field(
        default=900.0,
        ge=0,
        le=1e7,
        description="Seconds that the first round waits for the sites of the roster that have neither accepted nor "
        "refused, once federation.min_sites have accepted. A site that accepts later takes part from the next round "
        "on.",
    )


class EvaluationSection(Table):
    """When the adapter is measured on the sites' test records."""

    every: Whole = Field(
        default=10,
        description="Rounds between two evaluations; 0 evaluates only before and after the job. "
        "Left out, the task decides.",
    )


class PersonalSection(Table):
    """An adapter of each site's own, trained on from the shared one after the job. It never leaves the site."""

    rounds: int = Field(
        default=0, ge=0, le=10_000, description="Local rounds after the job; 0 trains no personal adapter."
    )
    epsilon: float = Field(
        default=2.0,
        ge=1e-6,
        le=1e3,
        description="Privacy loss that the personal adapter may cost one record or owner, as it is added or removed, "
        "on top of the job's (no unit); ignored where privacy.noise is none.",
    )
    learning_rate: float = Field(
        default=0.01,
        ge=1e-8,
        le=1e4,
        description="Step size of the site's own Adam, falling linearly to the last round (no unit).",
    )


class SpeedSection(Table):
    """How fast a result comes; nothing here bears on privacy or on what is learnt."""

    device: Device = Field(
        default="auto", description="Where a site computes: the first GPU if there is one (auto), the CPU, or one GPU."
    )
    physical_batch_size: Count = Field(
        default=64,
        description="Records that pass through the model at once; lower it when memory runs out. An owner's records "
        "may take several such pieces.",
    )
    threads: Whole = Field(default=0, description="CPU threads to compute with; 0 leaves the choice to the libraries.")
    prefix_cache: bool = Field(
        default=True,
        description="Compute the layers below the lowest adapter once for each record, and keep the result in memory.",
    )


class GateSection(Table):
    """What the finished adapter must show before the server puts it into a channel. It bears on nothing that trains."""

    accuracy_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much lower its accuracy may be than that of the version in production (share of test records, "
        "0 to 1). Left out, it is not asked.",
        examples=[0.0],
    )
    site_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much lower the accuracy of any one site may be than with the version in production, or else "
        "than without an adapter (share of test records, 0 to 1). Left out, it is not asked.",
        examples=[0.02],
    )
    epsilon: float | None = Field(
        default=None,
        ge=1e-6,
        le=1e3,
        description="Largest epsilon of the job (no unit); without noise it fails. Left out, it is not asked.",
        examples=[8.0],
    )
    audit: bool = Field(
        default=False,
        exclude_if=lambda audit: not audit,
        description="Whether an audit of these settings (`yoriai audit --json`) must be there, with a bound that is "
        "not above the job's epsilon, nothing that refutes it, and a control that holds.",
    )
    votes: Count | None = Field(
        default=None,
        exclude_if=lambda votes: votes is None,
        description="Fewest sites that must have voted on it, from staging, before it comes into production; together "
        "they must not find it worse than their noise explains. Left out, it is not asked.",
        examples=[3],
    )


class JobConfig(Table):
    """A job: what the sites train together, under which guarantee."""

    schema_: Version = Field(default=1, alias="schema", description="Version of this file's format.")
    name: Name = Field(description="Name of the job: in the run's folder, in ledgers and in logs.", examples=["my-job"])
    purpose: str = Field(
        default="",
        max_length=300,
        exclude_if=lambda purpose: not purpose,
        description="What the adapter is for, in a sentence. The operators of the sites read it before they say yes.",
    )
    base: BaseSection = Field(default_factory=BaseSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    task: TaskSection = Field(default_factory=TaskSection)
    head: HeadSection = Field(default_factory=HeadSection)
    public: PublicSection = Field(default_factory=PublicSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    federation: FederationSection = Field(default_factory=FederationSection)
    secure_aggregation: SecureAggregationSection = Field(default_factory=SecureAggregationSection)
    deadlines: DeadlinesSection = Field(default_factory=DeadlinesSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    personal: PersonalSection = Field(default_factory=PersonalSection)
    speed: SpeedSection = Field(default_factory=SpeedSection)
    gate: GateSection = Field(default_factory=GateSection, exclude_if=lambda gate: gate == GateSection())
    kpi: KpiSection = Field(default_factory=KpiSection, exclude_if=lambda kpi: kpi == KpiSection())

    @property
    def trains_head(self) -> bool:
        """Whether a head on frozen states is what trains, and no adapter."""
        return self.task.kind == "classify" and self.task.head == "trained"

    @property
    def trained_by(self) -> str:
        """The name of what says how updates are summed: `head`, or federation.rule, which a head has no use for."""
        return "head" if self.trains_head else self.federation.rule

    @property
    def is_conditioned(self) -> bool:
        """Whether what trains has fixed parts that public texts shape."""
        return self.trains_head or self.lora.factors == "public"
