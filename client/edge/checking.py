"""`check-adapter`: whatever came in, told apart by what it is, and looked at whole: files, values, base, signature.

A version's file from `yoriai server export-version`, a folder that a run wrote or a site was given, anybody's PEFT
folder, a GGUF adapter, a GGUF model.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file

from yoriai import wire
from yoriai.base_digest import difference
from yoriai.client.base.base_model import choose_device, gguf_file, load_base
from yoriai.client.base.layers import linear_maps
from yoriai.client.base.quiet import quiet_libraries
from yoriai.client.edge.adapter_folder import read_factors, read_folder
from yoriai.client.edge.gguf_audit import audit_gguf
from yoriai.client.model.adapter_audit import HEAD, WEIGHTS, Audit, audit_folder, file_digest
from yoriai.client.model.magnitude import LARGEST_SHARE, weight_norms
from yoriai.client.session.export import TASK_FILE
from yoriai.config import JobConfig, job_digests
from yoriai.errors import AdapterError, BaseModelError, ConfigError, IdentityError, WireError, YoriaiError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.statements.delivery import DeliveryStatement, read_delivery
from yoriai.privacy.statements.version_statement import (
    JOB_FILE,
    VERSION_FILE,
    VersionStatement,
    read_version,
    unverified_version,
)
from yoriai.strategies.adapter import AdapterState
from yoriai.system.files import read_carried

_STATEMENT: Final = "statement"
_CERTIFICATE: Final = "coordinator.cert"
_LARGEST_MIB: Final = 2048
_ALIKE: Final = 1e-3
Statement = VersionStatement | DeliveryStatement


def check(path: Path, *, base: str | None = None, trust: Trust | None = None) -> Audit:
    """Look at what lies there.

    Args:
        base: a base by name, folder or file, that it is to go with; loaded where need be.
        trust: the pinned CA, under which a signature is verified; None leaves it unverified.

    Raises:
        ConfigError: nothing is there.
        BaseModelError: the base does not load.
    """
    if not path.exists():
        raise ConfigError(f"there is no {path}", remedy="check the path")
    if path.is_dir():
        found = audit_folder(path)
        _look_at_task(path, base, found)
        _look_at_signature(path, trust, found)
        return found
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    if is_gguf or path.suffix == ".gguf":
        return audit_gguf(path, _gguf_of(base) if base else None)
    return _version_file(path, trust)


def _gguf_of(base: str) -> Path:
    if (file := gguf_file(base)) is None:
        raise BaseModelError(
            "a GGUF file is compared with another one", found=base, expected="a packaged base, or a .gguf file"
        )
    return file


def _look_at_task(path: Path, base: str | None, found: Audit) -> None:
    """What task.json says, and whether it goes with the base at hand."""
    said = ""
    if (path / TASK_FILE).is_file():
        try:
            task = read_folder(path).task if not found.faults else json.loads((path / TASK_FILE).read_bytes())
            said = str(task["base"]["digest"])
            found.facts |= {"base": f"{task['base']['name']}, {said[:16]}…", "task": str(task["kind"])}
        except (AdapterError, ValueError, KeyError, TypeError, OSError):
            found.faults.append(f"{TASK_FILE} does not say what the folder answers")
            return
    else:
        found.warnings.append(f"there is no {TASK_FILE}: which base it belongs to is not said")
    if base is None or found.faults:
        return
    with quiet_libraries():
        loaded = load_base(base, device=choose_device("cpu"))
    if said and (unlike := difference(loaded.digest, said)):
        found.faults.append(f"it belongs to another base: its {unlike.what} differs")
    elif found.kind == "adapter":
        _look_at_maps(path, loaded.model, found)


def _look_at_maps(path: Path, model: Any, found: Audit) -> None:
    """Each map is one of the base, of its shape, and gets added no more than a training could."""
    factors, linear = read_factors(path), linear_maps(model)
    if foreign := [one for one, (a, b) in factors.pairs.items() if linear.get(one) != (len(b), a.shape[1])]:
        found.faults.append(f"{len(foreign)} maps that the base does not have in that shape, first {foreign[0][:120]}")
        return
    largest = max(weight_norms(model, factors.pairs).values())
    added = {one: float(np.linalg.norm(factors.delta(one))) for one in factors.pairs}
    worst = max(added, key=added.__getitem__)
    found.facts["adds at most"] = f"{added[worst] / largest:.3g} of the base's largest adapted weight, in {worst}"
    if added[worst] > LARGEST_SHARE * largest:
        found.faults.append(f"what it adds to {worst} is out of all proportion to the base")


def _look_at_signature(path: Path, trust: Trust | None, found: Audit) -> None:
    """The statement beside the files, and that they are what it speaks of."""
    if not (path / _STATEMENT).is_file():
        found.facts["signature"] = "none"
        return
    try:
        state = AdapterState.from_bytes((path / VERSION_FILE).read_bytes())
        statement = _statement(path, trust)
    except (YoriaiError, OSError) as error:
        found.faults.append(f"the signed version is not what it should be: {error}")
        return
    if statement is None:
        found.facts["signature"] = "there, and not verified; name a site with --site"
    elif statement.adapter_digest != state.digest():
        found.faults.append(f"{VERSION_FILE} is not the adapter of the coordinator's statement")
    else:
        found.facts["signature"] = f"verified: {statement.federation}, run {statement.run_id}"
    if not found.faults and not _scaled_as_signed(path, statement):
        found.faults.append("adapter_config.json scales the adapter otherwise than the job of the statement")
    if not found.faults and not _same(path, state):
        found.faults.append(f"what PEFT would read is not what {VERSION_FILE} holds")


def _statement(path: Path, trust: Trust | None) -> Statement | None:
    """A version's statement or a delivery's, under the coordinator's key; None where nobody says whose CA counts."""
    if trust is None:
        return None
    certificate = read_coordinator_certificate((path / _CERTIFICATE).read_bytes(), trust, now=trust.now)
    signed = (path / _STATEMENT).read_bytes()
    try:
        return read_version(signed, certificate.public_key)
    except IdentityError:
        return read_delivery(signed, certificate.public_key)


