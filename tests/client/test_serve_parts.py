"""The endpoint's parts in this process: labels, leases, the log, the key, and what is said before anything starts."""

import asyncio
import io
import json
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.client.endpoints import CHOOSES, LABELS, WRITES, ServedSite
from tests.commands import yoriai
from yoriai.client.serving import versions as versions_module
from yoriai.client.serving.adapter_gguf import adapter_gguf
from yoriai.client.serving.api_key import ApiKey, api_key
from yoriai.client.serving.asked import LARGEST_BODY_BYTES
from yoriai.client.serving.front import Front
from yoriai.client.serving.running import listening
from yoriai.client.serving.version import Opener, Version
from yoriai.client.serving.versions import Versions
from yoriai.client.session.loading import load
from yoriai.config import ServeSection
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, ConfigError, IdentityError, PolicyError
from yoriai.system.log import EventLog

KEY = "k" * 32
TEXTS = ["the pump drips", "smoke"]
_Found = TypeVar("_Found")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def chooses(home: Path) -> ServedSite:
    """Its version in use chooses labels."""
    made = ServedSite(home / "chooses", home / "tiny.gguf")
    made.pull(1, CHOOSES)
    return made


@pytest.fixture(scope="module")
def writes(home: Path) -> ServedSite:
    made = ServedSite(home / "writes", home / "tiny.gguf")
    made.pull(1, WRITES)
    return made


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    with io.StringIO() as lines:
        yield lines


def opener(site: ServedSite, home: Path, settings: ServeSection | None = None) -> Callable[[Path], Version]:
    small = settings or ServeSection(threads=1, parallel=1, context_tokens=64)
    return Opener(str(site.base), "production", small, home / "cache").open


def within(site: ServedSite, home: Path, log: io.StringIO, use: Callable[[Versions], Awaitable[_Found]]) -> _Found:
    """Do something with the versions of a site, which are closed at its end."""

    async def run() -> _Found:
        versions = Versions(site.place.link, opener(site, home), EventLog(log), look_every_s=0.01)
        await versions.begin()
        try:
            return await use(versions)
        finally:
            await versions.close()

    return asyncio.run(run())


