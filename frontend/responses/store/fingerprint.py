"""Which frontends can go on with a response: those that would do everything the same.

A store may be shared by pools that serve different models, or the same one differently.
"""

import hashlib

from headrace.frontend.context import Context, ServedModel


def fingerprint(context: Context, model: ServedModel) -> str:
    """Changes with all that a response is made by: server, model, how its output is read, tools.

    Up to 64 characters.
    """
    group = model.group
    described = [
        model.fingerprint,
        repr(group.served_names),
        repr(group.reasoning_parser),
        group.serving.model_dump_json(),
        repr(context.config.tool_server),
    ]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:32]


def fingerprints(context: Context) -> frozenset[str]:
    """Of all models that are served here."""
    return frozenset(fingerprint(context, model) for model in context.models.values())
