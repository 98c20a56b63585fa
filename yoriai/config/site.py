"""The settings of a site: its name, where its things lie, and what it allows whatever a job asks for.

A simulated site needs the policy alone. Paths that are not absolute are taken from the folder of the site's file.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from yoriai.config.alarms import AlarmWays
from yoriai.config.models import SpeedSection
from yoriai.config.types import (
    Address,
    Count,
    Digests,
    Encoding,
    EndpointUrl,
    Kinds,
    Languages,
    MetricsPort,
    Name,
    NonEmpty,
    Patterns,
    Proxy,
    Seconds,
    Table,
    Texts,
    Version,
    Whole,
)


class RecordsSection(Table):
    """The records of this site. They never leave it."""

    folder: NonEmpty = Field(default="data", description="Folder with train.jsonl and test.jsonl (or .json, or .csv).")
    dataset: Name = Field(
        default="records",
        description="Name of the data set, under which its ledger counts. It stays the same when the records change; "
        "other records under another name have a budget of their own.",
    )
    encoding: Encoding = Field(
        default="",
        description="Encoding of the files, such as cp932 or latin-1. Empty: UTF-8. A file's own mark, of UTF-8 or "
        "UTF-16, goes before it.",
    )
    prompt_field: str = Field(
        default="",
        description="Column or key of the prompt; of the text or the messages, where there is no response. Empty: "
        "prompt with response, text, or messages, whichever is there.",
    )
    response_field: str = Field(default="", description="Column or key of the response. Empty: response.")

    sample_answers: bool = Field(
        default=True,
        description="Whether the evaluation of a delivered adapter, evaluation.json, keeps five test records of an "
        "instruct task with the answers before and after. They are record text, and stay in that file.",
    )

    @field_validator("response_field")
    @classmethod
    def _another_column(cls, name: str, info: ValidationInfo) -> str:
        if name and name == info.data.get("prompt_field"):
            raise ValueError("is prompt_field too")
        return name


class ModelSection(Table):
    """The base model as it lies at this site."""

    model: NonEmpty = Field(
        default="smollm2-135m-instruct",
        description="The name of a packaged base model, a Hugging Face hub id, a folder, or a .gguf file.",
    )


class LedgerSection(Table):
    """The record of what was spent of the privacy budget."""

    witness: NonEmpty = Field(
        default="witness",
        description="Folder in which the end of each ledger is kept a second time, so that a ledger that was restored "
        "from an old backup is found out. It belongs on another disk, and in no backup that holds the ledgers.",
    )


class ServerSection(Table):
    """The coordinator's server. The site connects to it; nobody connects to the site."""

    address: Address = Field(
        default="",
        description="The server as HOST:PORT. Empty: this site takes part in no deployment yet, and only its daemon "
        "is started.",
    )
    proxy: Proxy = Field(
        default="",
        description="HTTP proxy through which the server is reached, by the method CONNECT. What goes through it is "
        "encrypted for the server. Empty: straight to the server, whatever the environment says.",
    )
    pause_busy_s: float = Field(
        default=0.2,
        ge=0.05,
        le=60,
        description="Pause in seconds between two questions for a message, in the minute after a message, or after a "
        "question that the server kept until its hold_s was over.",
    )
    pause_idle_s: float = Field(
        default=3.0,
        ge=0.05,
        le=600,
        description="The same pause otherwise, which only a server that keeps no questions leads to. It bounds what a "
        "site without a job sends, and how long the first message of a job waits.",
    )


