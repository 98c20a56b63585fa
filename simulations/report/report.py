"""What a run leaves behind: the `Report`. `report_file` writes and reads it.

A report holds counts, scores, settings and privacy spent, and never a tensor. Record text stands in `samples` alone,
which whoever runs a simulation may leave out.
Every number that the terminal table and the page show stands in `report.json`, so that both can be made again from it.
`docs/report-schema.md` explains the keys; `schema` goes up when one of them changes its meaning.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from yoriai.comparison import wilson_interval
from yoriai.privacy.dp.wording import adjacency

SCHEMA_VERSION: Final = 1
# The trainings that may be compared, in the order in which tables and figures show them.
TRAININGS: Final = (
    "majority",
    "base",
    "naive_bayes_own",
    "naive_bayes_all",
    "naive_bayes_private",
    "local",
    "federated",
    "federated_local_noise",
    "federated_no_privacy",
    "central",
    "central_no_privacy",
)

# Each site's own adapter is no training to compare the federation with: it follows it, and has columns of its own.
PERSONAL: Final = "personal"

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    # JSON has no infinity: "no guarantee" is null, never an infinite epsilon.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Score(_Part):
    """How well one model answers one set of test records."""

    records: Count = Field(description="Test records that were scored.")
    accuracy: Share | None = Field(default=None, description="Share of records whose label is right.")
    macro_f1: Share | None = Field(default=None, description="Mean over labels of the F1 score.")
    exact_match: Share | None = Field(
        default=None, description="Share of responses that greedy decoding reproduces exactly."
    )
    token_f1: Share | None = Field(
        default=None, description="Mean over the same responses of the F1 score of their words, in any order."
    )
    chrf: Share | None = Field(
        default=None, description="Mean over the same responses of chrF, the F-score of character n-grams (0 to 1)."
    )
    loss: Amount | None = Field(default=None, description="Mean cross-entropy in nats (per record, or per token).")
    bits_per_byte: Amount | None = Field(default=None, description="Bits needed per byte of text.")
    interval: tuple[Share, Share] | None = Field(
        default=None, description="95 % Wilson interval of the accuracy (of exact_match where there is no accuracy)."
    )

    @classmethod
    def measured(cls, records: int, **metrics: float | None) -> "Score":
        """A score with its Wilson interval filled in; `metrics` are this class's other fields by name."""
        share = metrics.get("accuracy") if metrics.get("accuracy") is not None else metrics.get("exact_match")
        interval = None if share is None or records == 0 else wilson_interval(round(share * records), records)
        return cls.model_validate({"records": records, "interval": interval, **metrics})


class Paired(_Part):
    """The same test records before and after: only those whose answer changed tell the two models apart."""

    gained: Count = Field(description="Records wrong before and right after.")
    lost: Count = Field(description="Records right before and wrong after.")


class Task(_Part):
    kind: Literal["lm", "instruct", "classify"]
    reason: str = Field(
        default="", description="Why this kind was chosen (set by the job, or inferred from the records)."
    )
    labels: tuple[str, ...] = Field(default=(), description="The public label set of a classify task.")
    metrics: tuple[str, ...] = Field(min_length=1, description="Names of the metrics; the first is the main one.")


class Base(_Part):
    name: str
    digest: str = Field(
        description="Hashes of configuration and weights, and of tokenizer and chat template, that all sites agreed on."
    )
    licence: str
    source: str


class Data(_Part):
    title: str
    licence: str
    source: str


