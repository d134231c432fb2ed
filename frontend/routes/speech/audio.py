"""POST /v1/audio/transcriptions and /v1/audio/translations."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeVar

from quart import Blueprint, Response
from quart_schema import DataSource, document_request, document_response
from werkzeug.exceptions import RequestEntityTooLarge

from headrace.frontend.context import Context
from headrace.frontend.errors import BadRequest, BodyTooLarge
from headrace.frontend.files.upload import (
    ReceivedForm,
    check_length,
    discard_body,
    receive_form,
)
from headrace.frontend.http.parsing import validate
from headrace.frontend.middleware import request_scope
from headrace.frontend.middleware.in_flight import count_in_flight
from headrace.frontend.openai_api.speech_serializer import answer_as_stream, answer_in_one_piece
from headrace.frontend.schemas.response_bodies import ErrorAnswer
from headrace.frontend.schemas.speech.answers import SpeechAnswer
from headrace.frontend.schemas.speech.forms import (
    SpeechForm,
    TranscriptionForm,
    TranslationForm,
    form_values,
)
from headrace.frontend.speech.start_transcription import start_transcription
from headrace.protocol.config import PoolConfig
from headrace.protocol.pooling import TRANSCRIPTION

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"
MAX_PARTS = 64
MAX_FIELD_BYTES = 192 * 1024  # of prompt and hotwords, and of all others
_FOLDER = "audio"  # of the run directory

Form = TypeVar("Form", bound=SpeechForm)


def blueprint(context: Context) -> Blueprint:
    routes = Blueprint("audio", __name__)

    @routes.post(TRANSCRIPTIONS)
    @document_request(TranscriptionForm, source=DataSource.FORM_MULTIPART)
    @document_response(SpeechAnswer)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def transcriptions() -> Response:
        """Write down what is said in a recording."""
        return await _answer(context, TranscriptionForm)

    @routes.post(TRANSLATIONS)
    @document_request(TranslationForm, source=DataSource.FORM_MULTIPART)
    @document_response(SpeechAnswer)
    @document_response(ErrorAnswer, 400)
    @document_response(ErrorAnswer, 404)
    async def translations() -> Response:
        """Write down in English what is said in a recording."""
        return await _answer(context, TranslationForm)

    return routes


def max_file_bytes(config: PoolConfig) -> int:
    """Return the size of the largest recording."""
    return int(config.max_audio_clip_filesize_mb * 2**20)


def max_form_bytes(config: PoolConfig) -> int:
    """Return the size of the largest form."""
    return max_file_bytes(config) + MAX_FIELD_BYTES


async def _answer(context: Context, form_class: type[SpeechForm]) -> Response:
    """Receive a recording and transcribe it; it is removed with the end of the request."""
    try:
        count_in_flight(context)
        if context.recordings is None:
            context.model(None, TRANSCRIPTION)  # none transcribes, which the error says
        check_length()
        async with _received(context) as (received, path):
            form = validate(form_class, form_values(received.fields))
    except RequestEntityTooLarge as error:  # by its declared length, or its other fields
        raise _too_large(context.config) from error
    finally:
        discard_body()
    model = context.model(form.model, TRANSCRIPTION)
    transcription = await start_transcription(context, model, form, path)
    if form.stream:
        return await answer_as_stream(transcription, form)
    return await answer_in_one_piece(transcription, form)


def _too_large(config: PoolConfig) -> BodyTooLarge:
    """Return the error of a form that is too large."""
    try:
        check_length()
    except RequestEntityTooLarge:
        return BodyTooLarge(f"file: more than {max_file_bytes(config)} bytes.", "file")
    return BodyTooLarge(
        f"The form's fields are more than {MAX_PARTS}, or than {MAX_FIELD_BYTES} bytes together."
    )


@contextlib.asynccontextmanager
async def _received(context: Context) -> AsyncIterator[tuple[ReceivedForm, Path]]:
    """Receive the form of the current request. Raises ApiError if it is too large or empty."""
    folder = context.config.run_dir / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / secrets.token_hex(16)
    request_scope.current().cleanups.append(lambda: path.unlink(missing_ok=True))
    limit = max_file_bytes(context.config)
    received = receive_form(
        lambda: path.open("xb+", buffering=0), limit, MAX_PARTS, MAX_FIELD_BYTES
    )
    async with received as form:
        if not path.stat().st_size:
            raise BadRequest("file: is empty.", "file")
        yield form, path
