import os
import re
import subprocess
import sys
from pathlib import Path

import docs_blocks
import pytest
from docs_blocks import Block, blocks, lines, shortened

from unirl import cli
from unirl.config import choices, compose, method_config
from unirl.errors import UserError
from unirl.registry import kinds

ROOT = Path(__file__).parents[2]
NOT_FILES = ("docs/methods/", "docs/parts/", "tests/numbers/test_046_gigpo.py")  # generated; the pattern of a name
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def followed(folder, *pages):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, docs_blocks.__file__, *map(str, pages)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_what_the_pages_show_works(tmp_path):
    done = followed(tmp_path, *(page for page in PAGES if blocks(page.read_text())))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```sh\nunirl train method=pppo\n```", "unknown method 'pppo'"),
        ("```sh\nmake nonsense\n```", "make nonsense: there is no such target"),
        ("```sh\npip install 'unirl[nonsense]'\n```", "there is no such extra"),
        ("```python\nassert 1 + 1 == 3\n```", "AssertionError"),
        ("```sh\nrm -r .\n```", "neither run nor checked"),
        ("```\nx\n```", "its language must be one of"),
    ],
)
def test_a_block_that_does_not_work_is_noticed(block, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{block}\n")
    with pytest.raises((UserError, ValueError, RuntimeError, AssertionError)) as caught:
        docs_blocks.follow(page)
    assert message in f"{caught.type.__name__} {caught.value} {capsys.readouterr().err}"


def test_blocks_and_lines_are_read_with_titles_comments_and_continuations():
    text = '```sh\nX=1 unirl train \\\n    seed=3  # a\n# b\nmake demo\n```\n\n```python title="a.py"\nx = 1\n```\n'
    shell, python = blocks(text)
    assert list(lines(shell)) == [["unirl", "train", "seed=3"], ["make", "demo"]]
    assert python == Block("python", "x = 1\n", "a.py")


def test_a_line_is_cut_by_overrides_that_are_typed_after_its_own():
    words = shortened(["train", "method=ppo", "task=hopper", "samples=20480"])
    assert words[:4] == ["train", "method=ppo", "task=hopper", "samples=20480"]
    config = compose(words[1:-1])
    assert (config["samples"], config["iterations"], config["method"]["source"]["rows"]) == (None, 1, 64)
    assert words[-1] == "--quiet"


@pytest.mark.parametrize(
    "words",
    [
        ["task=d4rl/hopper-medium-v2", "method=td3_bc"],
        ["task=hopper", "method=bc", "task.data=mujoco/hopper/medium-v0"],
        ["task=addition", "method=grpo", "model=hf", "model.path=Qwen/Qwen3-0.6B"],
    ],
)
def test_what_would_have_to_be_downloaded_is_one_line_without_a_network(words, tmp_path, monkeypatch, capsys):
    def no_network(*unused):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # otherwise it tries again for 10 seconds
    assert cli.main(["train", *words, f"out={tmp_path / 'run'}", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unirl: ") and error.count("\n") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page):
    for path in re.findall(r"`((?:unirl|control|llm|preference|configs|tests|docs)/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists() or path in NOT_FILES, path


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


def test_links_to_pages_of_parts_name_kinds():
    for page in PAGES:
        for kind in re.findall(r"\]\(parts/(\w+)\.md", page.read_text()):
            assert kind == "index" or kind in kinds()
