// Attention over a paged cache.
//
// The cache is cut into groups of 16 tokens; in a group each head's keys stand before its values, so
// that a step reads one piece of memory after another. The keys of one head are stored word by word
// (all 16 tokens' first word, then their second ...), so that 16 scores come out of one register
// without sums across it; values are stored by words of neighbouring tokens, so that their weighted
// sum reads 16 dimensions at a time. A tile is up to 6 queries that read the same keys: the query
// heads that share a key head, of one row or of neighbouring rows. Scores of 64 tokens are made at a
// time, with a running maximum (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022).
//
// What a row's attention is does not depend on what else is in the step, on how its text was cut into
// steps or on the number of threads, to the last bit: sums are made of parts that begin and end at
// fixed tokens, whoever makes them, and put together from the first to the last.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "rows.h"
#include "simd.h"

namespace headrace {

constexpr int kGroup = 16;  // tokens
constexpr int kTileQueries = 6;
constexpr int kMaxTileRows = 64;  // queries of all heads of a tile
constexpr int kTileGroups = 4;
constexpr int kTileTokens = kGroup * kTileGroups;
constexpr int kMaxDim = 512;

// Where the part of a text that holds `token` ends. Parts grow with a text, so that few are needed
// and a step of one short text still has work for some threads.
inline int64_t part_end(int64_t token) {
    const int64_t length = token < 512 ? 64 : token < 1024 ? 128 : 256;
    return (token / length + 1) * length;
}

// Sizes of one layer's cache, in words.
struct CacheShape {
    int kv_heads, key_words, value_dim;  // value_dim: rounded up to 16
    int per_word;

    int64_t key_group() const { return (int64_t)key_words * kGroup; }
    int64_t value_group() const { return (int64_t)value_dim * (kGroup / per_word); }
    int64_t head() const { return key_group() + value_group(); }  // of one group
    int64_t group() const { return head() * kv_heads; }
};

// One sequence's part of a step. table: its blocks. context: tokens before its first row.
struct Span {
    int32_t first_row, num_rows, context, table_at;
};

// Where the tokens of a sequence lie: token t is in group `of(t)` of the cache.
struct Groups {
    const int32_t* table;
    int32_t block_size;

    int64_t of(int64_t token) const {
        const int64_t block = token / block_size;
        return (int64_t)table[block] * (block_size / kGroup) + (token % block_size) / kGroup;
    }
};

// Queries first..first + count of a span, numbered row by row and then by head of the group that
// shares a key head, for key heads head..head + heads, one after another; they read the tokens
// begin..end. partial: where unfinished sums go, -1 if the tile is whole.
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
constexpr float kLowest = -1e30f;  // stands for the greatest of no scores

// Unfinished sums of some queries: a score near the greatest one, the sum of weights in 16 parts,
// the weighted sum of values. A weight is 2 to the power of a score less that greatest.
struct Sums {
    float* greatest;
    float* total;   // [queries, kLanes]
    float* values;  // [queries, stride]
    int64_t stride;

