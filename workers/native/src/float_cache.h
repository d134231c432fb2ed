// Attention to a cache of floating-point numbers, of 32, 16 or 8 bits.
#pragma once

#include "cache_shape.h"
#include "partial_sums.h"

namespace headrace {

// Numbers with four bits of exponent and three of fraction (e4m3), but for those below 2^-6, which
// become zero. A word holds the numbers 0, 2, 1 and 3 of four, so that both halves of it are made
// two bfloat16 numbers with few instructions. These have the exponents of the codes without a new
// bias, and so are too small by 2^120.
struct Fp8 {
    using Row = Bf16::Row;
    static constexpr int kPerWord = 4, kParts = kHasBf16Dot ? 2 : 4;
    static constexpr float kLargest = 448, kLeast = 0x1p-6f;
    // 2^120 in two factors, between which no sum leaves the range of float32.
    static constexpr float kRaised = 0x1p100f, kRest = 0x1p20f;

    static constexpr int place(int number) { return number == 1 ? 2 : number == 2 ? 1 : number; }

    template <int Part>
    static HEADRACE_INLINE auto part(const uint32_t* from) {
        const Words words = load_words(from);
        if constexpr (kHasBf16Dot) {
            const Words sign = (Part ? words : shift_left<8>(words)) & splat_word(0x80008000);
            const Words rest = Part ? shift_right<4>(words) : shift_left<4>(words);
            return sign | (rest & splat_word(0x07F007F0));
        } else {
            const Words top = shift_left<24 - 8 * place(Part)>(words);
            const Words sign = top & splat_word(0x80000000);
            return as_floats(sign | (shift_right<4>(top) & splat_word(0x07F00000)));
        }
    }
    static HEADRACE_INLINE auto factor(const uint32_t* row) { return Row::factor(row); }
    template <class Factor>
    static HEADRACE_INLINE Floats dot(Floats sums, Factor a, Factor b) {
        return Row::dot(sums, a, b);
    }
    // The codes of 16 numbers that are at most kLargest.
    static HEADRACE_INLINE Words codes_of(Floats x) {
        const Floats magnitude = keep(not_less(abs(x), splat(kLeast)), abs(x));
        const Words bits = as_words(magnitude);
        const Words tie = shift_right<20>(bits) & splat_word(1);
        const Words rounded = shift_right<20>(bits + tie + splat_word(0x7FFFF));
        const Words unbiased = rounded - splat_word(120 << 3);
        const Floats code = keep(not_less(magnitude, splat(kLeast)), as_floats(unbiased));
        return as_words(code) | (shift_right<24>(as_words(x)) & splat_word(0x80));
    }
};

template <class E>
constexpr bool kIsFp8 = std::is_same_v<E, Fp8>;

// Adds the products of one part of `Count` vectors of words with rows, `stride` words apart.
template <class E, int Part, int Queries, int Count>
HEADRACE_INLINE void attention_part(const uint32_t* rows, int64_t stride,
                                    const uint32_t* const (&words)[Count],
                                    Floats (&sums)[Queries][Count]) {
    decltype(E::template part<Part>(words[0])) v[Count];
#pragma GCC unroll 4
    for (int n = 0; n < Count; ++n) v[n] = E::template part<Part>(words[n]);
#pragma GCC unroll 6
    for (int q = 0; q < Queries; ++q) {
        const auto a = E::factor(rows + q * stride + Part);
#pragma GCC unroll 4
        for (int n = 0; n < Count; ++n) sums[q][n] = E::dot(sums[q][n], v[n], a);
    }
}

template <class E, int Part = 0, int Queries, int Count>
HEADRACE_INLINE void attention_parts(const uint32_t* rows, int64_t stride,
                                     const uint32_t* const (&words)[Count],
                                     Floats (&sums)[Queries][Count]) {
    attention_part<E, Part>(rows, stride, words, sums);
    if constexpr (Part + 1 < E::kParts) attention_parts<E, Part + 1>(rows, stride, words, sums);
}

template <class E>
struct FloatCache {
    using Numbers = E;
    static constexpr int kPerWord = E::kPerWord;
    static constexpr bool kHasScales = kIsFp8<E>;
    static constexpr bool kFetches = kHasScales || !kHasBf16Dot;
    // What the sums of values are too small by.
    static constexpr float kOutputFactor = kIsFp8<E> ? Fp8::kRest : 1;

    static int query_words(int key_words) { return key_words * E::kParts; }

