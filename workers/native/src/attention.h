// Attention over a paged cache.
//
// The cache is cut into groups of 16 tokens; in a group each head's keys stand before its values,
// so that a step reads one piece of memory after another. The keys of one head are stored word by
// word (the first word of all 16 tokens, then their second ...), so that 16 scores come out of one
// register without horizontal sums; values are stored by words of neighbouring tokens, so that
// their weighted sum reads 16 dimensions at a time. A tile is up to 6 queries that read the same
// keys: the query heads that share a key head, of one row or of neighbouring rows. Scores of 64
// tokens are computed at a time, with a running maximum (Milakov and Gimelshein, 2018; Dao et al.,
// "FlashAttention", 2022).
//
// A row's attention does not depend, to the last bit, on what else is in the step, on how its
// sequence was split into steps or on the number of threads: sums are made of parts that begin and
// end at fixed tokens, whichever thread computes them, and merged from the first to the last.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "elements.h"

namespace headrace {

constexpr int kGroup = 16;  // tokens
constexpr int kTileQueries = 6;
constexpr int kMaxTileRows = 64;  // queries of all heads of a tile
constexpr int kTileGroups = 4;
constexpr int kTileTokens = kGroup * kTileGroups;
constexpr int kMaxDim = 512;

// The end of the part of a sequence that holds `token`. Parts grow with a sequence, so that few are
// needed and a step of one short sequence still has work for some threads.
inline int64_t part_end(int64_t token) {
    const int64_t length = token < 512 ? 64 : token < 1024 ? 128 : 256;
    return (token / length + 1) * length;
}

// Sizes of one layer's cache, in words. parts: the words of a query for one word of a key (kParts).
struct CacheShape {
    int kv_heads, key_words, value_dim;  // value_dim: rounded up to 16
    int per_word, parts;

    int64_t query_words() const { return (int64_t)key_words * parts; }
    int64_t key_group() const { return (int64_t)key_words * kGroup; }
    int64_t value_group() const { return (int64_t)value_dim * (kGroup / per_word); }
    int64_t head() const { return key_group() + value_group(); }  // of one group
    int64_t group() const { return head() * kv_heads; }
};

// One sequence's rows in a step. context: tokens before its first row. table_offset: where its
// blocks begin in Step::blocks.
struct Span {
    int32_t first_row, num_rows, context, table_offset;
};

// The blocks of a sequence: token t is in group `group_of(t)` of the cache.
struct BlockTable {
    const int32_t* table;
    int32_t block_size;

    int64_t group_of(int64_t token) const {
        const int64_t block = token / block_size;
        return (int64_t)table[block] * (block_size / kGroup) + (token % block_size) / kGroup;
    }
};

// Queries first to first + count - 1 of a span, numbered row by row and then by query head of the
// key head, for the key heads head to head + heads - 1, one after another; they read the tokens
// begin to end - 1. partial: the index of the part's sums, -1 if the tile is not split.
struct Tile {
    int32_t span, head, heads, first, count, begin, end, partial;

    int rows() const { return heads * count; }
};

struct AttentionSizes {
    int heads, kv_heads, key_dim, value_dim;
    int window;  // 0: none
    float scaling, softcap;  // 0: none

    int shared() const { return heads / kv_heads; }
};

constexpr float kLog2OfE = 1.44269504f;
constexpr float kNoScore = -1e30f;  // the maximum of no scores

// Partial softmax sums of some queries: a score near the maximal one, the sum of weights in 16
// lanes, and the weighted sum of values. A weight is 2 to the power of a score less that maximum.
struct PartialSums {
    float* maximum;
    float* total;   // [queries, kLanes]
    float* values;  // [queries, stride]
    int64_t stride;