    Sums from(int q) const {
        return {greatest + q, total + q * kLanes, values + q * stride, stride};
    }
    float total_of(int q) const { return _mm512_reduce_add_ps(_mm512_loadu_ps(total + q * kLanes)); }
};

template <class E, int Queries, int Groups>
void scores_of(const uint32_t* queries, int key_words, const uint32_t* const (&keys)[kTileGroups],
               __m512 (&scores)[Queries][Groups]) {
    for (auto& row : scores) {
        for (auto& s : row) s = _mm512_setzero_ps();
    }
    for (int word = 0; word < key_words; ++word) {
        __m512i k[Groups];
        for (int g = 0; g < Groups; ++g) k[g] = _mm512_loadu_si512(keys[g] + word * kGroup);
#pragma GCC unroll 6
        for (int q = 0; q < Queries; ++q) {
            const __m512i a = broadcast_word(queries + (int64_t)q * key_words + word);
#pragma GCC unroll 4
            for (int g = 0; g < Groups; ++g) scores[q][g] = E::dot(scores[q][g], k[g], a);
        }
    }
}

template <class E, int Queries, int Lanes>
void add_values(const uint32_t* weights, const uint32_t* const (&values)[kTileGroups], int groups,
                int value_dim, int dim, float* sums, int64_t stride) {
    constexpr int kWords = kGroup / E::kPerWord;
    __m512 acc[Queries][Lanes];
    for (int q = 0; q < Queries; ++q) {
        for (int l = 0; l < Lanes; ++l) {
            acc[q][l] = _mm512_loadu_ps(sums + q * stride + dim + l * kLanes);
        }
    }
    for (int g = 0; g < groups; ++g) {
        for (int word = 0; word < kWords; ++word) {
            const uint32_t* from = values[g] + (int64_t)word * value_dim + dim;
            __m512i v[Lanes];
            for (int l = 0; l < Lanes; ++l) v[l] = _mm512_loadu_si512(from + l * kLanes);
#pragma GCC unroll 6
            for (int q = 0; q < Queries; ++q) {
                const __m512i a =
                    broadcast_word(weights + q * (kTileTokens / E::kPerWord) + g * kWords + word);
#pragma GCC unroll 4
                for (int l = 0; l < Lanes; ++l) acc[q][l] = E::dot(acc[q][l], v[l], a);
            }
        }
    }
    for (int q = 0; q < Queries; ++q) {
        for (int l = 0; l < Lanes; ++l) {
            _mm512_storeu_ps(sums + q * stride + dim + l * kLanes, acc[q][l]);
        }
    }
}

// Which of the 16 tokens from `token` on a query may read: those in low..high.
inline __mmask16 readable(int64_t token, int64_t low, int64_t high) {
    const int64_t from = std::clamp<int64_t>(low - token, 0, kGroup);
    const int64_t to = std::clamp<int64_t>(high - token, 0, kGroup);
    return (__mmask16)(((1u << to) - 1) & ~((1u << from) - 1));
}

// A running maximum that is too low by up to 2 to this power is kept: the weights are then greater
// than one, but no less exact, and the sums so far need not be scaled.
constexpr float kSlack = 8;

// Takes a greater maximum for one query: its sums so far become smaller.
__attribute__((noinline)) inline void raise(float now, const Sums& sums, int q, int value_dim) {
    const __m512 scale = _mm512_set1_ps(std::exp2(sums.greatest[q] - now));
    const auto shrink = [scale](float* to) {
        _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_loadu_ps(to), scale));
    };
    sums.greatest[q] = now;
    shrink(sums.total + q * kLanes);
    for (int d = 0; d < value_dim; d += kLanes) shrink(sums.values + q * sums.stride + d);
}

// The weights of one query for up to 64 tokens, and what that does to its sums so far. Scores are
// powers of two, or none where the query may not read.
template <class E, int Groups>
inline __attribute__((always_inline)) void weigh(const __m512 (&scores)[Groups],
                                                 typename E::Element* weights, const Sums& sums,
                                                 int q, int value_dim) {
    __m512 greatest = scores[0];
    for (int g = 1; g < Groups; ++g) greatest = _mm512_max_ps(greatest, scores[g]);
    const __m512 allowed = _mm512_set1_ps(sums.greatest[q] + kSlack);
    if (__builtin_expect(_mm512_cmp_ps_mask(greatest, allowed, _CMP_GT_OQ), 0)) {
        raise(_mm512_reduce_max_ps(greatest), sums, q, value_dim);
    }
    const __m512 reference = _mm512_set1_ps(sums.greatest[q]);
    __m512 total = _mm512_loadu_ps(sums.total + q * kLanes);
    for (int g = 0; g < Groups; ++g) {
        const __m512 w = exp2<E>(_mm512_sub_ps(scores[g], reference));
        total = _mm512_add_ps(total, w);
        E::store(weights + g * kGroup, w, 0xFFFF);
    }
    _mm512_storeu_ps(sums.total + q * kLanes, total);
}

// What the sums so far and those of a part are multiplied with for a maximum of both: one of them
// by one.
struct Shares {
    float before[kMaxTileRows], added[kMaxTileRows];

