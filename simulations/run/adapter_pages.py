"""Pages beside a simulated run's adapter: its model card, and the certificate's page, which nobody signs."""

from pathlib import Path
from typing import Final

from yoriai.config import JobConfig
from yoriai.privacy.documents.adapter_facts import AdapterFacts
from yoriai.privacy.documents.certificate import certificate_page
from yoriai.privacy.documents.model_card import CARD_FILE, Measure, card_text
from yoriai.simulations.experiment.machine import versions
from yoriai.simulations.report.metrics import main_metric
from yoriai.simulations.report.report import Report
from yoriai.system.run_files import write_run_file

PRIVACY_PAGE: Final = "privacy.html"


def write_pages(report: Report, job: JobConfig, run_id: str, folder: Path) -> None:
    """Write `adapter/README.md` and `privacy.html` into a run's folder.

    Args:
        job: the run's, with nothing left open.

    Raises:
        CheckpointError: a file cannot be written.
    """
    facts = facts_of_run(report, job, run_id)
    records = f"{report.data.title}; licence: {report.data.licence}"
    card = card_text(facts, measures_of(report), licence=report.base.licence, records=records)
    write_run_file(folder / report.adapter.path / CARD_FILE, card.encode())
    write_run_file(folder / PRIVACY_PAGE, certificate_page(facts, None, None).encode())


def facts_of_run(report: Report, job: JobConfig, run_id: str) -> AdapterFacts:
    """What a run says of its adapter; epsilon is the largest that a site's ledger was charged."""
    return AdapterFacts(
        job=job,
        made_by="a simulation on one machine, which held all records",
        run_id=run_id,
        adapter_digest=report.adapter.digest,
        base_digest=report.base.digest,
        rounds=len(report.rounds),
        sites=len({site for one in report.rounds for site in one.sites}),
        fewest_sites=min((len(one.sites) for one in report.rounds), default=0),
        parent=job.base.start or "",
        epsilon=report.epsilon_spent,
        accountant=report.privacy.accountant,
        noise_multiplier=report.privacy.noise_multiplier,
        software={"yoriai": report.yoriai_version, **versions()},
        ended=report.created,
    )


def measures_of(report: Report) -> list[Measure]:
    """The run's main measure over all sites, with the interval where one is known."""
    metric, after = main_metric(report), report.overall.get("federated")
    value = metric.of(after)
    if after is None or value is None:
        return []
    return [Measure(metric.key, value, metric.interval_of(after), metric.of(report.overall.get("base")), after.records)]
