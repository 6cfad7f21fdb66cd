"""The rules that keep the walls standing (docs/architecture.md)."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imports(folder: str) -> dict[Path, set[str]]:
    """The top-level packages that each module of a folder imports, wherever in the file."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        found[file] = names
    assert found
    return found


def test_the_library_imports_neither_ray_nor_jobs_nor_serve():
    for file, names in imports("platform/fahr").items():
        tops = {name.split(".")[0] for name in names}
        assert not tops & {"ray", "jobs", "serve"}, file


def test_every_module_of_the_library_loads_where_ray_cannot_be_imported():
    blocked = """
import sys, pkgutil, importlib
sys.modules["ray"] = None
import fahr
names = [each.name for each in pkgutil.walk_packages(fahr.__path__, "fahr.")]
for name in names: importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_only_demo_pipeline_tune_and_tests_import_a_job():
    for folder in ("jobs", "serve", "benchmarks"):
        for file, names in (
            imports(folder).items() if (ROOT / folder).exists() and any((ROOT / folder).rglob("*.py")) else ()
        ):
            others = {name for name in names if re.match(r"jobs\.[a-z]\w*$", name)} - {f"jobs.{file.stem}"}
            assert file.stem in ("demo", "pipeline", "tune") or not others, (file, others)


def test_pythons_own_platform_module_is_found_from_the_root():
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; assert isinstance(platform.node(), str); print(platform.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("/platform.py")


def test_there_is_one_opencv():
    assert importlib.metadata.packages_distributions()["cv2"] == ["opencv-python-headless"]


def test_the_lock_holds_names_versions_and_hashes_but_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find.links| @ ", lock)
    pins = re.findall(r"^([a-zA-Z0-9_.-]+)(?:\[[^]]*\])?==(\S+)", lock, re.M)
    assert len(pins) > 150
    blocks = re.split(r"^(?=[a-zA-Z0-9])", lock, flags=re.M)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.split("\n")[0])
    assert ("facenet-pytorch", "2.5.3") in pins
    assert {version for name, version in pins if name == "ray"} == {"2.60.0"}


def test_the_lock_serves_every_python_that_we_promise():
    numpy = re.findall(r"^numpy==(\S+)(?: ; (.*?))? \\$", (ROOT / "requirements.lock").read_text(), re.M)
    for python in ("3.11", "3.12", "3.13"):
        fits = [pin for pin, marker in numpy if not marker or _holds(marker, python)]
        assert len(fits) == 1, (python, numpy)


def _holds(marker: str, python: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker).evaluate({"python_full_version": f"{python}.0", "python_version": python})


def environment(preamble: str) -> subprocess.CompletedProcess[str]:
    """.ci/environment.py under an interpreter that pretends."""
    code = f"import sys, runpy\n{preamble}\nrunpy.run_path('.ci/environment.py', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
def test_a_python_outside_the_range_gets_one_line_with_the_remedy(version):
    done = environment(f"sys.version_info = {version}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "3.11, 3.12 or 3.13" in done.stderr and "PYTHON=python3.12" in done.stderr


def test_a_python_without_ensurepip_gets_one_line_with_the_remedy():
    done = environment("sys.modules['ensurepip'] = None")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "-venv" in done.stderr


def test_files_and_functions_stay_small():
    """Files under 500 lines, functions under 60: what is longer must say why beside its name, `# long: because`."""
    for folder in ("platform/fahr", "jobs", "serve"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert len(text.splitlines()) <= 500 or "# long:" in text.splitlines()[0], file
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    assert lines <= 60 or "# long:" in text.splitlines()[node.lineno - 1], (file, node.name, lines)