    Shares(float* greatest, const float* of_part, int rows) {
        const __m512 one = _mm512_set1_ps(1.0f);
        for (int q = 0; q < rows; q += kLanes) {
            const __mmask16 some = lanes(q, rows);
            const __m512 a = _mm512_maskz_loadu_ps(some, greatest + q);
            const __m512 b = _mm512_maskz_loadu_ps(some, of_part + q);
            const __m512 less = exp2<F32>(_mm512_sub_ps(_mm512_min_ps(a, b), _mm512_max_ps(a, b)));
            const __mmask16 stays = _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
            const __mmask16 rises = _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
            _mm512_storeu_ps(before + q, _mm512_mask_mov_ps(less, stays, one));
            _mm512_storeu_ps(added + q, _mm512_mask_mov_ps(less, rises, one));
            _mm512_mask_storeu_ps(greatest + q, some, _mm512_max_ps(a, b));
        }
    }
};

// Adds the sums of a part to those of all parts before it. A part that a query reads nothing of
// changes nothing of the query's.
inline void merge(const Sums& all, const Sums& part, int rows, int value_dim) {
    const Shares shares(all.greatest, part.greatest, rows);
    for (int q = 0; q < rows; ++q) {
        const __m512 before = _mm512_set1_ps(shares.before[q]);
        const __m512 added = _mm512_set1_ps(shares.added[q]);
        const auto add = [&](float* to, const float* from) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(to), before);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(from), added, scaled));
        };
        add(all.total + q * kLanes, part.total + q * kLanes);
        for (int d = 0; d < value_dim; d += kLanes) {
            add(all.values + q * all.stride + d, part.values + q * part.stride + d);
        }
    }
}

// A tile's queries and what is known of them while it is attended.
struct Reading {
    const Tile& tile;
    const Span& span;
    const CacheShape& shape;
    const AttentionSizes& sizes;
    const uint32_t* queries;
    Sums sums;
    int64_t all_from, all_to;  // tokens that all of the queries may read
};

// Scores of up to 64 tokens from `token` on become minus infinity where a query may not read.
template <int Queries, int Groups>
void hide(const Reading& r, int64_t token, __m512 (&scores)[Queries][Groups]) {
    const int shared = r.sizes.shared();
    const __m512 nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int q = 0; q < Queries; ++q) {
        const int64_t seen = r.span.context + (r.tile.first + q) / shared + 1;
        const int64_t first = r.sizes.window ? std::max<int64_t>(0, seen - r.sizes.window) : 0;
        const int64_t low = std::max<int64_t>(first, r.tile.begin);
        const int64_t high = std::min<int64_t>(seen, r.tile.end);
        for (int g = 0; g < Groups; ++g) {
            const __mmask16 some = readable(token + g * kGroup, low, high);
            scores[q][g] = _mm512_mask_mov_ps(nothing, some, scores[q][g]);
        }
    }
}

template <int Queries, int Groups>
void soften(float softcap, __m512 (&scores)[Queries][Groups]) {
    for (auto& row : scores) {
        for (auto& s : row) {
            s = _mm512_mul_ps(tanh(_mm512_mul_ps(s, _mm512_set1_ps(1.0f / softcap))),
                              _mm512_set1_ps(softcap * kLog2OfE));
        }
    }
}

// Adds what up to 64 tokens from `token` on give.
template <class E, int Queries, int Groups>
void attend_groups(const Reading& r, int64_t token, const uint32_t* const (&keys)[kTileGroups],
                   const uint32_t* const (&values)[kTileGroups]) {
    alignas(64) typename E::Element weights[Queries * kTileTokens];
    __m512 scores[Queries][Groups];
    scores_of<E, Queries, Groups>(r.queries, r.shape.key_words, keys, scores);
    if (r.sizes.softcap != 0) soften(r.sizes.softcap, scores);
    if (token < r.all_from || token + Groups * kGroup > r.all_to) hide(r, token, scores);
    const int value_dim = r.shape.value_dim;
    for (int q = 0; q < Queries; ++q) {
        weigh<E, Groups>(scores[q], weights + q * kTileTokens, r.sums, q, value_dim);
    }
    const auto* words = (const uint32_t*)weights;
    int dim = 0;
    for (; dim + 4 * kLanes <= value_dim; dim += 4 * kLanes) {
        add_values<E, Queries, 4>(words, values, Groups, value_dim, dim, r.sums.values,
                                  r.sums.stride);
    }
    for (; dim < value_dim; dim += kLanes) {
        add_values<E, Queries, 1>(words, values, Groups, value_dim, dim, r.sums.values,
                                  r.sums.stride);
    }
}

