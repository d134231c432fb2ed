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
#include <cstdlib>
#include <limits>

#include "float_cache.h"
#include "int8_cache.h"
#include "partial_sums.h"

namespace headrace {

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

    int64_t length() const { return (int64_t)context + num_rows; }
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

// Tokens begin to end - 1.
struct TokenRange {
    int64_t begin, end;
};

// window: a query reads its own token and those before it, with a window > 0 only window tokens in
// all; with one < 0 it reads the tokens before and after it that are less than -window away.
struct AttentionSizes {
    int heads, kv_heads, key_dim, value_dim;
    int window;
    float scaling, softcap;  // 0: none
    int32_t cache;           // a CacheKind

    int shared() const { return heads / kv_heads; }

    // What the query of a token reads in a sequence of `length` tokens.
    TokenRange visible(int64_t token, int64_t length) const {
        const int64_t width = std::abs((int64_t)window);
        return {window ? std::max<int64_t>(0, token + 1 - width) : 0,
                window < 0 ? std::min(token + width, length) : token + 1};
    }
};

// Numbers that are added to scores, for each query head by how far the key's token is after the
// query's. [heads, stride]; a row's number `centre` is that of the query's own token. They are
// exponents of two, as scores are, and there are numbers for 15 tokens beyond the last.
struct ScoreBias {
    const float* numbers;
    int32_t stride, centre;
};

constexpr float kLog2OfE = 1.44269504f;
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
// exponents of two, minus infinity where the query may not read. is_first: there are no sums yet.
template <class Weights, int NumGroups>
HEADRACE_INLINE void compute_weights(const Floats (&scores)[NumGroups], bool is_first,
                                     Weights& weights, const PartialSums& sums, int q,
                                     int value_dim) {
    Floats highest = scores[0];
    for (int g = 1; g < NumGroups; ++g) highest = max(highest, scores[g]);
    if (is_first) {
        const float now = maximum(highest);
        sums.maximum[q] = now > kNoScore ? now : kNoScore;  // this one for NaN, too
    } else if (__builtin_expect(any(less(splat(sums.maximum[q] + kSlack), highest)), 0)) {
        raise_maximum(maximum(highest), sums, q, value_dim);
    }
    const Floats reference = splat(sums.maximum[q]);
    Floats total = is_first ? zeros() : load(sums.total + q * kLanes);
    Floats found[NumGroups];
    for (int g = 0; g < NumGroups; ++g) {
        found[g] = exp2<typename Weights::Exactness>(scores[g] - reference);
        total = total + found[g];
    }
    weights.store(q, found);
    store(sums.total + q * kLanes, total);
}

// A tile while it is computed.
struct TileContext {
    const Tile& tile;
    const Span& span;
    const CacheShape& shape;
    const AttentionSizes& sizes;
    const uint32_t* queries;
    PartialSums all, part;  // of the parts so far; of one that is not the first
    int64_t common_begin, common_end;  // the tokens that all of the queries may read
    const ScoreBias* bias;             // null: none
    int head;                          // the key head
};

// Which part of a tile 64 tokens belong to.
struct Place {
    int64_t token;  // the first of them
    bool is_in_first, begins, ends;  // the tile's first part; a part
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
        const TokenRange visible =
            r.sizes.visible(r.span.context + (r.tile.first + q) / shared, r.span.length());
        const int64_t low = std::max<int64_t>(visible.begin, r.tile.begin);
        const int64_t high = std::min<int64_t>(visible.end, r.tile.end);
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

// Adds the bias to the scores of up to 64 tokens from `token` on.
template <int Queries, int NumGroups>
HEADRACE_INLINE void add_bias(const TileContext& r, int64_t token,
                              Floats (&scores)[Queries][NumGroups]) {
    const int shared = r.sizes.shared();
    for (int q = 0; q < Queries; ++q) {
        const int number = r.tile.first + q;
        const int64_t after = token - r.span.context - number / shared;
        const float* from = r.bias->numbers +
                            ((int64_t)r.head * shared + number % shared) * r.bias->stride +
                            r.bias->centre + after;
        for (int g = 0; g < NumGroups; ++g) {
            scores[q][g] = scores[q][g] + load(from + g * kGroup);
        }
    }
}

// Adds the attention to up to 64 tokens.
template <class Cache, int Queries, int NumGroups>
void attend_groups(const TileContext& r, const Place& place, const GroupHeads& groups) {
    const int64_t token = place.token;
    Floats scores[Queries][NumGroups];
    compute_scores<Cache>(r, groups, scores);
    if (r.sizes.softcap != 0) apply_softcap(r.sizes.softcap, scores);
    if (r.bias) add_bias(r, token, scores);
    if (token < r.common_begin || token + NumGroups * kGroup > r.common_end) {
        mask_scores(r, token, scores);
    }
    typename Cache::template Weights<Queries, NumGroups> weights(groups, r.shape);
    const PartialSums& sums = place.is_in_first ? r.all : r.part;
    for (int q = 0; q < Queries; ++q) {
        compute_weights(scores[q], place.begins, weights, sums, q, r.shape.value_dim);
    }
    if (place.is_in_first || !place.ends) {
        weights.add_values({sums.values, nullptr, sums.stride, nullptr, place.begins});
        return;
    }
    const MergeScales scales(r.all.maximum, sums.maximum, Queries);
    for (int q = 0; q < Queries; ++q) {
        add_part(r.all.total + q * kLanes, load(sums.total + q * kLanes), scales, q);
    }
    weights.add_values({sums.values, r.all.values, sums.stride, &scales, place.begins});
}

template <class Cache, int Queries>
void attend_head(const TileContext& r, const Place& place, int count, const GroupHeads& groups) {
    switch (count) {
        case 1:
            return attend_groups<Cache, Queries, 1>(r, place, groups);
        case 2:
            return attend_groups<Cache, Queries, 2>(r, place, groups);
        case 3:
            return attend_groups<Cache, Queries, 3>(r, place, groups);
        default:
            return attend_groups<Cache, Queries, 4>(r, place, groups);
    }
}

// The groups of the 64 tokens from `token` on, as far as they are read; returns their number.
inline int find_groups(const TileContext& r, const BlockTable& blocks, const uint32_t* cache,
                       int64_t token, const uint32_t* (&found)[kTileGroups]) {
    int count = 0;
    for (; count < kTileGroups && token + count * kGroup < r.tile.end; ++count) {
        found[count] = cache + blocks.group_of(token + count * kGroup) * r.shape.group() +
                       r.tile.head * r.shape.head();
    }
    return count;
}

// Computes a tile on one layer's cache, or one part of it; the sums are not divided by the total yet.
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
    Place place{first, true, true, false};
    int64_t end = part_end(first);
    for (; place.token < r.tile.end; place.token += kTileTokens) {
        const int64_t after = place.token + kTileTokens;
        if (place.token == end) {
            end = part_end(end);
            place.is_in_first = false;
            place.begins = true;
        }
        place.ends = after == end || after >= r.tile.end;
        const int count = next_count;
        std::copy_n(next, count, groups.keys);
        next_count = find_groups(r, blocks, cache, after, next);
        for (int g = 0; g < count; ++g) {
            groups.ahead[g] = fetches_ahead && g < next_count ? next[g] - groups.keys[g] : 0;
        }
        TileContext of_head = r;
        for (int head = 0; head < r.tile.heads; ++head) {
            for (int g = 0; g < count; ++g) groups.values[g] = groups.keys[g] + r.shape.key_group();
            attend_head<Cache, Queries>(of_head, place, count, groups);
            for (int g = 0; g < count; ++g) groups.keys[g] += head_words;
            ++of_head.head;
            of_head.queries += Queries * r.shape.query_words;
            of_head.all = of_head.all.from(Queries);
            of_head.part = of_head.part.from(Queries);
        }
        place.begins = false;
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
