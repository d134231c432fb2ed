"""POST /v1/decisions and /v1/systemone: distributions over given options."""

import secrets
import time
from typing import Any

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from headrace.frontend.context import Context
from headrace.frontend.decisions.openai_shape import as_answer, as_question, usage
from headrace.frontend.decisions.read import Matter, read_answers
from headrace.frontend.decisions.system_shape import system_answer, system_questions, system_text
from headrace.frontend.errors import BadRequest
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.parsing import read_body
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.middleware.request_scope import register_response_id
from headrace.frontend.schemas.decisions import DecisionRequest, SystemRequest
from headrace.frontend.schemas.response_bodies import ErrorAnswer

# Variables of chat templates that turn reasoning on.
_THINKING = ("enable_thinking", "thinking")


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("decisions", __name__)

    @routes.post("/v1/decisions")
    @document_request(DecisionRequest)
    @document_plain("The answers.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    async def decisions() -> Response:
        """Answer questions about a text with probabilities of the given options."""
        count_in_flight(context)
        return json_response(await decide(context, await read_body(DecisionRequest)))

    @routes.post("/v1/systemone")
    @document_request(SystemRequest)
    @document_plain("The answers.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    async def systemone() -> Response:
        """Answer typed questions about a state with probabilities of their options."""
        count_in_flight(context)
        return json_response(await decide_system(context, await read_body(SystemRequest)))

    return routes


async def decide(context: Context, request: DecisionRequest) -> dict[str, Any]:
    """Return the body of an answer of /v1/decisions. Raises ApiError."""
    _refuse_joint(request.joint)
    model = context.model(request.model, "generate")
    questions = [as_question(asked) for asked in request.questions]
    matter = Matter(model, request.text, "input", {"cache_salt": request.cache_salt})
    reads = await read_answers(context, matter, questions)
    answers = [as_answer(asked, read) for asked, read in zip(request.questions, reads, strict=True)]
    engine = model.group.engine
    used = usage(reads, engine.block_size, engine.enable_prefix_caching)
    return {"model": model.name, "answers": answers, "usage": used}


async def decide_system(context: Context, request: SystemRequest) -> dict[str, Any]:
    """Return the body of an answer of /v1/systemone. Raises ApiError."""
    _refuse_joint(request.joint)
    for field in ("images", "audio", "videos"):
        if getattr(request, field):
            raise BadRequest(f"{field}: this model does not take {field}.", field)
    variables = request.chat_template_kwargs or {}
    if any(variables.get(name) for name in _THINKING):
        message = "chat_template_kwargs: thinking must be off, since answers are read at once."
        raise BadRequest(message, "chat_template_kwargs")
    model = context.model(request.model, "generate")
    questions = system_questions(request)
    options = {
        "chat_template_kwargs": variables,
        "cache_salt": request.cache_salt,
        "priority": request.priority,
    }
    matter = Matter(model, system_text(request), "state", options)
    reads = await read_answers(context, matter, list(questions.values()))
    found = dict(zip(questions, reads, strict=True))
    return {
        "id": register_response_id(f"decision-{request.request_id or secrets.token_hex(8)}"),
        "object": "structured_decision",
        "created": int(time.time()),
        "model": model.name,
        "answers": {
            name: system_answer(request.questions[name], questions[name], read)
            for name, read in found.items()
        },
        "usage": {
            "input_tokens": sum(read.input_tokens for read in reads),
            "output_tokens": sum(read.output_tokens for read in reads),
        },
        "diagnostics": {
            name: {"label_mass": read.label_mass, "argmax_is_label": read.argmax_is_label}
            for name, read in found.items()
        },
        "joint": None,
    }


def _refuse_joint(joint: bool) -> None:
    if joint:
        raise BadRequest("joint: this model reads each question on its own.", "joint")