template <class E, int Queries>
void attend_head(const Reading& r, int64_t token, int count,
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

// One layer's cache and one part of a tile; the result is in `sums`, not yet divided by the total.
template <class E, int Queries>
void attend_tile(const Reading& r, const Groups& groups, const uint32_t* cache) {
    const int64_t first = r.tile.begin / kTileTokens * kTileTokens;  // 64 of the same for all rows
    for (int64_t token = first; token < r.tile.end; token += kTileTokens) {
        const uint32_t *keys[kTileGroups], *values[kTileGroups];
        int count = 0;
        for (; count < kTileGroups && token + count * kGroup < r.tile.end; ++count) {
            keys[count] = cache + groups.of(token + count * kGroup) * r.shape.group() +
                          r.tile.head * r.shape.head();
        }
        Reading part = r;
        for (int head = 0; head < r.tile.heads; ++head) {
            for (int g = 0; g < count; ++g) values[g] = keys[g] + r.shape.key_group();
            attend_head<E, Queries>(part, token, count, keys, values);
            for (int g = 0; g < count; ++g) keys[g] += r.shape.head();
            part.queries += Queries * r.shape.key_words;
            part.sums = part.sums.from(Queries);
        }
    }
}

template <class E>
void attend(const Reading& reading, const Groups& groups, const uint32_t* cache) {
    switch (reading.tile.count) {
#define HEADRACE_QUERIES(n)                        \
    case n:                                        \
        attend_tile<E, n>(reading, groups, cache); \
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

// Puts one token's keys and values (float32, a row of heads each) into its group.
template <class E>
void write_token(int64_t place, const float* key, const float* value, int key_dim, int value_dim,
                 int key_stride, int value_stride, const CacheShape& shape, uint32_t* group) {
    alignas(64) typename E::Element row[kMaxDim + 2];
    for (int head = 0; head < shape.kv_heads; ++head) {
        std::memset(row + key_dim, 0, 2 * sizeof row[0]);
        for (int d = 0; d < key_dim; d += kLanes) {
            const __mmask16 some = lanes(d, key_dim);
            E::store(row + d, _mm512_maskz_loadu_ps(some, key + head * key_stride + d), some);
        }
        uint32_t* to = group + head * shape.head() + place;
        for (int word = 0; word < shape.key_words; ++word) {
            std::memcpy(to + word * kGroup, row + word * E::kPerWord, 4);
        }
        auto* column = (typename E::Element*)(group + head * shape.head() + shape.key_group() +
                                              place / E::kPerWord * shape.value_dim) +
                       place % E::kPerWord;
        for (int d = 0; d < value_dim; d += kLanes) {
            const __mmask16 some = lanes(d, value_dim);
            E::store(row, _mm512_maskz_loadu_ps(some, value + head * value_stride + d), some);
            for (int i = 0; i < std::min(kLanes, value_dim - d); ++i) {
                column[(int64_t)(d + i) * E::kPerWord] = row[i];
            }
        }
    }
}

// Values of tokens place..15 of a group become zero: a weight of zero would not hide what is not
// finite in memory that was never written, or in what a failed sequence left there.
template <class E>
void clear_values(int64_t place, const CacheShape& shape, uint32_t* group) {
    for (int head = 0; head < shape.kv_heads; ++head) {
        uint32_t* values = group + head * shape.head() + shape.key_group();
        int64_t word = place / E::kPerWord;
        for (int64_t p = place; p % E::kPerWord; ++p, word = place / E::kPerWord + 1) {
            auto* column = (typename E::Element*)(values + word * shape.value_dim) + p % E::kPerWord;
            for (int d = 0; d < shape.value_dim; ++d) column[(int64_t)d * E::kPerWord] = 0;
        }
        const int64_t cleared = word * shape.value_dim;
        std::memset(values + cleared, 0, (shape.value_group() - cleared) * sizeof *values);
    }
}

}  // namespace headrace