class Privacy(_Part):
    noise: Literal["local", "distributed", "none"]
    honest_shares: Count | None = Field(
        default=None,
        description="Distributed noise: sites of a round whose shares of the noise make up the whole, so that any "
        "others may leave theirs out; null in the other modes.",
    )
    colluding: Count | None = Field(
        default=None, description="Distributed noise: sites of a round that are not counted on; null otherwise."
    )
    epsilon_target: Amount | None = Field(default=None, description="Epsilon that the whole job was calibrated to.")
    delta: Share | None = None
    noise_multiplier: Amount | None = Field(
        default=None,
        description="Noise standard deviation over the clip norm; "
        "of the honest shares together where noise is distributed.",
    )
    clip_norm: Amount | None = Field(default=None, description="Largest L2 norm of one unit's gradient.")
    sampling_rate: Share
    steps: Count = Field(description="Noised steps at one site over the whole job.")
    unit: str = Field(default="record", description="What is protected: one record, or one owner at one site.")
    adjacency: str = Field(default=adjacency("record"), description="Which data sets are neighbours.")
    accountant: str | None = Field(
        default=None, description="What added the job's losses up: pld, prv, or rdp where those were not asked."
    )
    secure_aggregation: bool

    @model_validator(mode="after")
    def _noise_is_described(self) -> Self:
        needed = ("epsilon_target", "delta", "noise_multiplier", "clip_norm", "accountant")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.noise != "none" and missing:
            raise ValueError(f"{self.noise} noise without {', '.join(missing)}")
        if (self.noise == "distributed") != (self.honest_shares is not None and self.colluding is not None):
            raise ValueError("honest_shares and colluding go with distributed noise, and with no other")
        if self.noise == "none" and self.epsilon_target is not None:
            raise ValueError("epsilon_target must be null when there is no noise: nothing is guaranteed")
        return self


class SiteReport(_Part):
    """One site. `epsilon` is null where the job gave no guarantee."""

    name: str = Field(description="As the user calls it, in any script.")
    identifier: str | None = Field(
        default=None, description="Its name in ledgers and folders of the run; null where that is `name`."
    )
    train_records: Count
    test_records: Count
    owners: Count | None = Field(
        default=None, description="Owners of the training records; null where the unit of privacy is a record."
    )
    weight: Count = Field(description="Public weight from the roster.")
    epsilon: Amount | None
    delta: Share | None
    bytes_up: Count
    bytes_down: Count
    seconds: Amount
    majority: Score | None = Field(default=None, description="Always answering the site's commonest training label.")
    base: Score
    naive_bayes_own: Score | None = Field(
        default=None, description="Naive Bayes on the site's own training records, without privacy."
    )
    naive_bayes_all: Score | None = Field(
        default=None, description="Naive Bayes on everybody's training records, which no federation may put together."
    )
    naive_bayes_private: Score | None = Field(
        default=None, description="Naive Bayes on one release of noised word counts, with the job's epsilon and noise."
    )
    federated: Score | None = Field(default=None, description="Null only where a run stopped before it was measured.")
    local: Score | None = Field(default=None, description="This site alone, same privacy, same steps.")
    federated_local_noise: Score | None = Field(
        default=None, description="Full noise at each site, where the run's was distributed."
    )
    federated_no_privacy: Score | None = None
    central: Score | None = Field(default=None, description="All records at one place, same epsilon.")
    central_no_privacy: Score | None = None
    paired: Paired | None = Field(default=None, description="Base against federated, on the same test records.")
    personal: Score | None = Field(default=None, description="The site's own adapter; null where it has none.")
    paired_personal: Paired | None = Field(
        default=None, description="Federated against personal, on the same test records."
    )
    epsilon_personal: Amount | None = Field(
        default=None, description="What the ledger was charged for the site's own adapter."
    )
    epsilon_together: Amount | None = Field(
        default=None, description="Of the job and the site's own adapter, as the ledger adds them up."
    )
    accountant_together: str | None = Field(
        default=None, description="What added up epsilon_together: rdp, unless the ledger counted one training only."
    )

    def score(self, training: str) -> Score | None:
        """The score of one of `TRAININGS` at this site, if it was measured."""
        found: Score | None = getattr(self, training) if training in TRAININGS else None
        return found


class Refusal(_Part):
    site: str
    reason: str


class RoundReport(_Part):
    round: Count = Field(description="Counted from 1.")
    sites: tuple[str, ...] = Field(description="Sites whose update entered the sum.")
    refused: tuple[Refusal, ...] = ()
    loss: Amount | None = Field(default=None, description="Mean test loss over all sites, in rounds that evaluate.")
    accuracy: Share | None = Field(default=None, description="Test accuracy over all sites, in rounds that evaluate.")
    epsilon: Amount | None = Field(
        default=None, description="Largest epsilon that any site has spent up to this round."
    )
    update_norm: Amount | None = Field(default=None, description="L2 norm of the mean update.")
    clipped: Count | None = Field(
        default=None, description="Values clipped by the range of the secure sum, over all sites; null in the clear."
    )
    voided: Count = Field(default=0, description="How often the round was void and begun afresh.")
    seconds: Amount
    bytes_up: Count
    bytes_down: Count


