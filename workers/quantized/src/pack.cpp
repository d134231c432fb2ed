// Arranges rows of quantized blocks in the panels that the kernels read: what panels.py does, without
// what numpy writes in between. See workers/native/src/quantized_formats.h for the panels.

#include <cstdint>
#include <cstring>

#include "blocks.h"

namespace {

constexpr int kOutputs = 32;  // of a panel

// How a format's blocks are read and stored. `codes` writes the 32 codes of block `sub` of a file's
// block, `numbers` its scales and minimum, as they are stored.
struct Layout {
    int file_bytes, per_file_block, bits, numbers, number_bytes, supers;
};

constexpr Layout kLayouts[] = {
    {34, 1, 8, 1, 2, 0},    // Q8_0
    {18, 1, 4, 1, 2, 0},    // Q4_0
    {20, 1, 4, 2, 2, 0},    // Q4_1
    {22, 1, 5, 1, 2, 0},    // Q5_0
    {24, 1, 5, 2, 2, 0},    // Q5_1
    {144, 8, 4, 2, 1, 2},   // Q4_K
    {176, 8, 5, 2, 1, 2},   // Q5_K
    {210, 8, 6, 2, 1, 1},   // Q6_K
    {18, 1, 4, 1, 2, 0},    // IQ4_NL
    {},                     // MXFP4
    {36, 1, 8, 2, 2, 0},    // Q8_M
};

INLINE void nibbles(const uint8_t *bytes, uint8_t *codes) {
    for (int i = 0; i < 16; ++i) codes[i] = bytes[i] & 15, codes[i + 16] = bytes[i] >> 4;
}

INLINE void add_fifth_bits(const uint8_t *bits, uint8_t *codes) {
    uint32_t high;
    std::memcpy(&high, bits, 4);
    for (int i = 0; i < 32; ++i) codes[i] |= (high >> i & 1) << 4;
}

INLINE void read_codes(int format, const uint8_t *block, int sub, uint8_t *codes) {
    switch (format) {
        case Q8_0: std::memcpy(codes, block + 2, 32); break;
        case Q8_M: std::memcpy(codes, block + 4, 32); break;
        case Q4_0:
        case IQ4_NL: nibbles(block + 2, codes); break;
        case Q4_1: nibbles(block + 4, codes); break;
        case Q5_0: nibbles(block + 6, codes), add_fifth_bits(block + 2, codes); break;
        case Q5_1: nibbles(block + 8, codes), add_fifth_bits(block + 4, codes); break;
        case Q4_K:
        case Q5_K: {
            const uint8_t *low = block + (format == Q4_K ? 16 : 48) + sub / 2 * 32;
            const int shift = sub % 2 * 4;
            for (int i = 0; i < 32; ++i) codes[i] = low[i] >> shift & 15;
            if (format == Q5_K)
                for (int i = 0; i < 32; ++i) codes[i] |= (block[16 + i] >> sub & 1) << 4;
            break;
        }
        case Q6_K: {
            const int quarter = sub % 4;
            const uint8_t *low = block + sub / 4 * 64 + quarter % 2 * 32;
            const uint8_t *high = block + 128 + sub / 4 * 32;
            const int shift = quarter < 2 ? 0 : 4;
            for (int i = 0; i < 32; ++i)
                codes[i] = (low[i] >> shift & 15) | (high[i] >> quarter * 2 & 3) << 4;
            break;
        }
    }
}

// Writes a row's scales and minimum of a block; from one to the next there are 32 rows' bytes.
INLINE void put_numbers(int format, const uint8_t *block, int sub, int row, uint8_t *out) {
    switch (format) {
        case Q4_1:
        case Q5_1:
        case Q8_M:  // the file has what is added, not what is subtracted
            std::memcpy(out + row * 2, block, 2), out += kOutputs * 2;
            out[row * 2] = block[2], out[row * 2 + 1] = block[3] ^ 0x80;
            break;
        case Q4_K:
        case Q5_K: {
            float scale, minimum;
            k_scales(block + 4, sub, scale, minimum);
            out[row] = uint8_t(scale), out[kOutputs + row] = uint8_t(minimum);
            break;
        }
        case Q6_K:
            out[row] = block[192 + sub * 2], out[kOutputs + row] = block[193 + sub * 2];
            break;
        default: std::memcpy(out + row * 2, block, 2);
    }
}

// Writes a row's codes as words; from one word to the next there are 32 rows' words.
INLINE int put_words(int bits, const uint8_t *codes, int row, uint8_t *out) {
    uint8_t bytes[32];
    int size = 32;
    if (bits == 8) {
        std::memcpy(bytes, codes, 32);
    } else {
        for (int i = 0; i < 16; ++i) bytes[i] = (codes[i] & 15) | codes[i + 16] << 4;
        size = 16;
        const int planes = bits - 4, per_byte = planes ? 8 / planes : 0;
        for (int plane = 0; plane < planes; ++plane, size += 4)
            for (int lane = 0; lane < 4; ++lane) {
                int joined = 0;
                for (int index = 0; index < per_byte; ++index)
                    joined |= (codes[(plane * per_byte + index) * 4 + lane] >> 4) << index * planes;
                bytes[size + lane] = uint8_t(joined);
            }
    }
    for (int word = 0; word < size / 4; ++word)
        std::memcpy(out + (word * kOutputs + row) * 4, bytes + word * 4, 4);
    return size * kOutputs;
}

template <int format>
INLINE void pack(const uint8_t *rows, int64_t row_bytes, int64_t panels, int64_t blocks,
                 uint8_t *out) {
    constexpr Layout layout = kLayouts[format];
    constexpr int numbers = layout.numbers * layout.number_bytes * kOutputs;
    constexpr int block_bytes = numbers + kOutputs * layout.bits * 4;
    for (int64_t panel = 0; panel < panels; ++panel, rows += kOutputs * row_bytes) {
        for (int64_t first = 0; first < blocks; first += layout.per_file_block) {
            const uint8_t *source = rows + first / layout.per_file_block * layout.file_bytes;
            if (layout.supers) {
                const int at = format == Q6_K ? 208 : 0;
                for (int row = 0; row < kOutputs; ++row)
                    for (int each = 0; each < layout.supers; ++each)
                        std::memcpy(out + (each * kOutputs + row) * 2,
                                    source + row * row_bytes + at + each * 2, 2);
                out += layout.supers * kOutputs * 2;
            }
            for (int sub = 0; sub < layout.per_file_block; ++sub, out += block_bytes)
                for (int row = 0; row < kOutputs; ++row) {
                    const uint8_t *block = source + row * row_bytes;
                    uint8_t codes[32];
                    read_codes(format, block, sub, codes);
                    put_numbers(format, block, sub, row, out);
                    put_words(layout.bits, codes, row, out + numbers);
                }
        }
    }
}

}  // namespace

