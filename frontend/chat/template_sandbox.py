"""The sandbox of chat templates: Jinja2's, with limits on time and on the size of values.

A chat template is a program that comes with a model. Jinja2's sandbox keeps it from the process but
not from looping or growing without end, which would stop a frontend. So each block counts as a step
that looks at the clock, and whatever may make a value much larger than those it is made from is
measured first. A single operation of Python cannot be interrupted; with bounded values it is short.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_CHARS = 64 << 20  # of a value
MAX_TOTAL_CHARS = 1 << 30  # of all values that a rendering makes
ITEM_CHARS = 8  # what an item of a list counts, besides its text
MAX_NUMBER = 100_000  # as the argument of a filter or method, such as the width of indent
MAX_BITS = 4096  # of a product or power
FREE_CHARS = 4096  # smaller values are not counted: they can grow to more only through counted ones
DEADLINE_S = 5.0

_Value = TypeVar("_Value")
_Node = TypeVar("_Node", bound=nodes.Node)

_PADDED = re.compile(r"\d{4}|\*")  # widths of format strings
_FORMATS = ("format", "format_map")
_SIZED = (str, list, tuple, dict, bytes)
_LOOSE = ("tojson", "string", "trim", "length")  # filters that never need to be measured before


class TemplateLimit(jinja2.TemplateRuntimeError):
    """A template has exceeded a limit."""


class TemplateTimeout(TemplateLimit):
    """A template has run for too long."""


class Work:
    """What a rendering may still do."""

    __slots__ = ("_chars", "_deadline", "_weighed")

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = time.monotonic() + DEADLINE_S if deadline is None else deadline
        self._chars = MAX_TOTAL_CHARS
        self._weighed: dict[int, tuple[object, int]] = {}

    def step(self) -> None:
        """Count a step. Raises TemplateTimeout after the deadline."""
        if time.monotonic() > self._deadline:
            raise TemplateTimeout("it takes too long to render")

    def make(self, chars: int) -> None:
        """Count the characters of a value that is made. Raises TemplateLimit if it is too large."""
        self._chars -= chars
        if chars > MAX_CHARS or self._chars < 0:
            raise TemplateLimit("it makes too long a text")
        self.step()

    def check_weight(self, value: object) -> None:
        """Check what a list or mapping holds, which may be one thing many times.

        Raises TemplateLimit if writing it out would make too long a text.
        """
        if self._weight(value) > MAX_CHARS:
            raise TemplateLimit("it makes too large a list or mapping")
        self.step()

    def _weight(self, value: object) -> int:
        if isinstance(value, str):
            return len(value) + ITEM_CHARS
        if not isinstance(value, list | tuple | dict):
            return ITEM_CHARS
        known = self._weighed.get(id(value))
        if known is not None:
            return known[1]
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        weight = ITEM_CHARS + sum(map(self._weight, inner))
        self._weighed[id(value)] = value, weight  # kept, so that no other gets its id
        return weight


_work: ContextVar[Work | None] = ContextVar("headrace_template_work", default=None)


_deadline: ContextVar[float | None] = ContextVar("headrace_template_deadline", default=None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit how long all renderings together take, instead of how long each does."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """Return a rendered template.

    Raises TemplateTimeout after the deadline, TemplateLimit if a value grows too large, and
    whatever the template raises.
    """
    token = _work.set(Work(_deadline.get()))
    try:
        return template.render(values)
    finally:
        _work.reset(token)


def _current() -> Work:
    """Return the work of the rendering that runs; a new one for what is computed in advance."""
    return _work.get() or Work()


def _concat(pieces: Iterable[str]) -> str:
    listed = list(pieces)
    _current().make(sum(map(len, listed)))
    return "".join(listed)


def _size(value: object) -> int:
    return len(value) if isinstance(value, _SIZED) else 0


def _counted(value: _Value) -> _Value:
    """Return a value that was made, after counting it."""
    if isinstance(value, str | bytes):
        if len(value) > FREE_CHARS:
            _current().make(len(value))
    elif isinstance(value, list | tuple | dict):
        _current().check_weight(value)
    return value


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        size = len(left) + len(right)
        if size > FREE_CHARS:
            _current().make(size)
        return left + right
    return _counted(left + right)


def _multiply(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    elif isinstance(left, int) or isinstance(right, int):
        number, value = (left, right) if isinstance(left, int) else (right, left)
        _current().make(max(0, number) * _size(value))
        return _counted(left * right)
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * abs(right))
    return left**right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str | bytes):
        _check_format(left)
        _current().make(_size(left) + _size(right))
    return left % right


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateLimit("it makes too large a number")


def _check_format(text: Any) -> None:
    if isinstance(text, str) and _PADDED.search(text):
        raise TemplateLimit("it formats to too large a width")


def _check_growth(name: str, value: Any, arguments: tuple[Any, ...]) -> None:
    """Check a filter or method before it runs. Raises TemplateLimit if its result may be too large.

    value: what it is applied to.
    """
    numbers = [each for each in arguments if isinstance(each, int)]
    if any(abs(each) > MAX_NUMBER for each in numbers):
        raise TemplateLimit(f"it calls {name} with too large a number")
    if name in _FORMATS:
        _check_format(value)
    if not isinstance(value, str):
        if name == "join" and arguments and isinstance(value, list | tuple):
            _current().make(len(value) * _size(arguments[0]) + sum(map(_size, value)))
        return
    texts = [each for each in arguments if isinstance(each, str)]
    if name == "replace" and len(texts) > 1:
        _current().make(len(value) + value.count(texts[0]) * len(texts[1]))
    elif name == "join":
        _current().make(len(value) * (1 + len(value)))
    elif name == "translate":
        largest = max((_size(each) for table in arguments for each in _values(table)), default=0)
        _current().make(len(value) * max(1, largest))
    elif name in ("indent", "expandtabs", "wordwrap", "batch"):
        pieces = 1 + value.count("\n") + value.count("\t")
        widths = sum(abs(each) for each in numbers) + sum(map(len, texts))
        _current().make(len(value) + pieces * widths)


def _values(table: Any) -> Iterable[Any]:
    return table.values() if isinstance(table, dict) else ()


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that is checked before it runs and measured afterwards."""
    passes_first = getattr(function, "jinja_pass_arg", None) is not None

    @functools.wraps(function)
    def measured(*arguments: Any, **named: Any) -> Any:
        given = arguments[1:] if passes_first else arguments
        if given:
            _check_growth(name, given[0], (*given[1:], *named.values()))
        return _counted(function(*arguments, **named))

    return measured


