"""The privacy certificate as a page: what it says, that its tests exist, and that it prints on one sheet."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.server.faulty import small_job
from tests.server.versions_made import statement
from yoriai.config import override
from yoriai.errors import ConfigError, PolicyError
from yoriai.privacy.documents.adapter_facts import AdapterFacts, facts_of_version
from yoriai.privacy.documents.certificate import Issuer, audit_of, certificate_page, named_tests
from yoriai.privacy.documents.promises import promises
from yoriai.privacy.statements.privacy_statement import AuditFacts
from yoriai.privacy.statements.version_statement import PrivacyFacts, SumFacts

ISSUER = Issuer("miyagi", "2026-11-29T12:00:00+00:00", "ab" * 32)
SHARED: Mapping[str, object] = {
    "privacy.noise": "distributed",
    "privacy.colluding": 2,
    "privacy.unit": "owner",
    "secure_aggregation.enabled": True,
    "federation.rule": "core",
    "federation.min_sites": 6,
    "purpose": "Sort work orders by subsystem, so that spare parts are ordered the day an order comes in. " * 3,
}


def facts(noise: str = "local", **settings: object) -> AdapterFacts:
    job = override(small_job(), {"privacy.noise": noise, **{k.replace("__", "."): v for k, v in settings.items()}})
    privacy = PrivacyFacts(noise, "record", 8.0, 1e-5, 1.0, None)
    if noise == "none":
        privacy = PrivacyFacts(noise, "record", None, None, None, None)
    return facts_of_version(statement("pumps-" + "x" * 60, privacy=privacy), job)


def shared_facts() -> AdapterFacts:
    said = {"privacy": PrivacyFacts("distributed", "owner", 8.0, 1e-5, 1.0, 2), "secure_sum": SumFacts(True, 16, 7)}
    made = statement("excavators-" + "x" * 60, parent="ab" * 32, sites=9, **said)
    return facts_of_version(made, override(small_job(), SHARED))


def audit(**changes: object) -> dict[str, Any]:
    """What `yoriai audit --json` prints of `facts()`'s job, as far as it is read."""
    job = facts().job
    settings = {"base": "tiny", "noise": "local", "rule": "fedavg", "epsilon": 8.0, "delta": 1e-5, "rounds": 3}
    settings |= {"unit": "record, add or remove one", "sampling_rate": job.training.sampling_rate, "clip_norm": 1.0}
    part = {"epsilon_lower": 1.25}
    white = {"epsilon_lower": 1.5, "job_rounds": part, "full_step": part}
    found = {"settings": settings, "confidence": 0.95, "white_box": white, "refuted": False, "control_holds": True}
    return {**found, **changes}


@pytest.mark.parametrize("one", [facts(), facts("none"), shared_facts()], ids=["local", "none", "distributed"])
def test_every_test_that_the_certificate_names_exists(one: AdapterFacts) -> None:
    known: set[str] = set()
    for path in (Path(__file__).parents[2]).rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    named = named_tests(one)
    assert len(named) >= 2
    assert set(named) <= known


def test_epsilon_stands_with_delta_unit_neighbours_and_accountant() -> None:
    page = certificate_page(shared_facts(), None, ISSUER)
    assert "epsilon = 8.00 at delta = 1e-5, per owner (add or remove one owner), by RDP." in page
    assert "one owner with all of their records" in page


def test_it_says_who_could_collude_and_by_how_many_sites() -> None:
    page = certificate_page(shared_facts(), None, ISSUER)
    assert "together with up to 2 sites of a round" in page  # As privacy.colluding, and a third of 7.
    assert "coordinator saw each site&#39;s by itself" in certificate_page(facts(), None, ISSUER)


def test_without_noise_it_certifies_no_guarantee() -> None:
    page = certificate_page(facts("none"), None, ISSUER)
    assert "No guarantee." in page
    assert "epsilon =" not in page
    asked = promises(facts("none"))
    assert {one.topic for one in asked if one.tests} == {"Side channels", "Security, access"}


def test_an_unsigned_page_says_that_nobody_signed_it() -> None:
    assert "not signed" in certificate_page(facts(), None, None)
    assert "Signed by" not in certificate_page(facts(), None, None)


def test_the_audits_largest_bound_stands_there_with_its_confidence() -> None:
    found = audit_of(json.dumps(audit()).encode(), facts())
    assert (found.epsilon_lower, found.confidence, found.base) == (1.5, 0.95, "tiny")
    assert "an epsilon of 1.50 at least per record (add or remove one record) at 95 %" in certificate_page(
        facts(), found, ISSUER
    )
    assert "None is known of this job" in certificate_page(facts(), None, ISSUER)


@pytest.mark.parametrize("setting", ["noise", "rule", "epsilon", "delta", "rounds", "sampling_rate", "unit"])
def test_an_audit_of_another_job_is_refused_by_what_differs(setting: str) -> None:
    other = audit()
    other["settings"] = {**other["settings"], setting: "another"}
    with pytest.raises(ConfigError, match=f"{setting} differ"):
        audit_of(json.dumps(other).encode(), facts())


@pytest.mark.parametrize(
    "change",
    [
        {"refuted": True},
        {"control_holds": False},
        {"black_box": {"epsilon_lower": 8.5}},  # Whatever it concludes from that.
        {"black_box": {"epsilon_lower": float("nan")}},
    ],
)
def test_what_an_audit_refutes_is_not_certified(change: dict[str, object]) -> None:
    with pytest.raises(PolicyError, match="does not bear this guarantee out"):
        audit_of(json.dumps(audit(**change)).encode(), facts())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"settings": 1}'])
def test_what_is_no_audit_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="this is no audit"):
        audit_of(data, facts())


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("one", [facts("none"), shared_facts()], ids=["none", "distributed"])
def test_it_prints_on_one_sheet_and_the_browser_has_nothing_to_complain_of(one: AdapterFacts, tmp_path: Path) -> None:
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(certificate_page(one, AuditFacts(1.5, 0.95, "b" * 100, "00" * 32), ISSUER), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", "--no-pdf-header-footer", f"--print-to-pdf={printed}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed.read_bytes())) == 1
