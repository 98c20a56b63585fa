"""A server that came out of its backup at another place has keys, jobs, versions and log, and the next job runs."""

import shutil
from pathlib import Path

from tests.commands import found, server, site, yoriai
from tests.server.enrolling import NAMES, enrolled
from tests.server.versions_made import finished
from yoriai.server.channels.changing import exported, promote
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.recording import records_of
from yoriai.server.versions import catalogue
from yoriai.server.versions.log import rows, verified_head

# What the table of backups in docs/operate/recovery.md names; the others are made again.
KEPT = ("server.toml", "keys", "tls", "trust", "members", "jobs", "versions")


def test_a_server_restored_elsewhere_has_its_versions_channels_and_log_and_the_next_job_goes_on_from_them(
    tmp_path: Path,
) -> None:
    old = ServerFolder(server(tmp_path / "server"))
    enrolled(old, found(tmp_path / "consortium"), {name: site(tmp_path / name, name) for name in NAMES})
    first = finished(old, seed=1)
    with records_of(old) as records:
        promote(records, first.run_id, "production", None, force_why="")
        before = [row.body for row in rows(records.db)]
        _, file = exported(records, "production")
    place = tmp_path / "elsewhere"
    place.mkdir(mode=0o700)
    for name in KEPT:
        (shutil.copytree if (old.path / name).is_dir() else shutil.copy2)(old.path / name, place / name)
    old.path.rename(tmp_path / "gone")

    new = ServerFolder(place)
    renewed = yoriai("server", "init", place, "--renew", "--yes")
    assert renewed.code == 0, renewed.screen
    for written in (new.nginx_site, new.unit):
        assert str(place) in written.read_text()
        assert str(old.path) not in written.read_text()
    assert all((place / name).stat().st_mode & 0o777 == 0o700 for name in ("flower", "run", "log"))

    second = finished(new, seed=2)
    with records_of(new) as records:
        assert [version.run for version in catalogue.versions(records.db)] == [first.run_id, second.run_id]
        now = [row.body for row in rows(records.db)]
        assert now[: len(before)] == before
        assert verified_head(rows(records.db), [records.key.public_key.public_bytes_raw()])[0] == len(now)
        _, again = exported(records, "production")
        assert (again.payload, again.promotion, again.statement) == (file.payload, file.promotion, file.statement)
        promote(records, second.run_id, "production", None, force_why="")
        row = catalogue.standing(records.db, "production")
        assert row is not None
        assert row.number == 2  # Above what the sites have taken.