def _scaled_as_signed(path: Path, statement: Statement | None) -> bool:
    """Whether PEFT's settings have the scale of the signed job, which lies beside a version that a site has pulled.

    The factors that are signed say nothing of it, and a delivery's statement names a job that does not lie there.
    """
    if (path / HEAD).is_file() or not isinstance(statement, VersionStatement) or not (path / JOB_FILE).is_file():
        return True
    try:
        job = JobConfig.model_validate_json((path / JOB_FILE).read_bytes())
    except ValueError:
        return False
    config = json.loads((path / "adapter_config.json").read_bytes())
    signed = statement.job_digest in job_digests(job, statement.base_digest)
    return signed and config["lora_alpha"] * job.lora.rank == job.lora.alpha * config["r"]


def _same(path: Path, state: AdapterState) -> bool:
    """Whether the files that other libraries read give what the signed factors give."""
    if (path / HEAD).is_file():
        return AdapterState.from_bytes((path / HEAD).read_bytes()) == state
    config, tensors = json.loads((path / "adapter_config.json").read_bytes()), load_file(path / WEIGHTS)
    if len(tensors) != 2 * len(state.module_paths()):
        return False
    for one in state.module_paths():
        a, b = (tensors.get(f"base_model.model.{one}.lora_{side}.weight") for side in "AB")
        if a is None or b is None:
            return False
        own = (config.get("alpha_pattern") or {}).get(one, config["lora_alpha"]) / len(a)
        expected = config["lora_alpha"] / config["r"] * state.product(one)
        if np.linalg.norm(own * (b.astype(np.float64) @ a) - expected) > _ALIKE * np.linalg.norm(expected):
            return False
    return True


def _version_file(path: Path, trust: Trust | None) -> Audit:
    """A version's file: whole, of one adapter, and signed."""
    found = Audit("version", file_digest(path), path.stat().st_size)
    try:
        file = wire.decode(read_carried(path, "the version", at_most_mib=_LARGEST_MIB))
        if not isinstance(file, wire.VersionFile):
            raise ConfigError(f"a message of kind {file.kind}")
        statement, state = unverified_version(file.statement.encode()), AdapterState.from_bytes(file.payload)
        state.check_finite()
        found.facts["signature"] = "there, and not verified; name a site with --site"
        if trust is not None:
            certificate = read_coordinator_certificate(file.certificate.encode(), trust, now=trust.now)
            read_version(file.statement.encode(), certificate.public_key)
            found.facts["signature"] = f"verified: {certificate.federation}"
    except WireError:
        found.faults.append("neither an adapter's folder, nor a GGUF file, nor a version's")
        return found
    except YoriaiError as error:
        found.faults.append(str(error))
        return found
    if state.digest() != statement.adapter_digest:
        found.faults.append("the adapter is not the one of the statement")
    found.facts |= {
        "run": statement.run_id,
        "base": f"{statement.base_digest[:16]}…",
        "trained by": f"{statement.trained_by}, {statement.rounds} rounds, {statement.sites} sites",
        "tensors": str(len(state.tensors)),
    }
    return found
