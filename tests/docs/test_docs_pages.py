import os
import re
import subprocess
import sys
from pathlib import Path

import docs_blocks
import pytest
from docs_blocks import blocks, check_command, commands

from unirl.config import choices, method_config
from unirl.errors import UserError
from unirl.registry import kinds

ROOT = Path(__file__).parents[2]
WRITTEN = ("index", "concepts", "your-own-method", "your-own-world", "benchmarks")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / f"{name}.md" for name in WRITTEN)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_works(page, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, docs_blocks.__file__, str(page)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_method_part_and_task_file_that_a_page_names_exists(page):
    for path in re.findall(r"`((?:unirl|control|llm|preference|configs|tests|docs)/[\w./-]+)`", page.read_text()):
        if path != "tests/numbers/test_046_gigpo.py":  # the pattern of a name
            assert (ROOT / path).exists(), path


def test_the_table_in_the_readme_is_what_the_configurations_say():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (yes)? ?\| (yes)? ?\|", text, re.MULTILINE)
    shown = {name: {d for d, mark in zip(("control", "llm"), marks, strict=True) if mark} for name, *marks in rows}
    known = {name: set(method_config(name)["domains"]) & {"control", "llm"} for name in choices("method")}
    assert shown == known, "renew it with: python docs/generate.py --readme"


def test_method_files_that_pages_show_whole_are_in_step():
    for page in PAGES:
        for block in blocks(page.read_text()):
            if block.title is not None and block.title.startswith("configs/"):
                assert block.code == (ROOT / block.title).read_text(), f"{page.name}: {block.title}"


def test_links_between_files_lead_somewhere():
    generated = ("methods", "parts")
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            inside = target.split("/")[0] in generated
            if not inside and target != "docs/images/demo.png":
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_to_pages_of_parts_name_kinds():
    for page in PAGES:
        for kind in re.findall(r"\]\(parts/(\w+)\.md", page.read_text()):
            assert kind == "index" or kind in kinds()


def test_blocks_know_their_titles_and_marks():
    text = '<!-- run -->\n```sh\nunirl methods  # all\nls\n```\n\n```python title="a.py"\nx = 1\n```\n'
    shell, python = blocks(text)
    assert (shell.mark, list(commands(shell))) == ("run", [["methods"]])
    assert (python.title, python.code, python.mark) == ("a.py", "x = 1\n", None)


@pytest.mark.parametrize(
    "arguments", [["train", "method=pppo"], ["eval", "run", "--vidoe", "a.mp4"], ["compare", "seeds"]]
)
def test_a_wrong_command_would_be_noticed(arguments):
    with pytest.raises(UserError):
        check_command(arguments)
