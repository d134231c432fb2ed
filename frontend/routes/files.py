"""/v1/files: what clients have uploaded, and what batches have written."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response, request
from quart_schema import document_response

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest, InvalidBody, shortened
from headrace.frontend.files.upload import ROUTE, check_length, discard_body, receive_upload
from headrace.frontend.http.openapi import document_plain
from headrace.frontend.http.query import query_choice, query_number
from headrace.frontend.middleware.errors import json_response
from headrace.frontend.middleware.request_scope import current_tenant
from headrace.frontend.schemas.batches import MAX_KEPT_S, MIN_KEPT_S
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.frontend.store.kept_services import LazyBatches

if TYPE_CHECKING:  # imported when it is first needed
    from headrace.frontend.files.file_store import FileStore, StoredFile

PURPOSES = ("batch", "assistants", "fine-tune", "vision", "user_data", "evals")
MAX_LIMIT = 10_000
WARNING_HEADER = "X-Headrace-Warning"
# Uploads of one tenant that a frontend receives at once.
MAX_UPLOADS = 16
_PIECE = 256 * 1024


def blueprint(context: Context, entry: LazyBatches) -> Blueprint:
    routes = Blueprint("files", __name__)
    config = context.config
    # Of each tenant: slow uploads of one do not keep others waiting.
    uploads: defaultdict[str, asyncio.Semaphore] = defaultdict(
        lambda: asyncio.Semaphore(MAX_UPLOADS)
    )

    @routes.post(ROUTE)
    @document_plain("The file.", content_type="application/json")
    @document_response(ErrorAnswer, 400)
    async def create() -> Response:
        """Store a file (multipart/form-data: file, purpose, expires_after)."""
        check_length()
        try:
            service, tenant = await entry.service(), current_tenant()
            async with uploads[tenant]:
                stored = await _store_upload(service.files, tenant, config.file_max_bytes)
        finally:
            discard_body()
        headers = {WARNING_HEADER: service.warning} if service.warning else {}
        return json_response(stored.body(), 200, headers)

    @routes.get(ROUTE)
    @document_plain("The files.", content_type="application/json")
    async def get_all() -> Response:
        """List files, the newest first unless order is asc."""
        limit = query_number("limit", MAX_LIMIT, 1, MAX_LIMIT)
        ascending = query_choice("order", "desc", "asc") == "asc"
        page = await (await entry.service()).files.page(
            current_tenant(),
            limit=limit,
            after=request.args.get("after"),
            ascending=ascending,
            purpose=request.args.get("purpose"),
        )
        data = [each.body() for each in page.files]
        return json_response(list_body(data, page.has_more))

    @routes.get(f"{ROUTE}/<file_id>")
    @document_plain("The file, without its content.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def get(file_id: str) -> Response:
        """Return what is known of a file."""
        files = (await entry.service()).files
        return json_response((await files.get(current_tenant(), file_id)).body())

    @routes.delete(f"{ROUTE}/<file_id>")
    @document_plain("It is deleted.", content_type="application/json")
    @document_response(ErrorAnswer, 404)
    async def delete(file_id: str) -> Response:
        """Delete a file; a batch that runs it continues."""
        await (await entry.service()).files.delete(current_tenant(), file_id)
        return json_response({"id": file_id, "object": "file", "deleted": True})

    @routes.get(f"{ROUTE}/<file_id>/content")
    @document_plain("The content.", content_type="application/octet-stream")
    @document_response(ErrorAnswer, 404)
    async def content(file_id: str) -> Response:
        """Return the content of a file."""
        files = (await entry.service()).files
        stored = await files.get(current_tenant(), file_id)
        response = Response(
            _pieces(files.folder.path(file_id)), content_type="application/octet-stream"
        )
        response.headers["Content-Length"] = str(stored.size)
        response.timeout = None  # a slow client may take any time
        return response

    return routes


def list_body(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return a page of objects as OpenAI's API shows it."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


async def _store_upload(files: "FileStore", tenant: str, max_file_bytes: int) -> "StoredFile":
    """Store the file of the current request. Raises ApiError."""
    await files.check_room(tenant, request.content_length or 0)
    async with receive_upload(files.folder, tenant, max_file_bytes) as upload:
        await files.check_room(tenant, 0)  # it counts now; its length may have been unknown
        return await files.add(
            upload.path,
            tenant=tenant,
            purpose=_purpose(upload.fields),
            filename=upload.filename,
            expires_after_s=_expires_after_s(upload.fields),
        )


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidBody("body.purpose: is missing.", "body.purpose")
    if purpose not in PURPOSES:
        shown = shortened(purpose)
        known = ", ".join(PURPOSES)
        raise BadRequest(f"purpose: must be one of {known}, not {shown!r}.", "purpose")
    return purpose


def _expires_after_s(fields: dict[str, str]) -> float | None:
    """Return how long the file is kept; None if it does not expire by itself."""
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise BadRequest("expires_after.anchor: must be created_at.", "expires_after.anchor")
    text = seconds or ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if not MIN_KEPT_S <= number <= MAX_KEPT_S:
        raise BadRequest(
            f"expires_after.seconds: must be an integer from {MIN_KEPT_S} to {MAX_KEPT_S}.",
            "expires_after.seconds",
        )
    return float(number)
