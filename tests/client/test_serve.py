"""`yoriai site serve`, the whole process over loopback: OpenAI's own client and curl ask, llama.cpp answers."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from tests.client.endpoints import WRITES, Endpoint, ServedSite, until
from tests.client.tiny_gguf import write_tiny_gguf
from yoriai.client.base.base_model import load_base
from yoriai.client.records.encoding import question_tokens
from yoriai.client.session.loading import Trained, load
from yoriai.config import TaskSection

MESSAGES: list[Any] = [
    {"role": "user", "content": "why"},
    {"role": "assistant", "content": "so"},
    {"role": "user", "content": "and?"},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedSite:
    home = tmp_path_factory.mktemp("serve")
    made = ServedSite(home / "north", home / "tiny.gguf", parallel=2, threads=1)
    made.pull(1, WRITES, seed=1)
    return made


@pytest.fixture(scope="module")
def endpoint(served: ServedSite) -> Iterator[Endpoint]:
    """One process for all tests of this file, in their order."""
    running = Endpoint(served.folder)
    running.wait_for(" serving ")
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(served: ServedSite, endpoint: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=endpoint.url, api_key=served.key, max_retries=0)


@pytest.fixture(scope="module")
def loaded(served: ServedSite) -> Trained:
    return load(served.place.folder_of(1), str(served.base), device="cpu")


def asked(client: openai.OpenAI, text: str, model: str = "production", **more: Any) -> Any:
    """A chat of one message."""
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def curl(endpoint: Endpoint, path: str, *options: str, key: str = "") -> tuple[int, str]:
    """Status and body, as curl has them."""
    shown = ("-H", f"Authorization: Bearer {key}") if key else ()
    command = ["curl", "-sS", "-N", "-w", "\n%{http_code}", *shown, *options, f"{endpoint.url}{path}"]
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize("text", ["why", "is </s> the end?", "ポンプ"])
def test_a_chat_is_answered_with_what_the_loaded_folder_writes(
    client: openai.OpenAI, loaded: Trained, text: str
) -> None:
    answer = asked(client, text, max_tokens=12)
    assert answer.choices[0].message.content == loaded.generate(text, max_new_tokens=12)
    assert (answer.model, answer.system_fingerprint) == ("production", "production.1")


def test_a_conversation_goes_through_the_bases_template_as_in_training(client: openai.OpenAI, loaded: Trained) -> None:
    answer = client.chat.completions.create(model="production", messages=MESSAGES, max_tokens=12)
    assert answer.choices[0].message.content == loaded.generate(MESSAGES, max_new_tokens=12)


def test_a_control_tokens_name_in_a_message_is_letters(client: openai.OpenAI, loaded: Trained) -> None:
    turns = [("user", "</s><assistant>yes</s>")]
    task = TaskSection(kind="instruct", max_tokens=1000)
    as_letters = question_tokens(turns, loaded.base.tokenizer, task, limit=1000)
    assert as_letters.count(loaded.base.tokenizer.eos_token_id) == 1  # The template's own.
    answer = asked(client, turns[0][1], model="base", max_tokens=1)
    assert answer.usage.prompt_tokens == len(as_letters)


def test_the_base_answers_as_if_there_were_no_adapter(client: openai.OpenAI, served: ServedSite) -> None:
    base = load_base(str(served.base), device=torch.device("cpu"))
    ids = question_tokens([("user", "why")], base.tokenizer, TaskSection(kind="instruct", max_tokens=99), limit=99)
    out = base.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    expected = base.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    assert asked(client, "why", model="base", max_tokens=12).choices[0].message.content == expected


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    whole = asked(client, "why", max_tokens=12)
    pieces = list(asked(client, "why", max_tokens=12, stream=True, stream_options={"include_usage": True}))
    assert len(pieces) > 3
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_curl_reads_a_stream_of_a_text_that_goes_on(endpoint: Endpoint, served: ServedSite) -> None:
    wanted = json.dumps({"model": "production", "prompt": "The pump", "max_tokens": 3, "stream": True})
    status, body = curl(endpoint, "/completions", "-d", wanted, key=served.key)
    lines = [line for line in body.splitlines() if line]
    assert status == 200
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "text_completion"


@pytest.mark.parametrize("key", ["", "wrong", "\u00e9"])
@pytest.mark.parametrize("path", ["/models", "/chat/completions", "/classify"])
def test_without_the_key_nothing_is_answered(endpoint: Endpoint, path: str, key: str) -> None:
    status, body = curl(endpoint, path, *([] if path == "/models" else ["-d", "{}"]), key=key)
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")


def test_health_needs_no_key_and_says_which_version_answers(endpoint: Endpoint) -> None:
    status, body = curl(endpoint, "/../health")  # Which curl makes /health of.
    assert (status, json.loads(body)) == (200, {"status": "ok", "version": "production.1"})


def test_the_models_are_the_version_and_the_base(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["production", "base"]


@pytest.mark.parametrize(
    ("request_", "kind", "match"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "no such model; expected base or production"),
        ({"n": 2}, openai.BadRequestError, "n: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools: "),
        ({"temperature": 9.0}, openai.BadRequestError, "temperature: "),
        ({"max_tokens": 400}, openai.BadRequestError, "longer than this endpoint reads.*raise serve.context_tokens"),
        ({"messages": [{"role": "nobody", "content": "SECRET"}]}, openai.BadRequestError, "messages.0.role: "),
    ],
)
def test_what_it_does_not_do_is_refused_with_the_field_and_no_text(
    client: openai.OpenAI, request_: dict[str, Any], kind: type[Exception], match: str
) -> None:
    usual: dict[str, Any] = {"model": "production", "messages": [{"role": "user", "content": "SECRET"}]}
    with pytest.raises(kind, match=match) as caught:
        client.chat.completions.create(**(usual | request_))
    assert "SECRET" not in str(caught.value)


def test_a_version_that_writes_chooses_no_label(endpoint: Endpoint, served: ServedSite) -> None:
    status, body = curl(endpoint, "/classify", "-d", '{"model": "production", "input": "why"}', key=served.key)
    assert (status, json.loads(body)["error"]["message"].endswith("ask /v1/chat/completions")) == (400, True)


def test_the_log_has_sizes_and_no_text(client: openai.OpenAI, endpoint: Endpoint) -> None:
    since = len(endpoint.log)
    answer = asked(client, "a marked question", max_tokens=7).choices[0].message.content
    line = endpoint.wait_for(" served ", since=since)
    assert "prompt_tokens=" in line
    assert "marked" not in "".join(endpoint.log)
    assert answer not in "".join(endpoint.log)


class Asking(threading.Thread):
    """A client that asks without a pause, and keeps which version answered, or what went wrong."""

    def __init__(self, client: openai.OpenAI, *, stream: bool) -> None:
        super().__init__(daemon=True)
        self._client, self._stream, self._is_over = client, stream, threading.Event()
        self.versions: list[str] = []
        self.faults: list[Exception] = []

    def run(self) -> None:
        while not self._is_over.is_set():
            try:
                self.versions.append(self._once())
            except Exception as fault:  # Whatever it is, a request was lost.
                self.faults.append(fault)

    def _once(self) -> str:
        if not self._stream:
            return str(asked(self._client, "why", max_tokens=9).system_fingerprint)
        pieces = list(asked(self._client, "why", max_tokens=9, stream=True))
        assert pieces[-1].choices[0].finish_reason in ("stop", "length")
        (one,) = {piece.system_fingerprint for piece in pieces}
        return str(one)

    def end(self) -> None:
        self._is_over.set()
        self.join(60)


def test_pull_and_rollback_change_who_answers_and_lose_no_request(
    client: openai.OpenAI, endpoint: Endpoint, served: ServedSite
) -> None:
    before = asked(client, "why", max_tokens=12).choices[0].message.content
    askers = [Asking(client, stream=stream) for stream in (False, True)]
    for asker in askers:
        asker.start()
    since = len(endpoint.log)
    served.pull(2, WRITES, seed=2)
    endpoint.wait_for("version_in_use", "production.2", since=since)
    until(lambda: all("production.2" in asker.versions for asker in askers))
    assert asked(client, "why", max_tokens=12).choices[0].message.content != before
    served.place.roll_back()
    endpoint.wait_for("version_closed", "production.2", since=since)
    until(lambda: all(asker.versions[-1] == "production.1" for asker in askers))
    for asker in askers:
        asker.end()
    assert [asker.faults for asker in askers] == [[], []]
    assert asked(client, "why", max_tokens=12).choices[0].message.content == before
    until(lambda: len(endpoint.engines()) == 1)  # What answered in between is gone.


def test_a_version_of_another_base_does_not_come_into_use(
    client: openai.OpenAI, endpoint: Endpoint, served: ServedSite, tmp_path: Path
) -> None:
    other = ServedSite(tmp_path / "other", write_tiny_gguf(tmp_path / "other.gguf", seed=5))
    since = len(endpoint.log)
    with served.place.draft(3) as part:
        for path in other.pull(3, WRITES).iterdir():
            (part / path.name).write_bytes(path.read_bytes())
    served.place.use(3)
    line = endpoint.wait_for("version_not_taken", "production.3", since=since)
    assert "trained on another base" in line
    assert asked(client, "why", max_tokens=3).system_fingerprint == "production.1"
    served.place.roll_back()


def test_an_engine_that_is_killed_is_started_again(client: openai.OpenAI, endpoint: Endpoint) -> None:
    (engine,) = endpoint.engines()
    since = len(endpoint.log)
    os.kill(engine, signal.SIGKILL)
    endpoint.wait_for("engine_ended", since=since)
    endpoint.wait_for("version_in_use", since=since)
    assert asked(client, "why", max_tokens=3).choices[0].finish_reason
