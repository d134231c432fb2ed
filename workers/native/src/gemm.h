// Products of a few rows with a weight, out = in @ weight.T, the weight packed once when it is
// loaded.
//
// A weight [outputs, inputs] is cut into panels of 32 outputs; a panel holds, for one word of
// inputs after another, the words of its 32 outputs. So a panel is read from its start to its end,
// which is all that counts for few rows: the memory's bandwidth. For many rows, up to 12 of them
// share each read, with all sums in registers.
#pragma once

#include <algorithm>

#include "simd.h"

namespace headrace {

constexpr int kPanel = 2 * kLanes;  // outputs
constexpr int kTileRows = 12;
constexpr int kBlockRows = 512;

// A panel of words. They are read some at a time, so that they stay in the processor's cache.
// next: the panel that this thread is likely to compute next, null if there is none.
struct StoredPanel {
    static constexpr int kDepth = 2048;
    const uint32_t* start;
    const uint32_t* next;

    const uint32_t* words(int first, int) const { return start + (int64_t)first * kPanel; }
    __m512i word(int k, int half) const {
        const uint32_t* from = start + (int64_t)k * kPanel + half * kLanes;
        _mm_prefetch((const char*)(from + 16 * kPanel), _MM_HINT_T0);
        return _mm512_loadu_si512(from);
    }
};

// A panel of 8-bit weights, converted to words; scratch: [kDepth, kPanel].
template <class E>
struct RoundedPanel {
    static constexpr int kDepth = 128;
    static constexpr const uint32_t* next = nullptr;
    const int8_t* start;
    uint32_t* scratch;

    const uint32_t* words(int first, int depth) const {
        const int64_t bytes = kLanes * E::kPerWord;
        const int8_t* from = start + 2 * bytes * first;
        for (int64_t i = 0; i < 2 * (int64_t)depth; ++i) {
            _mm512_store_si512(scratch + i * kLanes, E::widen(from + i * bytes));
        }
        return scratch;
    }
    __m512i word(int k, int half) const {
        const int8_t* from = start + (int64_t)(2 * k + half) * kLanes * E::kPerWord;
        return E::widen(from);
    }
};

// What a tile prefetches of the next panel while it computes this one: only the first tile of a
// panel waits for memory, and the others leave the memory idle. lines: cache lines for each word.
struct Fetch {
    const uint32_t* from;
    int lines;
};

// Adds the products of `Rows` rows with `depth` words of one panel to the sums.
template <class E, int Rows>
inline void tile_sums(const uint32_t* in, int64_t in_stride, const uint32_t* panel, int depth,
                      Fetch fetch, __m512 (&sums)[Rows][2]) {
    for (int k = 0; k < depth; ++k) {
        for (int line = 0; line < fetch.lines; ++line, fetch.from += kLanes) {
            _mm_prefetch((const char*)fetch.from, _MM_HINT_T1);
        }
        const __m512i left = _mm512_loadu_si512(panel);
        const __m512i right = _mm512_loadu_si512(panel + kLanes);
#pragma GCC unroll 12
        for (int row = 0; row < Rows; ++row) {
            const __m512i a = broadcast_word(in + row * in_stride);
            sums[row][0] = E::dot(sums[row][0], left, a);
            sums[row][1] = E::dot(sums[row][1], right, a);
        }
        panel += kPanel;
        ++in;
    }
}

// Computes one row, reading each word once, as the panel makes it. Words are added in the same
// order as for many rows: a row's product must not depend on the number of rows.
template <class E, class Panel, class Finish>
void row_product(const uint32_t* in, const Panel& panel, int words, const Finish& finish,
                 int64_t row) {
    __m512 left = _mm512_setzero_ps(), right = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int k = 0; k < words; ++k) {
        const __m512i a = broadcast_word(in + k);
        left = E::dot(left, panel.word(k, 0), a);
        right = E::dot(right, panel.word(k, 1), a);
    }
    finish(row, left, right);
}

template <class E, int Rows, class Finish>
void tile(const uint32_t* in, int64_t in_stride, const uint32_t* panel, int depth, Fetch fetch,
          float* partial, bool first, bool last, const Finish& finish, int64_t row) {
    __m512 sums[Rows][2];
    for (int r = 0; r < Rows; ++r) {
        for (int half = 0; half < 2; ++half) {
            sums[r][half] = first ? _mm512_setzero_ps()
                                  : _mm512_loadu_ps(partial + r * kPanel + half * kLanes);
        }
    }
    tile_sums<E, Rows>(in, in_stride, panel, depth, fetch, sums);
    for (int r = 0; r < Rows; ++r) {
        if (last) {
            finish(row + r, sums[r][0], sums[r][1]);
        } else {
            _mm512_storeu_ps(partial + r * kPanel, sums[r][0]);
            _mm512_storeu_ps(partial + r * kPanel + kLanes, sums[r][1]);
        }
    }
}

// The share of tile t of `tiles` in prefetching the same words of the next panel. It is fetched
// once, by the tiles after the first, at most two cache lines for each word.
inline Fetch fetch_of(const uint32_t* next, int64_t block, int k, int64_t t, int64_t tiles,
                      int depth) {
    if (!next || block || t == 0) return {nullptr, 0};
    const uint32_t* from = next + (int64_t)k * kPanel;
    if (tiles == 2) return {from, 2};
    if (t > 2) return {nullptr, 0};
    return {from + (t - 1) * (int64_t)depth * kLanes, 1};
}

// Calls finish(row, left, right) with each row's 32 sums. partial: scratch [kBlockRows, kPanel],
// used only if the weight is deeper than Panel::kDepth words.
template <class E, class Panel, class Finish>
void panel_product(const uint32_t* in, int64_t in_stride, int64_t rows, const Panel& panel,
                   int words, float* partial, const Finish& finish) {
    for (int64_t block = 0; block < rows; block += kBlockRows) {
        const int64_t block_rows = std::min<int64_t>(kBlockRows, rows - block);
        if (block_rows == 1) {
            return row_product<E>(in + block * in_stride, panel, words, finish, block);
        }
        const int64_t tiles = (block_rows + kTileRows - 1) / kTileRows;
        for (int k = 0; k < words; k += Panel::kDepth) {
            const int depth = std::min(Panel::kDepth, words - k);
            const uint32_t* weights = panel.words(k, depth);
            for (int64_t t = 0; t < tiles; ++t) {  // of about the same height
                const int64_t row = block_rows * t / tiles;
                const int height = (int)(block_rows * (t + 1) / tiles - row);
                const uint32_t* from = in + (block + row) * in_stride + k;
                float* sums = partial + row * kPanel;
                const Fetch fetch = fetch_of(panel.next, block, k, t, tiles, depth);
                const bool first = k == 0, last = k + depth == words;
                switch (height) {
#define HEADRACE_TILE(n)                                                                     \
    case n:                                                                                  \
        tile<E, n>(from, in_stride, weights, depth, fetch, sums, first, last, finish,        \
                   block + row);                                                             \
        break;
                    HEADRACE_TILE(2)
                    HEADRACE_TILE(3)
                    HEADRACE_TILE(4)
                    HEADRACE_TILE(5)
                    HEADRACE_TILE(6)
                    HEADRACE_TILE(7)
                    HEADRACE_TILE(8)
                    HEADRACE_TILE(9)
                    HEADRACE_TILE(10)
                    HEADRACE_TILE(11)
                    HEADRACE_TILE(12)
#undef HEADRACE_TILE
                }
            }
        }
    }
}

}  // namespace headrace
