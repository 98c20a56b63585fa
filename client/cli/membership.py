"""Whether a site is a member of its federation, by the files that it has of its consortium itself, in a line."""

import os
from datetime import datetime

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import YoriaiError
from yoriai.privacy.identity.roster import Directory

NOT_YET = "not enrolled yet"


def membership_of(site: SiteFolder, now: datetime) -> str:
    """A line for the operator; empty for a user who may not read the site's files.

    A member that was revoked reads so here once the newer list is installed; before that, the server says it.
    """
    trusted = site.trusted
    if trusted.path.is_dir() and not os.access(trusted.path, os.R_OK | os.X_OK):
        return ""
    try:
        if not trusted.certificate.is_file():
            return NOT_YET
        enrolment, roster = trusted.enrolment(now), trusted.installed_roster(now)
        Directory(roster, trusted.trust(now)).check(roster.position(enrolment.name), enrolment.certificate)
    except YoriaiError as error:
        return f"none that holds: {error}"
    return f"{enrolment.name} in roster {roster.serial}, until {roster.expires:%Y-%m-%d}"
