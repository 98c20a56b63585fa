"""Rules from installed packages: found, loaded when asked for, checked, and never in the place of a built-in one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import yoriai
from yoriai.errors import ConfigError
from yoriai.strategies.rule import built_in_rules, get_rule, rule_names

PACKAGE = Path(__file__).resolve().parents[1] / "outside_rule"
BUILT_IN = tuple(rule.name for rule in built_in_rules())

# A module whose class has every member; the broken ones take from it or add to it.
WHOLE = """
class Rule:
    name = "other"
    sum_suffices = True
    factors = ("A", "B")
    moving = ("B",)
    server_optimizers = ("none",)
    def trainable(self, round_index): return ("B",)
    def initial(self, maps, rank, seed, base_factors=None): ...
    def verify(self, offered, state): ...
    def to_peft(self, state): return state
    def combine(self, current, mean_update, round_index): return current
    def carried(self, moment, before, after): return moment

made = Rule()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with one entry point and one module on the path, as an installer would leave it."""

    def put(source, *, name="other", member="Rule", package="a-stranger"):
        module = f"{package.replace('-', '_')}_rule"
        place = tmp_path / package
        (place / f"{module}-1.0.dist-info").mkdir(parents=True)
        (place / f"{module}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n"
        )
        (place / f"{module}-1.0.dist-info" / "entry_points.txt").write_text(
            f"[yoriai.rules]\n{name} = {module}:{member}\n"
        )
        (place / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(place)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    before = set(sys.modules)
    yield put
    for module in set(sys.modules) - before:
        if module.endswith("_rule"):
            del sys.modules[module]


def refused(name="other"):
    with pytest.raises(ConfigError) as caught:
        get_rule(name)
    return str(caught.value)


def test_a_package_beside_yoriai_brings_a_rule_that_combines_updates(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))  # A build leaves files behind.
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source))
    subprocess.run(pip, check=True, capture_output=True, text=True)
    code = """
import sys
import numpy as np
from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.rule import get_rule, rule_names

print("halfstep" in rule_names(), "yoriai_halfstep" in sys.modules)
rule = get_rule("halfstep")
north, south = (AdapterState({"x:B": np.full((2, 1), value)}) for value in (8.0, 4.0))
start = rule.initial({"x": (2, 2)}, 1, 0)
combined = rule.combine(start, weighted_mean({"north": (1, north), "south": (3, south)}), 0)
print(rule.name, combined.factor("x", "B").ravel().tolist())
"""
    house = str(Path(yoriai.__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(target), house))}
    result = subprocess.run(
        (sys.executable, "-c", code), env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # Half of the mean (8 + 3·4) / 4 = 5.
    assert result.stdout.splitlines() == ["True False", "halfstep [2.5, 2.5]"], result.stderr


@pytest.mark.parametrize("member", ["Rule", "made"])
def test_a_class_is_made_and_an_object_is_taken_as_it_is(install, member):
    install(WHOLE, member=member)
    assert get_rule("other").name == "other"


def test_names_are_listed_without_an_import(install):
    module = install("raise RuntimeError")
    assert rule_names() == tuple(sorted((*BUILT_IN, "other")))
    assert module not in sys.modules


def test_a_broken_package_stands_in_no_other_rules_way(install):
    module = install("raise RuntimeError")
    assert [get_rule(name).name for name in BUILT_IN] == list(BUILT_IN)
    assert "expected one of core, fedavg, fedex, fedsvd, ffa, flora, other, rolora" in refused("zzz")
    assert module not in sys.modules


def test_the_nearest_name_may_be_an_outside_rules(install):
    install(WHOLE)
    assert 'did you mean "other"?' in refused("othr")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_rule_cannot_be_replaced_and_the_package_that_tries_is_named(install, name):
    module = install(WHOLE, name=name, package="an-impostor")
    message = refused(name)
    assert "built in" in message
    assert "the package an-impostor" in message
    assert module not in sys.modules
    assert all(get_rule(other).name == other for other in BUILT_IN if other != name)


def test_one_name_from_two_packages_is_refused_and_both_are_named(install):
    install(WHOLE, package="a-stranger")
    install(WHOLE, package="another")
    assert "the package a-stranger and the package another" in refused()


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import a_module_that_is_nowhere", "ModuleNotFoundError"),
        ("raise RuntimeError('broken')", "RuntimeError"),
        ("", "AttributeError"),
        ("class Rule:\n    def __init__(self, rank): ...", "TypeError"),
        ("class Rule:\n    @property\n    def name(self): raise KeyError('no name')", "KeyError"),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_names_entry_point_package_and_fault(install, source, named):
    install(source)
    message = refused()
    assert "the entry point other = a_stranger_rule:Rule in the group yoriai.rules of the package a-stranger" in message
    assert f"found {named};" in message
    assert not any(text in message for text in ("nowhere", "broken", "no name"))  # It may quote a file, or a record.


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('name = "other"', 'name = "ffa"', "name is 'ffa' and not the entry point's"),
        ('name = "other"', "", "name is None"),
        ("sum_suffices = True", "", "sum_suffices is None"),
        ("sum_suffices = True", "sum_suffices = 1", "sum_suffices is 1"),
        ("sum_suffices = True", "sum_suffices = False", "combine_each is missing"),
        ('factors = ("A", "B")', "", "factors is None"),
        ('factors = ("A", "B")', 'factors = ("A", "X")', "factors is ('A', 'X') and not a tuple out of A, B, R, U, W"),
        ('factors = ("A", "B")', 'factors = "AB"', "factors is 'AB'"),
        ('moving = ("B",)', 'moving = ("X",)', "moving is ('X',)"),
        ('moving = ("B",)', "moving = ()", "moving is ()"),
        ('("none",)', '("none", "sgd")', "server_optimizers is ('none', 'sgd')"),
        ("def trainable", "def trained", "trainable is missing"),
        ("def initial", "def start", "initial is missing"),
        ("def verify", "def check", "verify is missing"),
        ("def to_peft", "def export", "to_peft is missing"),
        ("def combine", "def mix", "combine is missing"),
        ("def carried", "def kept", "carried is missing"),
        ("(self, current, mean_update, round_index)", "(self, current)", "combine does not take (current, mean_update"),
    ],
)
def test_a_rule_that_breaks_the_protocol_is_refused_and_the_member_is_named(install, old, new, fault):
    assert old in WHOLE
    install(WHOLE.replace(old, new))
    assert fault in refused()


def test_a_rule_that_needs_single_updates_needs_neither_combine_nor_carried(install):
    source = WHOLE.replace("sum_suffices = True", "sum_suffices = False").replace("def carried", "def kept")
    install(source.replace("def combine(self, current, mean_update,", "def combine_each(self, current, updates,"))
    assert get_rule("other").sum_suffices is False


def test_all_faults_of_a_rule_are_listed_at_once(install):
    install("class Rule:\n    name = 'other'\n    sum_suffices = True")
    message = refused()
    members = (
        "factors",
        "moving",
        "server_optimizers",
        "trainable",
        "initial",
        "verify",
        "to_peft",
        "combine",
        "carried",
    )
    assert [member for member in members if f"{member} is" not in message] == []


def test_built_in_rules_are_whole_by_the_same_check():
    from yoriai.strategies.rule import _faults

    assert [fault for rule in built_in_rules() for fault in _faults(rule.name, rule)] == []
    assert np.all([rule.factors == tuple(sorted(rule.factors)) for rule in built_in_rules()])
