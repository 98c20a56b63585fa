"""`yoriai federation try`: from nothing to an adapter at every site, by the command, and nothing left running."""

import json
from pathlib import Path

import pytest

import yoriai
from tests.commands import yoriai as command
from tests.world import save_tiny_base

pytestmark = [pytest.mark.deploy, pytest.mark.deploy_full]


def at_work(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in lines if str(folder) in line and "pytest" not in line]


def test_a_trial_leaves_a_trained_head_at_every_site_and_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    done = command("federation", "try", folder, "--sites", "2", "--base", save_tiny_base(tmp_path / "base", hidden=128))
    assert done.code == 0, done.screen
    found = json.loads((folder / "trial.json").read_text())
    assert [(site["name"], site["rounds"], site["tested"]) for site in found["sites"]] == [
        ("site-1", 4, 60),
        ("site-2", 4, 60),
    ]
    assert all(0 < site["epsilon"] <= 8.0 for site in found["sites"])
    heads = [yoriai.load(site["folder"], base=str(tmp_path / "base")) for site in found["sites"]]
    assert heads[0].predict(["replace pump"]) == heads[1].predict(["replace pump"])
    assert f"yoriai job status --server {folder}/server" in done.screen
    assert at_work(folder) == []
    again = command("federation", "try", folder)
    assert (again.code, "is not empty" in again.screen) == (2, True)
