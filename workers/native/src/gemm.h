// Products of a few rows with a weight, out = in @ weight.T, the weight packed once when it is
// loaded.
//
// A weight [outputs, inputs] is cut into panels of 32 outputs; a panel holds, for one word of
// inputs after another, the words of its 32 outputs. So a panel is read from its start to its end,
// which is all that counts for few rows: the memory's bandwidth. For many rows, up to kTileRows of
// them share each read, with all sums in registers: those of a whole panel, or of one half of it
// after the other where there are fewer registers.
#pragma once

#include <algorithm>

#include "elements.h"

namespace headrace {

constexpr int kPanel = 2 * kLanes;  // outputs
constexpr int kBlockRows = 512;

// A panel of words. They are read some at a time, so that they stay in the processor's cache.
// next: the panel that this thread is likely to compute next, null if there is none.
struct StoredPanel {
    static constexpr int kDepth = 2048;
    const uint32_t* start;
    const uint32_t* next;

    const uint32_t* words(int first, int) const { return start + (int64_t)first * kPanel; }
    Words word(int k, int half) const {
        const uint32_t* from = start + (int64_t)k * kPanel + half * kLanes;
        prefetch_near(from + 16 * kPanel);
        return load_words(from);
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
            store_words(scratch + i * kLanes, E::widen(from + i * bytes));
        }
        return scratch;
    }
    Words word(int k, int half) const {
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

// Adds the products of `Rows` rows with one part of a word of a panel to the sums.
template <class E, int Part, int Rows, int Halves>
HEADRACE_INLINE void tile_part(const uint32_t* in, int64_t in_stride, const uint32_t* panel,
                               Floats (&sums)[Rows][Halves]) {
    decltype(E::template part<Part>(panel)) weights[Halves];
#pragma GCC unroll 2
    for (int half = 0; half < Halves; ++half) {
        weights[half] = E::template part<Part>(panel + half * kLanes);
    }
#pragma GCC unroll 12
    for (int row = 0; row < Rows; ++row) {
        const auto a = E::factor(in + row * in_stride + Part);
#pragma GCC unroll 2
        for (int half = 0; half < Halves; ++half) {
            sums[row][half] = E::dot(sums[row][half], weights[half], a);
        }
    }
}

// Adds the products of `Rows` rows with `depth` words of one panel, or of a half, to the sums.
template <class E, int Rows, int Halves>
inline void tile_sums(const uint32_t* in, int64_t in_stride, const uint32_t* panel, int depth,
                      Fetch fetch, Floats (&sums)[Rows][Halves]) {
    for (int k = 0; k < depth; ++k) {
        for (int line = 0; line < fetch.lines; ++line, fetch.from += kLanes) {
            prefetch_far(fetch.from);
        }
        tile_part<E, 0>(in, in_stride, panel, sums);
        if constexpr (E::kParts == 2) tile_part<E, 1>(in, in_stride, panel, sums);
        panel += kPanel;
        in += E::kParts;
    }
}

template <class E, int Part>
HEADRACE_INLINE void row_part(const uint32_t* in, Words left_words, Words right_words, Floats& left,
                              Floats& right) {
    const auto a = E::factor(in + Part);
    left = E::dot(left, E::template part<Part>(left_words), a);
    right = E::dot(right, E::template part<Part>(right_words), a);
}

// Computes one row, reading each word once, as the panel makes it. Words are added in the same
// order as for many rows: a row's product must not depend on the number of rows.
template <class E, class Panel, class Finish>
void row_product(const uint32_t* in, const Panel& panel, int words, const Finish& finish,
                 int64_t row) {
    Floats left = zeros(), right = zeros();
#pragma GCC unroll 4
    for (int k = 0; k < words; ++k) {
        const Words left_words = panel.word(k, 0), right_words = panel.word(k, 1);
        row_part<E, 0>(in, left_words, right_words, left, right);
        if constexpr (E::kParts == 2) row_part<E, 1>(in, left_words, right_words, left, right);
        in += E::kParts;
    }
    finish(row, left, right);
}

// A block of a tile's words. partial: the sums of the blocks before it, if it is not the first.
struct TileBlock {
    const uint32_t* in;
    int64_t in_stride;
    const uint32_t* panel;
    int depth;
    Fetch fetch;
    float* partial;
    bool is_first, is_last;
};

// Computes `Halves` halves of the panel from `half` on.
template <class E, int Rows, int Halves>
HEADRACE_INLINE void tile_halves(const TileBlock& block, int half, Floats (&sums)[Rows][Halves]) {
    for (int r = 0; r < Rows; ++r) {
        for (int h = 0; h < Halves; ++h) {
            const float* before = block.partial + r * kPanel + (half + h) * kLanes;
            sums[r][h] = block.is_first ? zeros() : load(before);
        }
    }
    const Fetch fetch = half ? Fetch{nullptr, 0} : block.fetch;
    tile_sums<E, Rows, Halves>(block.in, block.in_stride, block.panel + half * kLanes, block.depth,
                               fetch, sums);
}

template <class E, int Rows, class Finish>
void tile(const TileBlock& block, const Finish& finish, int64_t row) {
    for (int half = 0; half < 2; half += kTileHalves) {
        Floats sums[Rows][kTileHalves];
        tile_halves<E, Rows, kTileHalves>(block, half, sums);
        const bool finishes = block.is_last && half + kTileHalves == 2;
        for (int r = 0; r < Rows; ++r) {
            float* partial = block.partial + r * kPanel;
            if (finishes) {
                const Floats left = kTileHalves == 2 ? sums[r][0] : load(partial);
                finish(row + r, left, sums[r][kTileHalves - 1]);
            } else {
                for (int h = 0; h < kTileHalves; ++h) {
                    store(partial + (half + h) * kLanes, sums[r][h]);
                }
            }
        }
    }
}

// Computes a tile of `height` rows, 2 to kTileRows.
template <class E, class Finish>
void tile_of_height(int height, const TileBlock& block, const Finish& finish, int64_t row) {
    switch (height) {
#define HEADRACE_TILE(n)                                                          \
    case n:                                                                       \
        if constexpr (n <= kTileRows) return tile<E, n>(block, finish, row); \
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

// The share of tile t of `tiles` in prefetching the same words of the next panel: all of it, or a
// half by each of two tiles. Of many tiles not the first, which may have to wait for its own panel.
inline Fetch fetch_of(const uint32_t* next, int64_t block, int k, int64_t t, int64_t tiles,
                      int depth) {
    const int64_t share = tiles > 2 ? t - 1 : t;
    if (!next || block || share < 0 || share > 1) return {nullptr, 0};
    return {next + (int64_t)k * kPanel + share * depth * kLanes, tiles == 1 ? 2 : 1};
}

// Calls finish(row, left, right) with each row's 32 sums. in_stride: in words. partial: scratch
// [kBlockRows, kPanel].
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
                const TileBlock tile_block{in + (block + row) * in_stride + k * E::kParts,
                                           in_stride,
                                           weights,
                                           depth,
                                           fetch_of(panel.next, block, k, t, tiles, depth),
                                           partial + row * kPanel,
                                           k == 0,
                                           k + depth == words};
                tile_of_height<E>(height, tile_block, finish, block + row);
            }
        }
    }
}

}  // namespace headrace
