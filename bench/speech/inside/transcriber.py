"""Transcribe recordings with one library: a line of JSON in, a line of JSON out.

    python transcriber.py RUNTIME MODEL PRECISION THREADS

Reads {"files": [...], "at_once": 8, "language": "en", "task": "transcribe", "batch": 8, "times":
false}; answers with the seconds that all took, each one's text, and with "times" its segments
(start, end, text). Greedy, without a second try at a higher temperature. The first line tells that
the model is loaded. What libraries print goes to stderr.
"""

import importlib
import json
import os
import queue
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Segments = list[tuple[float, float, str]]


@dataclass(frozen=True)
class Model:
    """What to load: for some runtimes a file."""

    path: str
    precision: str
    threads: int


@dataclass(frozen=True)
class Request:
    """What to transcribe. batch: windows that a library runs together, where it does that."""

    files: list[str]
    at_once: int
    language: str
    task: str
    batch: int
    times: bool


Transcribe = Callable[[Request], list[Segments]]


def at_once(request: Request, one: Callable[[str], Segments]) -> list[Segments]:
    """Transcribe files by threads."""
    if request.at_once == 1:
        return [one(file) for file in request.files]
    with ThreadPoolExecutor(request.at_once) as pool:
        return list(pool.map(one, request.files))


def _ctranslate2(model: Model, workers: int) -> Any:
    library = importlib.import_module("faster_whisper")
    compute = {"fp32": "float32", "int8": "int8"}[model.precision]
    return library, library.WhisperModel(
        model.path,
        device="cpu",
        compute_type=compute,
        cpu_threads=model.threads // workers,
        num_workers=workers,
        local_files_only=True,
    )


def _faster_whisper(model: Model, workers: int) -> Transcribe:
    _, loaded = _ctranslate2(model, workers)

    def transcribe(request: Request) -> list[Segments]:
        def one(file: str) -> Segments:
            found, _ = loaded.transcribe(
                file,
                language=request.language,
                task=request.task,
                beam_size=1,
                temperature=0.0,
                condition_on_previous_text=False,
            )
            return _segments(found)

        return at_once(request, one)

    return transcribe


def faster_whisper(model: Model) -> Transcribe:
    """Load faster-whisper: one call at a time, on all threads."""
    return _faster_whisper(model, 1)


def faster_whisper_workers(model: Model) -> Transcribe:
    """Load faster-whisper with a worker for each thread."""
    return _faster_whisper(model, model.threads)


def faster_whisper_batched(model: Model) -> Transcribe:
    """Load faster-whisper's batched pipeline, which cuts each recording at pauses."""
    library, loaded = _ctranslate2(model, 1)
    pipeline = library.BatchedInferencePipeline(loaded)

    def transcribe(request: Request) -> list[Segments]:
        def one(file: str) -> Segments:
            found, _ = pipeline.transcribe(
                file,
                language=request.language,
                task=request.task,
                beam_size=1,
                temperature=0.0,
                batch_size=request.batch,
                without_timestamps=not request.times,
            )
            return _segments(found)

        return at_once(request, one)

    return transcribe


def _segments(found: Iterable[Any]) -> Segments:
    return [(each.start, each.end, each.text) for each in found]


def _whisper_cpp(model: Model, count: int) -> Transcribe:
    library = importlib.import_module("pywhispercpp.model")
    free: queue.Queue[Any] = queue.Queue()
    for _ in range(count):
        free.put(
            library.Model(
                model.path,
                redirect_whispercpp_logs_to=False,
                n_threads=model.threads // count,
                print_progress=False,
                temperature_inc=0.0,  # no second try
                greedy={"best_of": 1},
            )
        )

    def transcribe(request: Request) -> list[Segments]:
        def one(file: str) -> Segments:
            context = free.get()
            try:
                found = context.transcribe(
                    file, language=request.language, translate=request.task == "translate"
                )
            finally:
                free.put(context)
            # It gives them without the spaces around them.
            return [(each.t0 / 100, each.t1 / 100, f" {each.text}") for each in found]

        return at_once(request, one)

    return transcribe


