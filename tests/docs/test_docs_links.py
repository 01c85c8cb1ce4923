"""Links between the repository's pages: those that a reader follows on a code host, and those of the site."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(text):
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ +(.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(page, text):
    """The relative links of a page that lead nowhere. Pages that are generated are left to mkdocs."""
    found = []
    for link in LINK.findall(FENCED.sub("", text)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link) or target.split("/")[0] in ("methods", "parts"):
            continue
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(text if path == page else path.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_and_their_anchors_lead_somewhere(page):
    assert broken(page, page.read_text()) == []


def test_a_broken_link_and_a_broken_anchor_are_noticed():
    text = (
        "# One `two`\n[a](#one-two) [b](#two) [c](LICENSE) [d](LICENCE) [e](docs/design.md#batch) [f](docs/design.md#x)"
    )
    assert broken(ROOT / "README.md", text) == ["#two", "LICENCE", "docs/design.md#x"]


@pytest.mark.parametrize("text", ["[a](#gone)", "[a](gone.md)", "![a](gone.png)", "[a](gone/)", "[a](/gone.md)"])
def test_a_broken_link_fails_the_strict_build_of_the_site(text, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{text}\n")
    ours = re.search(r"^validation:.*?(?=^\w)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({"site_name": "x", **yaml.safe_load(ours[0])}))
    mkdocs = Path(sys.executable).parent / "mkdocs"
    done = subprocess.run([mkdocs, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "gone" in done.stderr