class PolicySection(Table):
    """What this site allows, whatever a job asks for. Refusals tell of it: all of it is public, `kinds`, `labels`,
    `max_tokens` and `max_records` too, which say of the records what jobs are checked against. The records themselves
    are looked at for no answer that is not paid for."""

    epsilon_budget: float = Field(
        default=16.0,
        gt=0,
        description="Privacy loss that all jobs together may cost one record, or one owner, of this site, as it is "
        "added or removed (no unit). The default bears three jobs with the default settings, and no single job takes "
        "it whole.",
    )
    delta: float = Field(
        default=1e-5, gt=0, lt=1, description="Largest delta that a job may use, and the one the budget is counted at."
    )
    unit: Literal["record", "owner"] = Field(
        default="record",
        description="What the budget counts for: one record, or one owner with all of their records. Jobs with "
        "another unit are refused, for charges per record say nothing of owners. Not to be changed for a data set that "
        "was charged already.",
    )
    kinds: Kinds = Field(
        default=(),
        description="The tasks that this site's records can teach; jobs of another task.kind are refused. Empty: any "
        "job is taken, and records that do not fit its task count as zero.",
    )
    labels: Texts = Field(
        default=(),
        description="The labels that this site's records may have; a classify job that lacks one of them is refused. "
        "Coordinators get to know them. Empty: nothing is said of labels, the job's are taken, and records with "
        "another label count as zero.",
    )
    max_tokens: Count | None = Field(
        default=None,
        description="Largest task.max_tokens that a job may ask for; it bounds memory and time. Left out, there is no "
        "bound.",
        examples=[512],
    )
    max_records: Count = Field(
        default=10_000,
        description="More records, or owners where unit is owner, than this site will ever have; a round number, for "
        "coordinators get to know it. In place of their real number it bounds a job's delta, which has to be below "
        "1 / max_records. The default is ten times below what a delta of 1e-5 would bear. `yoriai site check` compares "
        "it with the records.",
    )
    approve: Literal["ask", "auto"] = Field(
        default="ask",
        description="ask: a job waits until the operator approves it by name. auto: every job that keeps to this "
        "policy is taken.",
    )
    min_sites: Count = Field(default=2, description="Fewest sites in a job's rounds for this site to take part.")
    base_digests: Digests = Field(
        default=(),
        description="Digests, in hexadecimal, of the base models that this site trains. Empty: any.",
    )
    rules: Texts = Field(
        default=(),
        description="Aggregation rules of other packages, installed at this site, that a job may use. Those built in "
        "need no mention; of others nothing is even imported.",
    )
    allow_plain_updates: bool = Field(
        default=False, description="Whether this site takes part in jobs without secure aggregation."
    )
    allow_distributed_noise: bool = Field(
        default=False,
        description="Whether this site takes part in jobs whose noise is shared among the sites. Its records are then "
        "protected by the others' shares as well: the guarantee holds as long as no more than `colluding` of a round's "
        "sites leave theirs out or give them away.",
    )
    colluding: Count = Field(
        default=1,
        description="With distributed noise: sites of a round that this site does not count on, itself included. Jobs "
        "that count on more are refused.",
    )
    allow_no_privacy: bool = Field(
        default=False,
        description="Whether this site takes part in jobs without differential privacy. In those a coordinator that "
        "cheats can repeat a round with one site fewer and subtract the sums.",
    )
    second_approver: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="The public key (Ed25519, 64 hexadecimal digits) of a second person, who has to sign every raise "
        "of the budget: `yoriai site approver KEY` makes it. Empty: one person raises it.",
    )
    count_epsilon: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Privacy loss that one answer about a version may cost one record, or owner, of the test records: "
        "two counts with noise, by which the server learns whether a candidate is better here, or a version in use has "
        "come to answer worse. 0: nothing of the kind leaves; the site judges for itself.",
    )
    count_answers: Count = Field(
        default=12, description="Most such answers in all; each is charged on the ledger of the records."
    )
    planned_jobs: Count = Field(
        default=3,
        description="Jobs that the budget is meant for, in all. A job that leaves room for fewer such jobs than are "
        "still planned is marked before its operator says yes.",
    )


class ServeSection(Table):
    """What `yoriai site serve` answers with, and to whom."""

    address: NonEmpty = Field(default="127.0.0.1", description="The IP address that it listens on.")
    allow_network: bool = Field(
        default=False,
        description="Whether an address that other machines can reach will do. The endpoint speaks HTTP without TLS.",
    )
    key_file: NonEmpty = Field(
        default="serve.key",
        description="File of the key that clients show, for its owner alone. The first start makes it.",
    )
    log_texts: bool = Field(
        default=False, description="Whether the log holds what was asked and answered. Sizes and times it always holds."
    )
    one_message: Literal["template", "chat"] = Field(
        default="template",
        description="What one message of a user becomes. template: the task's template, as it was learnt from prompts "
        "with responses. chat: the base's chat template, as it was learnt from conversations.",
    )
    context_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = Field(
        default=1024, description="Longest request, answer included, in tokens; it takes memory `parallel` times."
    )
    answer_tokens: Count = Field(
        default=256, description="Longest answer where a request does not say, in tokens; at most half of the request."
    )
    parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Requests that are answered at once; others wait."
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0,
        description="Threads of computing. They wait for each other in busy loops, so that as many as there are cores "
        "are for a machine that does nothing else. 0: half of the cores.",
    )


