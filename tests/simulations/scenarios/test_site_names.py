"""Sites of any name: safe identifiers inside, the user's own names in reports; sites without test records; labels."""

import re
import warnings
from pathlib import Path

import pytest

from tests.simulations.report_fixture import example_report
from tests.world import job_settings, write_records, write_sites
from yoriai.errors import ConfigError, RecordError
from yoriai.simulations.experiment.experiment import DataSource, resolve
from yoriai.simulations.report.figures import draw
from yoriai.simulations.report.file import load_report
from yoriai.simulations.run.api import simulate
from yoriai.simulations.scenarios.site_names import site_names


def test_names_that_will_do_are_identifiers() -> None:
    assert site_names(["north", "P-1", "a.b_c"]) == {name: (name, name) for name in ("north", "P-1", "a.b_c")}


def test_names_of_other_scripts_are_numbered_and_kept() -> None:
    assert site_names(["大阪", "Αθήνα", "Werk Süd"]) == {
        "Werk Süd": ("Werk-S-d", "Werk Süd"),
        "Αθήνα": ("site-2", "Αθήνα"),
        "大阪": ("site-3", "大阪"),
    }


def test_names_whose_letters_of_ascii_are_the_same_are_numbered() -> None:
    named = site_names(["L 1", "L/1", "L-2", "site-1"])
    assert named == {
        "L 1": ("site-1-x", "L 1"),
        "L-2": ("L-2", "L-2"),
        "L/1": ("site-3", "L/1"),
        "site-1": ("site-1", "site-1"),
    }


@pytest.mark.parametrize("twin", ["Osaka ", "OSAKA", "Os\u200baka", "Ｏsaka"])
def test_one_site_written_in_two_ways_is_refused(twin: str) -> None:
    with pytest.raises(RecordError, match="two sites have the same name but for case"):
        site_names(["Osaka", twin])


def test_a_name_is_shown_on_one_line_of_a_bearable_length() -> None:
    ((_, control), (_, long)) = site_names(["a\nb\x1b[31m\udc80", "長" * 200]).values()
    assert control == "a\\nb\\x1b[31m\\udc80"
    assert len(long) == 64


def test_long_names_that_begin_alike_are_told_apart() -> None:
    shown = [view for _, view in site_names(["長" * 200 + "一", "長" * 200 + "二"]).values()]
    assert len(set(shown)) == 2


def test_a_run_reports_the_users_own_names(tmp_path: Path, base: Path) -> None:
    sites = write_sites(tmp_path / "sites", {"大阪": 16, "name[bold]ügo": 16})
    report = simulate(
        data=DataSource(sites), settings=job_settings(base, **{"federation.rounds": 1}), out=tmp_path / "run"
    )
    assert [(site.name, site.identifier) for site in report.sites] == [
        ("name[bold]ügo", "name-bold--go"),
        ("大阪", "site-2"),
    ]
    assert set(report.rounds[0].sites) == {"大阪", "name[bold]ügo"}
    assert "name[bold]ügo, 大阪" in " ".join(report.notes)
    assert load_report(tmp_path / "run") == report
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "大阪" in page
    assert all(path.name.isascii() for path in (tmp_path / "run").rglob("*"))


def test_values_of_a_field_in_any_script_are_sites(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"t {n}", "plant": ("大阪", "東京", "名古屋")[n % 3]} for n in range(30)]
    experiment = resolve(None, DataSource(write_records(tmp_path / "a.jsonl", rows), partition="by:plant"))
    assert sorted(site.shown for site in experiment.sites) == sorted(("大阪", "東京", "名古屋"))
    assert [site.name for site in experiment.sites] == ["site-1", "site-2", "site-3"]
    assert {record.fields["plant"] for record in experiment.sites[0].train} == {experiment.sites[0].shown}


def test_sites_without_a_test_file_are_offered_a_split(tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 30, "b": 20, "c": 10})
    for name in ("a", "b"):
        (folder / name / "test.jsonl").unlink()
    with pytest.raises(RecordError, match=r"a: its test records.*b: its test records.*--test-fraction 0\.2"):
        resolve(None, DataSource(folder))
    sites = resolve(None, DataSource(folder, test_fraction=0.2)).sites
    assert [(len(site.train), len(site.test)) for site in sites] == [(24, 6), (16, 4), (10, 12)]
    assert sites == resolve(None, DataSource(folder, test_fraction=0.2)).sites


def test_a_test_fraction_that_no_site_needs_is_refused(tmp_path: Path) -> None:
    folder = write_sites(tmp_path / "sites", {"a": 30, "b": 20})
    with pytest.raises(ConfigError, match="every site has a test file"):
        resolve(None, DataSource(folder, test_fraction=0.2))


def test_one_file_is_split_by_the_test_fraction(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl", [{"text": f"t {n}"} for n in range(40)])
    sites = resolve(None, DataSource(path, 2, test_fraction=0.5)).sites
    assert [(len(site.train), len(site.test)) for site in sites] == [(10, 10), (10, 10)]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_test_fraction_is_a_share(fraction: float, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl", [{"text": f"t {n}"} for n in range(40)])
    with pytest.raises(ConfigError, match="--test-fraction is no share"):
        resolve(None, DataSource(path, 2, test_fraction=fraction))


@pytest.mark.parametrize(
    ("one", "other"),
    [("Pump", "pump"), ("caf\u00e9", "cafe\u0301"), ("pump", "pu\u200bmp"), ("pump", " pump"), ("a b", "a  b"),
     ("pump", "pump "), ("ポンプ", "ﾎﾟﾝﾌﾟ"), ("1", "1.0"), ("❤", "❤\ufe0f")],
)  # fmt: skip
def test_labels_that_look_the_same_are_refused_by_the_places_of_each_pair(one: str, other: str, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"p {n}", "response": (one, other, "zzz")[n % 3]} for n in range(30)]
    path = write_records(tmp_path / "a.jsonl", rows)
    with pytest.raises(RecordError, match="labels differ only in case") as caught:
        resolve(None, DataSource(path, 2, "iid"))
    assert len(re.findall(r"a\.jsonl line \d+", str(caught.value))) == 2
    assert "zzz" not in str(caught.value)


@pytest.mark.parametrize(("one", "other"), [("Maße", "Masse"), ("1", "01"), ("a b", "ab"), ("1", "1.5"), ("no", "nó")])
def test_labels_that_do_not_look_the_same_are_two(one: str, other: str, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"p {n}", "response": (one, other)[n % 2]} for n in range(30)]
    job = resolve(None, DataSource(write_records(tmp_path / "a.jsonl", rows), 2, "iid")).job
    assert set(job.task.labels) == {one, other}


def test_a_shape_that_differs_is_named_by_its_place(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "t"}, *({"prompt": "p", "response": "r"} for _ in range(9))]
    path = write_records(tmp_path / "a.jsonl", rows)
    with pytest.raises(RecordError, match=r"texts \(.*a\.jsonl line 1\)"):
        resolve(None, DataSource(path, 2))


def test_figures_write_a_name_on_the_page_and_its_identifier_where_the_font_lacks_it() -> None:
    report = example_report()
    sites = tuple(
        site.model_copy(update={"name": "大阪", "identifier": "site-1"} if index == 0 else {})
        for index, site in enumerate(report.sites)
    )
    identified = (sites[0].model_copy(update={"name": "site-1"}), *sites[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown, plain = (
            {drawing.key: drawing for drawing in draw(report.model_copy(update={"sites": these}))}["sites"]
            for these in (sites, identified)
        )
    assert "大阪" in shown.svg
    assert shown.png == plain.png
