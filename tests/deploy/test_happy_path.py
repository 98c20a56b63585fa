"""Three rounds over real processes: the same bits as in one process, an adapter at every site, nothing overheard."""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.processes import free_port, wait_until
from tests.deploy.world import LABELS, Deployment, events_of, final_adapter, tapped
from yoriai import wire
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.client.records.records import read_sites
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site import secure_round
from yoriai.config import job_digest
from yoriai.privacy.identity.signing_key import read_key
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.round.registry import Registry
from yoriai.simulations.run.simulated_federation import Federation, run_federation
from yoriai.strategies.adapter import AdapterState

pytestmark = pytest.mark.deploy

SEED = b"known"
ROUNDS = 3


@dataclass(frozen=True)
class Done:
    """A deployment whose job has ended, and what went over the wire of one of its sites."""

    world: Deployment
    job: StoredJob
    overheard: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder, port = tmp_path_factory.mktemp("deployed"), free_port()
    world = Deployment(folder, addresses={"north": port})
    try:
        with tapped(world, port, folder / "overheard") as overheard:
            world.start(seed=SEED)
            job = world.submit()
            world.wait_for(job)
            yield Done(world, job, overheard)
    finally:
        world.stop()


@pytest.fixture(scope="module")
def reference(done: Done, tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, list[bytes]]:
    """The same job in one process, with the same noise: its registry, and every update before it was masked."""
    job = done.job.prepared().job
    folder, updates = tmp_path_factory.mktemp("in-process"), []
    federation = Federation(
        job=job,
        sites=read_sites(done.world.records),
        roster=wire.Roster(serial=1, weights=dict.fromkeys(done.world.sites, 1)),
        folder=folder,
        run_id="reference",
        noise_seed=SEED,
    )
    quantise = secure_round.quantise

    def watched(values, grid, entropy):  # type: ignore[no-untyped-def]
        quantised = quantise(values, grid, entropy)
        updates.extend([np.asarray(values, np.float32).tobytes(), np.asarray(quantised.levels).tobytes()])
        return quantised

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secure_round, "quantise", watched)
        run_federation(federation, ModelSession(load_base(job.base.model, device=choose_device("cpu")), job.speed))
    return Registry(folder), updates


def test_the_adapter_is_the_in_process_engine_s_bit_for_bit(
    done: Done, reference: tuple[Registry, list[bytes]]
) -> None:
    expected, found = reference[0].load(), Registry(done.job.folder).load()
    assert expected is not None
    assert found is not None
    assert [r.adapter_digest for r in found.rounds] == [r.adapter_digest for r in expected.rounds]
    assert len({r.adapter_digest for r in found.rounds}) == ROUNDS
    assert found.adapter == expected.adapter


def test_a_promoted_version_comes_to_every_site_by_itself_and_is_pulled_without_a_file(done: Done) -> None:
    world = done.world
    promoted = world.command("server", "promote", world.server.path, done.job.run_id, "--channel", "production")
    assert promoted.returncode == 0, promoted.stderr

    def received() -> set[str]:
        rows = map(json.loads, world.command("server", "log", world.server.path, "--json").stdout.splitlines())
        return {row["site"] for row in rows if row["event"] == "received"}

    wait_until(lambda: received() == set(world.sites), 120.0, world.keeper.said)
    north = world.sites["north"].folder
    pulled = world.command("site", "pull", north)
    assert pulled.returncode == 0, pulled.stderr
    found = AdapterState.from_bytes((north / "channels" / "production" / "version.safetensors").read_bytes())
    assert found == final_adapter(done.job)


def test_every_site_took_part_in_every_round_and_was_charged_for_just_these(done: Done) -> None:
    rounds = events_of(done.job, "round")
    assert [event["answered"] for event in rounds] == ["east,north,south,west"] * ROUNDS
    for site in done.world.sites.values():
        site.stop()
        assert site.charged(done.job.run_id) == list(range(ROUNDS))


def test_every_site_holds_the_signed_final_adapter_in_pefts_format(done: Done) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    digest = final_adapter(done.job).digest()
    for site in done.world.sites.values():
        folder = site.final(done.job.run_id)
        assert digest.encode() in (folder / "statement").read_bytes()
        base = AutoModelForCausalLM.from_pretrained(done.world.base)
        model = PeftModel.from_pretrained(base, folder)
        assert any(float(value.abs().max()) > 0 for name, value in model.named_parameters() if "lora_B" in name)


def test_every_site_has_its_own_evaluation_and_keeps_it(done: Done) -> None:
    heard = done.overheard.read_bytes()
    for site in done.world.sites.values():
        path = site.final(done.job.run_id) / "evaluation.json"
        found = json.loads(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert found["before"]["records"] == found["after"]["records"] == 4
        assert found["before"]["loss"] != found["after"]["loss"]
        assert repr(found["after"]["loss"]).encode() not in heard


def test_the_coordinator_keeps_every_round_with_job_roster_and_base(done: Done) -> None:
    manifest = json.loads((done.job.folder / "checkpoint.json").read_text())
    prepared = done.job.prepared()
    roster = done.world.server.signed_roster(datetime.now(UTC)).directory.roster
    registry = Registry(done.job.folder)
    stored = registry.load()
    assert stored is not None
    assert [registry.adapter_after(record).digest() for record in stored.rounds] == [
        record.adapter_digest for record in stored.rounds
    ]
    assert {record.roster_digest for record in stored.rounds} == {roster.digest.hex()}
    assert stored.job_digest == job_digest(prepared.job, prepared.base_digest)
    assert manifest["base_digest"] == prepared.base_digest
    assert sorted(manifest["delivered"]) == sorted(done.world.sites)


def test_who_listens_between_site_and_server_finds_no_update_no_record_and_no_key(
    done: Done, reference: tuple[Registry, list[bytes]]
) -> None:
    heard, north = done.overheard.read_bytes(), done.world.sites["north"]
    assert b"/v1/fleet/pull-messages" in heard  # The tap does see what TLS protects.
    assert done.job.run_id.encode() in heard
    assert len(reference[1]) == 2 * 4 * ROUNDS
    for update in reference[1]:
        assert update[:48] not in heard
    key = read_key(north.places.identity_key).for_x509()
    assert key.private_bytes_raw() not in heard
    assert north.places.node_key.read_bytes().splitlines()[1] not in heard
    records = (done.world.records / "north" / "train.jsonl").read_text().splitlines()
    assert not [line for line in records if json.loads(line)["prompt"].encode() in heard]
    # Labels are the job's own words, so they are heard, once an offer; the site sends none.
    assert all(label.encode() in heard for label in LABELS)