def whisper_cpp(model: Model) -> Transcribe:
    """Load whisper.cpp: one call at a time, on all threads."""
    return _whisper_cpp(model, 1)


def whisper_cpp_contexts(model: Model) -> Transcribe:
    """Load whisper.cpp once for each thread."""
    return _whisper_cpp(model, model.threads)


def transformers(model: Model) -> Transcribe:
    """Load transformers' pipeline, which runs windows of all recordings in batches."""
    library, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    torch.set_num_threads(model.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[model.precision]
    pipeline = library.pipeline("automatic-speech-recognition", model.path, dtype=dtype)
    is_multilingual = pipeline.model.generation_config.is_multilingual

    def transcribe(request: Request) -> list[Segments]:
        options: dict[str, Any] = {"num_beams": 1, "do_sample": False}
        if is_multilingual:
            options |= {"language": request.language, "task": request.task}
        found = list[Segments]()
        for first in range(0, len(request.files), request.at_once):
            answers = pipeline(
                _arrays(request.files[first : first + request.at_once]),
                batch_size=request.batch,
                chunk_length_s=30,
                return_timestamps=request.times,
                generate_kwargs=options,
            )
            found += map(_chunks, answers)
        return found

    return transcribe


def transformers_long(model: Model) -> Transcribe:
    """Load transformers' own way for long recordings, one after the other: the reference."""
    library, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    torch.set_num_threads(model.threads)
    whisper = library.WhisperForConditionalGeneration.from_pretrained(
        model.path, dtype=torch.float32
    )
    processor = library.WhisperProcessor.from_pretrained(model.path)

    def one(request: Request, audio: Any) -> Segments:
        given = processor(
            audio["raw"],
            sampling_rate=audio["sampling_rate"],
            return_tensors="pt",
            truncation=False,
            padding="longest" if len(audio["raw"]) > 30 * audio["sampling_rate"] else "max_length",
            return_attention_mask=True,
        )
        options: dict[str, Any] = {"num_beams": 1, "do_sample": False, "temperature": 0.0}
        if whisper.generation_config.is_multilingual:
            options |= {"language": request.language, "task": request.task}
        found = whisper.generate(**given, return_timestamps=True, return_segments=True, **options)
        decode = processor.tokenizer.decode
        return [
            (float(each["start"]), float(each["end"]), decode(each["tokens"], True))
            for each in found["segments"][0]
        ]

    return lambda request: [one(request, audio) for audio in _arrays(request.files)]


def _chunks(found: dict[str, Any]) -> Segments:
    if "chunks" not in found:
        return [(0.0, 0.0, found["text"])]
    chunks = [(*each["timestamp"], each["text"]) for each in found["chunks"]]
    return [(start or 0.0, end or start or 0.0, text) for start, end, text in chunks]


def _arrays(files: list[str]) -> list[dict[str, Any]]:
    soundfile = importlib.import_module("soundfile")
    found = []
    for file in files:
        audio, rate = soundfile.read(file, dtype="float32")
        found.append({"raw": audio, "sampling_rate": rate})
    return found


RUNTIMES: dict[str, Callable[[Model], Transcribe]] = {
    function.__name__: function
    for function in (
        faster_whisper,
        faster_whisper_workers,
        faster_whisper_batched,
        whisper_cpp,
        whisper_cpp_contexts,
        transformers,
        transformers_long,
    )
}


def answer(transcribe: Transcribe, request: dict[str, Any]) -> dict[str, object]:
    """Run a request."""
    started = time.perf_counter()
    found = transcribe(Request(**request))
    seconds = time.perf_counter() - started
    texts = ["".join(text for _, _, text in segments).strip() for segments in found]
    result: dict[str, object] = {"seconds": seconds, "texts": texts}
    return result | ({"segments": found} if request["times"] else {})


def main() -> None:
    """Load the model, then answer each line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    name, path, precision, threads = sys.argv[1:]
    transcribe = RUNTIMES[name](Model(path, precision, int(threads)))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(transcribe, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
