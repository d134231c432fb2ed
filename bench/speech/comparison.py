"""Compare words and times of ours with those of the reference, recording by recording."""

import statistics
from collections.abc import Mapping, Sequence

from bench.speech.errors import (
    Segments,
    WordErrors,
    are_ordered,
    pooled,
    time_differences,
    word_errors,
)
from bench.speech.material import Recording
from bench.speech.sides import SpeechSide, SpeechTurn, Task

ALLOWED = 0.01  # of all words, more than the reference
TIME_BAR_S = 0.3


def compare(
    sides: Sequence[SpeechSide], recordings: Mapping[str, Recording], silent: Sequence[str]
) -> bool:
    """Print each side's errors; return whether ours are few enough. The reference is the last."""
    *ours, reference = sides
    turns = {
        side.name: {name: _turn(side, recordings[name]) for name in recordings} for side in sides
    }
    right = turns[reference.name]
    good, least = True, _all_errors(recordings, right).rate
    print(f"{reference.name}: {_told(_all_errors(recordings, right))}")
    for side in ours:
        found, errors = turns[side.name], _all_errors(recordings, turns[side.name])
        fits = errors.rate <= least + ALLOWED
        print(f"{side.name}: {_told(errors)} ({'ok' if fits else 'MISSED'})")
        for name, recording in recordings.items():
            own = word_errors(recording.text, found[name].texts[0])
            other = word_errors(recording.text, right[name].texts[0])
            times = _times(found[name].segments[0], right[name].segments[0])
            print(f"  {name}: {_told(own)}, reference {other.rate:.1%}; {times}", flush=True)
        heard = [name for name in silent if name in found and found[name].texts[0]]
        for name in heard:
            print(f"  {name}: MISSED: heard {found[name].texts[0]!r}")
        good = good and fits and not heard
    return good


def _turn(side: SpeechSide, recording: Recording) -> SpeechTurn:
    return side.run(Task([recording], times=True))


def _all_errors(recordings: Mapping[str, Recording], turns: Mapping[str, SpeechTurn]) -> WordErrors:
    """Return the errors in English: of other languages Whisper's rules know no words."""
    return pooled(
        [
            word_errors(recording.text, turns[name].texts[0])
            for name, recording in recordings.items()
            if recording.language == "en" and recording.text
        ]
    )


def _told(errors: WordErrors) -> str:
    return f"{errors.wrong} of {errors.words} words wrong ({errors.rate:.1%})"


def _times(ours: Segments, theirs: Segments) -> str:
    order = "" if are_ordered(ours) else ", NOT IN ORDER"
    differences = time_differences(ours, theirs)
    if not differences:
        return f"no segment of {len(ours)} has the reference's text{order}"
    far = sum(difference > TIME_BAR_S for difference in differences)
    return (
        f"{len(differences) // 2} of {len(ours)} segments alike, times off by "
        f"{statistics.median(differences):.2f} s, at most {max(differences):.2f} s, "
        f"{far} of them over {TIME_BAR_S:g} s{order}"
    )
