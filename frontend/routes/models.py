"""GET /v1/models and /v1/models/<id>."""

from typing import Any

from quart import Blueprint, Response
from quart_schema import document_response

from headrace.frontend.context import Context, ServedModel
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.schemas.response_bodies import ErrorAnswer, Model, ModelList


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    @document_response(ModelList)
    async def list_models() -> Response:
        """List the models by every name that they are served under, and their LoRA adapters."""
        cards = [_card(context, model) for model in context.visible_models()]
        return json_response({"object": "list", "data": cards})

    @routes.get("/v1/models/<path:model_id>")
    @document_response(Model)
    @document_response(ErrorAnswer, 404)
    async def get_model(model_id: str) -> Response:
        """Describe one model."""
        return json_response(_card(context, context.model(model_id)))

    return routes


def _card(context: Context, model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": context.started_at,
        "owned_by": "headrace",
        "root": model.root,
        "parent": model.parent,
        "max_model_len": model.tokenizer.info.max_model_len,
        "tasks": list(model.tasks),
        "permission": [
            {
                "id": f"modelperm-{model.fingerprint.rpartition('-')[2]}",
                "object": "model_permission",
                "created": context.started_at,
                "allow_create_engine": False,
                "allow_sampling": True,
                "allow_logprobs": True,
                "allow_search_indices": False,
                "allow_view": True,
                "allow_fine_tuning": False,
                "organization": "*",
                "group": None,
                "is_blocking": False,
            }
        ],
    }