class _Generator(CodeGenerator):
    """Writes the code of a template with a step at the start of each block."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        self.write("environment.add(")
        self.visit(node.left, frame)
        self.write(", ")
        self.visit(node.right, frame)
        self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._visit_counted(node, super().visit_List, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._visit_counted(node, super().visit_Tuple, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._visit_counted(node, super().visit_Dict, frame)

    def _visit_counted(
        self, node: _Node, visit: Callable[[_Node, Frame], None], frame: Frame
    ) -> None:
        self.write("environment.counted(")
        visit(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class _Namespace(Namespace):
    """A namespace that does not write out what it holds, which may hold itself many times."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with limits."""

    code_generator_class = _Generator
    concat = staticmethod(_concat)
    # Intercepted operators are not computed while compiling either.
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        extensions = [_GenerationTag, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters["tojson"] = _to_json
        for name, function in self.filters.items():
            if name not in _LOOSE:
                self.filters[name] = _measured(name, function)
        self.globals.pop("lipsum")  # texts of any length for the tests of web pages
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.binop_table.update({"*": _multiply, "**": _power, "%": _modulo})

    add = staticmethod(_add)
    counted = staticmethod(_counted)

    @staticmethod
    def step() -> None:
        """Count the step of a block."""
        _current().step()

    @staticmethod
    def join(values: Iterable[Any]) -> str:
        """Return values as one text."""
        texts = [value if isinstance(value, str) else str_join((value,)) for value in values]
        return _concat(texts)

    def call(self, context: Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call a function or method from a template."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str | bytes) and arguments:
            _check_growth(function.__name__, owner, (*arguments, *named.values()))
        return _counted(super().call(context, function, *arguments, **named))


class _GenerationTag(Extension):
    """`{% generation %}`, without effect here.

    Templates mark the assistant's messages with it for training.
    """

    tags = {"generation"}  # noqa: RUF012 (an attribute of jinja2's)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format_: str) -> str:
    _check_format(format_)
    return datetime.now().strftime(format_)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Serialize a value as JSON. Unlike Jinja2's own filter, escape nothing for HTML."""
    if indent is not None and not 0 <= int(indent) <= 100:
        raise TemplateLimit("it indents JSON by too much")
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    _current().make(len(text))
    return text


ENVIRONMENT = _Environment()
