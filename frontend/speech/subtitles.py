"""Write segments as subtitles: SubRip (srt) and WebVTT (vtt)."""

from collections.abc import Sequence

from headrace.frontend.speech.segments import Segment

_ARROW = "-->"


def srt(segments: Sequence[Segment]) -> str:
    """Return segments in the form of SubRip."""
    return "".join(
        f"{number}\n{_time(each.start_s, ',', True)} {_ARROW} {_time(each.end_s, ',', True)}\n"
        f"{_line(each)}\n\n"
        for number, each in enumerate(segments, start=1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """Return segments in the form of WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(each.start_s, '.')} {_ARROW} {_time(each.end_s, '.')}\n{_escaped(_line(each))}\n\n"
        for each in segments
    )


def _time(seconds: float, mark: str, has_hours: bool = False) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours:02}:" if hours or has_hours else ""
    return f"{start}{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"


def _line(segment: Segment) -> str:
    """Return the text of a segment; an arrow or an empty line in it would end it."""
    return " ".join(segment.text.split()).replace(_ARROW, "->")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
