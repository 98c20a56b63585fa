"""The gate of a job: what its version must show before it comes into a channel. Pure; an unknown figure fails."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yoriai.config import GateSection
from yoriai.privacy.dp.wording import epsilon_text
from yoriai.privacy.statements.version_statement import PrivacyFacts, VersionStatement
from yoriai.server.versions.metrics import Audit, Metrics
from yoriai.server.versions.verdicts import Verdict, is_found_worse, net_of

_UNKNOWN = "not known"
_ROUNDING = 1e-9
_SLACK = 1 + _ROUNDING


@dataclass(frozen=True)
class Line:
    """One condition of a gate: the setting, whether it holds, what was found, and what it asks for."""

    setting: str
    holds: bool
    found: str
    expected: str

    def __str__(self) -> str:
        return f"gate.{self.setting}: found {self.found}, expected {self.expected}"


def gate_lines(
    gate: GateSection,
    version: VersionStatement,
    metrics: Metrics | None,
    production: Metrics | None,
    *,
    is_first: bool,
    votes: Sequence[Verdict] | None = None,
) -> list[Line]:
    """Every condition that the gate has, and how the version stands to it.

    Args:
        version: what is signed about it.
        metrics: of the version; None where none were given.
        production: of the version in production now; None where none were ever given.
        is_first: whether production holds nothing yet, so that there is nothing to compare with.
        votes: of sites, by their own test records; None where none can be there yet, and none are asked for.
    """
    lines = []
    if gate.epsilon is not None:
        lines.append(_epsilon(gate.epsilon, version.privacy))
    if gate.audit:
        lines.append(_audit(version, metrics.audit if metrics else None))
    if gate.accuracy_drop is not None:
        lines.append(_accuracy(gate.accuracy_drop, metrics, production, is_first=is_first))
    if gate.site_drop is not None:
        lines += _sites(gate.site_drop, metrics, production)
    if gate.votes is not None and votes is not None:
        lines.append(_votes(gate.votes, votes))
    return lines


def _epsilon(most: float, privacy: PrivacyFacts) -> Line:
    found = privacy.epsilon
    holds = found is not None and found <= most
    return Line("epsilon", holds, "no guarantee" if found is None else f"{found:g}", f"at most {most:g}")


def _audit(version: VersionStatement, audit: Audit | None) -> Line:
    """An audit of the job's own settings, whose bound its epsilon bears. It proves no privacy; it can refute it."""
    privacy = version.privacy
    if audit is None or privacy.epsilon is None:
        found = _UNKNOWN if audit is None else "no guarantee that it could refute"
        return Line("audit", False, found, "an audit of the job's settings")
    theirs, ours = (audit.trained_by, audit.noise, audit.delta), (version.trained_by, privacy.noise, privacy.delta)
    if theirs != ours:
        return Line("audit", False, f"one of {_settings(*theirs)}", f"one of {_settings(*ours)}")
    if not audit.control_holds:
        return Line("audit", False, "a control that fails", "an audit that would have seen a fault")
    shown = f"epsilon at least {epsilon_text(audit.epsilon_lower)}{', and the claim refuted' if audit.refuted else ''}"
    holds = not audit.refuted and max(audit.epsilon_lower, audit.epsilon_claimed) <= privacy.epsilon * _SLACK
    expected = f"no bound above {privacy.epsilon:g}, for a training that claims no more (it claims "
    return Line("audit", holds, shown, f"{expected}{epsilon_text(audit.epsilon_claimed)})")


def _votes(least: int, votes: Sequence[Verdict]) -> Line:
    net, deviation = net_of(votes)
    found = f"{len(votes)} sites, {net:+d} records with noise of {deviation:.1f}"
    holds = len(votes) >= least and not is_found_worse(votes)
    return Line("votes", holds, found, f"at least {least} sites, and no loss beyond what the noise explains")


def _settings(trained_by: str, noise: str, delta: float | None) -> str:
    return f"{trained_by} with {noise} noise at delta {delta:g}" if delta is not None else f"{trained_by} without noise"


def _accuracy(drop: float, metrics: Metrics | None, production: Metrics | None, *, is_first: bool) -> Line:
    found = metrics.accuracy if metrics else None
    shown = _UNKNOWN if found is None else f"{found:.4f}"
    if is_first:
        return Line("accuracy_drop", found is not None, shown, "an accuracy; production holds no version yet")
    known = production.accuracy if production else None
    if known is None:
        return Line("accuracy_drop", False, shown, "the accuracy of the version in production, which is not known")
    least = f"at least {known - drop:.4f} ({known:.4f} in production, less {drop:g})"
    return Line("accuracy_drop", found is not None and not _loses(known, found, drop), shown, least)


def _sites(drop: float, metrics: Metrics | None, production: Metrics | None) -> Iterator[Line]:
    """A line for each site that loses too much, or one line that none does.

    A site is held against what it had with the version in production, or else against the bare base.
    """
    if metrics is None or not metrics.sites:
        yield Line("site_drop", False, _UNKNOWN, f"no site worse by more than {drop:g}")
        return
    before = {site: score.before for site, score in metrics.sites.items()}
    before |= {site: score.after for site, score in production.sites.items()} if production else {}
    losses = [
        Line("site_drop", False, f"{site} {score.after:.4f}", _least(site, before.get(site), drop))
        for site, score in sorted(metrics.sites.items())
        if (was := before.get(site)) is None or _loses(was, score.after, drop)
    ]
    yield from losses
    if not losses:
        yield Line("site_drop", True, f"{len(metrics.sites)} sites", f"no site worse by more than {drop:g}")


def _loses(before: float, after: float, drop: float) -> bool:
    """Whether that is worse by more than `drop`; shares that differ by just that much do not, however they round."""
    return before - after > drop + _ROUNDING


def _least(site: str, before: float | None, drop: float) -> str:
    if before is None:
        return f"what {site} had before, which is not known"
    return f"at least {before - drop:.4f} ({before:.4f} before, less {drop:g})"
