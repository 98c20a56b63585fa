"""What root's `site check` has the daemon's user look at: what root may read, or has in a cache, says nothing of it."""

import json
import os
from collections.abc import Callable, Iterable, Iterator

from yoriai.client.cli.check.check_rows import Row
from yoriai.client.folder.daemon_environment import daemon_environment
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import ConfigError, YoriaiError
from yoriai.system.supervisor import installed
from yoriai.system.users import output_as, user_name

# The unit has no network, and a check changes nothing: what is not there yet is not fetched.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def asked_of_daemons_user(site: SiteFolder, *, quick: bool) -> Callable[[], Iterable[Row]] | None:
    """What gives the rows of `own_rows`, found by a process of the daemon's user; None where this one will do.

    Args:
        site: with an absolute path.
        quick: whether the base is left out.
    """
    owner = site.path.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return None
    return lambda: _rows(site, owner, quick=quick)


def _rows(site: SiteFolder, owner: int, *, quick: bool) -> Iterator[Row]:
    name = user_name(owner)
    try:
        line = [installed("yoriai"), "site", "check", str(site.path), "--json", "--own", *["--quick"] * quick]
        done = output_as(owner, line, daemon_environment(site, os.environ) | _OFFLINE)
        found = json.loads(done.stdout)["rows"]
        yield from (Row(**row) for row in found)
    except ConfigError as error:
        yield Row("daemon's user", "fail", str(YoriaiError(error.what, found=error.found)), error.remedy)
    except (ValueError, KeyError, TypeError):
        remedy = f"see what it says: runuser -u {name} -- {' '.join(line)}"
        yield Row("daemon's user", "fail", f"what {name} can use could not be looked at", remedy)
