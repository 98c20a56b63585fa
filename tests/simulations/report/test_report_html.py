"""The report's page and figures."""

import json
import re
from functools import cache
from html.parser import HTMLParser

import pytest

from tests.simulations.report_fixture import (
    ALL_KINDS,
    KIND_NAMES,
    changed,
    example_report,
    instruct_report,
    language_model_report,
    personal_report,
)
from yoriai.simulations.report.figures import Drawing, draw
from yoriai.simulations.report.file import report_json
from yoriai.simulations.report.html import headline, render_html, size_text, time_text
from yoriai.simulations.report.report import Report


@cache
def drawings(kind: str) -> tuple[Drawing, ...]:
    """Drawn once for all tests, since drawing is what takes time here."""
    return draw(ALL_KINDS[KIND_NAMES.index(kind)])


class _Page(HTMLParser):
    """Collects ids, the references to them, addresses and tag balance."""

    void = frozenset({"meta", "br", "use", "path", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


@pytest.mark.parametrize(("report", "kind"), list(zip(ALL_KINDS, KIND_NAMES, strict=True)), ids=KIND_NAMES)
def test_page_is_well_formed_and_fetches_nothing(report: Report, kind: str) -> None:
    text = render_html(report, drawings(kind))
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert all(address.startswith("#") and address[1:] in parsed.ids for address in parsed.addresses)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert "url(http" not in text
    assert "@import" not in text


def test_names_from_a_run_cannot_become_markup() -> None:
    content = json.loads(report_json(example_report()))
    evil = '<script>alert("x")</script>'
    content["sites"][0]["name"] = content["name"] = content["notes"][0] = evil
    content["job"]["name"] = content["rounds"][6]["refused"][0]["reason"] = evil
    report = Report.model_validate(content)
    assert "<script" not in render_html(report, draw(report))


def test_answers_stand_side_by_side_escaped_and_said_to_be_record_text() -> None:
    page = render_html(instruct_report(), ())
    row = "<td>Pump?\n</td><td>It leaks oil</td><td>Pump? Pump? …</td><td>It leaks</td>"
    assert f'<tr><th scope="row">A</th>{row}</tr>' in page
    assert "test records of whoever ran this simulation, word for word" in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "&lt;b&gt;Engine&lt;/b&gt;" in page
    assert "<script" not in page
    assert "<b>Engine" not in page
    assert "side by side" not in render_html(changed(instruct_report(), samples=()), ())


def test_every_measure_of_a_task_that_answers_or_reads_has_a_column() -> None:
    page = render_html(instruct_report(), ())
    cells = "".join(f"<td>{n}</td>" for n in ("0.00", "0.00", "0.12", "0.48", "0.21", "0.52", "3.10", "2.60"))
    assert f'<tr><th scope="row">C</th>{cells}<td>1.31</td><td>1.09</td></tr>' in page
    page = render_html(language_model_report(), ())
    assert '<th scope="row">all sites</th><td>1.31</td><td>1.09</td><td>3.10</td><td>2.60</td>' in page
    assert "Every measure" not in render_html(example_report(), ())


def test_personal_adapters_have_a_table_and_their_price_a_sentence_only_where_there_are_any() -> None:
    page = render_html(personal_report(), ())
    assert "Shared against personal" in page
    assert "<td>11</td><td>2</td><td>7.94</td><td>1.98</td><td>8.61</td>" in page
    assert headline(personal_report()).endswith(
        "Together with a site's own adapter: ε = 8.61 per record (add or remove one record), by RDP."
    )
    assert "personal" not in render_html(example_report(), ())
    assert "Together" not in headline(example_report())


def test_headline_gives_result_and_price() -> None:
    text = headline(example_report())
    assert "0.24 before, 0.55 after" in text
    assert "commonest label: 0.18" in text
    assert "ε = 7.94 at δ = 1e-5 per record (add or remove one record)" in text


def test_missing_secure_aggregation_is_a_banner() -> None:
    warning = "Secure aggregation is off: the coordinator could read single updates"
    report = example_report()
    masked = changed(report, privacy=report.privacy.model_copy(update={"secure_aggregation": True}))
    assert warning in render_html(report, ())
    assert warning not in render_html(masked, ())


def test_missing_noise_is_a_banner() -> None:
    warning = "Differential privacy is off"
    assert warning in render_html(example_report(noise=False), ())
    assert warning not in render_html(example_report(), ())


def test_page_shows_licences_sources_job_and_refusals() -> None:
    text = render_html(example_report(), ())
    for expected in ("Apache-2.0", "public domain (NIST)", "nist-nestor", "[privacy]", "no answer within 60 s"):
        assert expected in text


def test_report_with_all_data_has_five_figures() -> None:
    keys = [drawing.key for drawing in drawings("classify")]
    assert keys == ["accuracy", "loss", "sites", "epsilon", "compared"]


def test_figures_without_data_are_left_out() -> None:
    assert [one.key for one in drawings("no privacy")] == ["accuracy", "loss", "sites"]
    assert [one.key for one in drawings("lm")] == ["loss", "sites", "epsilon"]
    assert [one.key for one in drawings("interrupted")] == ["epsilon"]


def test_figures_say_in_words_what_they_show() -> None:
    by_key = {drawing.key: drawing for drawing in drawings("classify")}
    assert "0.24 before, 0.55 after 50 rounds" in by_key["accuracy"].alt
    assert "A 0.29 to 0.57" in by_key["sites"].alt
    for drawing in by_key.values():
        assert f'role="img" aria-label="{drawing.alt.split(":")[0]}' in drawing.svg


def test_figures_take_their_colours_from_the_page() -> None:
    for drawing in drawings("classify"):
        colours = set(re.findall(r"#[0-9a-f]{6}\b", drawing.svg))
        assert colours <= {"#000000", "#ffffff"}
        assert "var(--ink)" in drawing.svg or "var(--soft)" in drawing.svg


def test_dollar_signs_in_names_are_not_formulas() -> None:
    content = json.loads(report_json(example_report()))
    content["sites"][0]["name"] = "$plant_1$ \\frac"
    sites = next(one for one in draw(Report.model_validate(content)) if one.key == "sites")
    assert "$plant_1$" in sites.svg


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (57_344, "57 kB"), (999_600, "1.0 MB"), (2_867_200, "2.9 MB")],
)
def test_sizes_use_decimal_units(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14, "3.1 s"), (59.6, "60 s"), (402.7, "6 min 43 s"), (7600, "2 h 6 min")]
)
def test_times_are_rounded_to_what_matters(seconds: float, text: str) -> None:
    assert time_text(seconds) == text
