// The element types of the kernels.
//
// Matrices are stored in words of 32 bits: four 8-bit integers, two bfloat16 numbers (neighbours
// along the dimension that is summed over) or one float32 number. A vector holds 16 words, one for
// each of 16 outputs. They are multiplied by a row's numbers in kParts steps: `part` is what one
// step multiplies of a weight's words, `factor` the number or word of the row for it, in all lanes.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vector_math.h"

namespace headrace {

struct F32 {
    using Element = float;
    using Row = F32;
    static constexpr int kPerWord = 1, kParts = 1;

    template <int Part>
    static HEADRACE_INLINE Floats part(const void* words) {
        return load((const float*)words);
    }
    template <int Part>
    static HEADRACE_INLINE Floats part(Words words) {
        return as_floats(words);
    }
    static HEADRACE_INLINE Floats factor(const uint32_t* row) {
        return as_floats(broadcast_word(row));
    }
    static HEADRACE_INLINE Floats dot(Floats sums, Floats a, Floats b) { return fma(a, b, sums); }
    static HEADRACE_INLINE Words widen(const int8_t* from) {
        return as_words(floats_of_bytes(from));
    }
    static HEADRACE_INLINE void store(Element* to, Floats values, Mask mask) {
        headrace::store(to, values, mask);
    }
    static HEADRACE_INLINE void store(Element* to, Floats values) { headrace::store(to, values); }
    // Stores 16 numbers as one element each of 16 neighbouring words.
    static HEADRACE_INLINE void store_column(Element* to, Floats values) { store(to, values); }
    static HEADRACE_INLINE Floats load(const Element* from) { return headrace::load(from); }
    static HEADRACE_INLINE Floats load(const Element* from, Mask mask) {
        return headrace::load(from, mask);
    }
    static float value(Element x) { return x; }
    // 2 to the power of r for |r| <= 1/2; relative error below 3e-7.
    static HEADRACE_INLINE Floats exp2_near_zero(Floats r) {
        return polynomial(r, {0.00132764718f, 0.00967554133f, 0.0555071327f, 0.240221197f,
                              0.693146967f, 1.00000007f});
    }
};

// Row: the type of the rows that weights are multiplied by.
struct Bf16 {
    using Element = uint16_t;
    using Row = std::conditional_t<kHasBf16Dot, Bf16, F32>;
    static constexpr int kPerWord = 2, kParts = kHasBf16Dot ? 1 : 2;

    template <int Part>
    static HEADRACE_INLINE auto part(const void* words) {
        return part<Part>(load_words(words));
    }
    template <int Part>
    static HEADRACE_INLINE auto part(Words words) {
        if constexpr (kHasBf16Dot) {
            return words;
        } else if constexpr (Part == 0) {
            return even_bf16(words);
        } else {
            return odd_bf16(words);
        }
    }
    static HEADRACE_INLINE auto factor(const uint32_t* row) {
        if constexpr (kHasBf16Dot) {
            return broadcast_word(row);
        } else {
            return F32::factor(row);
        }
    }
    template <class Factor>
    static HEADRACE_INLINE Floats dot(Floats sums, Factor a, Factor b) {
        if constexpr (kHasBf16Dot) {
            return dot_bf16(sums, a, b);
        } else {
            return fma(a, b, sums);
        }
    }
    // Converts 8-bit integers, which bfloat16 holds exactly, to 16 words.
    static HEADRACE_INLINE Words widen(const int8_t* from) { return bf16_of_bytes(from); }
    static HEADRACE_INLINE void store(Element* to, Floats values, Mask mask) {
        store_bf16(to, values, mask);
    }
    static HEADRACE_INLINE void store(Element* to, Floats values) {
        store_bf16(to, values, all_lanes());
    }
    static HEADRACE_INLINE void store_column(Element* to, Floats values) {
        store_bf16_halves(to, values);
    }
    static HEADRACE_INLINE Floats load(const Element* from) { return load_bf16(from, all_lanes()); }
    static HEADRACE_INLINE Floats load(const Element* from, Mask mask) {
        return load_bf16(from, mask);
    }
    static float value(Element x) {
        const uint32_t bits = (uint32_t)x << 16;
        float found;
        std::memcpy(&found, &bits, sizeof found);
        return found;
    }
    // The same, relative error below 8e-5, a fiftieth of the error of rounding the result to
    // bfloat16.
    static HEADRACE_INLINE Floats exp2_near_zero(Floats r) {
        return polynomial(r, {0.0551716672f, 0.242611122f, 0.693260986f, 0.999928074f});
    }
};

// Unsigned 8-bit rows and signed 8-bit weights; the sums are integers stored as floats' bits.
struct Int8 {
    static constexpr int kPerWord = 4, kParts = 1;

    template <int Part>
    static HEADRACE_INLINE Words part(const void* words) {
        return load_words(words);
    }
    template <int Part>
    static HEADRACE_INLINE Words part(Words words) {
        return words;
    }
    static HEADRACE_INLINE Words factor(const uint32_t* row) { return broadcast_word(row); }
    static HEADRACE_INLINE Floats dot(Floats sums, Words weights, Words row) {
        return dot_bytes_in_floats(sums, row, weights);
    }
};

// 2 to the power of x <= 100, as exactly as results in E need it. Zero below -150.
template <class E>
HEADRACE_INLINE Floats exp2(Floats x) {
    x = max(splat(-160.0f), x);  // keeps NaN
    const Floats n = round_to_integer(x);
    return times_power_of_2(E::exp2_near_zero(x - n), n);
}

}  // namespace headrace
