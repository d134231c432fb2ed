// Products of rows that are rounded to 8 bits with weights in quantized blocks.
//
// A block's sums are integers, so exact; they are scaled and added to the row's sums block after
// block. A single row takes each block as it is decoded, at the memory's speed. For several rows a
// part of a panel is decoded once, into the processor's cache, and multiplied with groups of rows
// whose sums stay in registers. Both add the same numbers in the same order: a row's product does
// not depend on the other rows.
#pragma once

#include <algorithm>

#include "quantized_formats.h"

namespace headrace {

// Some decoded blocks of a panel.
struct DecodedPanel {
    static constexpr int kDepth = 16;
    alignas(64) uint32_t codes[kDepth * kBlockWords * kPanel];
    alignas(64) float scales[kDepth * 2 * kPanel];
    alignas(64) float minimums[kDepth * kPanel];
};

// Adds the products of the codes of a word. number: of this word among those of the sum.
template <class Layout>
HEADRACE_INLINE void add_products(CodeSums& sums, Words codes, Words row, int number) {
    if constexpr (Layout::kIsSigned) {
        add_signed(sums, codes, row);
    } else {
        add_codes<Layout::kCodeBits>(sums, codes, row, number);
    }
}

// The integer from which a block's sum begins: what its codes are too large by, times the row.
template <class Layout, int Group>
HEADRACE_INLINE Words first_sum(const RowBlocks<Group>& rows, int row, int part) {
    constexpr int kShift = Layout::kIsSigned ? kSignedShift : Layout::kShift;
    if constexpr (kShift < 0) {
        return splat_word(0);
    } else if constexpr (Layout::kScales == 2) {
        return shift_left<kShift>(broadcast_word(&rows.minus_half[part][row]));
    } else {
        return shift_left<kShift>(broadcast_word(&rows.minus_sum[row]));
    }
}

HEADRACE_INLINE Floats add_scaled(Floats sums, Words products, Floats scale, float row_scale) {
    return fma(to_floats(products), scale * splat(row_scale), sums);
}

// Adds the products of `Rows` rows of a group with a decoded block to the sums of `Halves` halves
// of the panel. codes, scales, minimums: of the first of them.
template <class Layout, int Rows, int Halves, int Group>
HEADRACE_INLINE void add_block(const RowBlocks<Group>& rows, const uint32_t* codes,
                               const float* scales, const float* minimums,
                               Floats (&sums)[Rows][Halves]) {
    constexpr int kWords = kBlockWords / Layout::kScales;  // that have a scale in common
#pragma GCC unroll 2
    for (int part = 0; part < Layout::kScales; ++part) {
        CodeSums products[Rows][Halves];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Words from = first_sum<Layout>(rows, r, part);
#pragma GCC unroll 2
            for (int half = 0; half < Halves; ++half) products[r][half] = code_sums(from);
        }
#pragma GCC unroll 8
        for (int w = part * kWords; w < (part + 1) * kWords; ++w) {
            Words words[Halves];
#pragma GCC unroll 2
            for (int half = 0; half < Halves; ++half) {
                words[half] = load_words(codes + w * kPanel + half * kLanes);
            }
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const Words x = broadcast_word(&rows.codes[w][r]);
#pragma GCC unroll 2
                for (int half = 0; half < Halves; ++half) {
                    add_products<Layout>(products[r][half], words[half], x, w % kWords);
                }
            }
        }
#pragma GCC unroll 2
        for (int half = 0; half < Halves; ++half) {
            const Floats scale = load(scales + part * kPanel + half * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                sums[r][half] = add_scaled(sums[r][half], products[r][half].total, scale, rows.scale[r]);
            }
        }
    }
    if constexpr (Layout::kHasMinimums) {
#pragma GCC unroll 2
        for (int half = 0; half < Halves; ++half) {
            const Floats minimum = load(minimums + half * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                sums[r][half] = fnma(minimum, splat(rows.sum[r]), sums[r][half]);
            }
        }
    }
}

// What a tile brings into the processor's second cache while it computes: the panel's next part.
// lines: cache lines for each block.
struct FetchAhead {
    const uint8_t* from;
    int lines;
};

