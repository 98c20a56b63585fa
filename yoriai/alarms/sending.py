"""How an alarm reaches somebody who looks at no page: a POST of JSON, and a mail. Each once a day as long as it lasts.

What a receiver answers goes nowhere; that it fails, or hangs, holds nothing up and is a line in the log. A webhook's
certificate is verified as the system has it. Nothing is sent to where an answer would redirect to.
"""

import json
import smtplib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from email.message import EmailMessage
from typing import Any, Final

from yoriai.alarms.alarm import Alarm
from yoriai.config.alarms import AlarmWays
from yoriai.system.log import EventLog
from yoriai.terminal import one_line

_AGAIN_S: Final = 86_400.0
_LONGEST_S: Final = 20.0
_MOST_TOLD: Final = 1000


class Sender:
    """Tells of alarms by the ways of the settings.

    Args:
        settings: without a webhook and a receiver of mail nothing is sent.
        where: the server's or the site's name.
        log: gets what could not be sent, by type; never an address.
        clock: seconds, of any beginning.
    """

    def __init__(
        self, settings: AlarmWays, where: str, log: EventLog, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._where, self._log, self._clock = settings, where, log, clock
        self._told: dict[tuple[str, str], float] = {}

    @property
    def has_way(self) -> bool:
        """Whether anybody would be told."""
        return bool(self._settings.webhook or self._settings.mail_to)

    def tell(self, alarms: Iterable[Alarm]) -> None:
        """Send those that were not sent in the last day."""
        now = self._clock()
        for alarm in alarms:
            key = (alarm.kind, alarm.subject)
            if key in self._told and now - self._told[key] < _AGAIN_S:
                continue
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[key] = now
            self._send(alarm)

    def failed(self, error: Exception) -> None:
        """Note that something kept it from telling, by type."""
        self._log.event("alarm_failed", error=type(error).__name__)

    def _send(self, alarm: Alarm) -> None:
        for way, wanted in ((self._post, self._settings.webhook), (self._mail, self._settings.mail_to)):
            if wanted:
                try:
                    way(alarm)
                except (OSError, ValueError, smtplib.SMTPException) as error:
                    self.failed(error)

    def _post(self, alarm: Alarm) -> None:
        document = {"schema": 1, "kind": alarm.kind, "where": self._where, "subject": alarm.subject}
        data = json.dumps({**document, "text": alarm.sentence}).encode()
        request = urllib.request.Request(self._settings.webhook, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_LONGEST_S):
            pass

    def _mail(self, alarm: Alarm) -> None:
        message = EmailMessage()
        message["To"], message["From"] = self._settings.mail_to, self._settings.mail_from or self._settings.mail_to
        message["Subject"] = one_line(f"Yoriai {self._where}: {alarm.sentence}")[:200]
        message.set_content(f"{alarm.sentence}\n\n{alarm.kind} at {self._where}\n")
        with smtplib.SMTP(self._settings.mail_host, self._settings.mail_port, timeout=_LONGEST_S) as server:
            server.send_message(message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Watch:
    """Looks every now and then, from a thread of its own, and has told what it finds. A context manager.

    Args:
        look: works the alarms out; an error of it is no end.
        sender: is told; without a way nothing is looked at.
        every_s: between two looks.
    """

    def __init__(self, look: Callable[[], Iterable[Alarm]], sender: Sender, *, every_s: float) -> None:
        self._look, self._sender, self._every_s = look, sender, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="alarms", daemon=True)

    def __enter__(self) -> None:
        if self._sender.has_way:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _keep_looking(self) -> None:
        while True:
            try:
                self._sender.tell(self._look())
            except Exception as error:  # Whatever cannot be read now; the next look may do.
                self._sender.failed(error)
            if self._end.wait(self._every_s):
                return