    static void load_query(const float* from, int dim, float scaling, const CacheShape& shape,
                           uint32_t* query) {
        auto* to = (typename E::Row::Element*)query;
        const Floats factor = splat(kIsFp8<E> ? scaling * Fp8::kRaised : scaling);
        std::memset(query + shape.query_words - E::kParts, 0, E::kParts * sizeof *query);
        for (int d = 0; d < dim; d += kLanes) {
            const Mask mask = lanes(d, dim);
            E::Row::store(to + d, load(from + d, mask) * factor, mask);
        }
    }

    // Computes the scores of `Count` groups from `first` on.
    template <int Queries, int Count, int NumGroups>
    static HEADRACE_INLINE void scores_of_some(const uint32_t* queries, const CacheShape& shape,
                                               const GroupHeads& groups, int first,
                                               Floats (&scores)[Queries][NumGroups]) {
        Floats sums[Queries][Count];
        for (auto& row : sums) {
            for (auto& s : row) s = zeros();
        }
        for (int word = 0; word < shape.key_words; ++word) {
            const uint32_t* k[Count];
            for (int g = 0; g < Count; ++g) {
                k[g] = groups.keys[first + g] + word * kGroup;
                if constexpr (kFetches) prefetch_near(k[g] + groups.ahead[first + g]);
            }
            attention_parts<E>(queries + word * E::kParts, shape.query_words, k, sums);
        }
        for (int g = 0; g < Count; ++g) {
            if constexpr (kIsFp8<E>) {
                const Floats scale =
                    load_bf16(groups.key_scales(first + g, shape), all_lanes()) * splat(Fp8::kRest);
                for (int q = 0; q < Queries; ++q) sums[q][g] = sums[q][g] * scale;
            }
            for (int q = 0; q < Queries; ++q) scores[q][first + g] = sums[q][g];
        }
    }

    // The weights of up to 64 tokens.
    template <int Queries, int NumGroups>
    struct Weights {
        using Exactness = std::conditional_t<kIsFp8<E>, Bf16, E>;

        const GroupHeads& groups;
        const CacheShape& shape;
        alignas(64) typename E::Row::Element weights[Queries * kTileTokens];

        Weights(const GroupHeads& of_groups, const CacheShape& of_shape)
            : groups(of_groups), shape(of_shape) {}

        HEADRACE_INLINE void store(int q, const Floats (&found)[NumGroups]) {
            for (int g = 0; g < NumGroups; ++g) {
                Floats w = found[g];
                if constexpr (kIsFp8<E>) {
                    const Floats scale = load_bf16(groups.value_scales(g, shape), all_lanes());
                    w = w * (scale * splat(Fp8::kRaised));
                }
                E::Row::store(weights + q * kTileTokens + g * kGroup, w);
            }
        }

        void add_values(const ValueSums& sums) const {
            int dim = 0;
            for (; dim + kAttentionVectors * kLanes <= shape.value_dim;
                 dim += kAttentionVectors * kLanes) {
                add<kAttentionVectors>(dim, sums);
            }
            if constexpr (kAttentionVectors > 2) {
                for (; dim + 2 * kLanes <= shape.value_dim; dim += 2 * kLanes) add<2>(dim, sums);
            }
            for (; dim < shape.value_dim; dim += kLanes) add<1>(dim, sums);
        }

        template <int Count>
        void add(int dim, const ValueSums& sums) const {
            constexpr int kWords = kGroup / E::kPerWord;
            constexpr int kWeightWords = kTileTokens / E::kPerWord * E::kParts;
            const auto* rows = (const uint32_t*)weights;
            Floats acc[Queries][Count];
            for (int q = 0; q < Queries; ++q) {
                for (int n = 0; n < Count; ++n) {
                    acc[q][n] = sums.before(q * sums.stride + dim + n * kLanes);
                }
            }
            for (int g = 0; g < NumGroups; ++g) {
                for (int word = 0; word < kWords; ++word) {
                    const uint32_t* v[Count];
                    for (int n = 0; n < Count; ++n) {
                        v[n] = groups.values[g] + (int64_t)word * shape.value_dim + dim +
                               n * kLanes;
                        if constexpr (kFetches) prefetch_near(v[n] + groups.ahead[g]);
                    }
                    attention_parts<E>(rows + (g * kWords + word) * E::kParts, kWeightWords, v,
                                       acc);
                }
            }
            for (int q = 0; q < Queries; ++q) {
                for (int n = 0; n < Count; ++n) {
                    sums.keep(q * sums.stride + dim + n * kLanes, acc[q][n], q);
                }
            }
        }
    };
};

}  // namespace headrace
