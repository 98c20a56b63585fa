"""The shape of the house: import contracts, packages, what an import loads, and what a built wheel holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("client", "privacy", "server", "simulations", "strategies")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _run(*command: str, cwd: Path = ROOT, path: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a module of this interpreter, with `path` in front of every installed package."""
    settings = {"PYTHONPATH": str(path or cwd), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    env, line = os.environ | settings, [sys.executable, *command]
    return subprocess.run(line, cwd=cwd, env=env, input=text, capture_output=True, text=True, check=False)


def _lint_imports(root: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    chosen = [part for contract in contracts for part in ("--contract", contract)]
    code = "import sys; from importlinter.cli import lint_imports_command as run; run(sys.argv[1:])"
    return _run("-c", code, "--no-cache", "--no-logo", *chosen, cwd=root)


def _source_files(root: Path) -> set[str]:
    """Every file of the face and the five folders, by the path that it has in the wheel."""
    face = {path for path in (root / "yoriai").iterdir() if not path.is_symlink()}
    found = {file for path in face for file in (path, *path.rglob("*")) if file.is_file()}
    found |= {file for folder in FOLDERS for file in (root / folder).rglob("*") if file.is_file()}
    names = {file.relative_to(root).as_posix() for file in found if "__pycache__" not in file.parts}
    return {f"yoriai/{name.removeprefix('yoriai/')}" for name in names}


def _modules(root: Path) -> set[str]:
    return {name for name in _source_files(root) if name.endswith(".py")}


def _distribution(requirement: str) -> str:
    """The normalised name in front of extras and versions."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what a build needs, with the symlinks kept, in which a test may plant faults."""
    root = tmp_path / "copy"
    root.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("yoriai", *FOLDERS):
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, root / file)
    return root


def test_every_folder_is_reached_through_a_relative_symlink() -> None:
    links = {link.name: os.readlink(link) for link in (ROOT / "yoriai").iterdir() if link.is_symlink()}
    assert links == {folder: f"../{folder}" for folder in FOLDERS}


def test_package_list_equals_the_tree() -> None:
    settings = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    assert settings["namespaces"] is False
    expected = {name.rpartition("/")[0].replace("/", ".") for name in _modules(ROOT)}
    assert set(find_packages(str(ROOT), include=settings["include"])) == expected


def test_import_contracts_hold() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("place", "line", "contract"),
    [
        ("privacy", "import flwr", "privacy"),
        ("privacy", "import random", "privacy"),
        ("strategies", "import torch", "strategies"),
        ("server", "import transformers", "server"),
        ("server", "import yoriai.client", "sides"),
        ("client", "import yoriai.server", "layers"),
        ("privacy", "import yoriai.strategies", "layers"),
        ("simulations", "import flwr", "flower-at-the-edge"),
    ],
)
def test_planted_forbidden_import_is_caught(copy: Path, place: str, line: str, contract: str) -> None:
    (copy / place / "planted.py").write_text(f"{line}\n", encoding="utf-8")
    result = _lint_imports(copy, contract)
    assert result.returncode == 1
    assert re.search(rf"yoriai\.{place}\.planted\W+->\W+{line.removeprefix('import ')}", result.stdout), result.stdout


