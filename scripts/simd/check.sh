#!/usr/bin/env bash
# Checks the functions of the kernels' instruction sets, each that can run here, and those of
# aarch64 in an emulator (Debian: g++-aarch64-linux-gnu, qemu-user), which shows that they are
# right, not that they are fast. Also compiles the whole library for aarch64.
#
#     scripts/simd/check.sh [SET ...]
#
# SET: avx512, avx2vnni, avx2, portable, neon, portable-arm; all without any.
set -euo pipefail
cd "$(dirname "$0")/../.."

avx2="-mavx2 -mfma -mf16c -mpopcnt -DHEADRACE_AVX2"
declare -A flags=(
    [avx512]="-march=x86-64-v4 -mavx512bf16 -mavx512vnni -DHEADRACE_AVX512"
    [avx2vnni]="$avx2 -mavxvnni"
    [avx2]="$avx2"
    [portable]=""
    [neon]="-march=armv8.2-a+dotprod -DHEADRACE_NEON"
    [portable-arm]=""
)
common="-std=c++17 -O3 -ffp-contract=off -Wall -Wextra -Wno-psabi -Wno-uninitialized -Wno-maybe-uninitialized"
source=workers/native/src
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

status=0
for set in ${@:-avx512 avx2vnni avx2 portable neon portable-arm}; do
    compiler=(g++) run=()
    if [[ $set = neon || $set = *-arm ]]; then
        compiler=(aarch64-linux-gnu-g++ -static) run=(qemu-aarch64)
        command -v qemu-aarch64 "${compiler[0]}" > "$folder/found" || {
            echo "$set: no compiler or no emulator for aarch64"; status=1; continue
        }
    fi
    # shellcheck disable=SC2086
    "${compiler[@]}" $common ${flags[$set]} -I "$source" scripts/simd/check.cpp \
        "$source/quantized.cpp" -o "$folder/check"
    echo -n "$set: "
    code=0
    "${run[@]}" "$folder/check" || code=$?
    [[ $code = 0 || $code = 2 ]] || status=1
    if [[ $set = neon ]]; then
        # shellcheck disable=SC2086
        aarch64-linux-gnu-g++ $common ${flags[$set]} -fPIC -shared -pthread \
            "$source"/{program,draw,quantized}.cpp -o "$folder/kernels.so"
    fi
done
exit $status
