"""What may be done from a site's console: each calls what the command of its name calls, with the same checks."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from yoriai.client.cli import deciding
from yoriai.client.cli.own_ledger import check_writer
from yoriai.client.console.watched import WatchedSite
from yoriai.client.offer.job_entry import Entry
from yoriai.client.versions.channel_place import ChannelPlace
from yoriai.console.forms import chosen, must_agree
from yoriai.console.pages import Action
from yoriai.errors import ConfigError
from yoriai.privacy.statements.version_statement import CHANNELS

_PULL_S = 900.0
_LONGEST_FAULT = 1000


class SiteActs:
    """See the module.

    Args:
        watched: whose pages are read again after it.
    """

    def __init__(self, watched: WatchedSite) -> None:
        self._watched, self._site = watched, watched.site

    def actions(self) -> list[Action]:
        """All of them."""
        return [
            Action("approve", "Approved", self._approve, "/jobs"),
            Action("refuse", "Refused", self._refuse, "/jobs"),
            Action("pull", "Pulled", self._pull, "/adapters"),
            Action("rollback", "Rolled back", self._roll_back, "/adapters"),
        ]

    def _approve(self, form: Mapping[str, str]) -> Sequence[str]:
        must_agree(form)
        return self._done(deciding.approve(self._watched.book, self._shown(form), form.get("reason", "")))

    def _refuse(self, form: Mapping[str, str]) -> Sequence[str]:
        shown = self._shown(form)
        return self._done(list(deciding.refuse(self._site, self._watched.book, shown, form.get("reason", ""))))

    def _pull(self, form: Mapping[str, str]) -> Sequence[str]:
        """By the command itself, in a process of its own: it loads the base, which a console is not to hold."""
        file, channel = form.get("file", "").strip(), chosen(form, "channel", CHANNELS)
        command = [sys.executable, "-P", "-m", "yoriai.cli", "site", "pull", "--channel", channel, "--json"]
        places = [str(self._site.path), *([file] if file else [])]  # Without a file: what the server has sent.
        try:
            done = subprocess.run(
                [*command, "--", *places],
                capture_output=True,
                text=True,
                timeout=_PULL_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(
                "the version was not taken in time", remedy="give the command: yoriai site pull"
            ) from None
        if done.returncode != 0:
            raise ConfigError(done.stderr.strip().removeprefix("error: ")[-_LONGEST_FAULT:])
        found = json.loads(done.stdout)
        lines = [f"{found['folder']} leads to {found['run']} ({found['adapter'][:12]})"]
        if found["forced"]:
            lines.append("note: the coordinator put this version there although its job's gate refused it")
        return self._done(lines)

    def _roll_back(self, form: Mapping[str, str]) -> Sequence[str]:
        must_agree(form)
        check_writer(self._site)
        place = ChannelPlace(self._site.channels, chosen(form, "channel", CHANNELS))
        with place.locked():
            number = place.roll_back()
        return self._done([f"{place.link} leads to number {number} again"])

    def _shown(self, form: Mapping[str, str]) -> Entry:
        """The job on the terms that the form's page showed: a decision is about those, and no others."""
        run = form.get("run", "")
        entry = self._watched.book.entry(run)
        if entry is None:
            raise ConfigError("no such job was offered here", found=run[:80])
        if entry.terms.digest != form.get("terms"):
            raise ConfigError(
                f"run {run} was offered with other terms meanwhile", remedy="look at them, and decide anew"
            )
        return entry

    def _done(self, lines: Sequence[str]) -> Sequence[str]:
        self._watched.changed()
        return lines