// Adds the products of the first `Rows` rows of a group to sums [Rows, kPanel] in memory;
// is_first: sets them.
template <class Layout, int Rows>
__attribute__((noinline)) void quantized_tile(const RowBlocks<kQuantizedRows>* rows,
                                              const DecodedPanel& panel, int depth, bool is_first,
                                              FetchAhead fetch, float* to) {
    constexpr int kHalves = kQuantizedHalves;
    for (int first = 0; first < kPanel; first += kHalves * kLanes) {
        Floats sums[Rows][kHalves];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
            for (int half = 0; half < kHalves; ++half) {
                sums[r][half] = is_first ? zeros() : load(to + r * kPanel + first + half * kLanes);
            }
        }
        for (int block = 0; block < depth; ++block) {
            for (int line = 0; line < fetch.lines; ++line, fetch.from += kLanes * 4) {
                prefetch_far(fetch.from);
            }
            add_block<Layout, Rows, kHalves>(
                rows[block], panel.codes + block * kBlockWords * kPanel + first,
                panel.scales + block * Layout::kScales * kPanel + first,
                panel.minimums + block * kPanel + first, sums);
        }
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
            for (int half = 0; half < kHalves; ++half) {
                store(to + r * kPanel + first + half * kLanes, sums[r][half]);
            }
        }
    }
}

template <class Layout, int Rows = kQuantizedRows>
inline void quantized_tile_of(int height, const RowBlocks<kQuantizedRows>* rows,
                              const DecodedPanel& panel, int depth, bool is_first,
                              FetchAhead fetch, float* to) {
    if constexpr (Rows > 0) {
        if (height == Rows) {
            return quantized_tile<Layout, Rows>(rows, panel, depth, is_first, fetch, to);
        }
        quantized_tile_of<Layout, Rows - 1>(height, rows, panel, depth, is_first, fetch, to);
    }
}

template <class Layout, int Word = 0>
HEADRACE_INLINE void store_codes(const uint8_t* codes, int half, uint32_t* to) {
    if constexpr (Word < kBlockWords / 2) {
        const CodePair pair = codes_of<Layout, Word>(codes, half);
        store_words(to + (Word * 2 + half) * kLanes, pair.low);
        store_words(to + ((Word + kBlockWords / 2) * 2 + half) * kLanes, pair.high);
        store_codes<Layout, Word + 1>(codes, half, to);
    }
}

template <class Layout>
inline void store_decoded(const uint8_t* panel, int first, int depth, DecodedPanel& to) {
    for (int n = 0; n < depth; ++n) {
        const PanelBlock<Layout> block(panel, first + n);
        for (int half = 0; half < 2; ++half) {
            store_codes<Layout>(block.codes(), half, to.codes + n * kBlockWords * kPanel);
            for (int part = 0; part < Layout::kScales; ++part) {
                store(to.scales + (n * Layout::kScales + part) * kPanel + half * kLanes,
                      block.scale(part, half));
            }
            if constexpr (Layout::kHasMinimums) {
                store(to.minimums + n * kPanel + half * kLanes, block.minimum(half));
            }
        }
    }
}

// Adds the products of a block's words; sums: of each part that has a scale.
template <class Layout, int Word = 0>
HEADRACE_INLINE void add_words(const RowBlocks<1>& row, const uint8_t* codes, int half,
                               CodeSums (&sums)[Layout::kScales]) {
    if constexpr (Word < kBlockWords / 2) {
        constexpr int kHigh = Word + kBlockWords / 2;
        const CodePair pair = codes_of<Layout, Word>(codes, half);
        constexpr bool kApart = Layout::kScales == 2;
        add_products<Layout>(sums[0], pair.low, broadcast_word(row.codes[Word]),
                             kApart ? Word : 2 * Word);
        add_products<Layout>(sums[kApart], pair.high, broadcast_word(row.codes[kHigh]),
                             kApart ? Word : 2 * Word + 1);
        add_words<Layout, Word + 1>(row, codes, half, sums);
    }
}

