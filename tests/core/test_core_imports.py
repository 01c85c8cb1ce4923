"""The house's import rule, checked on the layout as it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def installed_layout(folder: Path) -> Path:
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "unirl", folder / "unirl", ignore=skip)
    for package in ("control", "llm", "preference", "configs"):
        shutil.copytree(ROOT / package, folder / "unirl" / package, ignore=skip)
    return folder


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_down_the_house(tmp_path):
    result = lint_imports(installed_layout(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_upward_import_is_caught(tmp_path):
    method = installed_layout(tmp_path) / "unirl" / "method.py"
    method.write_text("import unirl.control\n" + method.read_text())
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "unirl.method -> unirl.control" in result.stdout
