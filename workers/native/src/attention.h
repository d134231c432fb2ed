// Attention over a paged cache; see cache_shape.h for how that lies in memory.
//
// A tile is up to 6 queries that read the same keys: the query heads that share a key head, of one
// row or of neighbouring rows. Scores of 64 tokens are computed at a time, with a running maximum
// (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022). What depends on the format of
// the cache is in float_cache.h and int8_cache.h: how a query is stored, its scores, and the weighted
// sums of values.
//
// A row's attention does not depend, to the last bit, on what else is in the step, on how its
// sequence was split into steps or on the number of threads: sums are made of parts that begin and
// end at fixed tokens, whichever thread computes them, and merged from the first to the last.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "float_cache.h"
#include "int8_cache.h"

namespace headrace {

constexpr int kMaxTileRows = 64;  // queries of all heads of a tile

// The end of the part of a sequence that holds `token`. Parts grow with a sequence, so that few are
// needed and a step of one short sequence still has work for some threads.
inline int64_t part_end(int64_t token) {
    const int64_t length = token < 512 ? 64 : token < 1024 ? 128 : 256;
    return (token / length + 1) * length;
}

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
template <class Weights, int NumGroups>
HEADRACE_INLINE void compute_weights(const Floats (&scores)[NumGroups], Weights& weights,
                                     const PartialSums& sums, int q, int value_dim) {
    Floats highest = scores[0];
    for (int g = 1; g < NumGroups; ++g) highest = max(highest, scores[g]);
    if (__builtin_expect(any(less(splat(sums.maximum[q] + kSlack), highest)), 0)) {
        raise_maximum(maximum(highest), sums, q, value_dim);
    }
    const Floats reference = splat(sums.maximum[q]);
    Floats total = load(sums.total + q * kLanes);
    Floats found[NumGroups];
    for (int g = 0; g < NumGroups; ++g) {
        found[g] = exp2<typename Weights::Exactness>(scores[g] - reference);
        total = total + found[g];
    }
    weights.store(q, found);
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
    int64_t fetch_end;  // the end of what is read next, of which the tile may be a part
};

// Computes the scores of up to 64 tokens, of as many at a time as the registers hold.
template <class Cache, int Queries, int NumGroups>
inline void compute_scores(const TileContext& r, const GroupHeads& groups,
                           Floats (&scores)[Queries][NumGroups]) {
    constexpr int kTogether = std::min(NumGroups, kAttentionVectors);
    for (int g = 0; g < NumGroups; g += kTogether) {
        Cache::template scores_of_some<Queries, kTogether>(r.queries, r.shape, groups, g, scores);
    }
}

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
template <class Cache, int Queries, int NumGroups>
void attend_groups(const TileContext& r, int64_t token, const GroupHeads& groups) {
    Floats scores[Queries][NumGroups];
    compute_scores<Cache>(r, groups, scores);
    if (r.sizes.softcap != 0) apply_softcap(r.sizes.softcap, scores);
    if (token < r.common_begin || token + NumGroups * kGroup > r.common_end) {
        mask_scores(r, token, scores);
    }
    typename Cache::template Weights<Queries, NumGroups> weights(groups, r.shape);
    for (int q = 0; q < Queries; ++q) {
        compute_weights(scores[q], weights, r.sums, q, r.shape.value_dim);
    }
    weights.add_values(r.sums.values, r.sums.stride);
}

template <class Cache, int Queries>
void attend_head(const TileContext& r, int64_t token, int count, const GroupHeads& groups) {
    switch (count) {
        case 1:
            return attend_groups<Cache, Queries, 1>(r, token, groups);
        case 2:
            return attend_groups<Cache, Queries, 2>(r, token, groups);
        case 3:
            return attend_groups<Cache, Queries, 3>(r, token, groups);
        default:
            return attend_groups<Cache, Queries, 4>(r, token, groups);
    }
}

// The groups of the 64 tokens from `token` on, as far as they are read; returns their number.
inline int find_groups(const TileContext& r, const BlockTable& blocks, const uint32_t* cache,
                       int64_t token, const uint32_t* (&found)[kTileGroups]) {
    int count = 0;
    for (; count < kTileGroups && token + count * kGroup < r.fetch_end; ++count) {
        found[count] = cache + blocks.group_of(token + count * kGroup) * r.shape.group() +
                       r.tile.head * r.shape.head();
    }
    return count;
}

// Computes one part of a tile on one layer's cache; the sums are not divided by the total yet.
template <class Cache, int Queries>
void attend_tile(const TileContext& r, const BlockTable& blocks, const uint32_t* cache) {
    const int64_t first = r.tile.begin / kTileTokens * kTileTokens;  // the same 64 for all rows
    const int64_t head_words = r.shape.head();
    // With words of 8 bits, too much is computed between two reads for the processor to fetch ahead
    // by itself. A tile of one head reads what the tile before it has read.
    const bool fetches_ahead =
        (Cache::kHasScales || !kHasBf16Dot) && (r.tile.heads > 1 || r.shape.kv_heads == 1);
    GroupHeads groups;
    const uint32_t* next[kTileGroups];
    int next_count = find_groups(r, blocks, cache, first, next);
    for (int64_t token = first; token < r.tile.end; token += kTileTokens) {
        const int count = next_count;
        std::copy_n(next, count, groups.keys);
        next_count = find_groups(r, blocks, cache, token + kTileTokens, next);
        for (int g = 0; g < count; ++g) {
            groups.ahead[g] = fetches_ahead && g < next_count ? next[g] - groups.keys[g] : 0;
        }
        TileContext part = r;
        for (int head = 0; head < r.tile.heads; ++head) {
            for (int g = 0; g < count; ++g) groups.values[g] = groups.keys[g] + r.shape.key_group();
            attend_head<Cache, Queries>(part, token, count, groups);
            for (int g = 0; g < count; ++g) groups.keys[g] += head_words;
            part.queries += Queries * r.shape.query_words;
            part.sums = part.sums.from(Queries);
        }
    }
}

template <class Cache>
void attend(const TileContext& context, const BlockTable& blocks, const uint32_t* cache) {
    switch (context.tile.count) {
#define HEADRACE_QUERIES(n)                        \
    case n:                                        \
        attend_tile<Cache, n>(context, blocks, cache); \
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

}  // namespace headrace
