"""Options of access to the server."""

from pydantic import Field

from headrace.protocol.engine_config import Frozen


class AccessOptions(Frozen):
    """Options of access to the server."""

    enable_admin: bool = Field(
        False,
        description=(
            "serve the routes that act on the pool (/sleep, /pause, ...), to every client that "
            "reaches the server"
        ),
    )
    share_prefix_cache: bool = Field(
        False,
        description=(
            "let the prompts of different tenants share cached blocks, so that a tenant can tell "
            "by their times what others have sent"
        ),
    )
