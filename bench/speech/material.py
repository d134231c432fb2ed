"""Speech with known texts: synthetic by espeak-ng and flite, real recordings, silence and noise."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from bench.speech.sentences import FOREIGN, sentences

Audio = npt.NDArray[np.float32]

RATE = 16_000
# Programs' voices; those of flite are recordings of people put together, espeak-ng's are formants.
VOICES = ("flite slt", "flite rms", "flite awb", "espeak-ng en-us", "espeak-ng en-gb")
_FOREIGN_VOICES = {"de": ("de+f5", "130"), "fr": ("fr+m3", "160")}
_CLIPS = (5, 8, 10, 12, 15, 20, 25, 28, 40, 50)  # seconds, at least
MINUTE_S, HALF_HOUR_S = 60, 30 * 60


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording of the set. text: what is said. english: what that means in English."""

    path: Path
    language: str
    seconds: float
    text: str
    english: str = ""


def speak(voice: str, text: str) -> Audio:
    """Return a text as spoken at 16 kHz. Raises FileNotFoundError without the voice's program."""
    program, name, *speed = voice.split()
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        if program == "flite":
            command = ["flite", "-voice", name, "-t", text, "-o", file.name]
        else:
            command = ["espeak-ng", "-v", name, "-s", *(speed or ["150"]), "-w", file.name, text]
        subprocess.run(command, check=True, capture_output=True)
        return load(Path(file.name))


def load(path: Path) -> Audio:
    """Return a recording as mono at 16 kHz."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono: Audio = soxr.resample(audio.mean(axis=1), rate, RATE).astype(np.float32)
    return mono


def pause(chance: np.random.Generator) -> Audio:
    """Return a pause of 0.3 to 1.5 s, with the hiss of a quiet room."""
    count = int(RATE * chance.uniform(0.3, 1.5))
    return (chance.standard_normal(count) * 1e-4).astype(np.float32)


def _clip(seconds: float, seed: int, voices: Sequence[str]) -> tuple[Audio, str]:
    """Return sentences of at least some length in all; each voice speaks in turn."""
    chance, parts, texts, count = np.random.default_rng(seed), list[Audio](), list[str](), 0
    for number, text in enumerate(sentences(seed)):
        parts += [speak(voices[number % len(voices)], text), pause(chance)]
        texts.append(text)
        count += len(parts[-1]) + len(parts[-2])
        if count >= seconds * RATE:
            return np.concatenate(parts), " ".join(texts)
    raise AssertionError("sentences() ends never")


def make_set(folder: Path, recordings: Path) -> None:
    """Write the set into a folder that must not exist. recordings: a folder of real ones."""
    folder.mkdir(parents=True)
    manifest = dict[str, dict[str, object]]()

    def add(name: str, audio: Audio, text: str, language: str = "en", english: str = "") -> None:
        soundfile.write(folder / f"{name}.wav", audio, RATE, subtype="PCM_16")
        (folder / f"{name}.txt").write_text(text + "\n")
        manifest[name] = {
            "language": language,
            "seconds": len(audio) / RATE,
            "english": english,
        }

    for path, text in real_recordings(recordings):
        add(path.stem, load(path), text)
    for number, seconds in enumerate(_CLIPS):
        voice = VOICES[number % len(VOICES)]
        add(f"{voice.split()[1]}-{seconds}", *_clip(seconds, number, [voice]))
    add("minute", *_clip(MINUTE_S, 100, VOICES))
    add("half-hour", *_clip(HALF_HOUR_S, 101, VOICES))
    for language, (text, english) in FOREIGN.items():
        voice = " ".join(("espeak-ng", *_FOREIGN_VOICES[language]))
        add(f"foreign-{language}", speak(voice, text), text, language, english)
    chance = np.random.default_rng(7)
    add("silence", np.zeros(10 * RATE, np.float32), "")
    add("noise", (chance.standard_normal(10 * RATE) * 0.02).astype(np.float32), "")
    (folder / "set.json").write_text(json.dumps(manifest, indent=1) + "\n")


def real_recordings(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the recordings of a folder that have their text beside them."""
    for path in sorted(folder.iterdir()):
        text = path.with_suffix(".txt")
        if path.suffix in (".opus", ".flac", ".wav") and text.exists():
            yield path, text.read_text().strip()


def read_set(folder: Path) -> dict[str, Recording]:
    """Return the recordings of a set by their names."""
    manifest = json.loads((folder / "set.json").read_text())
    return {
        name: Recording(
            folder / f"{name}.wav",
            given["language"],
            given["seconds"],
            (folder / f"{name}.txt").read_text().strip(),
            given["english"],
        )
        for name, given in manifest.items()
    }


def missing_programs() -> list[str]:
    """Return the programs that make_set needs and that are not installed."""
    return [program for program in ("espeak-ng", "flite") if shutil.which(program) is None]