class AdapterReport(_Part):
    path: str = Field(description="Folder in PEFT's format, relative to the run's folder.")
    digest: str
    rule: str
    rank: Count
    parameters_trained: Count
    bytes: Count


class Sample(_Part):
    """A test record of the site and two answers to it, three dots behind one that did not end: record text."""

    site: str
    prompt: str = Field(repr=False, description="What the model was given, template included.")
    expected: str = Field(repr=False, description="The record's own response.")
    base: str = Field(repr=False, description="The untouched base's answer.")
    adapted: str = Field(repr=False, description="The answer with the federated adapter.")


# What `Report._whole` checks, said in JSON Schema too, so that other languages can validate.
_REQUIREMENTS: Final[dict[str, JsonValue]] = {
    "allOf": [
        {
            "if": {"properties": {"status": {"const": "done"}}},
            "then": {"properties": {"overall": {"required": ["federated"]}}},
        },
        {
            "if": {"properties": {"task": {"properties": {"kind": {"const": "classify"}}}}},
            "then": {"properties": {"overall": {"required": ["majority"]}}},
        },
    ]
}


class Report(_Part):
    """One run of `yoriai simulate`, whole."""

    model_config = ConfigDict(json_schema_extra=_REQUIREMENTS, title="Yoriai report")

    schema_: Literal[1] = Field(default=SCHEMA_VERSION, alias="schema", description="Version of this format.")
    name: str
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")] = Field(
        description="When the run ended, ISO 8601, UTC."
    )
    yoriai_version: str
    status: Literal["done", "partial", "interrupted"]
    engine: str
    task: Task
    base: Base
    data: Data
    job: dict[str, JsonValue] = Field(description="The effective job, table by table.")
    privacy: Privacy
    overall: dict[str, Score] = Field(
        description="Over all sites' test records, one score a training.",
        json_schema_extra={"required": ["base"], "propertyNames": {"enum": [*TRAININGS, PERSONAL]}},
    )
    paired: Paired | None = Field(default=None, description="Base against federated, over all sites' test records.")
    paired_personal: Paired | None = Field(default=None, description="Federated against personal, likewise.")
    sites: tuple[SiteReport, ...] = Field(min_length=1)
    rounds: tuple[RoundReport, ...]
    seconds: dict[str, Amount] = Field(
        description="Wall time of the whole run (`total`) and of its parts.", json_schema_extra={"required": ["total"]}
    )
    peak_memory_mb: Amount
    adapter: AdapterReport
    notes: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = Field(
        default=(), description="Some test records of an instruct task, answered before and after; empty if left out."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {"base"} | ({"federated"} if self.status == "done" else set())
        needed |= {"majority"} if self.task.kind == "classify" else set()
        if missing := sorted(needed - set(self.overall)):
            raise ValueError(f"overall lacks {', '.join(missing)}")
        if unknown := sorted(set(self.overall) - {*TRAININGS, PERSONAL}):
            raise ValueError(f"overall has unknown trainings {', '.join(unknown)}")
        if "total" not in self.seconds:
            raise ValueError("seconds lacks total")
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError("two sites have the same name")
        private = self.privacy.noise != "none"
        if wrong := [site.name for site in self.sites if (site.epsilon is not None) != private]:
            raise ValueError(f"epsilon of {', '.join(wrong)} does not go with noise = {self.privacy.noise}")
        for site in self.sites:
            if (site.epsilon_personal is None) != (site.epsilon_together is None):
                raise ValueError(f"site {site.name} has one of epsilon_personal and epsilon_together without the other")
            if site.epsilon_personal is not None and not private:
                raise ValueError(f"epsilon_personal of {site.name} does not go with noise = none")
        return self

    @property
    def epsilon_spent(self) -> float | None:
        """The largest epsilon that any site spent: sites hold different records, so it bounds each record's loss."""
        spent = [site.epsilon for site in self.sites if site.epsilon is not None]
        return max(spent) if spent else None

    @property
    def epsilon_together(self) -> float | None:
        """The largest epsilon of job and personal adapter together; None where no site was charged for both."""
        return max((site.epsilon_together for site in self.sites if site.epsilon_together is not None), default=None)

    @property
    def accountant_together(self) -> str | None:
        """What added up `epsilon_together`."""
        return next((site.accountant_together for site in self.sites if site.accountant_together is not None), None)
