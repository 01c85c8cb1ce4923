"""The process of the tests. It never runs a line of the model's code, and builds no object of a class of the model's.

Names that the tests use but do not define are, in this order, Python's built-in ones, modules of the standard library
(where used as in `math.pi`), and what the program defines. Plain values arrive as copies. Any other object of the
program is represented by a `RemoteObject`, which is equal to itself alone, whatever the program's class says.
"""

import ast
import builtins
import importlib
import symtable
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from . import wire
from .cases import run_case

_FILE = "<tests>"


class ProgramGone(BaseException):
    """The program's process does not answer any more; not an `Exception`, which tests may catch."""


class RemoteError(Exception):
    """The program raised something that is no built-in exception."""


class Remote:
    """The other end of the program's pipes."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._read = requests, wire.Reader(replies)
        self._known: dict[int, RemoteObject] = {}
        self.gone: str | None = None

    def start(self) -> None:
        """Wait until the program's module has run; raises what it raised."""
        self._value(self._receive(), "while it was loaded")

    def name(self, name: str) -> tuple[bool, Any]:
        """Whether the program defines `name`, and what it is."""
        reply = self._ask({"name": name})
        return (False, None) if "missing" in reply else (True, self._value(reply, name))

    def do(self, operation: str, on: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Carry out an operation on an object of the program; arguments that it changed in place change here too."""
        sent = {
            "do": operation,
            "on": on,
            "args": [wire.encode(item, _number) for item in args],
            "kwargs": {name: wire.encode(item, _number) for name, item in kwargs.items()},
        }
        reply = self._ask(sent)
        value = self._value(reply, operation)
        for old, new in zip(args, reply.get("changed") or (), strict=False):
            if new is not None:
                _replace(old, self._decode(new))
        return value

    def _ask(self, request: Any) -> dict[str, Any]:
        if self.gone is not None:
            raise ProgramGone(self.gone)
        try:
            wire.send(self._requests, request)
        except OSError as error:
            self._lost(wire.END if isinstance(error, BrokenPipeError) else str(error))
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            reply = self._read()
        except wire.WireError as error:
            self._lost(str(error))
        if not isinstance(reply, dict):
            self._lost("not a reply")
        found: dict[str, Any] = reply
        return found

    def _value(self, reply: dict[str, Any], where: str) -> Any:
        if "raised" in reply:
            raise _exception(reply, where)
        return self._decode(reply.get("value"))

    def _decode(self, value: Any) -> Any:
        try:
            return wire.decode(value, self._object)
        except wire.WireError as error:
            self._lost(str(error))

    def _object(self, number: Any) -> "RemoteObject":
        if type(number) is not int:
            raise wire.WireError("not the number of an object")
        if number not in self._known:
            self._known[number] = RemoteObject(self, number)
        return self._known[number]

    def _lost(self, reason: str) -> NoReturn:
        self.gone = reason
        raise ProgramGone(reason)


class RemoteObject:
    """An object of the program: calls, attributes, items and iteration are carried out there."""

    __slots__ = ("_number", "_remote")

    def __init__(self, remote: Remote, number: int) -> None:
        object.__setattr__(self, "_remote", remote)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._remote.do("call", self._number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._remote.do("getattr", self._number, (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote.do("setattr", self._number, (name, value), {})

    def __len__(self) -> int:
        length = self._remote.do("len", self._number, (), {})
        return length if type(length) is int else 0

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        iterator = self._remote.do("iter", self._number, (), {})
        return iter(iterator) if type(iterator) is not RemoteObject else _Items(iterator)

    def __getitem__(self, key: Any) -> Any:
        return self._remote.do("getitem", self._number, (key,), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self._remote.do("setitem", self._number, (key, value), {})

    def __contains__(self, item: Any) -> bool:
        return self._remote.do("contains", self._number, (item,), {}) is True

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is RemoteObject and self._remote.do("isinstance", self._number, (value,), {}) is True

    def __str__(self) -> str:
        text = self._remote.do("str", self._number, (), {})
        return text if type(text) is str else ""

    def __repr__(self) -> str:
        return f"<object {self._number} of the program>"


class _Items:
    """Iteration over what the program iterates over; the only place where its StopIteration means anything."""

    def __init__(self, iterator: RemoteObject) -> None:
        self._iterator = iterator

    def __iter__(self) -> "_Items":
        return self

    def __next__(self) -> Any:
        try:
            return self._iterator._remote.do("next", self._iterator._number, (), {})
        except StoppedError:
            raise StopIteration from None


class StoppedError(RuntimeError):
    """The program raised StopIteration. Raised as such, a call inside `all(map(...))` would cut the tests short."""


def run(tests: Sequence[str], requests: int, replies: int) -> dict[str, Any]:
    """Run tests one after the other, in one namespace; how many passed, and why the first did not.

    `kind`: `ok`; `wrong`: an assertion failed; `error`: something else was raised; `memory`; `gone`: the program ended.
    A test passes if it runs to its end and comes to an assertion (see `run_case`).
    """
    remote = Remote(requests, replies)
    namespace: dict[str, Any] = {"__name__": "tests"}
    passed, worst = 0, {"kind": "ok", "reason": ""}
    try:
        remote.start()
        for test in tests:
            failure = _failure(test, namespace, remote)
            passed += failure is None
            worst = failure if failure is not None and worst["kind"] == "ok" else worst
    except BaseException as error:
        worst = _described(error)
    if remote.gone is not None:  # even if a test caught that
        worst = {"kind": "gone", "reason": remote.gone}
    return {**worst, "passed": passed, "of": len(tests)}


def _failure(test: str, namespace: dict[str, Any], remote: Remote) -> dict[str, str] | None:
    try:
        tree = ast.parse(test)
        for name in sorted(_needed(test, tree) - namespace.keys()):
            _provide(name, tree, namespace, remote)
        run_case(tree, _FILE, namespace)
    except ProgramGone:
        raise
    except BaseException as error:
        return _described(error, test)
    return None


def _needed(test: str, tree: ast.Module) -> set[str]:
    """The names that a test takes from outside."""
    top = symtable.symtable(test, _FILE, "exec")
    own = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    own |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())}
    return used - own - set(dir(builtins))


def _provide(name: str, tree: ast.Module, namespace: dict[str, Any], remote: Remote) -> None:
    if name in sys.stdlib_module_names and _only_for_attributes(name, tree):
        namespace[name] = importlib.import_module(name)
        return
    found, value = remote.name(name)
    if found:
        namespace[name] = value


def _only_for_attributes(name: str, tree: ast.Module) -> bool:
    """Whether `name` is used as in `math.pi` alone: then it is a module, not a function of that name."""
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    dotted = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return uses == sum(isinstance(value, ast.Name) and value.id == name for value in dotted)


def _described(error: BaseException, test: str = "") -> dict[str, str]:
    if isinstance(error, AssertionError):
        said = [text for text in (_line(error, test), str(error)) if text]
        return {"kind": "wrong", "reason": ": ".join(said)[:500] or "an assertion failed"}
    kind = "memory" if isinstance(error, MemoryError) else "error"
    return {"kind": kind, "reason": f"{type(error).__name__}: {error}"[:500]}


def _line(error: BaseException, test: str) -> str:
    """The innermost line of the tests that was being executed."""
    number, frames = 0, error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code.co_filename == _FILE:
            number = frames.tb_lineno
        frames = frames.tb_next
    lines = test.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def _exception(reply: dict[str, Any], where: str) -> Exception:
    """The built-in exception nearest to what the program says it raised; never one that ends more than a call."""
    names, message = reply.get("raised"), str(reply.get("message"))[:1000]
    for name in names if isinstance(names, list) else ():
        cls = getattr(builtins, name, None) if type(name) is str else None
        if name in ("StopIteration", "StopAsyncIteration"):
            return StoppedError(f"{name} from {where}")
        if isinstance(cls, type) and issubclass(cls, Exception) and cls is not Exception:
            try:
                return cls(message)
            except TypeError:  # it takes more than a message; its base class may not
                continue
    first = names[0] if isinstance(names, list) and names and type(names[0]) is str else "nothing"
    return RemoteError(f"the program raised {first}: {message}")


def _replace(old: Any, new: Any) -> None:
    """Make the mutable `old` hold what `new` holds."""
    for kinds, add in (((dict, set), "update"), ((list, bytearray, deque), "extend")):
        for kind in kinds:
            if isinstance(old, kind) and isinstance(new, kind) and old != new:
                old.clear()
                getattr(old, add)(new)


def _number(value: Any) -> int:
    if type(value) is RemoteObject:
        number: int = value._number
        return number
    raise TypeError(f"tests can hand the program plain values and its own objects, not a {type(value).__name__}")
