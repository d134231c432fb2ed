// Writes tokens to the paged cache.
#pragma once

#include <algorithm>
#include <limits>

#include "float_cache.h"
#include "int8_cache.h"

namespace headrace {

// Neighbouring tokens of a group, the first of which is the group's token `index`: their keys and
// values in float32, heads one after another with these strides. key_row, value_row: the strides
// between tokens.
struct NewTokens {
    int64_t index;
    int count;
    const float *key, *value;
    int64_t key_row, value_row;
    int key_dim, value_dim, key_stride, value_stride;
};

// Rounds a head's numbers to codes of 8 bits, and returns their scale. A code is that of a number
// over the scale as it is stored, in bfloat16.
template <class Cache>
uint16_t round_head(const float* from, int dim, uint8_t* codes) {
    constexpr bool kIsInt8 = std::is_same_v<Cache, Int8Cache>;
    constexpr float kLargest = kIsInt8 ? Int8Cache::kLargest : Fp8::kLargest;
    Floats highest = zeros();
    Mask nan = is_nan(highest);
    for (int d = 0; d < dim; d += kLanes) {
        const Floats x = load(from + d, lanes(d, dim));
        highest = max(highest, abs(x));
        nan = nan | is_nan(x);
    }
    float scale = maximum(highest) / kLargest;
    // Of numbers that are too small to divide by, nothing remains.
    if (scale < 1e-35f) scale = 0;
    // Codes cannot represent NaN; the scale can.
    if (any(nan)) scale = std::numeric_limits<float>::quiet_NaN();
    uint16_t stored;
    store_bf16(&stored, splat(scale), lanes(0, 1));
    scale = Bf16::value(stored);
    const Floats inverse = splat(scale == 0 ? 0.0f : 1.0f / scale);
    for (int d = 0; d < dim; d += kLanes) {
        const Floats x = load(from + d, lanes(d, dim)) * inverse;
        const Words code = kIsInt8 ? to_words(x) + splat_word(128) : Fp8::codes_of(x);
        store_bytes(codes + d, code, all_lanes());
    }
    if constexpr (kIsInt8) {
        for (int d = 0; d < dim; ++d) codes[d] ^= 0x80;
    }
    return stored;
}

// Where the n-th of four numbers lies in a word.
template <class Cache>
constexpr int place_in_word(int n) {
    return std::is_same_v<Cache, Int8Cache> ? n : Fp8::place(n);
}

// Stores a head's key as the token `index` of a group; returns its scale.
template <class Cache>
uint16_t store_rounded_key(const float* key, int dim, int key_words, int64_t index,
                           uint32_t* keys) {
    alignas(64) uint8_t codes[kMaxDim + 4 * kLanes];
    std::memset(codes + dim, 0, 4);
    const uint16_t scale = round_head<Cache>(key, dim, codes);
    std::memset(codes + dim, 0, 4);
    if constexpr (std::is_same_v<Cache, Int8Cache>) {
        for (int d = 0; d < dim; d += 4 * kLanes) {
            store_words(codes + d, signed_operand(load_words(codes + d)));
        }
    }
    for (int word = 0; word < key_words; ++word) {
        auto* to = (uint8_t*)(keys + word * kGroup + index);
        for (int n = 0; n < 4; ++n) to[place_in_word<Cache>(n)] = codes[word * 4 + n];
    }
    return scale;
}

template <class Cache>
uint16_t store_rounded_value(const float* value, int dim, int row_words, int64_t index,
                             uint32_t* values) {
    uint8_t codes[kMaxDim + kLanes];
    const uint16_t scale = round_head<Cache>(value, dim, codes);
    auto* column = (uint8_t*)(values + index / 4 * row_words) + place_in_word<Cache>(index % 4);
    for (int d = 0; d < dim; ++d) column[d * 4] = codes[d];
    return scale;
}

template <class Cache>
void store_rounded_tokens(const NewTokens& tokens, const CacheShape& shape, uint32_t* group) {
    for (int head = 0; head < shape.kv_heads; ++head, group += shape.head()) {
        uint32_t* values = group + shape.key_group();
        auto* scales = (uint16_t*)(values + shape.value_group());
        const float* key = tokens.key + head * tokens.key_stride;
        const float* value = tokens.value + head * tokens.value_stride;
        for (int t = 0; t < tokens.count; ++t) {
            const int64_t index = tokens.index + t;
            scales[index] = store_rounded_key<Cache>(key + t * tokens.key_row, tokens.key_dim,
                                                     shape.key_words, index, group);
            scales[kGroup + index] =
                store_rounded_value<Cache>(value + t * tokens.value_row, tokens.value_dim,
                                           shape.value_dim, index, values);
        }
    }
}

// Writes the words of rows, `stride` words apart, word after word, each of all rows.
template <int Count>
HEADRACE_INLINE void transpose_rows(const uint32_t* rows, int64_t stride, int words, int count,
                                    uint32_t* to) {
    for (int word = 0; word < words; ++word, to += kGroup) {
        for (int t = 0; t < (Count ? Count : count); ++t) to[t] = rows[t * stride + word];
    }
}

template <class E>
void store_exact_keys(const NewTokens& tokens, const float* key, int words, uint32_t* to) {
    alignas(64) typename E::Element rows[kGroup * (kMaxDim + kLanes)];
    const int stride = (tokens.key_dim + kLanes) / kLanes * kLanes;  // one more than the numbers
    for (int t = 0; t < tokens.count; ++t) {
        const float* from = key + t * tokens.key_row;
        for (int d = 0; d < stride; d += kLanes) {
            E::store(rows + t * stride + d, load(from + d, lanes(d, tokens.key_dim)));
        }
    }
    const auto* from = (const uint32_t*)rows;
    if (tokens.count == kGroup) {
        transpose_rows<kGroup>(from, stride / E::kPerWord, words, kGroup, to);
    } else {
        transpose_rows<0>(from, stride / E::kPerWord, words, tokens.count, to + tokens.index);
    }
}

// Stores the values of two tokens that share words.
template <class E>
void store_value_pair(const float* value, int64_t row, int dim, uint32_t* to) {
    for (int d = 0; d < dim; d += kLanes) {
        const Mask mask = lanes(d, dim);
        typename E::Element first[kLanes], second[kLanes];
        E::store(first, load(value + d, mask));
        E::store(second, load(value + row + d, mask));
        for (int n = 0; n < kLanes; ++n) to[d + n] = first[n] | (uint32_t)second[n] << 16;
    }
}

template <class E>
void store_exact_values(const NewTokens& tokens, const float* value, int row_words,
                        uint32_t* values) {
    for (int t = 0; t < tokens.count; ++t, value += tokens.value_row) {
        const int64_t index = tokens.index + t;
        uint32_t* words = values + index / E::kPerWord * row_words;
        if constexpr (E::kPerWord == 2) {
            if (index % 2 == 0 && t + 1 < tokens.count) {
                store_value_pair<E>(value, tokens.value_row, tokens.value_dim, words);
                ++t;
                value += tokens.value_row;
                continue;
            }
        }
        auto* column = (typename E::Element*)words + index % E::kPerWord;
        for (int d = 0; d < tokens.value_dim; d += kLanes) {
            // What is loaded of the numbers after the last is zero, and has its place.
            E::store_column(column + (int64_t)d * E::kPerWord,
                            load(value + d, lanes(d, tokens.value_dim)));
        }
    }
}

template <class E>
void store_exact_tokens(const NewTokens& tokens, const CacheShape& shape, uint32_t* group) {
    for (int head = 0; head < shape.kv_heads; ++head, group += shape.head()) {
        store_exact_keys<E>(tokens, tokens.key + head * tokens.key_stride, shape.key_words, group);
        store_exact_values<E>(tokens, tokens.value + head * tokens.value_stride, shape.value_dim,
                              group + shape.key_group());
    }
}

// Stores the keys and values of tokens in their group.
template <class Cache>
void store_tokens(const NewTokens& tokens, const CacheShape& shape, uint32_t* group) {
    if constexpr (Cache::kHasScales) {
        store_rounded_tokens<Cache>(tokens, shape, group);
    } else {
        store_exact_tokens<typename Cache::Numbers>(tokens, shape, group);
    }
}

template <class E>
void clear_exact_values(int64_t index, const CacheShape& shape, uint32_t* values) {
    int64_t word = index / E::kPerWord;
    for (int64_t p = index; p % E::kPerWord; ++p, word = index / E::kPerWord + 1) {
        auto* column = (typename E::Element*)(values + word * shape.value_dim) + p % E::kPerWord;
        for (int d = 0; d < shape.value_dim; ++d) column[(int64_t)d * E::kPerWord] = 0;
    }
    const int64_t cleared = word * shape.value_dim;
    std::memset(values + cleared, 0, (shape.value_group() - cleared) * sizeof *values);
}

// Sets the values of tokens index to 15 of a group to zero: a weight of zero would not cancel
// values that are not finite, in memory that was never written or that a failed sequence left
// behind. Codes of 8 bits are finite; only their scales may not be.
template <class Cache>
void clear_values(int64_t index, const CacheShape& shape, uint32_t* group) {
    for (int head = 0; head < shape.kv_heads; ++head, group += shape.head()) {
        uint32_t* values = group + shape.key_group();
        if constexpr (Cache::kHasScales) {
            auto* scales = (uint16_t*)(values + shape.value_group());
            std::fill(scales + kGroup + index, scales + 2 * kGroup, 0);
        } else {
            clear_exact_values<typename Cache::Numbers>(index, shape, values);
        }
    }
}

}  // namespace headrace
