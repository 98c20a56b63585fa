"""The containers: what they copy is there, their commands are Yoriai's, their users and modes the runbook's."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.commands import check_command
from tests.deploy.pages import PAGES, commands

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs" / "operate" / "containers"
IMAGES = {"server": PLACE / "server.Dockerfile", "site": PLACE / "site.Dockerfile"}
PARTY = (PLACE / "party.sh").read_text(encoding="utf-8")
every_image = pytest.mark.parametrize("image", IMAGES)


def instructions(image: str, name: str) -> list[str]:
    """What follows an instruction's name, as often as it stands there."""
    text = IMAGES[image].read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]


def party_lines() -> list[list[str]]:
    """Every `yoriai …` of party.sh, as words."""
    joined = PARTY.replace("\\\n", " ")
    found = re.findall(r"\byoriai ((?:federation|server|site) [^\n;|&]*)", joined)
    return [shlex.split(line) for line in found]


@every_image
def test_every_source_that_is_copied_is_there_and_makes_the_whole_package(image: str) -> None:
    copied = [line.split()[:-1] for line in instructions(image, "COPY") if not line.startswith("--from=")]
    names = [name for line in copied for name in line]
    assert [name for name in names if not (ROOT / name).exists()] == []
    links = {path.name for path in (ROOT / "yoriai").iterdir() if path.is_symlink()}
    assert links | {"yoriai", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= set(names)


@every_image
def test_no_file_names_a_registrys_host_and_torch_is_the_constraints(image: str) -> None:
    for path in PLACE.iterdir():
        assert not re.search(r"https?://|\.(?:io|org|com)\b", path.read_text(encoding="utf-8")), path.name
    constrained = re.search(r"(?m)^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert constrained is not None
    cpu = f"torch=={constrained[1]}+cpu"
    assert f"TORCH={cpu}" in instructions(image, "ARG")
    assert any(f"install {cpu} " in command.text for command in commands("operate", "Install Yoriai"))


def test_pythons_version_is_one_that_yoriai_runs_with() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    low, high = (int(number) for number in re.findall(r"3\.(\d+)", wanted))
    for image in IMAGES:
        (line,) = [line for line in instructions(image, "ARG") if line.startswith("PYTHON_IMAGE=")]
        minor = re.search(r"python:3\.(\d+)-", line)
        assert minor is not None
        assert low <= int(minor[1]) < high


@pytest.mark.parametrize(("image", "page", "folder"), [("server", "coordinator", "SERVER"), ("site", "site", "SITE")])
def test_the_users_are_made_as_the_runbook_makes_them(image: str, page: str, folder: str) -> None:
    wanted = {command.text for command in commands(page) if command.text.startswith("useradd ")}
    made = {line.replace(f"/srv/{image}", folder) for line in instructions(image, "RUN") if line.startswith("useradd ")}
    assert made == wanted
    assert instructions(image, "USER") == []  # root starts each process as its own user.


def test_every_command_of_a_party_is_yoriais_and_every_command_line_one_of_the_runbooks() -> None:
    lines = party_lines()
    assert len(lines) >= 13
    told = {tuple(part) for page in PAGES for command in commands(page) for part in _yoriais(command.text)}
    for words in lines:
        check_command([word for word in words if word != "$secret"] or words)
        assert tuple(words[:2]) in told, words


def _yoriais(text: str) -> list[list[str]]:
    return [words.split()[:2] for words in re.findall(r"\byoriai ([^&]*)", text)]


def test_what_belongs_to_a_user_is_given_to_them_as_in_the_runbook() -> None:
    (own,) = [command.text for command in commands("site", "1. Make the site") if command.text.startswith("chown")]
    assert own.replace("RECORDS", "/srv/records") in PARTY
    assert "exec yoriai site start /srv/site --node-user yoriai-node" in PARTY
    assert "exec runuser -u yoriai-server -- yoriai server start /srv/server" in PARTY
    assert "umask 077" in PARTY


def test_the_script_is_one_to_a_shell_and_refuses_what_it_does_not_know() -> None:
    subprocess.run(["sh", "-n", PLACE / "party.sh"], check=True)
    assert subprocess.run(["sh", PLACE / "party.sh", "unknown"], capture_output=True, check=False).returncode == 2


def test_the_trial_has_a_server_three_sites_and_a_consortium_off_the_network() -> None:
    text = (PLACE / "compose.yaml").read_text(encoding="utf-8")
    services = text.split("\nservices:\n")[1].split("\nvolumes:\n")[0]
    parts = dict(re.findall(r"(?ms)^  (\w+):\n(.*?)(?=^  \w+:|\Z)", services))
    assert set(parts) == {"consortium", "server", "north", "east", "south"}
    assert "network_mode: none" in parts["consortium"]
    sites = re.search(r"SITES=\$\{SITES:-(.*)\}", PARTY)
    assert sites is not None
    for name in sites[1].split():
        assert f'command: ["try-site", "{name}"]' in parts[name]
    known = set(re.findall(r"(?m)^    (try-\w+|run-\w+)\)", PARTY))
    assert set(re.findall(r'"(try-\w+)"', text)) | {"run-server", "run-site"} == known
    volumes = set(re.findall(r"(?m)^  (\w+):$", text.split("\nvolumes:\n")[1]))
    assert set(re.findall(r'"(\w+):/', services)) == volumes
    for image in re.findall(r"dockerfile: (\S+)", text):
        assert (ROOT / image).is_file()