// Packs rows [32 * panels, row_bytes] of `blocks` blocks of 32 inputs each; returns 0, or 1 if the
// format is unknown.
extern "C" EACH_PROCESSOR int headrace_pack_panels(int format, const uint8_t *rows,
                                                   int64_t row_bytes, int64_t panels,
                                                   int64_t blocks, uint8_t *out) {
    switch (format) {
        case Q8_0: pack<Q8_0>(rows, row_bytes, panels, blocks, out); return 0;
        case Q4_0: pack<Q4_0>(rows, row_bytes, panels, blocks, out); return 0;
        case Q4_1: pack<Q4_1>(rows, row_bytes, panels, blocks, out); return 0;
        case Q5_0: pack<Q5_0>(rows, row_bytes, panels, blocks, out); return 0;
        case Q5_1: pack<Q5_1>(rows, row_bytes, panels, blocks, out); return 0;
        case Q4_K: pack<Q4_K>(rows, row_bytes, panels, blocks, out); return 0;
        case Q5_K: pack<Q5_K>(rows, row_bytes, panels, blocks, out); return 0;
        case Q6_K: pack<Q6_K>(rows, row_bytes, panels, blocks, out); return 0;
        case IQ4_NL: pack<IQ4_NL>(rows, row_bytes, panels, blocks, out); return 0;
        case Q8_M: pack<Q8_M>(rows, row_bytes, panels, blocks, out); return 0;
    }
    return 1;
}