def test_planted_type_error_is_caught_behind_every_symlink(copy: Path) -> None:
    for folder in FOLDERS:
        (copy / folder / "planted.py").write_text('number: int = "text"\n', encoding="utf-8")
    # Skipping what is imported keeps this to seconds; which files are checked does not depend on it.
    result = _run("-m", "mypy", "-v", "--follow-imports=skip", f"--cache-dir={os.devnull}", cwd=copy)
    caught = set(re.findall(r"(\w+)/planted\.py:1: error: Incompatible types", result.stdout))
    assert caught == set(FOLDERS), result.stdout
    checked = re.findall(r"Found source:.*path='([^']+\.py)'", result.stderr)
    assert sorted(str((copy / path).relative_to(copy)) for path in checked) == sorted(_modules(copy))


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("line", ["import {}", "from {} import name", "import {}.part", "from {}.part import name"])
def test_ruff_bans_the_second_path_to_a_module(folder: str, line: str) -> None:
    text = f"{line.format(folder)}\n"
    options = ("check", "--no-cache", "--select=TID251", "--output-format=concise", "--stdin-filename=tests/planted.py")
    result = _run("-m", "ruff", *options, "-", text=text)
    assert result.returncode == 1
    assert f"Import yoriai.{folder}" in result.stdout


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("yoriai", ("flwr", "numpy", "pydantic", "torch", "transformers")),
        ("yoriai.cli", ("flwr", "opacus", "peft", "ray", "torch", "transformers")),
        ("yoriai.wire", ("flwr", "opacus", "peft", "torch", "transformers")),
        ("yoriai.server.service.server_app", ("opacus", "peft", "torch", "transformers")),
        ("yoriai.strategies", ("flwr", "opacus", "peft", "torch", "transformers")),
    ],
)
def test_import_leaves_the_heavy_packages_alone(module: str, heavy: tuple[str, ...]) -> None:
    result = _run("-c", f"import sys, {module}; print(*sorted(set(sys.modules) & {set(heavy)}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def _loaded_with(module: str, seen: set[str]) -> set[str]:
    """Modules of Yoriai, and packages of others, that are imported with a module: by what stands outside functions."""
    file = ROOT / f"{module.replace('.', '/')}.py"
    file = file if file.is_file() else file.with_suffix("") / "__init__.py"
    if module in seen or not file.is_file():
        return seen
    seen.add(module)
    for node in ast.parse(file.read_text(encoding="utf-8")).body:  # Not what only a type checker reads, nor functions.
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "yoriai":
                seen.add(parts[0])
            for length in range(1, len(parts) + 1):
                _loaded_with(".".join(parts[:length]), seen)
    return seen


@pytest.mark.parametrize(
    ("module", "needs", "idle"),
    [
        ("yoriai.cli", "typer", {"flwr", "jinja2", "numpy", "pydantic", "torch"}),
        ("yoriai.simulations.check.job_check", "numpy", {"flwr", "matplotlib", "peft", "torch", "transformers"}),
        ("yoriai.simulations.check.with_base", "torch", {"flwr", "matplotlib", "mlflow", "opacus", "ray"}),
    ],
)
def test_a_command_begins_without_what_it_does_not_need(module: str, needs: str, idle: set[str]) -> None:
    """Read from the files: to import what `job check` needs takes seconds (docs/benchmarks/start-up.md)."""
    loaded = _loaded_with(module, set())
    assert needs in loaded
    assert not loaded & idle


def test_simulate_is_offered_at_the_top_without_loading_it() -> None:
    before = "import sys, yoriai; print('yoriai.simulations' in sys.modules)"
    code = f"{before}; from yoriai import simulate; print(simulate.__module__)"
    result = _run("-c", code)
    assert result.stdout.split() == ["False", "yoriai.simulations.run.api"], result.stderr


def test_unknown_name_at_the_top_is_an_import_error() -> None:
    result = _run("-c", "from yoriai import simulat")
    assert result.returncode == 1
    assert "ImportError: cannot import name 'simulat'" in result.stderr


def test_every_imported_distribution_is_declared() -> None:
    imported: set[str] = set()
    for name in _modules(ROOT):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    owners = packages_distributions()
    imported -= {"presidio_analyzer"}  # Of the extra `redact`, which the tests do without.
    needed = {_distribution(owners[name][0]) for name in imported - sys.stdlib_module_names - {"yoriai"}}
    extras = PYPROJECT["project"]["optional-dependencies"]
    declared = (*PYPROJECT["project"]["dependencies"], *extras["edge"], *extras["redact"])
    assert needed <= {_distribution(line) for line in declared}


def test_signals_are_heard_in_one_place() -> None:
    """Elsewhere a handler in Python would do something while the main thread holds whatever lock it held."""
    heard = re.compile(r"signal\.signal\((?!number, signal\.SIG_IGN)")
    files = [file for file in _source_files(ROOT) if file.endswith(".py")]
    found = [file for file in files if heard.search((ROOT / file).read_text(encoding="utf-8"))]
    assert found == ["yoriai/system/signals.py"]


def test_no_test_module_imports_another() -> None:
    """What two of them need stands in a module next to them that holds no test."""
    imports = re.compile(
        r"^ *(?:from|import) tests\.(?:\w+\.)*test_|^ *from tests[\w.]* import .*\btest_", re.MULTILINE
    )
    files = list((ROOT / "tests").rglob("*.py"))
    assert files
    assert [file.name for file in files if imports.search(file.read_text(encoding="utf-8"))] == []


def test_constraints_name_every_declared_distribution_with_an_exact_public_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert not [name for name, version in pins.items() if "+" in version]
    extras = PYPROJECT["project"]["optional-dependencies"]
    requirements = (*PYPROJECT["project"]["dependencies"], *extras["test"], *extras["dev"])
    declared = {_distribution(line) for line in requirements}
    assert declared - {"pip", "yoriai"} <= {_distribution(name) for name in pins}


def test_no_file_in_git_names_a_registry_host_or_a_machine_path() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    forbidden = re.compile(rb"pypi\.org|pythonhosted\.org|download\.pytorch\.org|(?<![\w.~])/(?:work|root|opt)/")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert files
    assert [str(file.relative_to(ROOT)) for file in files if forbidden.search(file.read_bytes())] == []


@pytest.mark.slow
def test_wheel_from_the_sdist_holds_every_file_once_and_works_outside_the_checkout(copy: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    assert _run("-c", build, "build_sdist", str(tmp_path), cwd=copy).returncode == 0
    (sdist,) = tmp_path.glob("yoriai-*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path / "sdist")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    assert _run("-c", build, "build_wheel", str(tmp_path), cwd=unpacked).returncode == 0
    (wheel,) = tmp_path.glob("yoriai-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        shipped = [name for name in archive.namelist() if ".dist-info/" not in name]
        archive.extractall(installed)
    assert sorted(shipped) == sorted(_source_files(copy))
    assert "yoriai/py.typed" in shipped

    outside = tmp_path / "outside"
    shutil.copytree(ROOT / "tests", outside / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", outside)
    origin = _run("-c", "import yoriai.cli; print(yoriai.cli.__file__)", cwd=outside, path=installed)
    assert origin.stdout.strip() == str(installed / "yoriai" / "cli.py"), origin.stderr
    result = _run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/strategies", cwd=outside, path=installed)
    assert result.returncode == 0, result.stdout
