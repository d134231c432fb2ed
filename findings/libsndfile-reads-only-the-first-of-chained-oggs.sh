#!/usr/bin/env bash
# An Ogg file may hold several streams one after another ("chained", RFC 3533): recordings of web radio
# and files that were joined are like that.
#
# A good guess: a decoder reads all of them, or says that it cannot.
# What happens: soundfile (libsndfile) reads the first and stops without an error, of Opus and Vorbis
# alike, and info.frames agrees with it. PyAV (FFmpeg) reads all.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    soundfile==0.14.0 av==18.1.0 numpy==2.4.6

cat >"$folder/chained.py" <<'PY'
import io

import av
import numpy as np
import soundfile

RATE = 48_000
for kind in ("OPUS", "VORBIS"):
    one = io.BytesIO()
    noise = np.random.default_rng(1).normal(size=RATE).astype(np.float32) * 0.1
    soundfile.write(one, noise, RATE, format="OGG", subtype=kind)
    chained = one.getvalue() * 3
    read, _ = soundfile.read(io.BytesIO(chained))
    with av.open(io.BytesIO(chained)) as container:
        count = sum(frame.samples for frame in container.decode(audio=0))
    print(kind, round(len(read) / RATE), round(count / RATE), end="; ")
PY
"$folder/venv/bin/python" -c 'import soundfile, av
print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__, "PyAV", av.__version__)'
seen="$("$folder/venv/bin/python" "$folder/chained.py")"
echo "seconds that soundfile and PyAV read of three (the guess: 3 by both): $seen"
[ "$seen" = "OPUS 1 3; VORBIS 1 3; " ]
