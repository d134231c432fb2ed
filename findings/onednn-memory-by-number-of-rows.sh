#!/usr/bin/env bash
# oneDNN, which torch's products on a CPU use, keeps the code that it has compiled for a shape in a
# cache of 1,024 primitives; ONEDNN_PRIMITIVE_CACHE_CAPACITY sets its size, 0 turns it off.
#
# A good guess: with the cache off, a bfloat16 product with ever new numbers of rows takes no more
# memory than one with the same number again and again.
# What happens: the process grows with each new number of rows all the same and never gives it back,
# by hundreds of MiB for 512 numbers, so that a server of prompts of all lengths grows for hours.
#
# Needs an x86 processor with AVX-512; elsewhere it says so and ends with 0.
set -euo pipefail
grep -qw avx512f /proc/cpuinfo || { echo "no AVX-512 here: nothing to see"; exit 0; }
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0

cat >"$folder/rows.py" <<'PY'
import re
import sys

import torch

torch.set_num_threads(1)
weights = [torch.randn(n, 576, dtype=torch.bfloat16) for n in (576, 1536, 960)]


def resident_mib() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024


def products(rows: int) -> None:
    values = torch.randn(rows, 576, dtype=torch.bfloat16)
    for weight in weights:
        torch.nn.functional.linear(values, weight)


with torch.inference_mode():
    products(512)
    before = resident_mib()
    for number in range(1, 513):
        products(number if sys.argv[1] == "new" else 512)
    print(resident_mib() - before)
PY
grown() { ONEDNN_PRIMITIVE_CACHE_CAPACITY=0 "$folder/venv/bin/python" -W ignore "$folder/rows.py" "$1"; }

echo "torch $("$folder/venv/bin/python" -W ignore -c 'import torch; print(torch.__version__)')"
same="$(grown same)"
new="$(grown new)"
echo "MiB more after 512 rounds: $same with the same rows, $new with new ones (the guess: the same)"
[ "$same" -lt 30 ] && [ "$new" -gt 100 ]
