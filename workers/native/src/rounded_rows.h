// Rows rounded to 8-bit integers in blocks of 32, for products with quantized weights.
//
// A tile of a product reads the words of several rows at once. So rows lie in groups, block after
// block, and in a block word after word, each word of all rows of the group next to each other; one
// address reaches all of them. A row that is alone is a group of its own. Each cache line belongs to
// all rows of a group, so threads that round at once must not share a group's blocks.
#pragma once

#include <cstdint>

#include "gemm.h"

namespace headrace {

constexpr int kBlock = 32;  // inputs
constexpr int kBlockWords = kBlock / 4;

// What is known of 32 numbers of each row of a group, which are scale * integer.
template <int Group>
struct RowBlocks {
    uint32_t codes[kBlockWords][Group];
    float scale[Group];
    float sum[Group];             // of the numbers as rounded
    int32_t minus_sum[Group];     // of the integers
    int32_t minus_half[2][Group];  // of the first and of the last 16
};

inline int64_t rounded_bytes(int64_t rows, int64_t blocks) {
    if (rows == 1) return blocks * (int64_t)sizeof(RowBlocks<1>);
    return (rows + kQuantizedRows - 1) / kQuantizedRows * blocks *
           (int64_t)sizeof(RowBlocks<kQuantizedRows>);
}

inline int64_t blocks_of(int64_t size) { return (size + kBlock - 1) / kBlock; }

// Some blocks of rows: those before `last`.
struct BlockRange {
    int64_t first, last;
};

// Rounds these blocks of a row of `size` numbers, filled up with zeros to whole blocks, and writes
// them as those of row `row` of `rows`. A block that contains a NaN has the scale NaN.
void round_row(const float* from, int64_t size, BlockRange range, int64_t row, int64_t rows,
               void* to);

inline void round_row(const float* from, int64_t size, int64_t row, int64_t rows, void* to) {
    round_row(from, size, {0, blocks_of(size)}, row, rows, to);
}

}  // namespace headrace
