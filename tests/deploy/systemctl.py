"""Stands in for systemctl on a test's machine: runs Yoriai's units by what they say, without their sandboxes.

    systemctl daemon-reload | start UNIT… | stop UNIT… | enable --now UNIT… | disable --now UNIT… | reload nginx

Of a unit in /etc/systemd/system it takes User=, SupplementaryGroups=, Environment= and ExecStart=.
"""

import grp
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS, STATE = Path("/etc/systemd/system"), Path("/run/units")
STOP_S = 120.0


def main() -> int:
    """Do what was asked for."""
    verb, *names = [word for word in sys.argv[1:] if word != "--now"]
    units = [name.removesuffix(".service") for name in names]
    if verb == "daemon-reload":
        return 0
    if (verb, units) == ("reload", ["nginx"]):
        number = Path("/run/nginx.pid")
        runs = number.exists() and number.read_text().strip() != ""  # `nginx -t` leaves an empty one.
        return subprocess.run(["nginx", *["-s", "reload"] * runs], check=False).returncode
    for unit in units:
        if verb in ("stop", "disable"):
            stop(unit)
        if verb in ("start", "enable"):
            start(unit)
    return 0


def settings_of(unit: str) -> dict[str, list[str]]:
    """Every setting of a unit, as often as it stands there."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"{unit}.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value.replace("%%", "%").replace("$$", "$"))
    return found


def start(unit: str) -> None:
    """Run its command as its user."""
    if alive(unit):
        return
    settings = settings_of(unit)
    user = pwd.getpwnam(settings["User"][0])
    more = [grp.getgrnam(name).gr_gid for name in settings.get("SupplementaryGroups", [])]
    own = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    named = dict(shlex.split(line)[0].split("=", 1) for line in settings.get("Environment", []))
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "PATH") if name in os.environ}
    STATE.mkdir(exist_ok=True)
    with (STATE / f"{unit}.log").open("ab") as log:
        process = subprocess.Popen(
            shlex.split(settings["ExecStart"][0]),
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[*os.getgrouplist(user.pw_name, user.pw_gid), *more],
            env={**kept, **own, **named},
            cwd="/",
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (STATE / f"{unit}.pid").write_text(str(process.pid))


def stop(unit: str) -> None:
    """Ask it to end, and wait until it has."""
    if alive(unit):
        os.kill(number_of(unit), signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while alive(unit):
        if time.monotonic() > deadline:
            raise SystemExit(f"{unit} does not end")
        time.sleep(0.1)
    (STATE / f"{unit}.pid").unlink(missing_ok=True)


def number_of(unit: str) -> int:
    """The number of its process; 0 if it was never started."""
    file = STATE / f"{unit}.pid"
    return int(file.read_text()) if file.exists() else 0


def alive(unit: str) -> bool:
    """Whether its process is there, and no zombie."""
    try:
        return Path(f"/proc/{number_of(unit)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
