#!/usr/bin/env bash
# torch._int_mm on a CPU multiplies int8 by int8 into int32 sums.
#
# A good guess: ONEDNN_MAX_CPU_ISA, oneDNN's documented switch for trying a program as on an older
# processor, makes it slower and never changes integer results.
# What happens: on a processor with avx512_vnni and oneDNN limited to AVX2, most sums are silently
# wrong. torch uses its own exact loop where avx512_vnni is missing, but asks the processor for that
# and not oneDNN, whose instructions for older processors add pairs of products in 16 bits, which
# overflow. So integers that are right on a real AVX2 machine are wrong in its imitation.
#
# Needs an x86 processor with avx512_vnni; elsewhere it says so and ends with 0.
set -euo pipefail
grep -qw avx512_vnni /proc/cpuinfo || { echo "no avx512_vnni here: nothing to see"; exit 0; }
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0

cat >"$folder/sums.py" <<'PY'
import torch

torch.manual_seed(0)
rows = torch.randint(-128, 128, (32, 512), dtype=torch.int8)
weight = torch.randint(-128, 128, (512, 64), dtype=torch.int8)
exact = rows.long() @ weight.long()
print(int((torch._int_mm(rows, weight).long() != exact).sum()))
PY
sums() { env "$@" "$folder/venv/bin/python" -W ignore "$folder/sums.py"; }

echo "torch $("$folder/venv/bin/python" -W ignore -c 'import torch; print(torch.__version__)')"
plain="$(sums ONEDNN_MAX_CPU_ISA=DEFAULT)"
limited="$(sums ONEDNN_MAX_CPU_ISA=AVX2)"
echo "wrong sums of 2048: $plain as it is, $limited with oneDNN limited to AVX2 (the guess: 0 and 0)"
[ "$plain" = 0 ] && [ "$limited" -gt 1000 ]
