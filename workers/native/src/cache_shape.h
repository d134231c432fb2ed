// How the keys and values of the paged cache lie in memory.
//
// The cache is cut into groups of 16 tokens; in a group each head's keys stand before its values,
// so that a step reads one piece of memory after another. The keys of one head are stored word by
// word (the first word of all 16 tokens, then their second ...), so that 16 scores come out of one
// register without horizontal sums; values are stored by words of neighbouring tokens, so that
// their weighted sum reads 16 dimensions at a time.
//
// Numbers of 8 bits have a scale for each token, head, and key or value, in bfloat16. The scales of
// a group follow the head's values, those of its keys first. So what is stored of a token never
// changes when others follow.
#pragma once

#include "elements.h"

namespace headrace {

constexpr int kGroup = 16;  // tokens
constexpr int kTileQueries = 6;
constexpr int kTileGroups = 4;
constexpr int kTileTokens = kGroup * kTileGroups;
constexpr int kMaxDim = 512;

// In the order of CACHE_FORMATS in workers/native/library.py.
enum CacheFormat : int32_t { kProductsType, kBf16Cache, kInt8Cache, kFp8Cache };

// Sizes of one layer's cache, in words.
struct CacheShape {
    int kv_heads, key_words, value_dim;  // value_dim: rounded up to 16
    int per_word;
    int query_words;  // of a query, as the format's kernels read it

    int64_t key_group() const { return (int64_t)key_words * kGroup; }
    int64_t value_group() const { return (int64_t)value_dim * (kGroup / per_word); }
    int64_t scale_group() const { return per_word == 4 ? kGroup : 0; }
    int64_t head() const { return key_group() + value_group() + scale_group(); }  // of one group
    int64_t group() const { return head() * kv_heads; }
};

// One head's keys and values in up to 64 tokens.
//
// ahead: from a group's words to those that are read 64 tokens later, in words; 0 if they are not to
// be fetched. Each word that is read fetches the one that lies so far ahead.
struct GroupHeads {
    const uint32_t *keys[kTileGroups], *values[kTileGroups];
    int64_t ahead[kTileGroups];

    // The scales of a group's values; those of its keys stand before them.
    const uint16_t* value_scales(int g, const CacheShape& shape) const {
        return (const uint16_t*)(values[g] + shape.value_group()) + kGroup;
    }
    const uint16_t* key_scales(int g, const CacheShape& shape) const {
        return (const uint16_t*)(values[g] + shape.value_group());
    }
};

}  // namespace headrace
