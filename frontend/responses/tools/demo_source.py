"""Offer demo tools inside the frontend: a clock and a calculator."""

import ast
import math
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headrace.frontend.responses.tools.interface import ToolFailure, ToolSpec

MAX_EXPRESSION_CHARS = 200
_MAX_BITS = 4096

Number = int | float


class DemoSource:
    """The tool source `demo`."""

    async def list_tools(self) -> list[ToolSpec]:
        """Return both tools."""
        return [
            ToolSpec(
                "current_time",
                "Date and time of day in a time zone.",
                _object(timezone="Name of the zone, such as Europe/Vienna. UTC if left out."),
            ),
            ToolSpec(
                "calculate",
                "The value of an arithmetic expression.",
                {
                    **_object(expression="Numbers, parentheses and + - * / // % **."),
                    "required": ["expression"],
                },
            ),
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool. Raises ToolFailure if it fails."""
        if name == "current_time":
            return current_time(arguments.get("timezone") or "UTC")
        if name == "calculate":
            return str(calculate(arguments.get("expression")))
        raise ToolFailure("there is no such tool")


def _object(**described: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def current_time(zone: Any) -> str:
    """Return the time in a time zone. Raises ToolFailure if the zone is unknown."""
    if not isinstance(zone, str):
        raise ToolFailure("timezone must be a string")
    try:
        timezone = UTC if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ToolFailure("this time zone is unknown") from error
    return datetime.now(timezone).isoformat(timespec="seconds")


def calculate(expression: Any) -> Number:
    """Return the value of an expression, in bounded time. Raises ToolFailure if it has none."""
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION_CHARS:
        raise ToolFailure(f"expression must be a string of up to {MAX_EXPRESSION_CHARS} characters")
    try:
        return _evaluate(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolFailure("this is not an arithmetic expression") from error
    except ArithmeticError as error:
        raise ToolFailure("the expression has no value") from error


def _evaluate(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_evaluate(left), _evaluate(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_evaluate(left), _evaluate(right)))
    raise ValueError("not arithmetic")


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _power(base: Number, exponent: Number) -> Number:
    """Compute a power. Raises OverflowError before a large one, which would take too long."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base.bit_length() * exponent > _MAX_BITS:
            raise OverflowError
        return int(base**exponent)
    return math.pow(base, exponent)


def _bounded(number: Number) -> Number:
    too_large = number.bit_length() > _MAX_BITS if isinstance(number, int) else False
    if too_large or not math.isfinite(float(number) if isinstance(number, float) else 0.0):
        raise OverflowError
    return number