// Computes a single row's sums with a panel.
template <class Layout>
void quantized_row(const RowBlocks<1>* row, const uint8_t* panel, int blocks, float* to) {
    constexpr int kAhead = 4096;  // bytes
    Floats sums[2] = {zeros(), zeros()};
    for (int n = 0; n < blocks; ++n, ++row) {
        const PanelBlock<Layout> block(panel, n);
        for (int line = 0; line < Layout::kBytes; line += kLanes * 4) {
            prefetch_near(block.start + kAhead + line);
        }
        for (int half = 0; half < 2; ++half) {
            CodeSums products[Layout::kScales];
            for (int part = 0; part < Layout::kScales; ++part) {
                products[part] = code_sums(first_sum<Layout>(*row, 0, part));
            }
            add_words<Layout>(*row, block.codes(), half, products);
            for (int part = 0; part < Layout::kScales; ++part) {
                sums[half] = add_scaled(sums[half], products[part].total, block.scale(part, half),
                                        row->scale[0]);
            }
            if constexpr (Layout::kHasMinimums) {
                sums[half] = fnma(block.minimum(half), splat(row->sum[0]), sums[half]);
            }
        }
    }
    store(to, sums[0]);
    store(to + kLanes, sums[1]);
}

// The share of tile t of `tiles` in fetching what follows block `block` of a panel, as much as
// `depth` blocks. next: the panel that follows for this thread, null if there is none.
template <class Layout>
inline FetchAhead fetch_of(const uint8_t* panel, const uint8_t* next, int block, int blocks,
                           int depth, int64_t t, int64_t tiles) {
    const uint8_t* from = block < blocks ? panel + Layout::block_at(block) : next;
    constexpr int kLines = (Layout::kBytes + kLanes * 4 - 1) / (kLanes * 4);
    constexpr int kTiles = 4;  // that fetch
    const int sharing = (int)std::min<int64_t>(tiles, kTiles);
    if (!from || t >= sharing) return {nullptr, 0};
    const int lines = (kLines + sharing - 1) / sharing;
    return {from + t * lines * depth * kLanes * 4, lines};
}

// Computes the sums [count, kPanel] of the rows from `first` on, of `rows` rows rounded by
// `round_row`, with a panel of `blocks` blocks. first: a multiple of kQuantizedRows.
template <class Layout>
void quantized_rows(const void* in, int64_t rows, int64_t first, int64_t count,
                    const uint8_t* panel, const uint8_t* next, int blocks, DecodedPanel& decoded,
                    float* sums) {
    if (rows == 1) return quantized_row<Layout>((const RowBlocks<1>*)in, panel, blocks, sums);
    const auto* groups = (const RowBlocks<kQuantizedRows>*)in + first / kQuantizedRows * blocks;
    const int64_t tiles = (count + kQuantizedRows - 1) / kQuantizedRows;
    for (int block = 0; block < blocks; block += DecodedPanel::kDepth) {
        const int depth = std::min(DecodedPanel::kDepth, blocks - block);
        store_decoded<Layout>(panel, block, depth, decoded);
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t row = t * kQuantizedRows;
            quantized_tile_of<Layout>((int)std::min<int64_t>(kQuantizedRows, count - row),
                                      groups + t * blocks + block, decoded, depth, block == 0,
                                      fetch_of<Layout>(panel, next, block + depth, blocks, depth,
                                                       t, tiles),
                                      sums + row * kPanel);
        }
    }
}

// Writes the `inputs` weights of one output of a panel.
template <class Layout>
void quantized_output(const uint8_t* panel, int lane, int64_t inputs, float* to) {
    constexpr int kShared = kBlock / Layout::kScales;  // inputs that have a scale in common
    constexpr int kOffset = Layout::kShift < 0 ? 0 : 1 << std::max(0, Layout::kShift);
    DecodedPanel decoded;
    for (int64_t first = 0; first < inputs; first += kBlock) {
        store_decoded<Layout>(panel, (int)(first / kBlock), 1, decoded);
        const float minimum = Layout::kHasMinimums ? decoded.minimums[lane] : 0.0f;
        for (int i = 0; i < std::min<int64_t>(kBlock, inputs - first); ++i) {
            const auto* bytes = (const uint8_t*)(decoded.codes + i / 4 * kPanel + lane);
            const int code =
                Layout::kIsSigned ? signed_value(bytes[i % 4]) : bytes[i % 4] - kOffset;
            const float scale = decoded.scales[i / kShared * kPanel + lane];
            to[first + i] = scale * (float)code - minimum;
        }
    }
}

}  // namespace headrace
