"""A server's pages about a version: cards beside what is promoted and exported; the certificate and its reader."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.commands import Office, found, server, site, yoriai
from tests.server.enrolling import NAMES, enrolled
from tests.server.versions_made import finished
from yoriai.errors import EXIT_BAD_INPUT, IdentityError
from yoriai.privacy.identity.signing_key import SigningKey, read_key
from yoriai.privacy.statements.privacy_statement import read_privacy, sign_privacy
from yoriai.server.folder.server_folder import ServerFolder


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return found(tmp_path_factory.mktemp("office") / "consortium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, office: Office) -> ServerFolder:
    """An enrolled server; its SuperLink is not started."""
    home = tmp_path_factory.mktemp("pages")
    machine = ServerFolder(server(home / "server"))
    enrolled(machine, office, {name: site(home / name, name) for name in NAMES})
    return machine


def issued(folder: ServerFolder, run: str, out: Path) -> dict[str, Any]:
    done = yoriai("server", "certificate", folder.path, run, "--out", out, "--json")
    assert done.code == 0, done.screen
    return dict(json.loads(done.screen))


def test_what_is_promoted_has_a_card_with_the_figures_that_were_brought(folder: ServerFolder, tmp_path: Path) -> None:
    job = finished(folder, seed=1)
    shown = json.loads(yoriai("server", "show", folder.path, job.run_id, "--json").screen)
    digest = shown["statement"]["subject"][0]["digest"]["yoriaiAdapter1"]
    measured = {"schema": 1, "adapter_digest": digest, "accuracy": 0.8, "before": 0.5, "interval": [0.7, 0.9]}
    (tmp_path / "metrics.json").write_text(json.dumps(measured | {"records": 100}))
    done = yoriai("server", "promote", folder.path, job.run_id, "--metrics", tmp_path / "metrics.json")
    assert done.code == 0, done.screen
    card = ModelCard.load(folder.card(job.run_id))
    assert "| accuracy | 0.500 | 0.800 | 0.700 to 0.900 | 100 |" in card.text
    assert digest in card.text
    assert not any(name in card.content for name in NAMES)  # Sites are counted.


def test_what_is_exported_has_its_card_next_to_it(folder: ServerFolder, tmp_path: Path) -> None:
    job = finished(folder, seed=2)
    assert yoriai("server", "promote", folder.path, job.run_id, "--channel", "production").code == 0
    done = yoriai("server", "export-version", folder.path, "--out", tmp_path / "a.version", "--json")
    assert Path(json.loads(done.screen)["card"]) == tmp_path / "a.md"
    assert job.run_id in ModelCard.load(tmp_path / "a.md").text


def test_a_certificate_is_verified_by_who_has_the_cas_certificate_alone(
    folder: ServerFolder, office: Office, tmp_path: Path
) -> None:
    job = finished(folder, seed=3)
    made = issued(folder, job.run_id, tmp_path)
    ca = office.folder / "authority.der"
    done = yoriai("federation", "verify", made["file"], "--authority", ca)
    assert done.code == 0, done.screen
    assert "epsilon 8.00 per record (add or remove one record), by PLD or RDP" in " ".join(done.screen.split())
    said = json.loads(yoriai("federation", "verify", made["file"], "--authority", ca, "--json").screen)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert [one["name"] for one in said["subject"]] == [Path(made["page"]).name, "version.safetensors"]
    assert said["predicate"]["privacy"]["epsilon"] == 8.0
    assert said["predicate"]["tests"]
    assert not any(name in Path(made["page"]).read_text() for name in NAMES)


def test_a_page_of_which_a_letter_was_changed_is_refused(folder: ServerFolder, office: Office, tmp_path: Path) -> None:
    made = issued(folder, finished(folder, seed=4).run_id, tmp_path)
    page = Path(made["page"])
    page.write_text(page.read_text().replace("epsilon = 8.00", "epsilon = 1.00"))
    done = yoriai("federation", "verify", made["file"], "--authority", office.folder / "authority.der")
    assert done.code != 0
    assert "the page is not the one that was signed" in done.screen


def test_a_certificate_of_another_federation_or_key_is_refused(folder: ServerFolder, tmp_path: Path) -> None:
    made = issued(folder, finished(folder, seed=5).run_id, tmp_path)
    other = found(tmp_path / "other", name="osaka")
    assert yoriai("federation", "verify", made["file"], "--authority", other.folder / "authority.der").code != 0
    signed = json.loads(Path(made["file"]).read_text())["statement"].encode()
    key = read_key(folder.coordinator_key)
    again = sign_privacy(SigningKey.generate(), read_privacy(signed, key.public_key))
    with pytest.raises(IdentityError, match="right signature"):
        read_privacy(again, key.public_key)


def test_what_is_no_certificate_is_refused(office: Office, tmp_path: Path) -> None:
    (tmp_path / "a.privacy").write_text("{}")
    (tmp_path / "a.privacy.html").write_text("")
    done = yoriai("federation", "verify", tmp_path / "a.privacy", "--authority", office.folder / "authority.der")
    assert done.code == EXIT_BAD_INPUT
    assert "this is no privacy certificate" in done.screen


def test_the_log_notes_that_a_certificate_was_issued_and_of_which_page(folder: ServerFolder, tmp_path: Path) -> None:
    run = finished(folder, seed=6).run_id
    issued(folder, run, tmp_path)
    rows = map(json.loads, yoriai("server", "log", folder.path, "--json").screen.splitlines())
    (row,) = (row for row in rows if row["event"] == "certified" and row["run"] == run)
    assert len(row["page"]) == 64
    assert yoriai("server", "log", folder.path, "--verify").code == 0
