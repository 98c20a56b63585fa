"""What a site checks of an offered job before it looks at a record: its own policy, and that the offer is honest.

A coordinator may be hostile. Nothing of what it states about privacy is believed; the cost is worked out here anew.
No refusal depends on the records: what is to be known of them for a check stands in the policy, and is public.
"""

import json
from collections.abc import Mapping

from pydantic import ValidationError

from yoriai import wire
from yoriai.base_digest import difference
from yoriai.config import JobConfig, PolicySection
from yoriai.errors import PolicyError, WireError
from yoriai.privacy.dp.accounting import Costing, Event
from yoriai.privacy.dp.wording import epsilon_text, terms
from yoriai.privacy.identity.roster import MAX_WEIGHT, Roster
from yoriai.privacy.job_terms.noise import Noise, NoNoise, all_rounds, resolve_noise, round_event
from yoriai.privacy.job_terms.plain_roster import unlike_sites
from yoriai.privacy.secagg.ranks import thin_ranks
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.fit import check_fit
from yoriai.strategies.rule import built_in_rules, largest_update, rule_of


def read_job(site: str, policy: PolicySection, offer: wire.JobOffer) -> JobConfig:
    """The offered job; see `job_from`."""
    return job_from(site, policy, offer.job)


def job_from(site: str, policy: PolicySection, offered: Mapping[str, object]) -> JobConfig:
    """A job from what was offered as one.

    Raises:
        WireError: it is not one.
        PolicyError: its rule is another package's, which the policy does not name. Nothing of that is imported.
        ConfigError: its settings do not go together.
    """
    try:
        # Strict models take a list for a tuple from JSON only.
        job = JobConfig.model_validate_json(json.dumps(offered))
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in fault["loc"])[:80] for fault in error.errors()})
        raise WireError("the offered job is malformed", found="faults in " + ", ".join(places[:8])) from None
    if job.federation.rule not in {rule.name for rule in built_in_rules()} | set(policy.rules):
        raise PolicyError(
            f"site {site}: the job's rule is not built in, and policy.rules does not name it",
            remedy="choose a built-in rule, or have the site's operator allow it",
        )
    check_fit(job)
    return job


def check_membership(site: str, policy: PolicySection, job: JobConfig, offer: wire.JobOffer) -> None:
    """Raise PolicyError unless the roster names the site, and enough others, with weights that a roster may have."""
    weights = offer.roster.weights
    if site not in weights:
        raise PolicyError(f"site {site} is not in the roster", remedy="ask for a roster that names it")
    if not all(1 <= weight <= MAX_WEIGHT for weight in weights.values()):
        raise PolicyError(
            f"site {site}: the roster holds a weight that none may have",
            expected=f"whole numbers from 1 to {MAX_WEIGHT}",
        )
    if job.federation.min_sites < policy.min_sites or len(weights) < policy.min_sites:
        raise PolicyError(
            f"site {site}: too few sites take part",
            found=f"{len(weights)} in the roster, {job.federation.min_sites} needed by the job",
            expected=f"at least {policy.min_sites} (policy.min_sites)",
        )


def signed_rank(site: str, policy: PolicySection, job: JobConfig, roster: Roster) -> int | None:
    """The rank that the signed roster has this site train; None for all of the job's.

    Raises:
        PolicyError: with all sites there, some rank would still be that of too few of them for a sum to open.
    """
    ranks = {entry.name: entry.rank_in(job.lora.rank) for entry in roster.sites}
    least = max(policy.min_sites, job.federation.min_sites)
    if thin := thin_ranks(ranks.values(), least):
        raise PolicyError(
            f"site {site}: too few sites of the roster train rank {thin[0]}",
            found=str(sum(rank == thin[0] for rank in ranks.values())),
            expected=f"at least {least}",
            remedy="have the roster give its sites fewer ranks, or lower lora.rank",
        )
    return _below(job, ranks[site])


def plain_rank(site: str, job: JobConfig, ranks: Mapping[str, int]) -> int | None:
    """The rank that the offer's roster has this site train; None for all of the job's. Nothing is summed unseen."""
    return _below(job, ranks.get(site, job.lora.rank))


def _below(job: JobConfig, rank: int) -> int | None:
    if rank >= job.lora.rank:
        return None
    if job.trains_head:
        raise PolicyError(
            "the roster has sites train a lower rank, and a head that trains has no rank",
            found=f"rank {rank} of lora.rank = {job.lora.rank}",
            remedy="leave the ranks out of the roster, or lower lora.rank in the job",
        )
    return rank


def check_base(site: str, policy: PolicySection, job: JobConfig, offer: wire.JobOffer, digest: str) -> None:
    """Raise PolicyError unless policy, offer and job all mean the base with this digest, the one at the site."""
    if policy.base_digests and all(difference(digest, allowed) for allowed in policy.base_digests):
        raise PolicyError(f"site {site}: the base model is not one of policy.base_digests")
    for wanted in (offer.base_digest, job.base.digest or digest):
        if (unlike := difference(digest, wanted)) is not None:
            raise PolicyError(
                f"site {site} has another base model: its {unlike.what} differs",
                found=f"digest {unlike.found[:16]}…",
                expected=f"{unlike.expected[:16]}…",
                remedy="load the base that the job names",
            )


