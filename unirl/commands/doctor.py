"""`unirl doctor`."""

import argparse
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unirl import __version__
from unirl.commands.extras import PURPOSES, Package, extras, pip_command
from unirl.commands.machine import folders, machine
from unirl.commands.screen import console, print_json
from unirl.commands.selftest import SelfTest, run_self_test, tested_domains

EXAMPLES = """
unirl doctor
unirl doctor --no-self-test
unirl doctor --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--no-self-test", action="store_true", help="only look; do not train in each domain for a few seconds"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 if what is always needed is missing, or something that is installed does not work."""
    found = findings()
    screen = None if arguments.json else console()
    if screen is not None:
        _print_machine(screen, found)
        _print_extras(screen, found["extras"])
    tests = {} if arguments.no_self_test else _self_tests(screen, found["extras"])
    if arguments.json:
        print_json({**found, "self_tests": tests})
    broken = not found["extras"]["core"]["complete"] or any(test.get("problem") for test in tests.values())
    return 1 if broken else 0


def findings() -> dict[str, Any]:
    """What can be seen without training."""
    return {
        "unirl": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **machine(),
        "extras": {name: _extra(name, packages) for name, packages in extras().items()},
    }


def _extra(name: str, packages: list[Package]) -> dict[str, Any]:
    complete = all(package.fits for package in packages)
    return {
        "for": PURPOSES.get(name, ""),
        "complete": complete,
        "packages": [asdict(package) for package in packages],
        "install": None if complete else pip_command(name),
    }


def _self_tests(screen: Console | None, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Domain -> how its self-test went, or the command that installs what it lacks; printed as they end."""
    results: dict[str, dict[str, Any]] = {}
    if screen is not None:
        screen.print("\nself-test of each domain: train, resume from the middle, compare the weights")
    for domain in tested_domains():
        missing = [package for package in found.get(domain, {}).get("packages", ()) if package["installed"] is None]
        if missing:
            results[domain] = {"not_installed": found[domain]["install"]}
        else:
            results[domain] = asdict(run_self_test(domain))
        if screen is not None:
            for line in _lines(domain, results[domain]):
                screen.print(line, highlight=False, markup=False, soft_wrap=True)
    return results


def _lines(domain: str, result: Mapping[str, Any]) -> list[str]:
    if "not_installed" in result:
        return [f"  {domain:<8} not installed: {result['not_installed']}"]
    test = SelfTest(**result)
    if test.problem is None:
        return [f"  {domain:<8} ok      {test.seconds:.1f} s"]
    return [
        f"  {domain:<8} failed  {test.seconds:.1f} s  {test.problem}",
        f"  {'':<8} the whole error: {test.command}",
        f"  {'':<8} versions that do not fit together: pip check",
    ]


def _print_machine(screen: Console, found: Mapping[str, Any]) -> None:
    def line(text: str) -> None:
        screen.print(text, highlight=False, markup=False, soft_wrap=True)

    line(f"unirl {found['unirl']}, Python {found['python']}, {found['system']}")
    line(f"devices     {', '.join(found['devices'])}")
    allowed = found["allowed_processors"]
    quota = "" if allowed is None else f", time for {allowed:.2g}"
    line(f"processors  {found['usable_processors']} of {found['processors']} usable{quota}")
    line(f"threads     torch uses {found['torch_threads']}; a training uses threads=1 unless told otherwise")
    speed = {True: "multiplied by the processor itself", False: "emulated: slower than float32", None: "unknown"}
    line(f"bfloat16    {speed[found['native_bfloat16']]}")
    line(f"memory      {', '.join(f'{size:g} GiB {name}' for name, size in found['memory_gb'].items())}")
    for name, folder in folders().items():
        line(f"disk        {found['free_disk_gb'][name]:g} GiB free for {name}: {folder}")
    for name, value in found["environment"].items():
        line(f"{name}={value}")


def _print_extras(screen: Console, found: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("extra", "package", "required", "installed"):
        table.add_column(column)
    for name, extra in found.items():
        for index, package in enumerate(extra["packages"]):
            state = package["installed"] or "[red]missing[/]"
            state += "" if package["fits"] or package["installed"] is None else " [red]does not fit[/]"
            table.add_row(f"[bold]{name}[/]" if index == 0 else "", package["name"], escape(package["required"]), state)
        table.add_section()
    screen.print()
    screen.print(table)
    incomplete = {name: extra for name, extra in found.items() if extra["install"]}
    screen.print("\nto install what is missing:" if incomplete else "\nnothing is missing")
    for name, extra in incomplete.items():
        screen.print(f"  {extra['install']}", highlight=False, markup=False, soft_wrap=True)
        screen.print(f"    for {extra['for'] or name}", highlight=False, markup=False, soft_wrap=True)
