// Attention to a cache of 8-bit integers, by products of integers.
//
// A query is rounded to 8 bits with a scale of its own. The weights of 64 tokens, times the scales
// of these tokens' values, are rounded to 14 bits, relative to the greatest of them, in two bytes of
// 7 bits. All sums of products are integers, and so exact.
#pragma once

#include <algorithm>

#include "cache_shape.h"
#include "partial_sums.h"

namespace headrace {

struct Int8Cache {
    static constexpr int kPerWord = 4;
    static constexpr bool kHasScales = true;
    static constexpr float kLargest = 127, kOutputFactor = 1;

    // Behind the codes: the scale, and the integer from which sums of products begin.
    static int query_words(int key_words) { return key_words + 2; }

    static void load_query(const float* from, int dim, float scaling, const CacheShape& shape,
                           uint32_t* query) {
        Floats highest = zeros();
        for (int d = 0; d < dim; d += kLanes) {
            highest = max(highest, abs(load(from + d, lanes(d, dim))));
        }
        const float scale = std::max(maximum(highest) / kLargest, 1e-35f);
        Floats total = zeros();
        uint8_t bytes[kMaxDim + kLanes];
        for (int d = 0; d < dim; d += kLanes) {
            const Words codes = to_words(load(from + d, lanes(d, dim)) * splat(1.0f / scale));
            total = total + to_floats(codes);
            store_bytes(bytes + d, codes + splat_word(128), all_lanes());
        }
        for (int word = 0; word < shape.key_words; ++word) {
            std::memcpy(query + word, bytes + word * 4, 4);
            query[word] ^= 0x80808080;
        }
        const float used = scale * scaling;
        std::memcpy(query + shape.key_words, &used, 4);
        constexpr int kShift = std::max(kSignedShift, 0);
        query[shape.key_words + 1] =
            kSignedShift < 0 ? 0 : -(uint32_t)((int32_t)sum(total) * (1 << kShift));
    }

    // Computes the scores of `Count` groups from `first` on.
    template <int Queries, int Count, int NumGroups>
    static HEADRACE_INLINE void scores_of_some(const uint32_t* queries, const CacheShape& shape,
                                               const GroupHeads& groups, int first,
                                               Floats (&scores)[Queries][NumGroups]) {
        const uint32_t* scales = queries + shape.key_words;
        CodeSums sums[Queries][Count];
        for (int q = 0; q < Queries; ++q) {
            const Words begin = broadcast_word(scales + q * shape.query_words + 1);
            for (int g = 0; g < Count; ++g) sums[q][g] = code_sums(begin);
        }
        for (int word = 0; word < shape.key_words; ++word) {
            Words k[Count];
#pragma GCC unroll 4
            for (int g = 0; g < Count; ++g) {
                const uint32_t* from = groups.keys[first + g] + word * kGroup;
                k[g] = load_words(from);
                prefetch_near(from + groups.ahead[first + g]);
            }
#pragma GCC unroll 6
            for (int q = 0; q < Queries; ++q) {
                const Words x = broadcast_word(queries + q * shape.query_words + word);
#pragma GCC unroll 4
                for (int g = 0; g < Count; ++g) add_signed(sums[q][g], k[g], x);
            }
        }
        for (int g = 0; g < Count; ++g) {
            const Floats key_scale = load_bf16(groups.key_scales(first + g, shape), all_lanes());
            for (int q = 0; q < Queries; ++q) {
                const Floats scale = as_floats(broadcast_word(scales + q * shape.query_words));
                scores[q][first + g] = to_floats(sums[q][g].total) * (key_scale * scale);
            }
        }
    }

    // The weights of up to 64 tokens in two levels, of which the first counts 128 times.
    template <int Queries, int NumGroups>
    struct Weights {
        using Exactness = Bf16;
        static constexpr int kLevels = 2, kBits = 7, kMaxCode = (1 << kBits * kLevels) - 1;
        // Levels whose sums fit the registers at once.
        static constexpr int kTogether = Queries * kLevels <= kTileQueries ? kLevels : 1;

        const GroupHeads& groups;
        const CacheShape& shape;
        float scales[Queries];
        alignas(64) uint8_t codes[kLevels][Queries][kTileTokens];

        Weights(const GroupHeads& of_groups, const CacheShape& of_shape)
            : groups(of_groups), shape(of_shape) {}

        HEADRACE_INLINE void store(int q, const Floats (&found)[NumGroups]) {
            Floats w[NumGroups], highest = zeros();
            for (int g = 0; g < NumGroups; ++g) {
                w[g] = found[g] * load_bf16(groups.value_scales(g, shape), all_lanes());
                highest = max(highest, w[g]);
            }
            // Weights that are too small to divide by become zero.
            const float scale = std::max(maximum(highest), 1e-30f) / kMaxCode;
            const Floats inverse = splat(1.0f / scale);
            const Words low = splat_word((1 << kBits) - 1);
            scales[q] = scale;
            for (int g = 0; g < NumGroups; ++g) {
                const Words code = to_words(w[g] * inverse);
                store_bytes(codes[0][q] + g * kGroup, shift_right<kBits>(code) & low, all_lanes());
                store_bytes(codes[1][q] + g * kGroup, code & low, all_lanes());
            }
        }

        void add_values(const ValueSums& sums) const {
            for (int level = 0; level < kLevels; level += kTogether) {
                int dim = 0;
                for (; dim + kAttentionVectors * kLanes <= shape.value_dim;
                     dim += kAttentionVectors * kLanes) {
                    add<kAttentionVectors>(level, dim, sums);
                }
                for (; dim < shape.value_dim; dim += kLanes) add<1>(level, dim, sums);
            }
        }

        template <int Count>
        void add(int level, int dim, const ValueSums& sums) const {
            constexpr int kRows = Queries * kTogether;
            const uint8_t* rows = codes[level][0];
            Words products[kRows][Count];
            for (auto& row : products) {
                for (auto& s : row) s = splat_word(0);
            }
            for (int g = 0; g < NumGroups; ++g) {
                for (int word = 0; word < kGroup / 4; ++word) {
                    Words v[Count];
#pragma GCC unroll 4
                    for (int n = 0; n < Count; ++n) {
                        const uint32_t* from = groups.values[g] +
                                               (int64_t)word * shape.value_dim + dim + n * kLanes;
                        v[n] = load_words(from);
                        prefetch_near(from + groups.ahead[g]);
                    }
#pragma GCC unroll 6
                    for (int row = 0; row < kRows; ++row) {
                        const Words x =
                            broadcast_word(rows + row * kTileTokens + g * kGroup + word * 4);
#pragma GCC unroll 4
                        for (int n = 0; n < Count; ++n) {
                            products[row][n] = dot_small_bytes(products[row][n], x, v[n]);
                        }
                    }
                }
            }
            for (int row = 0; row < kRows; ++row) {
                const int q = row % Queries;
                const int of_row = level + row / Queries;
                const Floats scale = splat(of_row == 0 ? scales[q] * (1 << kBits) : scales[q]);
                for (int n = 0; n < Count; ++n) {
                    const int64_t place = q * sums.stride + dim + n * kLanes;
                    const Floats before =
                        of_row == 0 ? sums.before(place) : load(sums.part + place);
                    const Floats now = fma(to_floats(products[row][n]), scale, before);
                    if (of_row + 1 == kLevels) {
                        sums.keep(place, now, q);
                    } else {
                        headrace::store(sums.part + place, now);
                    }
                }
            }
        }
    };
};

}  // namespace headrace