    PartialSums from(int q) const {
        return {maximum + q, total + q * kLanes, values + q * stride, stride};
    }
    float total_of(int q) const {
        return sum(load(total + q * kLanes));
    }
};

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

template <class E, int Queries, int Count>
HEADRACE_INLINE void attention_parts(const uint32_t* rows, int64_t stride,
                                     const uint32_t* const (&words)[Count],
                                     Floats (&sums)[Queries][Count]) {
    attention_part<E, 0>(rows, stride, words, sums);
    if constexpr (E::kParts == 2) attention_part<E, 1>(rows, stride, words, sums);
}

// Computes the scores of `Count` groups from `first` on.
template <class E, int Queries, int Count, int NumGroups>
HEADRACE_INLINE void scores_of_some(const uint32_t* queries, int key_words,
                                    const uint32_t* const (&keys)[kTileGroups], int first,
                                    Floats (&scores)[Queries][NumGroups]) {
    Floats sums[Queries][Count];
    for (auto& row : sums) {
        for (auto& s : row) s = zeros();
    }
    for (int word = 0; word < key_words; ++word) {
        const uint32_t* k[Count];
        for (int g = 0; g < Count; ++g) k[g] = keys[first + g] + word * kGroup;
        attention_parts<E>(queries + word * E::kParts, (int64_t)key_words * E::kParts, k, sums);
    }
    for (int q = 0; q < Queries; ++q) {
        for (int g = 0; g < Count; ++g) scores[q][first + g] = sums[q][g];
    }
}

template <class E, int Queries, int NumGroups>
void scores_of(const uint32_t* queries, int key_words, const uint32_t* const (&keys)[kTileGroups],
               Floats (&scores)[Queries][NumGroups]) {
    constexpr int kTogether = std::min(NumGroups, kAttentionVectors);
    for (int g = 0; g < NumGroups; g += kTogether) {
        scores_of_some<E, Queries, kTogether>(queries, key_words, keys, g, scores);
    }
}

template <class E, int Queries, int Count>
void add_values(const uint32_t* weights, const uint32_t* const (&values)[kTileGroups], int groups,
                int value_dim, int dim, float* sums, int64_t stride) {
    constexpr int kWords = kGroup / E::kPerWord;
    constexpr int kWeightWords = kTileTokens / E::kPerWord * E::kParts;
    Floats acc[Queries][Count];
    for (int q = 0; q < Queries; ++q) {
        for (int n = 0; n < Count; ++n) acc[q][n] = load(sums + q * stride + dim + n * kLanes);
    }
    for (int g = 0; g < groups; ++g) {
        for (int word = 0; word < kWords; ++word) {
            const uint32_t* v[Count];
            for (int n = 0; n < Count; ++n) {
                v[n] = values[g] + (int64_t)word * value_dim + dim + n * kLanes;
            }
            attention_parts<E>(weights + (g * kWords + word) * E::kParts, kWeightWords, v, acc);
        }
    }
    for (int q = 0; q < Queries; ++q) {
        for (int n = 0; n < Count; ++n) store(sums + q * stride + dim + n * kLanes, acc[q][n]);
    }
}

// The lanes of the 16 tokens from `token` on that a query may read: those from low to high - 1.
inline Mask visible_lanes(int64_t token, int64_t low, int64_t high) {
    return lanes_between(std::clamp<int64_t>(low - token, 0, kGroup),
                         std::clamp<int64_t>(high - token, 0, kGroup));
}

// A running maximum is kept if it is too low by up to this power of 2: the weights are then greater
// than one but as exact, and the sums so far need not be rescaled.
constexpr float kSlack = 8;

// Raises the running maximum of one query and rescales its sums so far.
__attribute__((noinline)) inline void raise_maximum(float now, const PartialSums& sums, int q,
                                                    int value_dim) {
    const Floats scale = splat(std::exp2(sums.maximum[q] - now));
    const auto shrink = [scale](float* to) { store(to, load(to) * scale); };
    sums.maximum[q] = now;
    shrink(sums.total + q * kLanes);
    for (int d = 0; d < value_dim; d += kLanes) shrink(sums.values + q * sums.stride + d);
}

// Computes the weights of one query for up to 64 tokens and updates its sum of weights. Scores are
// exponents of two, minus infinity where the query may not read.
template <class E, int NumGroups>
HEADRACE_INLINE void compute_weights(const Floats (&scores)[NumGroups],
                                     typename E::Row::Element* weights, const PartialSums& sums,
                                     int q, int value_dim) {
    Floats highest = scores[0];
    for (int g = 1; g < NumGroups; ++g) highest = max(highest, scores[g]);
    if (__builtin_expect(any(less(splat(sums.maximum[q] + kSlack), highest)), 0)) {
        raise_maximum(maximum(highest), sums, q, value_dim);
    }
    const Floats reference = splat(sums.maximum[q]);
    Floats total = load(sums.total + q * kLanes);
    for (int g = 0; g < NumGroups; ++g) {
        const Floats w = exp2<E>(scores[g] - reference);
        total = total + w;
        E::Row::store(weights + g * kGroup, w);
    }
    store(sums.total + q * kLanes, total);
}

// The factors of the sums so far and of a part's sums for their common maximum; one factor is 1.
struct MergeScales {
    float before[kMaxTileRows], added[kMaxTileRows];

