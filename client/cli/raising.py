"""A raise of a data set's budget: after a question and, where the site's policy names one, a second person's word."""

import time
from pathlib import Path

from yoriai.asking import agree
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.offer.decision_log import DecisionLog
from yoriai.client.offer.second_approval import Raise, check_countersigned
from yoriai.errors import ConfigError, PolicyError
from yoriai.privacy.dp.wording import per_unit
from yoriai.privacy.ledger.ledger import Ledger, Policy
from yoriai.system.files import PRIVATE, read_carried, write_atomically
from yoriai.system.users import operator_name


def raise_budget(
    path: Path,
    witness: Path | None,
    epsilon: float,
    reason: str,
    *,
    folder: Path | None = None,
    countersigned: Path | None = None,
    yes: bool,
) -> None:
    """Raise a ledger's budget after a question; a wider one cannot be taken back for what it let through.

    Args:
        folder: of the site whose ledger it is; None for a ledger that was named by its file.
        countersigned: what the second approver has signed.
        yes: ask nothing.

    Raises:
        PolicyError: a second person has to sign it first; what they sign is written then.
        IdentityError: what was signed is not this raise, or not the second approver's.
        ConfigError: it is no raise, or the ledger is a site's and was not named so.
    """
    site = SiteFolder(folder) if folder is not None else _site_of(path)
    key = site.config().policy.second_approver if site is not None else ""
    with Ledger.existing(path, witness=witness) as ledger:
        new, before = ledger.check_raise(epsilon, reason), ledger.policies()[-1].policy
        if key:
            if folder is None:
                raise ConfigError(
                    "a second person has to sign this raise", remedy="name the site in place of its ledger"
                )
            _check_second(ledger, key, new, before, reason=reason, countersigned=countersigned, folder=folder)
            reason = f"{reason.strip()} (second approver {key[:16]})"
        question = f"Raise the budget of data set {ledger.dataset} from epsilon {before.epsilon_budget:g} to "
        question += f"{new.epsilon_budget:g}, {per_unit(new.unit)}?"
        agree(question, yes=yes, otherwise="nothing was changed")
        if folder is not None and site is not None:
            said = f"epsilon {before.epsilon_budget:g} to {new.epsilon_budget:g}: {reason}"
            DecisionLog(site.jobs, time.time).add("raised", by=operator_name(), reason=said)
        ledger.raise_budget(epsilon, reason)


def _check_second(
    ledger: Ledger, key: str, new: Policy, before: Policy, *, reason: str, countersigned: Path | None, folder: Path
) -> None:
    head = ledger.head()
    wanted = Raise(
        dataset=ledger.dataset,
        row=head.number,
        head=head.hash,
        epsilon_from=before.epsilon_budget,
        epsilon_to=new.epsilon_budget,
        reason=reason.strip(),
        asked_by=operator_name(),
    )
    if countersigned is not None:
        check_countersigned(read_carried(countersigned, "what the second approver has signed"), key, wanted)
        return
    # In the site's folder: the daemon's user, who gives the command, may write there, wherever it is given.
    request = folder / f"raise-{ledger.dataset}-{head.number}.request"
    write_atomically(request, wanted.payload, mode=PRIVATE)
    raise PolicyError(
        "a second person has to sign this raise (policy.second_approver)",
        remedy=f"take {request} to them: `yoriai site countersign {request} --key KEY`; then the same command again "
        f"with --countersigned {request.with_suffix('.signed')}",
    )


def _site_of(ledger: Path) -> SiteFolder | None:
    """The site in whose folder a ledger lies, if it lies in one."""
    site = SiteFolder(ledger.resolve().parent.parent)
    return site if site.settings.is_file() else None
