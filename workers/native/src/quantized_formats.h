// Weights in quantized blocks: their layout in panels, and how they become codes and scales.
//
// A block is 32 inputs (eight words of four) of a panel's 32 outputs. In memory it is the outputs'
// scales, their minimums if the format has them, and the words of codes: 32 outputs one after
// another, as in all panels (see gemm.h). Of codes of 4 to 6 bits, a word's low halves of bytes are
// those of input word w < 4 and the high halves those of w + 4; the bits above follow in planes: bit
// 8 j + w of a plane of single bits, or bits 8 j + 2 (w % 4) of plane w / 4 of pairs, belong to
// input j of word w. Scales are 16-bit floats; or small integers, and every eight blocks follow the
// floats that scale them ("super scales"). headrace/workers/quantized/panels.py writes this.
#pragma once

#include "rounded_rows.h"

namespace headrace {

constexpr int kSuperBlocks = 8;

// kBits: of a code in memory; kCodeBits: of one as it is multiplied. A weight's numbers are scale * (code - 2^kShift) - minimum; with kShift < 0, scale * code -
// minimum. With kIsSigned the codes are signed bytes, as the layer's `signed_operand` wants them.
template <int Bits, int Shift, int Scales, bool HasMinimums, bool HasSuperScales>
struct BlockLayout {
    static constexpr int kBits = Bits, kCodeBits = Bits, kShift = Shift, kScales = Scales;
    static constexpr bool kHasMinimums = HasMinimums, kHasSuperScales = HasSuperScales;
    static constexpr bool kIsSigned = false;
    static constexpr int kScaleBytes = HasSuperScales ? 1 : 2;
    static constexpr int kMinimumsAt = kPanel * Scales * kScaleBytes;
    static constexpr int kCodesAt = kMinimumsAt + (HasMinimums ? kPanel * kScaleBytes : 0);
    static constexpr int kBytes = kCodesAt + kPanel * kBlock * Bits / 8;
    static constexpr int kSuperBytes = HasSuperScales ? kPanel * 2 * (HasMinimums ? 2 : 1) : 0;

    static constexpr int64_t panel_bytes(int64_t blocks) {
        const int64_t supers = HasSuperScales ? blocks / kSuperBlocks : 0;
        return blocks * kBytes + supers * kSuperBytes;
    }
    static constexpr int64_t block_at(int64_t block) {
        const int64_t supers = HasSuperScales ? block / kSuperBlocks + 1 : 0;
        return block * kBytes + supers * kSuperBytes;
    }

    // What half a word's codes become for products.
    static HEADRACE_INLINE Words codes_of(Words small) { return small; }
};

using Q4_0 = BlockLayout<4, 3, 1, false, false>;
using Q4_1 = BlockLayout<4, -1, 1, true, false>;
using Q5_0 = BlockLayout<5, 4, 1, false, false>;
using Q5_1 = BlockLayout<5, -1, 1, true, false>;
using Q4_K = BlockLayout<4, -1, 1, true, true>;
using Q5_K = BlockLayout<5, -1, 1, true, true>;
using Q6_K = BlockLayout<6, 5, 2, false, true>;

struct Q8_0 : BlockLayout<8, -1, 1, false, false> {
    static constexpr bool kIsSigned = true;
};

struct Q8_M : BlockLayout<8, -1, 1, true, false> {
    static constexpr bool kIsSigned = true;
};

// Codes stand for the numbers of a table.
struct Iq4_Nl : BlockLayout<4, -1, 1, false, false> {
    static constexpr bool kIsSigned = true;
    static HEADRACE_INLINE Words codes_of(Words nibbles) {
        static constexpr int8_t kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};
        return signed_operand(look_up_bytes(kTable, nibbles));
    }
};

// The 4-bit floats of OCP Microscaling Formats 1.0, doubled, plus 16.
struct Mxfp4 : BlockLayout<4, 4, 1, false, false> {
    static constexpr int kCodeBits = 5;
    static HEADRACE_INLINE Words codes_of(Words nibbles) {
        static constexpr int8_t kTable[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                              16, 15, 14, 13, 12, 10, 8,  4};
        return look_up_bytes(kTable, nibbles);
    }
};

// Codes of two of a block's words for 16 outputs: of word w < 4 and of w + 4.
struct CodePair {
    Words low, high;
};

// The bits of a word's codes above the lowest four, in their place. planes: as in a block.
template <class Layout, int Word>
HEADRACE_INLINE Words high_bits(const uint8_t* planes, int half) {
    constexpr bool kArePairs = Layout::kBits == 6;
    constexpr int kPlane = kArePairs ? Word / 4 : 0;
    constexpr int kLow = kArePairs ? Word % 4 * 2 : Word;  // bits of a byte below them
    const Words plane = load_words(planes + (kPlane * 2 + half) * kLanes * 4);
    const Words mask = splat_word(kArePairs ? 0x30303030 : 0x10101010);
    if constexpr (kLow <= 4) {
        return shift_left<4 - kLow>(plane) & mask;
    } else {
        return shift_right<kLow - 4>(plane) & mask;
    }
}

// codes: as in a block.
template <class Layout, int Word>
HEADRACE_INLINE CodePair codes_of(const uint8_t* codes, int half) {
    constexpr int kHalfWords = kBlockWords / 2;
    const Words first = load_words(codes + (Word * 2 + half) * kLanes * 4);
    if constexpr (Layout::kBits == 8) {
        const uint8_t* second = codes + ((Word + kHalfWords) * 2 + half) * kLanes * 4;
        return {signed_operand(first), signed_operand(load_words(second))};
    } else {
        const Words mask = splat_word(0x0F0F0F0F);
        Words low = first & mask, high = shift_right<4>(first) & mask;
        if constexpr (Layout::kBits > 4) {
            const uint8_t* planes = codes + kHalfWords * kPanel * 4;
            low = low | high_bits<Layout, Word>(planes, half);
            high = high | high_bits<Layout, Word + kHalfWords>(planes, half);
        }
        return {Layout::codes_of(low), Layout::codes_of(high)};
    }
}

// One block of a panel in memory.
template <class Layout>
struct PanelBlock {
    const uint8_t* start;
    const uint16_t* common;  // super scales, then those of minimums

    PanelBlock(const uint8_t* panel, int64_t block) : start(panel + Layout::block_at(block)) {
        common = (const uint16_t*)(start - block % kSuperBlocks * Layout::kBytes -
                                   Layout::kSuperBytes);
    }

    HEADRACE_INLINE Floats scale(int part, int half) const {
        return number(0, part * 2 + half, half);
    }
    HEADRACE_INLINE Floats minimum(int half) const {
        return number(Layout::kMinimumsAt, half, kPanel / kLanes + half);
    }
    const uint8_t* codes() const { return start + Layout::kCodesAt; }

  private:
    // The 16 numbers `vector` from a byte of the block on, times those of the super scales.
    HEADRACE_INLINE Floats number(int from, int vector, int super) const {
        const uint8_t* at = start + from + vector * kLanes * Layout::kScaleBytes;
        if constexpr (Layout::kHasSuperScales) {
            return load_f16(common + super * kLanes) * floats_of_bytes((const int8_t*)at);
        } else {
            return load_f16((const uint16_t*)at);
        }
    }
};

}  // namespace headrace
