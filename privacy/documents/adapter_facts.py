"""What the pages tell of an adapter: how it was made and under which guarantee, from a version or from a simulation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from yoriai.config import JobConfig
from yoriai.privacy.documents.rendering import small
from yoriai.privacy.dp.wording import accountant_name, epsilon_text, per_unit, terms
from yoriai.privacy.statements.version_statement import VersionStatement


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter and how it was made; no record, and no site by name.

    Attributes:
        job: with nothing left open.
        made_by: whose word it is: `the coordinator of miyagi`, or a simulation.
        rounds: finished ones.
        sites, fewest_sites: in any round's sum, and in the smallest.
        parent: digest of the adapter that the job went on from; empty for none.
        epsilon: what one unit's participation cost at most; None without noise.
        accountant: what added it up; None without noise.
        noise_multiplier: noise over clip norm; None without noise.
        software: releases by the name of the package.
        ended: ISO 8601, UTC.
    """

    job: JobConfig
    made_by: str
    run_id: str
    adapter_digest: str
    base_digest: str
    rounds: int
    sites: int
    fewest_sites: int
    parent: str
    epsilon: float | None
    accountant: str | None
    noise_multiplier: float | None
    software: Mapping[str, str]
    ended: str

    @property
    def base_name(self) -> str:
        """The base model's name; of one in a folder, its last part, for where it lies is nobody else's business."""
        name = self.job.base.model
        return PurePath(name).name if PurePath(name).is_absolute() else name

    @property
    def price(self) -> str:
        """Epsilon with everything that a bare one leaves open, in a sentence."""
        if self.epsilon is None:
            return "No noise was added: no privacy guarantee is given, and single records may be recoverable."
        privacy = self.job.privacy
        told = terms(privacy.unit, self.accountant)
        return f"epsilon = {epsilon_text(self.epsilon)} at delta = {small(privacy.delta)}, {told}."

    @property
    def neighbours(self) -> str:
        """What the guarantee is of, such as `per record (add or remove one record)`."""
        return per_unit(self.job.privacy.unit)

    @property
    def colluders(self) -> int:
        """Sites of the smallest round that may collude before single updates of the secure sum can be told apart."""
        return self.fewest_sites // 3

    @property
    def holds_against(self) -> str:
        """Against whom the guarantee holds, and who would have to work together against it."""
        privacy, masked = self.job.privacy, self.job.secure_aggregation.enabled
        hidden = (
            f"Single updates stay hidden from the coordinator together with up to {self.colluders} sites of a round"
            if masked
            else "Updates were not masked: the coordinator saw each site's by itself"
        )
        if privacy.noise == "local":
            return f"Each site added all of the noise itself, so it holds against everybody else. {hidden}."
        if privacy.noise == "distributed":
            most = privacy.colluding
            return (
                "The sites shared the noise, so it holds for whoever sees the opened sums, and against the coordinator "
                f"together with up to {most} {'site' if most == 1 else 'sites'} of a round. {hidden}; whoever could "
                "unmask one update would see it under a share of the noise."
            )
        return f"{hidden}; nothing bounds what the sum itself tells."


def facts_of_version(statement: VersionStatement, job: JobConfig) -> AdapterFacts:
    """The facts of a version; the job is the one of its statement."""
    privacy = statement.privacy
    return AdapterFacts(
        job=job,
        made_by=f"the coordinator of {statement.federation}",
        run_id=statement.run_id,
        adapter_digest=statement.adapter_digest,
        base_digest=statement.base_digest,
        rounds=statement.rounds,
        sites=statement.sites,
        fewest_sites=statement.secure_sum.fewest_sites,
        parent=statement.parent,
        epsilon=privacy.epsilon,
        accountant=accountant_of(job),
        noise_multiplier=privacy.noise_multiplier,
        software=statement.software,
        ended=statement.ended,
    )


def accountant_of(job: JobConfig) -> str | None:
    """What adds up the losses that a job's noise was calibrated to; None without noise.

    Of the accountant asked for and RDP the smaller bound counts (docs/privacy.md), and shared noise has RDP alone. It
    takes an accountant to tell which of two it was, and a server loads none.
    """
    if job.privacy.noise == "none":
        return None
    rdp = accountant_name("rdp")
    if job.privacy.noise == "distributed" or job.privacy.accountant == "rdp":
        return rdp
    return f"{accountant_name(job.privacy.accountant)} or {rdp}"
