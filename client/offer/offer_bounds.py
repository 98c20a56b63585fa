"""How large an offered job may be, before a site spends anything on it. Pure.

Each setting has a range of its own (`yoriai.config.models`); these bounds are about what several of them come to
together, and about what is in an offer beside the job. They lie far above what any job needs, and no policy widens
them: they are there so that no offer keeps a site from answering, or takes its memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import PolicyError
from yoriai.privacy.dp.accounting import LARGEST_NOISE_MULTIPLIER, SMALLEST_NOISE_MULTIPLIER
from yoriai.privacy.job_terms.noise import all_rounds

LARGEST_HEAD = 1 << 24
LARGEST_STEPS = 1_000_000
LARGEST_JOB_BYTES = 128 * 1024
MOST_LABELS = 1_000
MOST_SITES = 4_096


@dataclass(frozen=True)
class _Size:
    """What an offer asks for, and the range that a site takes."""

    field: str
    found: float
    most: float
    remedy: str
    least: float = 0


def check_bounds(site: str, job: JobConfig, offer: wire.JobOffer, width: int) -> None:
    """Refuse an offer that would cost a site too much to look at, or to take part in.

    Args:
        site: its name.
        width: of the base model: entries of one token's hidden state.

    Raises:
        PolicyError: names the first setting that is out of its bounds.
    """
    for size in _sizes(job, offer, width):
        if not size.least <= size.found <= size.most:  # A NaN is in no range.
            raise PolicyError(
                f"site {site}: {size.field} is outside what any site takes",
                found=f"{size.found:.10g}",
                expected=f"{size.least:g} to {size.most:.10g}" if size.least else f"at most {size.most:.10g}",
                remedy=size.remedy,
            )


def _sizes(job: JobConfig, offer: wire.JobOffer, width: int) -> Iterator[_Size]:
    """In the order in which they are looked at."""
    text, sites = len(json.dumps(offer.job)), len(offer.roster.weights)
    steps = all_rounds(job) * job.training.local_steps
    yield _Size("the job's own text, in bytes,", text, LARGEST_JOB_BYTES, "shorten its labels or its template")
    yield _Size("the roster, in sites,", sites, MOST_SITES, "have fewer sites take part")
    yield _Size("task.labels, in number,", len(job.task.labels), MOST_LABELS, "teach fewer labels")
    if job.trains_head:
        entries = len(job.task.labels) * job.head.features
        yield _Size("the head, in entries,", entries, LARGEST_HEAD, "lower head.directions or head.words")
        remedy = "lower it: the base's hidden states have no more directions"
        yield _Size("head.directions", job.head.directions, width, remedy)
    yield _Size("lora.rank", job.lora.rank, width, "lower it: the base's hidden states have no more directions")
    yield _Size(
        "(federation.rounds + privacy.spare_rounds) * training.local_steps", steps, LARGEST_STEPS, "lower one of them"
    )
    if job.privacy.noise != "none" and offer.noise_multiplier is not None:
        yield _Size(
            "noise_multiplier",
            offer.noise_multiplier,
            LARGEST_NOISE_MULTIPLIER,
            "calibrate it to an epsilon and a delta that a job may have",
            SMALLEST_NOISE_MULTIPLIER,
        )
