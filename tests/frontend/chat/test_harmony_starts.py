"""Starts of headers that no header follows are text, and reading them ends."""

import pytest

from headrace.frontend.chat.message import CollectedMessage, PlainReader
from headrace.frontend.chat.reasoning.harmony import START, HarmonyReader


@pytest.mark.parametrize("piece", [7, 3000])
@pytest.mark.parametrize("text", [START * 400, START + "a" * 3000, f"  {START}" * 300])
def test_starts_without_a_message_are_content(text: str, piece: int) -> None:
    reader, message = HarmonyReader(PlainReader(), include=True), CollectedMessage()
    for begin in range(0, len(text), piece):
        message.add(reader.feed(text[begin : begin + piece]))
    message.add(reader.finish())
    shown = message.content.replace("\n", "")
    assert text.startswith(shown)
    assert len(shown) > len(text) - 1100  # what is held back at the end is cut within a header
    assert not message.reasoning
