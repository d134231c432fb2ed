"""Fingerprint what produces a response, to find the frontends that can resume it.

Pools that serve different models, or one model differently, may share a store.
"""

import hashlib

from headrace.frontend.context import Context, ServedModel


def fingerprint(context: Context, model: ServedModel) -> str:
    """Return a digest of server, model, parsers and tool servers, of up to 64 characters."""
    group = model.group
    parts = [
        model.fingerprint,
        repr(group.served_names),
        repr(group.reasoning_parser),
        group.serving.model_dump_json(),
        repr(context.config.tool_server),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def fingerprints(context: Context) -> frozenset[str]:
    """Return the fingerprints of all models that this frontend serves."""
    return frozenset(fingerprint(context, model) for model in context.models.values())
