// Writes tokens to the paged cache.
#pragma once

#include <algorithm>
#include <limits>

#include "float_cache.h"
#include "int8_cache.h"

namespace headrace {

// A token's keys and values in float32, heads one after another with these strides. index: of the
// token in its group.
struct NewToken {
    int64_t index;
    const float *key, *value;
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
void store_rounded_token(const NewToken& token, const CacheShape& shape, uint32_t* group) {
    for (int head = 0; head < shape.kv_heads; ++head, group += shape.head()) {
        uint32_t* values = group + shape.key_group();
        auto* scales = (uint16_t*)(values + shape.value_group());
        scales[token.index] =
            store_rounded_key<Cache>(token.key + head * token.key_stride, token.key_dim,
                                     shape.key_words, token.index, group);
        scales[kGroup + token.index] =
            store_rounded_value<Cache>(token.value + head * token.value_stride, token.value_dim,
                                       shape.value_dim, token.index, values);
    }
}

template <class E>
void store_exact_token(const NewToken& token, const CacheShape& shape, uint32_t* group) {
    alignas(64) typename E::Element row[kMaxDim + 2];
    for (int head = 0; head < shape.kv_heads; ++head, group += shape.head()) {
        std::memset(row + token.key_dim, 0, 2 * sizeof row[0]);
        const float* key = token.key + head * token.key_stride;
        for (int d = 0; d < token.key_dim; d += kLanes) {
            const Mask mask = lanes(d, token.key_dim);
            E::store(row + d, load(key + d, mask), mask);
        }
        for (int word = 0; word < shape.key_words; ++word) {
            std::memcpy(group + word * kGroup + token.index, row + word * E::kPerWord, 4);
        }
        auto* column = (typename E::Element*)(group + shape.key_group() +
                                              token.index / E::kPerWord * shape.value_dim) +
                       token.index % E::kPerWord;
        const float* value = token.value + head * token.value_stride;
        for (int d = 0; d < token.value_dim; d += kLanes) {
            // What is loaded of the numbers after the last is zero, and has its place.
            E::store_column(column + (int64_t)d * E::kPerWord,
                            load(value + d, lanes(d, token.value_dim)));
        }
    }
}

// Stores one token's keys and values in its group.
template <class Cache>
void store_token(const NewToken& token, const CacheShape& shape, uint32_t* group) {
    if constexpr (Cache::kHasScales) {
        store_rounded_token<Cache>(token, shape, group);
    } else {
        store_exact_token<typename Cache::Numbers>(token, shape, group);
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
