"""The process of the model's code. Nothing that happens here is trusted; nothing worth knowing is in here.

A script is run as `__main__`. A module is run, and then answers what a tester asks of its objects, one line for one.
"""

import builtins
import operator
import sys
import traceback
from collections import deque
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from . import wire

_FILE = "<program>"
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "len": len,
    "iter": iter,
    "next": next,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "contains": operator.contains,
    "isinstance": lambda cls, value: isinstance(value, cls),
    "str": str,
}
_MUTABLE = (list, dict, set, deque, bytearray)


def run_script(source: str) -> int:
    """Run the source as `__main__`; the exit code of the process."""
    try:
        _execute(source, "__main__")
    except SystemExit:
        raise
    except BaseException as error:
        _print(error)
        return 1
    return 0


def serve(source: str, requests: int, replies: int) -> int:
    """Run the source as a module, then answer requests until there are no more."""
    try:
        module = _execute(source, "program")
    except BaseException as error:
        wire.send(replies, _raised(error))
        return 1
    wire.send(replies, {"value": None})
    objects = Objects()
    read = wire.Reader(requests)
    while True:
        try:
            request = read()
        except wire.WireError:
            return 0
        try:
            wire.send(replies, _answer(request, module, objects))
        except OSError:  # nobody listens any more
            return 0


class Objects:
    """The program's own objects, by number, so that a tester can speak of them."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def refer(self, value: Any) -> int:
        """The number of an object, the same whenever it returns."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)
        return self._numbers[id(value)]

    def resolve(self, number: int) -> Any:
        """The object of a number."""
        return self._kept[number]


def _execute(source: str, name: str) -> ModuleType:
    for leave in ("exit", "quit"):  # what `site` would have added
        setattr(builtins, leave, sys.exit)
    module = sys.modules[name] = ModuleType(name)
    exec(compile(source, _FILE, "exec"), vars(module))
    return module


def _answer(request: Any, module: ModuleType, objects: Objects) -> Any:
    try:
        if "name" in request:
            known = vars(module)
            name = request["name"]
            return {"value": wire.encode(known[name], objects.refer)} if name in known else {"missing": True}
        args = [wire.decode(item, objects.resolve) for item in request["args"]]
        kwargs = {key: wire.decode(item, objects.resolve) for key, item in request["kwargs"].items()}
        value = _OPERATIONS[request["do"]](objects.resolve(request["on"]), *args, **kwargs)
        changed = [wire.encode(item, objects.refer) if isinstance(item, _MUTABLE) else None for item in args]
        return {"value": wire.encode(value, objects.refer), "changed": changed}
    except BaseException as error:
        return _raised(error)


def _raised(error: BaseException) -> Any:
    names = [cls.__name__ for cls in type(error).__mro__]
    try:
        message = str(error)[:1000]
    except BaseException:
        message = ""
    return {"raised": names, "message": message}


def _print(error: BaseException) -> None:
    """Print the traceback without the frames of this file."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)
