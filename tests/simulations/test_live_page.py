"""`simulate --live`: the page of a run shows its rounds as they are stored, and is gone with the command."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.simulations.conftest import Run
from tests.world import write_job
from yoriai.console.pages import Asked
from yoriai.simulations.cli.live import Watched
from yoriai.simulations.experiment.observers import Silent


def pages(client: httpx.Client) -> Iterator[str]:
    """The live part of the first page, each time that it is another one."""
    with client.stream("GET", "/events", params={"page": "/"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))["html"]


def test_a_finished_runs_rounds_and_sites_are_those_of_its_checkpoint(run: Run) -> None:
    found = Watched(run.folder, Silent()).values(Asked())
    assert found["rounds"] == len(found["took_part"]) > 0
    assert found["sites"]


def test_before_there_is_a_folder_there_is_a_page(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "none", Silent())
    watched.advance("reading the records", 0, 0)
    assert (watched.values(Asked())["what"], watched.values(Asked())["rounds"]) == ("reading the records", None)


def test_a_round_is_seen_arriving_while_the_command_runs(base: Path, sites: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", base)
    command = [sys.executable, "-m", "yoriai.cli", "simulate", str(job), "--data", str(sites), "--out", "run", "--live"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = next(line for line in process.stdout if line.startswith("live ")).split()[1]
        with httpx.Client(base_url=link.partition("/enter")[0], timeout=120) as client:
            assert client.get(link).status_code == 200
            assert next(page for page in pages(client) if 'class="yes"' in page)
        process.stdout.read()
        assert process.wait(120) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(link)
