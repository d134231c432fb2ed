"""GET /docs: the API's description as a web page, with all its files served from here."""

import importlib.util
from pathlib import Path

from quart import Blueprint, Response
from quart_schema import hide
from werkzeug.exceptions import NotFound

from headrace.frontend.access.required_access import public

# Swagger UI, from the package swagger-ui-py.
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}

# Addresses are relative, so that they work behind a root path. Without validatorUrl Swagger UI
# would send the description's address to its own server. The page holds no data and needs no key;
# it asks for one if the description needs it, and keeps it in memory alone.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Headrace</title>
<link rel="icon" href="docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<form id="key-form" hidden>
<label>API key <input id="key" type="password" autocomplete="off"></label> <button>Show</button>
</form>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
const form = document.getElementById("key-form");
let key = "";
function withKey(request) {
  if (key) request.headers.Authorization = "Bearer " + key;
  return request;
}
async function show() {
  const answer = await fetch("openapi.json", withKey({headers: {}}));
  form.hidden = answer.status !== 401;
  if (form.hidden) SwaggerUIBundle({
    url: "openapi.json", dom_id: "#swagger-ui", validatorUrl: null, requestInterceptor: withKey,
  });
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value;
  show();
});
show();
</script>
</body>
</html>
"""


def blueprint() -> Blueprint:
    routes = Blueprint("docs", __name__)
    folder = _asset_folder()

    @routes.get("/docs")
    @hide
    @public()
    async def docs() -> Response:
        return Response(_PAGE, content_type="text/html; charset=utf-8")

    @routes.get("/docs/assets/<name>")
    @hide
    @public()
    async def asset(name: str) -> Response:
        content_type = _ASSETS.get(name)
        if content_type is None:
            raise NotFound
        headers = {"Cache-Control": "public, max-age=86400"}
        return Response((folder / name).read_bytes(), headers=headers, content_type=content_type)

    return routes


def _asset_folder() -> Path:
    """Find the folder without importing the package, which would load its dependencies."""
    spec = importlib.util.find_spec("swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package swagger-ui-py is not installed")
    return Path(spec.submodule_search_locations[0]) / "static"
