"""What an operator's yes or no to a job does, for the commands and the console alike."""

import time
from collections.abc import Iterator

from yoriai.client.cli.own_ledger import free
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.decision_log import checked_reason
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import Entry
from yoriai.client.offer.joining import joining
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.system.users import operator_name


def approve(book: JobBook, shown: Entry, reason: str) -> list[str]:
    """Let a job begin on the terms that were shown; what follows, in lines.

    Raises:
        ConfigError: it was offered with other terms meanwhile, it has ended, or the site declines it itself.
    """
    if shown.state in ("approved", "accepted"):
        return [f"run {shown.run_id} was approved before; nothing was changed"]
    book.decide(shown, "approved", by=operator_name(), reason=checked_reason(reason))
    said = f"approved run {shown.run_id}; the site answers so when the coordinator offers it again"
    if shown.state == "refused":
        return [said, "a coordinator that was told no meanwhile asks again only once the job is resumed there"]
    return [said, joining(shown, time.time()).text]


def refuse(site: SiteFolder, book: JobBook, shown: Entry, reason: str) -> Iterator[str]:
    """Refuse a job, then free its unused rounds; says of each what was done once it is.

    Raises:
        ConfigError: as `approve`.
        LedgerError: the ledger cannot be read or written.
    """
    entry = book.decide(shown, "refused", by=operator_name(), reason=checked_reason(reason))
    yield f"refused run {entry.run_id}; `yoriai site approve {site.path} {entry.run_id}` takes it back"
    yield from freed(*free(site, entry.run_id))


def freed(rounds: int, epsilon: float) -> list[str]:
    """That rounds were freed; nothing if there were none."""
    if not rounds:
        return []
    return [f"freed {rounds} unused rounds, epsilon {epsilon_text(epsilon)}; what was charged stays spent"]
