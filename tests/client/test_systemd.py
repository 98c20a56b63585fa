"""The systemd units of a site: systemd itself reads them, and they say what daemon and SuperNode may."""

import subprocess
from pathlib import Path

import pytest

from tests.commands import yoriai
from tests.system import needed
from yoriai.client.folder.owners import Names
from yoriai.client.folder.site_folder import SiteFolder
from yoriai.client.folder.systemd import write_units
from yoriai.config import LedgerSection, RecordsSection, SiteConfig
from yoriai.errors import EXIT_BAD_INPUT, ConfigError


def units_of(folder: Path, **settings: object) -> tuple[str, str]:
    config = SiteConfig(name="north", **settings)  # type: ignore[arg-type]
    daemon, node, _ = write_units(SiteFolder(folder), config, Names())
    return daemon.read_text(), node.read_text()


@pytest.mark.parametrize("name", ["plain", "with a space", "100%n and $HOME"])
def test_systemd_finds_no_fault_in_units_and_users(tmp_path: Path, name: str) -> None:
    done = yoriai("site", "init", tmp_path / name, "--name", "north", "--yes")
    assert done.code == 0
    units = sorted((tmp_path / name / "systemd").glob("*.service"))
    assert [unit.name for unit in units] == ["yoriai-node-north.service", "yoriai-site-north.service"]
    checks = (
        [needed("systemd-analyze", "systemd"), "verify", "--man=no", *units],
        [needed("systemd-sysusers", "systemd"), "--dry-run", *(tmp_path / name / "systemd").glob("*.sysusers")],
    )
    for line in checks:
        found = subprocess.run(line, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert "Unknown" not in found.stderr
        assert "not valid" not in found.stderr


def test_each_unit_starts_its_part_as_its_user(tmp_path: Path) -> None:
    daemon, node = units_of(tmp_path)
    assert "User=yoriai-site\n" in daemon
    assert f'site start "{tmp_path}" --only daemon --allow-user yoriai-node --log-json\n' in daemon
    assert "User=yoriai-node\n" in node
    assert "SupplementaryGroups=yoriai-site\n" in node
    assert f'site start "{tmp_path}" --only node --log-json\n' in node
    assert "After=network-online.target time-sync.target yoriai-site-north.service\n" in node


def test_the_node_writes_its_own_folder_alone_and_sees_nothing_private(tmp_path: Path) -> None:
    records, witness = tmp_path / "records", tmp_path / "elsewhere"
    site = tmp_path / "site"
    _, node = units_of(site, records=RecordsSection(folder=str(records)), ledger=LedgerSection(witness=str(witness)))
    lines = node.splitlines()
    assert [line for line in lines if line.startswith("ReadWritePaths")] == [f'ReadWritePaths="{site}/node"']
    hidden = {line.removeprefix('InaccessiblePaths="-').rstrip('"') for line in lines if "Inaccessible" in line}
    own = {str(site / name) for name in ("keys", "trust", "ledgers", "adapters", "jobs")}
    assert hidden == {*own, str(records), str(witness)}


def test_the_daemon_reaches_nobody_beyond_this_machine(tmp_path: Path) -> None:
    daemon, _ = units_of(tmp_path)
    assert "IPAddressDeny=any\nIPAddressAllow=localhost\n" in daemon


@pytest.mark.parametrize("unit", [0, 1])
def test_both_units_restart_for_ever_and_cannot_gain_rights(tmp_path: Path, unit: int) -> None:
    lines = units_of(tmp_path)[unit].splitlines()
    wanted = {"Restart=always", "StartLimitIntervalSec=0", "NoNewPrivileges=yes", "CapabilityBoundingSet="}
    assert wanted | {"ProtectSystem=strict", "PrivateTmp=yes", "UMask=0077"} <= set(lines)


def test_homes_are_hidden_unless_the_site_lies_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yoriai.client.folder import systemd

    monkeypatch.setattr(systemd, "_HOMES", ())
    assert "ProtectHome=yes\n" in units_of(tmp_path)[1]
    monkeypatch.setattr(systemd, "_HOMES", (tmp_path,))
    assert "ProtectHome=read-only\n" in units_of(tmp_path)[1]


def test_records_around_the_sites_own_folder_do_not_hide_it(tmp_path: Path) -> None:
    _, node = units_of(tmp_path / "site", records=RecordsSection(folder=str(tmp_path)))
    assert f'"-{tmp_path}"' not in node


def test_a_path_that_would_end_a_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="control character"):
        units_of(tmp_path, records=RecordsSection(folder="/a\nUser=root"))


def test_one_user_for_both_is_refused(tmp_path: Path) -> None:
    done = yoriai("site", "init", tmp_path / "s", "--name", "n", "--yes", "--user", "a", "--node-user", "a")
    assert (done.code, "name two" in done.screen, (tmp_path / "s").exists()) == (EXIT_BAD_INPUT, True, False)