    MergeScales(float* maximum, const float* part_maximum, int rows) {
        const Floats one = splat(1.0f);
        for (int q = 0; q < rows; q += kLanes) {
            const Mask mask = lanes(q, rows);
            const Floats a = load(maximum + q, mask), b = load(part_maximum + q, mask);
            const Floats factor = exp2<F32>(min(a, b) - max(a, b));
            store(before + q, select(less_equal(b, a), one, factor));
            store(added + q, select(less_equal(a, b), one, factor));
            store(maximum + q, max(a, b), mask);
        }
    }
};

// Adds the sums of a part to those of all parts before it. A part without tokens that a query may
// read does not change the query's sums.
inline void merge(const PartialSums& all, const PartialSums& part, int rows, int value_dim) {
    const MergeScales scales(all.maximum, part.maximum, rows);
    for (int q = 0; q < rows; ++q) {
        const Floats before = splat(scales.before[q]), added = splat(scales.added[q]);
        const auto add = [&](float* to, const float* from) {
            store(to, fma(load(from), added, load(to) * before));
        };
        add(all.total + q * kLanes, part.total + q * kLanes);
        for (int d = 0; d < value_dim; d += kLanes) {
            add(all.values + q * all.stride + d, part.values + q * part.stride + d);
        }
    }
}

// A tile while it is computed.
struct TileContext {
    const Tile& tile;
    const Span& span;
    const CacheShape& shape;
    const AttentionSizes& sizes;
    const uint32_t* queries;
    PartialSums sums;
    int64_t common_begin, common_end;  // the tokens that all of the queries may read
};

// Sets the scores of up to 64 tokens from `token` on to minus infinity where a query may not read.
template <int Queries, int NumGroups>
void mask_scores(const TileContext& r, int64_t token, Floats (&scores)[Queries][NumGroups]) {
    const int shared = r.sizes.shared();
    const Floats nothing = splat(-std::numeric_limits<float>::infinity());
    for (int q = 0; q < Queries; ++q) {
        const int64_t seen = r.span.context + (r.tile.first + q) / shared + 1;
        const int64_t first = r.sizes.window ? std::max<int64_t>(0, seen - r.sizes.window) : 0;
        const int64_t low = std::max<int64_t>(first, r.tile.begin);
        const int64_t high = std::min<int64_t>(seen, r.tile.end);
        for (int g = 0; g < NumGroups; ++g) {
            const Mask visible = visible_lanes(token + g * kGroup, low, high);
            scores[q][g] = select(visible, scores[q][g], nothing);
        }
    }
}

template <int Queries, int NumGroups>
void apply_softcap(float softcap, Floats (&scores)[Queries][NumGroups]) {
    for (auto& row : scores) {
        for (auto& s : row) {
            s = tanh(s * splat(1.0f / softcap)) * splat(softcap * kLog2OfE);
        }
    }
}

// Adds the attention to up to 64 tokens from `token` on.
template <class E, int Queries, int NumGroups>
void attend_groups(const TileContext& r, int64_t token, const uint32_t* const (&keys)[kTileGroups],
                   const uint32_t* const (&values)[kTileGroups]) {
    alignas(64) typename E::Row::Element weights[Queries * kTileTokens];
    Floats scores[Queries][NumGroups];
    scores_of<E, Queries, NumGroups>(r.queries, r.shape.key_words, keys, scores);
    if (r.sizes.softcap != 0) apply_softcap(r.sizes.softcap, scores);
    if (token < r.common_begin || token + NumGroups * kGroup > r.common_end) {
        mask_scores(r, token, scores);
    }
    const int value_dim = r.shape.value_dim;
    for (int q = 0; q < Queries; ++q) {
        compute_weights<E, NumGroups>(scores[q], weights + q * kTileTokens, r.sums, q, value_dim);
    }
    const auto* words = (const uint32_t*)weights;
    int dim = 0;
    for (; dim + kAttentionVectors * kLanes <= value_dim; dim += kAttentionVectors * kLanes) {
        add_values<E, Queries, kAttentionVectors>(words, values, NumGroups, value_dim, dim,
                                                  r.sums.values, r.sums.stride);
    }
    for (; dim < value_dim; dim += kLanes) {
        add_values<E, Queries, 1>(words, values, NumGroups, value_dim, dim, r.sums.values,
                                  r.sums.stride);
    }
}

template <class E, int Queries>
void attend_head(const TileContext& r, int64_t token, int count,
                 const uint32_t* const (&keys)[kTileGroups],
                 const uint32_t* const (&values)[kTileGroups]) {
    switch (count) {
        case 1:
            return attend_groups<E, Queries, 1>(r, token, keys, values);
        case 2:
            return attend_groups<E, Queries, 2>(r, token, keys, values);
        case 3:
            return attend_groups<E, Queries, 3>(r, token, keys, values);
        default:
            return attend_groups<E, Queries, 4>(r, token, keys, values);
    }
}

// Computes one part of a tile on one layer's cache; the sums are not divided by the total yet.
template <class E, int Queries>
void attend_tile(const TileContext& r, const BlockTable& blocks, const uint32_t* cache) {
    const int64_t first = r.tile.begin / kTileTokens * kTileTokens;  // the same 64 for all rows
    for (int64_t token = first; token < r.tile.end; token += kTileTokens) {
        const uint32_t *keys[kTileGroups], *values[kTileGroups];
        int count = 0;
        for (; count < kTileGroups && token + count * kGroup < r.tile.end; ++count) {
            keys[count] = cache + blocks.group_of(token + count * kGroup) * r.shape.group() +
                          r.tile.head * r.shape.head();
        }
        TileContext part = r;
        for (int head = 0; head < r.tile.heads; ++head) {
            for (int g = 0; g < count; ++g) values[g] = keys[g] + r.shape.key_group();
            attend_head<E, Queries>(part, token, count, keys, values);
            for (int g = 0; g < count; ++g) keys[g] += r.shape.head();
            part.queries += Queries * r.shape.query_words();
            part.sums = part.sums.from(Queries);
        }
    }
}

template <class E>
void attend(const TileContext& context, const BlockTable& blocks, const uint32_t* cache) {
    switch (context.tile.count) {
#define HEADRACE_QUERIES(n)                        \
    case n:                                        \
        attend_tile<E, n>(context, blocks, cache); \
        break;
        HEADRACE_QUERIES(1)
        HEADRACE_QUERIES(2)
        HEADRACE_QUERIES(3)
        HEADRACE_QUERIES(4)
        HEADRACE_QUERIES(5)
        HEADRACE_QUERIES(6)
#undef HEADRACE_QUERIES
    }
}

// Stores one token's keys and values (float32, a row of heads each) in its group.
template <class E>
void store_token(int64_t index, const float* key, const float* value, int key_dim, int value_dim,
                 int key_stride, int value_stride, const CacheShape& shape, uint32_t* group) {
    alignas(64) typename E::Element row[kMaxDim + 2];
    for (int head = 0; head < shape.kv_heads; ++head) {
        std::memset(row + key_dim, 0, 2 * sizeof row[0]);
        for (int d = 0; d < key_dim; d += kLanes) {
            const Mask mask = lanes(d, key_dim);
            E::store(row + d, load(key + head * key_stride + d, mask), mask);
        }
        uint32_t* to = group + head * shape.head() + index;
        for (int word = 0; word < shape.key_words; ++word) {
            std::memcpy(to + word * kGroup, row + word * E::kPerWord, 4);
        }
        auto* column = (typename E::Element*)(group + head * shape.head() + shape.key_group() +
                                              index / E::kPerWord * shape.value_dim) +
                       index % E::kPerWord;
        for (int d = 0; d < value_dim; d += kLanes) {
            const Mask mask = lanes(d, value_dim);
            E::store(row, load(value + head * value_stride + d, mask), mask);
            for (int i = 0; i < std::min(kLanes, value_dim - d); ++i) {
                column[(int64_t)(d + i) * E::kPerWord] = row[i];
            }
        }
    }
}

// Sets the values of tokens index to 15 of a group to zero: a weight of zero would not cancel
// values that are not finite, in memory that was never written or that a failed sequence left
// behind.
template <class E>
void clear_values(int64_t index, const CacheShape& shape, uint32_t* group) {
    for (int head = 0; head < shape.kv_heads; ++head) {
        uint32_t* values = group + head * shape.head() + shape.key_group();
        int64_t word = index / E::kPerWord;
        for (int64_t p = index; p % E::kPerWord; ++p, word = index / E::kPerWord + 1) {
            auto* column =
                (typename E::Element*)(values + word * shape.value_dim) + p % E::kPerWord;
            for (int d = 0; d < shape.value_dim; ++d) column[(int64_t)d * E::kPerWord] = 0;
        }
        const int64_t cleared = word * shape.value_dim;
        std::memset(values + cleared, 0, (shape.value_group() - cleared) * sizeof *values);
    }
}

}  // namespace headrace
