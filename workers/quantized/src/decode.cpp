// Expands rows of quantized blocks to floats: the formats of headrace.workers.quantized.formats.
//
// It runs on any processor; where the compiler can, it is built for wider vectors too and chosen when
// loaded. All give the same numbers, since products and sums are rounded one by one.

#include <cstdint>
#include <cstring>

#include "blocks.h"

namespace {

constexpr int kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                1,    13,   25,  38,  53,  69,  89,  113};
constexpr int kE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

INLINE float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

INLINE float half_at(const uint8_t *bytes) {
    uint16_t half;
    std::memcpy(&half, bytes, 2);
    const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return from_bits(sign | ((rest << 13) + (112u << 23)));
    const float small = float(rest) * 5.9604644775390625e-8f;  // subnormal: of 2^-24
    return sign ? -small : small;
}

INLINE void q8_0(const uint8_t *block, float *out) {
    const float scale = half_at(block);
    for (int i = 0; i < 32; ++i) out[i] = float(int8_t(block[2 + i])) * scale;
}

INLINE void q8_m(const uint8_t *block, float *out) {
    const float scale = half_at(block), added = half_at(block + 2);
    for (int i = 0; i < 32; ++i) out[i] = float(int8_t(block[4 + i])) * scale + added;
}

INLINE void q4_0(const uint8_t *block, float *out) {
    const float scale = half_at(block);
    for (int i = 0; i < 16; ++i) {
        out[i] = float((block[2 + i] & 15) - 8) * scale;
        out[i + 16] = float((block[2 + i] >> 4) - 8) * scale;
    }
}

INLINE void q4_1(const uint8_t *block, float *out) {
    const float scale = half_at(block), added = half_at(block + 2);
    for (int i = 0; i < 16; ++i) {
        out[i] = float(block[4 + i] & 15) * scale + added;
        out[i + 16] = float(block[4 + i] >> 4) * scale + added;
    }
}

// Codes of five bits: the lowest four in `low`, the highest in `bits`.
INLINE void fifth_bits(const uint8_t *bits, const uint8_t *low, int *codes) {
    uint32_t high;
    std::memcpy(&high, bits, 4);
    for (int i = 0; i < 16; ++i) {
        codes[i] = (low[i] & 15) | int(high >> i & 1) << 4;
        codes[i + 16] = (low[i] >> 4) | int(high >> (i + 16) & 1) << 4;
    }
}

INLINE void q5_0(const uint8_t *block, float *out) {
    int codes[32];
    fifth_bits(block + 2, block + 6, codes);
    const float scale = half_at(block);
    for (int i = 0; i < 32; ++i) out[i] = float(codes[i] - 16) * scale;
}

INLINE void q5_1(const uint8_t *block, float *out) {
    int codes[32];
    fifth_bits(block + 4, block + 8, codes);
    const float scale = half_at(block), added = half_at(block + 2);
    for (int i = 0; i < 32; ++i) out[i] = float(codes[i]) * scale + added;
}

// Of 256 inputs; `high` has the highest bits of q5_k, and is null for q4_k.
INLINE void q45_k(const uint8_t *block, const uint8_t *high, const uint8_t *low, float *out) {
    const float scales = half_at(block), minimums = half_at(block + 2);
    for (int index = 0; index < 8; ++index) {
        float scale, minimum;
        k_scales(block + 4, index, scale, minimum);
        scale *= scales, minimum *= minimums;
        const uint8_t *bytes = low + index / 2 * 32;
        const int shift = index % 2 * 4;
        for (int i = 0; i < 32; ++i) {
            int code = bytes[i] >> shift & 15;
            if (high) code |= (high[i] >> index & 1) << 4;
            out[index * 32 + i] = float(code) * scale - minimum;
        }
    }
}

INLINE void q6_k(const uint8_t *block, float *out) {
    const float common = half_at(block + 208);
    for (int index = 0; index < 8; ++index) {
        const int half = index / 4, quarter = index % 4;
        const uint8_t *low = block + half * 64 + quarter % 2 * 32, *high = block + 128 + half * 32;
        const int8_t *scales = reinterpret_cast<const int8_t *>(block + 192 + index * 2);
        for (int part = 0; part < 2; ++part) {
            const float scale = float(scales[part]) * common;
            for (int i = part * 16; i < part * 16 + 16; ++i) {
                const int nibble = quarter < 2 ? low[i] & 15 : low[i] >> 4;
                const int code = nibble | (high[i] >> quarter * 2 & 3) << 4;
                out[index * 32 + i] = float(code - 32) * scale;
            }
        }
    }
}

INLINE void by_codebook(const uint8_t *codes, const int *book, float scale, float *out) {
    for (int i = 0; i < 16; ++i) {
        out[i] = float(book[codes[i] & 15]) * scale;
        out[i + 16] = float(book[codes[i] >> 4]) * scale;
    }
}

INLINE float halved_power(uint8_t exponent) {  // of two, by the biased exponent
    if (exponent > 1) return from_bits(uint32_t(exponent - 1) << 23);
    return from_bits(exponent ? 0x00400000u : 0x00200000u);
}

// Rounds to bfloat16, to the nearest, or to the even one of two.
INLINE uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return value == value ? uint16_t(rounded) : uint16_t(0x7fc0);
}

}  // namespace

// Expands `count` blocks to out, float32 or bfloat16; returns 0, or 1 if the format is unknown.
extern "C" EACH_PROCESSOR int headrace_decode(int format, const uint8_t *blocks, int64_t count,
                                              int is_bf16, void *out) {
    float values[256];
    char *bytes = static_cast<char *>(out);
#define EACH(block_bytes, inputs, call)                                                      \
    for (int64_t n = 0; n < count; ++n, blocks += block_bytes) {                             \
        call;                                                                                \
        if (is_bf16) {                                                                       \
            uint16_t halves[inputs];                                                         \
            for (int i = 0; i < inputs; ++i) halves[i] = to_bf16(values[i]);                 \
            std::memcpy(bytes, halves, sizeof(halves)), bytes += sizeof(halves);             \
        } else {                                                                             \
            std::memcpy(bytes, values, inputs * sizeof(float)), bytes += inputs * sizeof(float); \
        }                                                                                    \
    }                                                                                        \
    return 0
    switch (format) {
        case Q8_0: EACH(34, 32, q8_0(blocks, values));
        case Q4_0: EACH(18, 32, q4_0(blocks, values));
        case Q4_1: EACH(20, 32, q4_1(blocks, values));
        case Q5_0: EACH(22, 32, q5_0(blocks, values));
        case Q5_1: EACH(24, 32, q5_1(blocks, values));
        case Q4_K: EACH(144, 256, q45_k(blocks, nullptr, blocks + 16, values));
        case Q5_K: EACH(176, 256, q45_k(blocks, blocks + 16, blocks + 48, values));
        case Q6_K: EACH(210, 256, q6_k(blocks, values));
        case IQ4_NL: EACH(18, 32, by_codebook(blocks + 2, kNonLinear, half_at(blocks), values));
        case Q8_M: EACH(36, 32, q8_m(blocks, values));
        case MXFP4: EACH(17, 32, by_codebook(blocks + 1, kE2M1, halved_power(blocks[0]), values));
    }
#undef EACH
    return 1;
}
