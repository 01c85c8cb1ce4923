"""What pyproject.toml lists by hand is what the folders hold."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_with_modules_is_packaged():
    found = set()
    for top, folder in SETUPTOOLS["package-dir"].items():
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((top, *path.parent.relative_to(ROOT / folder).parts)))
            assert path.stat().st_size > 0, f"{path} says nothing about its folder"
    assert found == set(SETUPTOOLS["packages"])


def test_every_kind_of_file_that_is_no_module_is_packaged():
    patterns = {Path(pattern).suffix for some in SETUPTOOLS["package-data"].values() for pattern in some}
    for folder in SETUPTOOLS["package-dir"].values():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert path.suffix in patterns, path
