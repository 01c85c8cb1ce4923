"""The commands of `unirl`, one file each.

A command is a module with `EXAMPLES` (for `--help`), `add_arguments(parser)` and `run(arguments) -> int`, the exit
code; `unirl.cli` names it and says in a line what it does. Packages outside the core announce commands as entry
points of the group `unirl.commands`: a function that takes the list of arguments and returns an exit code or None.
"""