class RouteSection(Table):
    """Which texts go on from this site's classifier to a large model, and what is taken out of them before."""

    mode: Literal["never", "ask", "auto"] = Field(
        default="never",
        description="never: no text leaves. ask: an unsure one leaves when whoever asks says yes to what would leave. "
        "auto: every unsure one leaves, up to the day's cap.",
    )
    url: EndpointUrl = Field(
        default="", description="The large model's endpoint, in OpenAI's protocol. Beyond this machine by https alone."
    )
    model: str = Field(default="", validate_default=True, description="The large model's name there.")
    key_file: str = Field(default="", description="File of the endpoint's key, for its owner alone. Empty: no key.")
    share: float = Field(
        default=0.95, gt=0, lt=1, description="Of the answers that are kept here, the share that is to be right."
    )
    delta: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Largest probability, over the records that it is calibrated with, that fewer are right.",
    )
    redact: Literal["presidio", "patterns"] = Field(
        default="presidio",
        description="patterns: addresses, numbers, keys and own patterns are taken out. presidio: names, places and "
        "dates as well, by the optional extra redact, without which no text leaves.",
    )
    languages: Languages = Field(default=("en",), description="Languages whose names Presidio looks for.")
    patterns: Patterns = Field(
        default=(), description="Regular expressions of what else is taken out, such as the codename of a customer."
    )
    daily_cap: Whole = Field(default=100, description="Texts that may leave in a day (UTC).")
    timeout_s: Seconds = Field(default=20.0, description="Longest wait for the large model, in seconds.")
    structured: bool = Field(
        default=False, description="Whether the endpoint takes a JSON schema for its answer, as OpenAI's does."
    )
    price_prompt: float = Field(default=0.0, ge=0, description="Of a million tokens of prompt, in any currency.")
    price_answer: float = Field(default=0.0, ge=0, description="Of a million tokens of answer.")

    @field_validator("model")
    @classmethod
    def _named(cls, model: str, info: ValidationInfo) -> str:
        if info.data.get("mode") != "never" and not (model and info.data.get("url")):
            raise ValueError("and url are needed unless mode is never")
        return model


class AlarmsSection(AlarmWays):
    """Whom the site tells that a job waits for its operator, or that a version in use has drifted."""

    command: Texts = Field(
        default=(),
        description="Program and arguments that the daemon runs, without a shell and as its own user, when a job "
        "begins to wait for an answer and each day that it still does, and when a version in use has come to answer "
        "worse (drift); YORIAI_ALARM, YORIAI_SITE and YORIAI_RUN in its "
        "environment say what, where and which run. Empty: the log and the metrics alone say it.",
    )
    epsilon_left: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="Epsilon of the budget that is left, below which it is told. 0: never."
    )


class SiteConfig(Table):
    """A site: its name, where its things lie, and its policy."""

    schema_: Version = Field(default=1, alias="schema", description="Version of this file's format.")
    name: Name = Field(description="Name of the site, as in the roster.", examples=["north"])
    metrics_port: MetricsPort = Field(
        default=0,
        description="The port of the daemon's metrics for Prometheus, on 127.0.0.1 only: budget, charges, state "
        "and expiries, nothing about records. Every user of this machine can read them, the SuperNode's too. 0: none.",
    )
    node_metrics_port: MetricsPort = Field(
        default=0,
        description="The same for the SuperNode, whose user the daemon cannot see into: whether it runs, and how often "
        "it was started again.",
    )
    records: RecordsSection = Field(default_factory=RecordsSection)
    base: ModelSection = Field(default_factory=ModelSection)
    ledger: LedgerSection = Field(default_factory=LedgerSection)
    server: ServerSection = Field(default_factory=ServerSection)
    policy: PolicySection = Field(default_factory=PolicySection)
    alarms: AlarmsSection = Field(default_factory=AlarmsSection)
    speed: SpeedSection = Field(default_factory=SpeedSection)
    serve: ServeSection = Field(default_factory=ServeSection)
    route: RouteSection = Field(default_factory=RouteSection)

    @field_validator("node_metrics_port")
    @classmethod
    def _own_port(cls, port: int, info: ValidationInfo) -> int:
        if port and port == info.data.get("metrics_port"):
            raise ValueError("is metrics_port too")
        return port