def posted(
    site: ServedSite, home: Path, log: io.StringIO, body: bytes, *, log_texts: bool = False, path: str = "classify"
) -> httpx.Response:
    """The answer of the front to one request."""

    async def use(versions: Versions) -> httpx.Response:
        settings = ServeSection(log_texts=log_texts)
        front = Front(versions, model="production", key=ApiKey(KEY), settings=settings, log=EventLog(log))
        transport = httpx.ASGITransport(front.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(f"/v1/{path}", content=body, headers={"Authorization": f"Bearer {KEY}"})

    return within(site, home, log, use)


def asked_for(texts: Any) -> bytes:
    return json.dumps({"model": "production", "input": texts}).encode()


# Labels.


def test_labels_and_probabilities_are_those_of_the_loaded_folder(
    chooses: ServedSite, home: Path, log: io.StringIO
) -> None:
    loaded = load(chooses.place.link, device="cpu")
    answer = posted(chooses, home, log, asked_for(TEXTS)).json()
    assert answer["version"] == "production.1"
    assert [one["label"] for one in answer["data"]] == loaded.predict(TEXTS)
    for one, expected in zip(answer["data"], loaded.probabilities(TEXTS).tolist(), strict=True):
        assert list(one["probabilities"]) == list(LABELS)
        assert list(one["probabilities"].values()) == pytest.approx(expected, abs=1e-5)


def test_one_text_is_a_list_of_one(chooses: ServedSite, home: Path, log: io.StringIO) -> None:
    assert len(posted(chooses, home, log, asked_for(TEXTS[0])).json()["data"]) == 1


def test_a_version_that_chooses_writes_nothing(chooses: ServedSite, home: Path, log: io.StringIO) -> None:
    body = json.dumps({"model": "production", "messages": [{"role": "user", "content": "why"}]}).encode()
    answer = posted(chooses, home, log, body, path="chat/completions")
    assert answer.status_code == 400
    assert "ask /v1/classify" in answer.json()["error"]["message"]


@pytest.mark.parametrize("log_texts", [False, True])
def test_texts_are_logged_where_the_operator_says_so_alone(
    chooses: ServedSite, home: Path, log: io.StringIO, log_texts: bool
) -> None:
    posted(chooses, home, log, asked_for(TEXTS), log_texts=log_texts)
    assert 'what="classify"' in log.getvalue()
    assert ("drips" in log.getvalue()) is log_texts


def test_a_body_that_is_too_long_and_one_that_is_no_request_are_refused(
    chooses: ServedSite, home: Path, log: io.StringIO
) -> None:
    for body, match in ((b" " * (LARGEST_BODY_BYTES + 1), "too long"), (b"{", "not understood"), (b"[]", "understood")):
        answer = posted(chooses, home, log, body)
        assert answer.status_code == 400
        assert match in answer.json()["error"]["message"]


# Who answers while versions change.


def test_a_request_ends_on_the_version_that_it_began_on_and_that_is_closed_then(
    writes: ServedSite, home: Path, log: io.StringIO
) -> None:
    async def use(versions: Versions) -> None:
        watching = asyncio.create_task(versions.watch())
        async with versions.lease() as old:
            assert old.writer is not None
            writes.pull(2, WRITES, seed=2)
            while versions.current is old:
                await asyncio.sleep(0.01)
            async with versions.lease() as new:
                assert new.name == "production.2"
            said = await old.writer.client.post("/v1/completions", json={"prompt": [5], "max_tokens": 1})
            assert (old.is_alive, said.status_code) == (True, 200)
        while old.is_alive:
            await asyncio.sleep(0.01)
        watching.cancel()

    within(writes, home, log, use)
    assert "version_closed" in log.getvalue()


async def not_taken(versions: Versions, log: io.StringIO, pull: Callable[[], object], cache: Path) -> None:
    """A version comes into use for which the cache has no room, and is not taken."""
    cache.rename(cache.with_name("away"))
    cache.touch()
    pull()
    while "version_not_taken" not in log.getvalue():
        await asyncio.sleep(0.01)
    cache.unlink()
    cache.with_name("away").rename(cache)


def test_a_version_that_did_not_open_is_tried_again(
    writes: ServedSite, tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions_module, "_TRY_FAILED_AGAIN_S", 0.0)

    async def use(versions: Versions) -> None:
        watching = asyncio.create_task(versions.watch())
        await not_taken(versions, log, lambda: writes.pull(3, WRITES, seed=3), tmp_path / "cache")
        while versions.current.name != "production.3":
            await asyncio.sleep(0.01)
        watching.cancel()

    within(writes, tmp_path, log, use)


def test_to_go_back_to_the_version_that_still_answers_opens_nothing(
    writes: ServedSite, tmp_path: Path, log: io.StringIO
) -> None:
    async def use(versions: Versions) -> None:
        watching = asyncio.create_task(versions.watch())
        await not_taken(versions, log, lambda: writes.pull(4, WRITES, seed=4), tmp_path / "cache")
        writes.place.roll_back()
        await asyncio.sleep(0.1)  # Ten times as long as to the next look.
        writes.place.use(4)
        while versions.current.name != "production.4":
            await asyncio.sleep(0.01)
        watching.cancel()

    within(writes, tmp_path, log, use)
    assert log.getvalue().count("version_in_use") == 2


def test_of_adapters_for_llama_cpp_the_ones_used_last_are_kept(writes: ServedSite, tmp_path: Path) -> None:
    cache, made = tmp_path / "cache", list[Path]()
    for seed in range(5):
        folder = tmp_path / str(seed)
        shutil.copytree(writes.pull(5 + seed, WRITES, seed=seed), folder)
        if seed == 4:
            assert adapter_gguf(tmp_path / "0", writes.base, cache) == made[0]
        made.append(adapter_gguf(folder, writes.base, cache))
    assert set(cache.iterdir()) == {made[place] for place in (0, 2, 3, 4)}


def test_nothing_is_left_running_at_the_end(writes: ServedSite, home: Path, log: io.StringIO) -> None:
    async def use(versions: Versions) -> Version:
        return versions.current

    assert not within(writes, home, log, use).is_alive


# The key.


@pytest.mark.parametrize(
    "shown", ["", KEY, f"Basic {KEY}", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer \udcff"]
)
def test_a_key_that_is_not_the_key_does_not_fit(shown: str) -> None:
    assert ApiKey(KEY).fits(f"bearer {KEY}")
    assert not ApiKey(KEY).fits(shown)


def test_a_key_is_made_once_for_its_owner_alone_and_shown_by_no_repr(tmp_path: Path) -> None:
    first, is_new = api_key(tmp_path / "key")
    again, is_new_again = api_key(tmp_path / "key")
    text = (tmp_path / "key").read_text().strip()
    assert (is_new, is_new_again) == (True, False)
    assert first.fits(f"Bearer {text}")
    assert again.fits(f"Bearer {text}")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert text not in repr(first)


def test_a_key_file_that_others_may_read_or_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=f"open to others.*chmod 600 {path}"):
        api_key(path)
    path.chmod(0o600)
    for text in ("", "short", f"{KEY} {KEY}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no key"):
            api_key(path)


# Before anything starts.


def test_an_address_beyond_loopback_needs_the_operators_word() -> None:
    with pytest.raises(PolicyError, match=r"reached from the network.*serve.allow_network = true"):
        listening("0.0.0.0", 0, allow_network=False)
    listening("0.0.0.0", 0, allow_network=True).close()
    listening("127.0.0.1", 0, allow_network=False).close()
    with pytest.raises(ConfigError, match="no IP address"):
        listening("localhost", 0, allow_network=True)


def test_a_port_that_is_taken_is_said_with_what_to_do(chooses: ServedSite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = yoriai("site", "serve", chooses.folder, "--port", port)
    assert done.code == EXIT_BAD_INPUT
    assert f"port {port} of 127.0.0.1 is taken; name another one with --port" in done.screen


def test_a_site_without_a_version_is_told_to_pull_one(chooses: ServedSite) -> None:
    done = yoriai("site", "serve", chooses.folder, "--channel", "staging")
    assert done.code == EXIT_BAD_INPUT
    assert f"yoriai site pull {chooses.folder} FILE --channel staging" in done.screen


def test_the_network_is_refused_by_the_command_too(home: Path) -> None:
    open_ = ServedSite(home / "open", home / "tiny.gguf", address='"0.0.0.0"')
    open_.pull(1, CHOOSES)
    assert yoriai("site", "serve", open_.folder).code == EXIT_REFUSED


def test_without_llama_cpp_what_writes_is_refused_with_what_to_install(
    writes: ServedSite, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match=r"not installed here.*pip install \"yoriai\[edge\]\""):
        opener(writes, home)(writes.place.link.resolve())


def test_what_chooses_labels_needs_no_llama_cpp(
    chooses: ServedSite, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert opener(chooses, home)(chooses.place.link.resolve()).chooser is not None


def test_a_base_that_is_no_gguf_file_is_refused_with_what_would_do(
    writes: ServedSite, home: Path, base_folder: Path
) -> None:
    with pytest.raises(ConfigError, match=r"reads a base from a \.gguf file"):
        Opener(str(base_folder), "production", ServeSection(), home / "cache").open(writes.place.link.resolve())
