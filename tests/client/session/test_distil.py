"""`site distil`: a head learns a large model's labels of public prompts, and nothing of the site goes out."""

import json
import re
from pathlib import Path

import pytest

from tests.client.endpoints import CHOOSES, LABELS, ServedSite
from tests.client.large_models import Handler, Large, Serve, says, serve
from tests.commands import Outcome, yoriai
from tests.world import write_records
from yoriai.client.session.loading import load
from yoriai.errors import EXIT_BAD_INPUT, EXIT_REFUSED

__all__ = ["serve"]  # A fixture.
HEAD: dict[str, object] = {
    "task.kind": "classify",
    "task.labels": LABELS,
    "task.head": "trained",
    "head.directions": 16,
    "head.words": 64,
    "speed.threads": 1,
}
PROMPTS = [f"{word} {number} {ending}" for word in ("pump", "engine", "seat") for number in range(4) for ending in "ab"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> ServedSite:
    home = tmp_path_factory.mktemp("distil")
    made = ServedSite(home / "north", home / "tiny.gguf")
    made.pull(1, HEAD)
    for part in ("train", "test"):
        write_records(made.folder / "data" / f"{part}.jsonl", [{"prompt": "Our own  Record", "response": "pump"}])
    return made


def knows(handler: Handler) -> None:
    """A large model that is right: the word in the text says which label it is."""
    text = handler.server.got[-1]["messages"][0]["content"].partition("Text: ")[2]
    says("pump" if "pump" in text else "engine" if "engine" in text else "cabin")(handler)


def routing(site: ServedSite, large: Large) -> None:
    text = (site.folder / "site.toml").read_text()
    before, mark, after = text.partition("\n[route]\n")
    for name, value in {
        "mode": "auto",
        "url": large.url,
        "model": "big",
        "redact": "patterns",
        "daily_cap": 900,
    }.items():
        after = re.sub(rf"(?m)^{name} = .*$", f"{name} = {json.dumps(value)}", after, count=1)
    (site.folder / "site.toml").write_text(before + mark + after)


def distilled(site: ServedSite, home: Path, *options: object, prompts: list[str] = PROMPTS) -> Outcome:
    file = write_records(home / "prompts.jsonl", [{"text": prompt} for prompt in prompts])
    return yoriai("site", "distil", site.folder, file, "--out", home / "out", "--json", *options)


def test_the_head_learns_the_large_models_labels_and_both_are_measured(
    site: ServedSite, serve: Serve, tmp_path: Path
) -> None:
    routing(site, serve(knows))
    truths = ["pump" if "pump" in one else "engine" if "engine" in one else "cabin" for one in PROMPTS]
    records: list[dict[str, object]] = [
        {"prompt": f"{prompt}!", "response": truth} for prompt, truth in zip(PROMPTS, truths, strict=True)
    ]
    test = write_records(tmp_path / "test.jsonl", records)
    done = distilled(site, tmp_path, "--public", "--test", test)
    assert done.code == 0, done.screen
    report = done.document
    assert (report["asked"], report["taught"], report["tested"]) == (24, 24, 24)
    assert report["accuracy"]["large alone"] == 1.0
    assert report["accuracy"]["small before"] < 0.8
    assert report["accuracy"]["small after"] > 0.95
    learnt = load(tmp_path / "out", str(site.base), device="cpu")
    assert learnt.predict(PROMPTS) == truths
    said = json.loads((tmp_path / "out" / "distilled.json").read_text())
    assert (said["went_on_from"], said["prompts"], said["hints"]) == ("production.1", 24, False)
    assert load(site.place.link, str(site.base), device="cpu").predict(PROMPTS) != truths  # The version is as it was.


def test_with_hints_the_small_models_label_stands_in_the_message_and_else_not(
    site: ServedSite, serve: Serve, tmp_path: Path
) -> None:
    routing(site, large := serve(knows))
    small = load(site.place.link, str(site.base), device="cpu").predict(PROMPTS)
    for folder, options in (("with", ("--hints",)), ("without", ())):
        (tmp_path / folder).mkdir()
        assert distilled(site, tmp_path / folder, "--public", *options).code == 0
    messages = [got["messages"][0]["content"] for got in large.got]
    hints = [re.findall("small model that knows this field says: (.*)", message) for message in messages]
    assert hints[:24] == [[label] for label in small]
    assert hints[24:] == [[]] * 24


def test_a_prompt_that_is_one_of_the_sites_records_is_refused_and_nothing_leaves(
    site: ServedSite, serve: Serve, tmp_path: Path
) -> None:
    routing(site, large := serve(knows))
    done = distilled(site, tmp_path, "--public", prompts=[*PROMPTS, "our OWN record"])
    assert done.code == EXIT_REFUSED
    assert "among the site's own records; found 1 of them" in done.screen
    assert large.got == []


def test_no_ledger_is_made_or_touched(site: ServedSite, serve: Serve, tmp_path: Path) -> None:
    routing(site, serve(knows))
    assert distilled(site, tmp_path, "--public").code == 0
    assert list((site.folder / "ledgers").iterdir()) == []


def test_prompts_that_nobody_declared_public_do_not_leave(site: ServedSite, serve: Serve, tmp_path: Path) -> None:
    routing(site, large := serve(knows))
    assert distilled(site, tmp_path).code == EXIT_REFUSED
    assert large.got == []


def test_answers_that_teach_nothing_make_no_head(site: ServedSite, serve: Serve, tmp_path: Path) -> None:
    for answer, found in ((says("pump"), "24 answers, 1 different labels"), (says("?"), "0 answers")):
        routing(site, serve(answer))
        done = distilled(site, tmp_path, "--public")
        assert done.code == EXIT_BAD_INPUT
        assert found in done.screen
        assert not (tmp_path / "out").exists()


def test_an_adapter_that_is_no_head_is_refused_before_anything_leaves(
    site: ServedSite, serve: Serve, tmp_path: Path
) -> None:
    routing(site, large := serve(knows))
    site.pull(2, CHOOSES)
    done = distilled(site, tmp_path, "--public")
    site.place.roll_back()
    assert done.code == EXIT_BAD_INPUT
    assert "only a head that trains" in done.screen
    assert large.got == []