def agreed_noise(site: str, policy: PolicySection, job: JobConfig, offer: wire.JobOffer, costing: Costing) -> Noise:
    """The job's noise as the site itself resolves it, if it is what the site asks for and what the job states.

    Args:
        costing: by which the site adds up.

    Raises:
        PolicyError: it is not.
        ConfigError: the noise multiplier is not a finite number above 0, or no noise, modulus or scale fits the sizes.
    """
    multiplier = offer.noise_multiplier
    if job.privacy.noise == "none":
        if not policy.allow_no_privacy:
            raise PolicyError(f"site {site}: policy forbids jobs without differential privacy")
        if multiplier is not None:
            raise PolicyError(f"site {site}: the job promises no noise, and its offer holds some")
        return NoNoise()
    if multiplier is None:
        raise PolicyError(f"site {site}: the job promises noise, and its offer holds none")
    n_params = 0
    if job.privacy.noise == "distributed":
        check_sharing(site, policy, job, offer)
        n_params = largest_update(rule_of(job), AdapterState.from_bytes(offer.payload))
    _check_claim(site, policy, job)
    noise = resolve_noise(job, multiplier, n_params=n_params, sites=len(offer.roster.weights))
    event = round_event(job, noise)
    if event is not None:
        _check_cost(site, job, event, costing)
    return noise


def _check_claim(site: str, policy: PolicySection, job: JobConfig) -> None:
    """The job protects what this site protects, at a delta that it allows."""
    privacy = job.privacy
    if privacy.unit != policy.unit:
        raise PolicyError(
            f"site {site}: the job protects another unit than this site does",
            found=f"privacy.unit = {privacy.unit}",
            expected=f"{policy.unit} (policy.unit)",
            remedy="agree on one: charges per record say nothing of owners, and do not add up with theirs",
        )
    if privacy.delta > policy.delta:
        raise PolicyError(
            f"site {site}: privacy.delta is above the site's own",
            found=f"{privacy.delta:g}",
            expected=f"at most {policy.delta:g} (policy.delta)",
        )


def check_sharing(site: str, policy: PolicySection, job: JobConfig, offer: wire.JobOffer) -> None:
    """What distributed noise asks for beyond a job's own terms.

    Raises:
        PolicyError: the site's operator does not agree to it, the job counts on the noise of more sites than the
            operator does, or the sites of the roster are not all alike.
    """
    if not policy.allow_distributed_noise:
        raise PolicyError(
            f"site {site}: policy forbids jobs whose noise is distributed",
            remedy='set privacy.noise = "local", or have the site\'s operator allow it '
            "(policy.allow_distributed_noise)",
        )
    if job.privacy.colluding < policy.colluding:
        raise PolicyError(
            f"site {site}: the job counts on the noise of too many sites",
            found=f"privacy.colluding = {job.privacy.colluding}",
            expected=f"at least {policy.colluding} (policy.colluding)",
            remedy="raise it; each site's share of the noise grows",
        )
    if unlike := unlike_sites(offer.roster):
        raise PolicyError(
            f"site {site}: distributed noise needs sites that are all alike, for the noise of each must count alike",
            found=f"another weight than 1, or a lower rank, at {', '.join(unlike[:8])}",
            expected="weight 1 and the job's rank at every site",
            remedy='have such a roster signed, or set privacy.noise = "local"',
        )


def _check_cost(site: str, job: JobConfig, event: Event, costing: Costing) -> None:
    """The offered noise keeps what the job promises, by this site's own count."""
    privacy, rounds = job.privacy, all_rounds(job)
    cost = costing([(event, rounds)], privacy.delta, privacy.accountant)
    if cost.epsilon > privacy.epsilon:
        found = f"epsilon {epsilon_text(cost.epsilon, 4)} over {rounds} rounds"
        raise PolicyError(
            f"site {site}: the offered noise does not keep what the job promises",
            found=f"{found}, {terms(privacy.unit, cost.accountant)}",
            expected=f"at most {privacy.epsilon:g} (privacy.epsilon)",
            remedy="calibrate noise_multiplier to the whole job, spare rounds included",
        )


def check_records(site: str, policy: PolicySection, job: JobConfig) -> None:
    """The job goes with what the policy says of the site's records. They are not looked at.

    Raises:
        PolicyError: another kind of task, a label of the site's that the job lacks, more tokens than allowed, or a
            delta at which one unit of so many may be published whole.
    """
    task, privacy = job.task, job.privacy
    if policy.kinds and task.kind not in policy.kinds:
        raise PolicyError(
            f"site {site} takes no job of this kind",
            found=f"task.kind = {task.kind}",
            expected=f"{' or '.join(policy.kinds)} (policy.kinds)",
        )
    if task.kind == "classify" and (missing := [label for label in policy.labels if label not in task.labels]):
        raise PolicyError(
            f"site {site}: the job lacks labels that the site's records may have",
            found=f"{len(missing)} of {len(policy.labels)} missing, the first: {missing[0]!r}",
            expected="all of policy.labels among task.labels",
        )
    if policy.max_tokens is not None and task.max_tokens > policy.max_tokens:
        raise PolicyError(
            f"site {site}: the job's records may be longer than the site allows",
            found=f"task.max_tokens = {task.max_tokens}",
            expected=f"at most {policy.max_tokens} (policy.max_tokens)",
        )
    if privacy.noise != "none" and privacy.delta >= 1 / policy.max_records:
        raise PolicyError(
            f"site {site}: privacy.delta is not below 1 / policy.max_records",
            found=f"{privacy.delta:g}",
            expected=f"below 1 / {policy.max_records} {privacy.unit}s",
            remedy="lower privacy.delta",
        )
