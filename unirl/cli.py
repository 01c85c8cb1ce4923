"""The command line: finds the command, turns errors into one line and an exit code.

Exit codes: 0 done; 1 a cell of a comparison failed, or something is broken; 2 the user can put it right; 130 Ctrl-C;
143 SIGTERM.
Commands of other packages are found through entry points of the group `unirl.commands`; no domain is imported here.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from unirl import __version__
from unirl.commands.announced import summary_of
from unirl.commands.extras import hint_for
from unirl.commands.interruption import TrainingInterruptedError
from unirl.commands.parser import Parser
from unirl.commands.screen import warnings_in_one_line
from unirl.errors import UserError, unknown

COMMANDS = {  # name -> (module, summary)
    "train": ("unirl.commands.train", "train one agent or model (or several, with --multirun)"),
    "eval": ("unirl.commands.evaluate", "evaluate a run's newest checkpoint, and film it"),
    "resume": ("unirl.commands.resume", "continue an interrupted training from its last checkpoint, bit for bit"),
    "compare": ("unirl.commands.compare", "train methods x domains x seeds and report on them"),
    "report": ("unirl.commands.report", "make a report from run folders"),
    "methods": ("unirl.commands.methods", "list every method: paper, parts, domains"),
    "tasks": ("unirl.commands.tasks", "list every task: domain, environment, what is to be done"),
    "parts": ("unirl.commands.parts", "list the parts that methods are made of, with their hyper-parameters"),
    "doctor": (
        "unirl.commands.doctor",
        "show versions, devices, missing extras and how to get them; try each domain for seconds",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        with warnings_in_one_line():
            code = dispatch([text for text in given if text != "--debug"])
        sys.stdout.flush()
        return code
    except TrainingInterruptedError as interruption:
        return _stop(str(interruption), interruption.code)
    except KeyboardInterrupt:
        return _stop("interrupted", 130)
    except BrokenPipeError:  # `unirl methods | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        if debug:
            raise
        return _stop(str(error), 2)
    except ModuleNotFoundError as error:
        install = hint_for(error.name or "")
        if debug or install is None:
            raise
        return _stop(f"the package '{error.name}' is not installed: {install}", 2)
    except OSError as error:
        if debug or error.filename is None:
            raise
        return _stop(f"{error.filename}: {error.strerror}", 2)


def dispatch(arguments: Sequence[str]) -> int:
    """Find the command and run it; without one, print what there is."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"unirl {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    announced = announced_commands()
    if name in COMMANDS:
        return _run(name, rest)
    if name in announced:
        command: Callable[[list[str]], int | None] = announced[name].load()
        return command(list(rest)) or 0
    if name.startswith("-"):
        raise unknown("option", name, ("--help", "--version"), see="unirl --help")
    if "=" in name:
        raise UserError(f"'{name}' is no command; did you mean `unirl train {name}`?")
    raise unknown("command", name, [*COMMANDS, *announced], see="unirl --help")


def overview() -> str:
    """The text of `unirl --help`."""
    lines = ["Train robots and language models with the same reinforcement-learning algorithms.", "", "commands:"]
    lines += [f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items()]
    for name, entry in announced_commands().items():
        lines.append(f"  {name:<10}{summary_of(entry)}")
    lines += [
        "",
        "`unirl COMMAND --help` explains a command and shows examples; `--debug` shows tracebacks.",
        "",
        "examples:",
    ]
    lines += ["  unirl train method=ppo task=hopper", "  unirl compare preset=demo", "  unirl methods"]
    return "\n".join(lines)


def announced_commands() -> dict[str, EntryPoint]:
    """Commands that installed packages bring, not yet loaded."""
    return {entry.name: entry for entry in entry_points(group="unirl.commands")}


def _run(name: str, arguments: Sequence[str]) -> int:
    module, summary = COMMANDS[name]
    command = importlib.import_module(module)
    parser = Parser(name, summary, command.EXAMPLES)
    command.add_arguments(parser)
    code: int = command.run(parser.read(arguments))
    return code


def _stop(message: str, code: int) -> int:
    print(f"unirl: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
