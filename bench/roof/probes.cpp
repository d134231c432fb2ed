// The limits of a machine: how fast its cores read memory in order, and multiply numbers that lie
// in their first caches, with the instructions that simd.h has for this instruction set.
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "rounded_rows.h"

namespace headrace {
namespace {

// Sums of a tile, which must stay in registers; without fused products fewer do.
constexpr int kRows = kHasBf16Dot || kTileRows > 4 ? kTileRows : 2;
constexpr int kHalves = kTileHalves;
constexpr int kSteps = kBlockWords;

struct Data {
    alignas(64) uint32_t weights[kSteps * kPanel];
    alignas(64) uint32_t rows[kSteps * 16];

    Data() {
        for (auto& word : weights) word = 0x01020301;
        for (auto& word : rows) word = 0x01010102;
    }
};

// Runs work(thread) on some threads at once.
void run(int threads, const std::function<void(int)>& work) {
    std::atomic<int> ready{0};
    const auto start = [&](int thread) {
        ++ready;
        while (ready < threads) {
        }
        work(thread);
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(start, thread);
    start(0);
    for (auto& other : others) other.join();
}

float total_of(const Floats& x) { return sum(x); }
float total_of(const Words& x) { return sum(to_floats(x)); }
float total_of(const CodeSums& x) { return total_of(x.total); }

// Adds kSteps products to each of Rows x Halves sums, `rounds` times. add(sum, weights, row, step)
template <int Rows, int Halves, class Sum, class Add>
float multiply(int64_t rounds, const Add& add) {
    const Data data;
    Sum sums[Rows][Halves] = {};
    for (int64_t round = 0; round < rounds; ++round) {
        asm volatile("" : : "r"(&data) : "memory");  // the data might have changed
#pragma GCC unroll 8
        for (int step = 0; step < kSteps; ++step) {
            Words weights[Halves];
#pragma GCC unroll 2
            for (int half = 0; half < Halves; ++half) {
                weights[half] = load_words(data.weights + step * kPanel + half * kLanes);
            }
#pragma GCC unroll 16
            for (int row = 0; row < Rows; ++row) {
                const Words x = broadcast_word(data.rows + step * 16 + row);
#pragma GCC unroll 2
                for (int half = 0; half < Halves; ++half) {
                    add(sums[row][half], weights[half], x, step);
                }
            }
        }
    }
    float total = 0;
    for (auto& row : sums) {
        for (auto& each : row) total += total_of(each);
    }
    return total;
}

// What kernels multiply: numbers in float32 or bfloat16, unsigned codes of 4 bits, signed bytes.
enum Kind { kFloats, kPairs, kCodes, kBytes };

float multiply(int kind, int64_t rounds) {
    switch (kind) {
#ifdef HEADRACE_AVX512
        case kPairs:
            return multiply<kRows, kHalves, Floats>(
                rounds, [](Floats& to, Words w, Words x, int) { to = dot_bf16(to, w, x); });
#endif
        case kCodes:
            return multiply<kQuantizedRows, kQuantizedHalves, CodeSums>(
                rounds, [](CodeSums& to, Words w, Words x, int n) { add_codes<4>(to, w, x, n); });
        case kBytes:
            return multiply<kQuantizedRows, kQuantizedHalves, CodeSums>(
                rounds, [](CodeSums& to, Words w, Words x, int) { add_signed(to, w, x); });
        default:
            return multiply<kRows, kHalves, Floats>(rounds, [](Floats& to, Words w, Words x, int) {
                to = fma(as_floats(w), as_floats(x), to);
            });
    }
}

}  // namespace
}  // namespace headrace

using namespace headrace;

extern "C" {

// Reads some memory, each thread a part of it, in order.
HEADRACE_EXPORT void probe_read(const uint32_t* from, int64_t bytes, int32_t threads) {
    const int64_t words = bytes / threads / 4 / kPanel * kPanel;
    std::vector<float> found(threads);
    run(threads, [&](int thread) {
        Words left = splat_word(0), right = left;
        const uint32_t* at = from + thread * words;
        for (const uint32_t* end = at + words; at < end; at += kPanel) {
            prefetch_near(at + 64 * kLanes);
            prefetch_near(at + 65 * kLanes);
            left = left + load_words(at);
            right = right + load_words(at + kLanes);
        }
        found[thread] = total_of(left + right);
    });
}

// Multiplies on each thread; returns the number of all threads' multiplications.
HEADRACE_EXPORT double probe_multiply(int32_t kind, int64_t rounds, int32_t threads) {
    const bool is_pairs = kind == kPairs && kHasBf16Dot;
    const int tile = kind < kCodes ? kRows * kHalves : kQuantizedRows * kQuantizedHalves;
    const int each = kind < kCodes ? (is_pairs ? 2 : 1) : 4;  // of a lane
    std::vector<float> found(threads);
    run(threads, [&](int thread) { found[thread] = multiply(kind, rounds); });
    return (double)rounds * kSteps * tile * kLanes * each * threads;
}

}  // extern "C"
