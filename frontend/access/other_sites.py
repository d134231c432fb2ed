"""Refuse what pages of other sites can send to a server without keys.

A browser asks before it lets a page of another site send JSON (a preflight, which the server does
not answer unless --allowed-origins names the site). It does not ask for requests that a form could
make, so that any page could put a pool on the reader's own machine to sleep. Browsers say in
Sec-Fetch-Site whose page it is (https://www.w3.org/TR/fetch-metadata/).
"""

from collections.abc import Collection

from headrace.frontend.access.errors import Forbidden
from headrace.frontend.middleware.asgi import ASGIScope

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES = frozenset({b"cross-site", b"same-site"})  # "same-site" is another origin


def refusal_of_page(scope: ASGIScope, allowed_origins: Collection[str]) -> Forbidden | None:
    """Return the error of a request that a page of another site has sent unasked; else None.

    allowed_origins: of the sites whose pages may use the server; "*" stands for all.
    """
    if scope["method"] in _SAFE_METHODS or "*" in allowed_origins:
        return None
    headers = {name.lower(): value for name, value in scope["headers"]}
    if headers.get(b"sec-fetch-site", b"").strip().lower() not in _OTHER_SITES:
        return None
    if b"json" in headers.get(b"content-type", b"").lower():  # the browser has asked
        return None
    if headers.get(b"origin", b"").decode("latin1") in allowed_origins:
        return None
    return Forbidden("Pages of other sites may not send this, unless --allowed-origins names them.")
