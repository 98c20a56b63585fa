"""The impact assessment of GDPR article 35 as a form: what Yoriai states of a job, and blanks for the site."""

from pathlib import PurePath

from yoriai.config import JobConfig
from yoriai.privacy.documents.adapter_facts import accountant_of
from yoriai.privacy.documents.rendering import template
from yoriai.privacy.dp.wording import terms


def assessment(job: JobConfig | None) -> str:
    """The form in Markdown.

    Args:
        job: whose settings are filled in; None leaves the form blank, as docs/operate/impact-assessment.md has it.
    """
    return template("impact_assessment.md.j2").render(
        job=job,
        base_name="" if job is None else PurePath(job.base.model).name,
        terms="" if job is None else terms(job.privacy.unit, accountant_of(job)),
    )
