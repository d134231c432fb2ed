#!/usr/bin/env bash
# MP3s without a Xing tag do not say how long they are: players estimate it by the bit rate of the
# first frame and the size of the file, and play on until the data ends.
#
# A good guess: soundfile's info.frames is such an estimate, and read() returns what there is.
# What happens: read() returns no more than the estimate. Where the bit rate falls, half of the
# recording is missing, without an error. PyAV (FFmpeg) reads all.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    soundfile==0.14.0 av==18.1.0 numpy==2.4.6

cat >"$folder/rates.py" <<'PY'
import io

import av
import numpy as np
import soundfile

RATE = 48_000


def mp3(seconds: int, bit_rate: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as out:
        stream = out.add_stream("mp3", rate=RATE, layout="mono")
        stream.bit_rate = bit_rate
        noise = np.random.default_rng(1).normal(size=(1, seconds * RATE)).astype(np.float32) * 0.1
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    return file.getvalue()


for rates in ((32_000, 320_000), (320_000, 32_000)):
    data = mp3(4, rates[0]) + mp3(4, rates[1])
    read, _ = soundfile.read(io.BytesIO(data))
    with av.open(io.BytesIO(data)) as container:
        count = sum(frame.samples for frame in container.decode(audio=0))
    print(rates, round(len(read) / RATE), round(count / RATE), end="; ")
PY
"$folder/venv/bin/python" -c 'import soundfile, av
print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__, "PyAV", av.__version__)'
seen="$("$folder/venv/bin/python" "$folder/rates.py")"
echo "bit rates, seconds that soundfile and PyAV read of eight (the guess: 8 by both): $seen"
[ "$seen" = "(32000, 320000) 8 8; (320000, 32000) 4 8; " ]
