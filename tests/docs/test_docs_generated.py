import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from unirl.config import choices, compose
from unirl.registry import kinds, make, names, part_class

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import docstrings  # noqa: E402
import formulas  # noqa: E402
import generate  # noqa: E402


def test_every_method_has_a_page_with_its_file_and_a_command():
    assert [method.name for method in generate.methods()] == choices("method")
    for method in generate.methods():
        page = generate.method_page(method)
        assert method.text.rstrip() in page
        assert f"unirl train method={method.name} domain={method.domains[0]}" in page


def test_every_kind_has_an_introduction_and_every_part_its_section():
    for kind in kinds():
        assert kind in generate.KINDS
        page = generate.kind_page(kind)
        assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(names(kind))


def test_the_call_on_a_parts_page_makes_the_part_where_it_needs_nothing_more():
    made = 0
    for kind in kinds():
        for name in names(kind):
            cls = part_class(kind, name)
            call = generate._signature(kind, name, cls)
            if "..." not in call and "path=None" not in call:  # a task without data is refused
                assert isinstance(eval(call, {"make": make}), cls)
                made += 1
    assert made > 50


@pytest.mark.parametrize("method", generate.methods(), ids=lambda method: method.name)
def test_the_commands_on_a_methods_page_are_accepted(method):
    for command in generate._commands(method):
        compose(shlex.split(command, comments=True)[2:])


def test_every_formula_of_a_part_can_be_drawn():
    for kind in kinds():
        for name in names(kind):
            docstrings.markdown(part_class(kind, name).__doc__)


def test_a_formula_is_drawn_as_well_formed_outlines_on_a_line_each():
    drawn = ElementTree.fromstring(formulas.block(r"a = \tfrac12 \Big(\frac1N\Big), \qquad b = \lVert x \rVert"))
    paths = drawn.findall("./div/svg/path")
    assert len(paths) == 2
    for path in paths:
        assert re.fullmatch(r"[MLQCZ](?: [MLQCZ]| -?\d+\.\d)*", path.get("d"))


def test_a_formula_that_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match=r"cannot draw the formula \\nonsense"):
        formulas.block(r"\nonsense{")


def test_a_curve_names_its_command_once_and_a_second_curve_again():
    # a quadratic curve has two points; two of them in a row are two commands
    points = [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (0, 0)]
    assert formulas._commands(points, [1, 3, 3, 3, 3, 79]) == ("M 0.0 0.0 Q 1.0 1.0 2.0 0.0 Q 3.0 1.0 4.0 0.0 Z")


def test_docstrings_become_markdown():
    text = """Mean of *all* rows, a * b.

    center, scale: what is subtracted and
        divided by.
    eps: 1e-6.

    === =====
    k   value
    === =====
    k1  d | e
    === =====
    """
    assert docstrings.markdown(text) == (
        "Mean of <em>all</em> rows, a \\* b.\n\n"
        "- `center, scale`: what is subtracted and divided by.\n- `eps`: 1e-6.\n\n"
        "| k | value |\n| --- | --- |\n| k1 | d \\| e |"
    )


def test_the_summary_is_the_first_paragraph_with_the_formula_that_follows():
    text = "One.\n\n.. math:: x = y\n\nTwo."
    assert docstrings.summary(text) == f"One.\n\n{formulas.block('x = y')}"
    assert docstrings.summary("One.\n\nTwo.\n\n.. math:: x = y") == "One."
