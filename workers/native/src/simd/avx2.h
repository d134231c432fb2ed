// AVX2, FMA and F16C, with AVX-VNNI where the compiler is told of it: see simd.h.
//
// A vector is two registers, of lanes 0 to 7 and 8 to 15.
#pragma once

#include <cpuid.h>
#include <immintrin.h>

namespace headrace {

struct Floats {
    __m256 low, high;
};
struct Words {
    __m256i low, high;
};
struct Mask {
    __m256 low, high;  // all bits of a lane are set, or none
};
struct Doubles {
    __m256d parts[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                        _mm256_setzero_pd()};
};

constexpr int kTileRows = 6, kTileHalves = 1, kAttentionVectors = 1;
constexpr bool kHasBf16Dot = false;

// Mask

HEADRACE_INLINE Mask all_lanes() {
    const __m256 all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    return {all, all};
}
HEADRACE_INLINE Mask lanes_between(int64_t from, int64_t to) {
    const __m256i first = _mm256_set1_epi32((int32_t)from - 1);
    const __m256i after = _mm256_set1_epi32((int32_t)to);
    const auto between = [&](__m256i lane) {
        return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, first),
                                                    _mm256_cmpgt_epi32(after, lane)));
    };
    return {between(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            between(_mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
HEADRACE_INLINE Mask lanes(int64_t first, int64_t count) {
    const int64_t left = count - first;
    if (left >= kLanes) return all_lanes();
    return lanes_between(0, left);
}
HEADRACE_INLINE Mask operator&(Mask a, Mask b) {
    return {_mm256_and_ps(a.low, b.low), _mm256_and_ps(a.high, b.high)};
}
HEADRACE_INLINE Mask operator|(Mask a, Mask b) {
    return {_mm256_or_ps(a.low, b.low), _mm256_or_ps(a.high, b.high)};
}
HEADRACE_INLINE uint32_t bits_of(Mask mask) {
    return _mm256_movemask_ps(mask.low) | _mm256_movemask_ps(mask.high) << 8;
}
HEADRACE_INLINE bool any(Mask mask) { return bits_of(mask) != 0; }
HEADRACE_INLINE int count(Mask mask) { return __builtin_popcount(bits_of(mask)); }

// Floats

HEADRACE_INLINE Floats splat(float x) {
    const __m256 all = _mm256_set1_ps(x);
    return {all, all};
}
HEADRACE_INLINE Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HEADRACE_INLINE Floats load(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
HEADRACE_INLINE Floats load(const float* from, Mask mask) {
    return {_mm256_maskload_ps(from, _mm256_castps_si256(mask.low)),
            _mm256_maskload_ps(from + 8, _mm256_castps_si256(mask.high))};
}
HEADRACE_INLINE void store(float* to, Floats x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}
HEADRACE_INLINE void store(float* to, Floats x, Mask mask) {
    _mm256_maskstore_ps(to, _mm256_castps_si256(mask.low), x.low);
    _mm256_maskstore_ps(to + 8, _mm256_castps_si256(mask.high), x.high);
}
HEADRACE_INLINE Floats operator+(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
HEADRACE_INLINE Floats operator-(Floats a, Floats b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
HEADRACE_INLINE Floats operator*(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
HEADRACE_INLINE Floats operator/(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
HEADRACE_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
HEADRACE_INLINE Floats fnma(Floats a, Floats b, Floats c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
HEADRACE_INLINE Floats min(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
HEADRACE_INLINE Floats max(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
HEADRACE_INLINE Floats abs(Floats x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
HEADRACE_INLINE Floats with_sign_of(Floats magnitude, Floats x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(magnitude.low, _mm256_and_ps(x.low, sign)),
            _mm256_or_ps(magnitude.high, _mm256_and_ps(x.high, sign))};
}
HEADRACE_INLINE Floats round_to_integer(Floats x) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.low, kMode), _mm256_round_ps(x.high, kMode)};
}
template <int Compare>
HEADRACE_INLINE Mask compare(Floats a, Floats b) {
    return {_mm256_cmp_ps(a.low, b.low, Compare), _mm256_cmp_ps(a.high, b.high, Compare)};
}
HEADRACE_INLINE Mask less(Floats a, Floats b) { return compare<_CMP_LT_OQ>(a, b); }
HEADRACE_INLINE Mask less_equal(Floats a, Floats b) { return compare<_CMP_LE_OQ>(a, b); }
HEADRACE_INLINE Mask not_less(Floats a, Floats b) { return compare<_CMP_NLT_UQ>(a, b); }
HEADRACE_INLINE Mask is_nan(Floats x) { return compare<_CMP_UNORD_Q>(x, x); }
HEADRACE_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
}
HEADRACE_INLINE Floats keep(Mask mask, Floats a) {
    return {_mm256_and_ps(a.low, mask.low), _mm256_and_ps(a.high, mask.high)};
}
// Combines the lanes of x in halves.
template <class Combine>
HEADRACE_INLINE float reduce(Floats x, const Combine& combine) {
    const __m256 eight = combine(x.low, x.high);
    const __m256 four = combine(eight, _mm256_permute2f128_ps(eight, eight, 1));
    const __m256 two = combine(four, _mm256_permute_ps(four, 0x4E));
    return _mm256_cvtss_f32(combine(two, _mm256_permute_ps(two, 0xB1)));
}
HEADRACE_INLINE float sum(Floats x) {
    return reduce(x, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}
HEADRACE_INLINE float minimum(Floats x) {
    return reduce(x, [](__m256 a, __m256 b) { return _mm256_min_ps(a, b); });
}
HEADRACE_INLINE float maximum(Floats x) {
    return reduce(x, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); });
}

// For each set of 8 lanes, their numbers one after another.
struct TakenLanes {
    uint8_t numbers[256][8] = {};
    constexpr TakenLanes() {
        for (int bits = 0; bits < 256; ++bits) {
            for (int lane = 0, at = 0; lane < 8; ++lane) {
                if (bits >> lane & 1) numbers[bits][at++] = (uint8_t)lane;
            }
        }
    }
};
static constexpr TakenLanes kTakenLanes;

HEADRACE_INLINE int store_taken_of_8(float* to, __m256 x, uint32_t bits) {
    const __m128i numbers = _mm_loadl_epi64((const __m128i*)kTakenLanes.numbers[bits]);
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(x, _mm256_cvtepu8_epi32(numbers)));
    return __builtin_popcount(bits);
}
HEADRACE_INLINE int store_taken(float* to, Floats x, Mask mask) {
    const uint32_t bits = bits_of(mask);
    const int low = store_taken_of_8(to, x.low, bits & 0xFF);
    return low + store_taken_of_8(to + low, x.high, bits >> 8);
}

// Words

HEADRACE_INLINE Words load_words(const void* from) {
    return {_mm256_loadu_si256((const __m256i*)from), _mm256_loadu_si256((const __m256i*)from + 1)};
}
HEADRACE_INLINE void store_words(void* to, Words x) {
    _mm256_storeu_si256((__m256i*)to, x.low);
    _mm256_storeu_si256((__m256i*)to + 1, x.high);
}
HEADRACE_INLINE Words splat_word(int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return {all, all};
}
HEADRACE_INLINE Words broadcast_word(const void* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return splat_word(word);
}
HEADRACE_INLINE Words operator+(Words a, Words b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
HEADRACE_INLINE Words operator-(Words a, Words b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
HEADRACE_INLINE Words operator&(Words a, Words b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
HEADRACE_INLINE Words operator|(Words a, Words b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
template <int Bits>
HEADRACE_INLINE Words shift_left(Words x) {
    return {_mm256_slli_epi32(x.low, Bits), _mm256_slli_epi32(x.high, Bits)};
}
template <int Bits>
HEADRACE_INLINE Words shift_right(Words x) {
    return {_mm256_srli_epi32(x.low, Bits), _mm256_srli_epi32(x.high, Bits)};
}
HEADRACE_INLINE Words as_words(Floats x) {
    return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)};
}
HEADRACE_INLINE Floats as_floats(Words x) {
    return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)};
}
HEADRACE_INLINE Words to_words(Floats x) {
    return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
}
HEADRACE_INLINE Floats to_floats(Words x) {
    return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
}
HEADRACE_INLINE Floats times_power_of_2(Floats x, Floats n) {
    // In two steps: the power itself may be no normal number.
    const Words whole = to_words(n), bias = splat_word(127);
    const Words half{_mm256_srai_epi32(whole.low, 1), _mm256_srai_epi32(whole.high, 1)};
    const Floats first = as_floats(shift_left<23>(half + bias));
    return x * first * as_floats(shift_left<23>(whole - half + bias));
}
// The lower halves of words up to 65,535.
HEADRACE_INLINE __m256i to_16_bits(Words x) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(x.low, x.high), 0xD8);
}
HEADRACE_INLINE void store_bytes(uint8_t* to, Words x, Mask mask) {
    const __m256i halves = to_16_bits(x);
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    const uint32_t bits = bits_of(mask);
    if (bits == 0xFFFF) return _mm_storeu_si128((__m128i*)to, bytes);
    alignas(16) uint8_t all[kLanes];
    _mm_store_si128((__m128i*)all, bytes);
    for (int lane = 0; lane < kLanes; ++lane) {
        if (bits >> lane & 1) to[lane] = all[lane];
    }
}
#ifdef __AVXVNNI__
HEADRACE_INLINE Words dot_bytes(Words sums, Words u, Words s) {
    return {_mm256_dpbusd_avx_epi32(sums.low, u.low, s.low),
            _mm256_dpbusd_avx_epi32(sums.high, u.high, s.high)};
}
HEADRACE_INLINE Words dot_small_bytes(Words sums, Words u, Words s) {
    return dot_bytes(sums, u, s);
}
#else
// By products of 16-bit integers, since a sum of two products may exceed 16 bits.
HEADRACE_INLINE Words dot_bytes(Words sums, Words u, Words s) {
    const auto dot = [](__m256i total, __m256i a, __m256i b) {
        const __m256i even =
            _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xFF)),
                              _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
        const __m256i odd =
            _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
        return _mm256_add_epi32(total, _mm256_add_epi32(even, odd));
    };
    return {dot(sums.low, u.low, s.low), dot(sums.high, u.high, s.high)};
}
HEADRACE_INLINE Words dot_small_bytes(Words sums, Words u, Words s) {
    const auto dot = [](__m256i total, __m256i a, __m256i b) {
        const __m256i pairs = _mm256_maddubs_epi16(a, b);
        return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    };
    return {dot(sums.low, u.low, s.low), dot(sums.high, u.high, s.high)};
}
#endif
HEADRACE_INLINE Floats dot_bytes_in_floats(Floats sums, Words u, Words s) {
    return as_floats(dot_bytes(as_words(sums), u, s));
}

// Formats of 16 and 8 bits

HEADRACE_INLINE Floats even_bf16(Words x) { return as_floats(shift_left<16>(x)); }
HEADRACE_INLINE Floats odd_bf16(Words x) {
    return as_floats(x & splat_word((int32_t)0xFFFF0000));
}
HEADRACE_INLINE Floats floats_of_bf16(__m256i x) {
    const Words wide{_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                     _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))};
    return as_floats(shift_left<16>(wide));
}
HEADRACE_INLINE Floats load_bf16(const uint16_t* from, Mask mask) {
    const uint32_t bits = bits_of(mask);
    if (bits == 0xFFFF) return floats_of_bf16(_mm256_loadu_si256((const __m256i*)from));
    alignas(32) uint16_t all[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
        if (bits >> lane & 1) all[lane] = from[lane];
    }
    return floats_of_bf16(_mm256_load_si256((const __m256i*)all));
}
HEADRACE_INLINE __m256i bf16_of_floats(Floats x) {
    const Words bits = as_words(x);
    const Words tie = shift_right<16>(bits) & splat_word(1);
    const Words rounded = shift_right<16>(bits + tie + splat_word(0x7FFF));
    const Words nan = shift_right<16>(bits) | splat_word(0x40);
    return to_16_bits(as_words(select(is_nan(x), as_floats(nan), as_floats(rounded))));
}
HEADRACE_INLINE void store_bf16(uint16_t* to, Floats x, Mask mask) {
    const __m256i halves = bf16_of_floats(x);
    const uint32_t bits = bits_of(mask);
    if (bits == 0xFFFF) return _mm256_storeu_si256((__m256i*)to, halves);
    alignas(32) uint16_t all[kLanes];
    _mm256_store_si256((__m256i*)all, halves);
    for (int lane = 0; lane < kLanes; ++lane) {
        if (bits >> lane & 1) to[lane] = all[lane];
    }
}
HEADRACE_INLINE void store_bf16_halves(uint16_t* to, Floats x) {
    uint16_t numbers[kLanes];
    store_bf16(numbers, x, all_lanes());
    for (int i = 0; i < kLanes; ++i) to[2 * i] = numbers[i];
}
HEADRACE_INLINE Floats load_f16(const uint16_t* from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from + 1))};
}
HEADRACE_INLINE Words bf16_of_bytes(const int8_t* from) {
    const auto widen = [](__m128i bytes) {
        const __m256i pairs = _mm256_cvtepi8_epi16(bytes);
        const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(pairs, 16), 16);
        const __m256i odd = _mm256_srai_epi32(pairs, 16);
        const __m256i low = _mm256_castps_si256(_mm256_cvtepi32_ps(even));
        const __m256i high = _mm256_castps_si256(_mm256_cvtepi32_ps(odd));
        return _mm256_or_si256(_mm256_srli_epi32(low, 16), high);
    };
    return {widen(_mm_loadu_si128((const __m128i*)from)),
            widen(_mm_loadu_si128((const __m128i*)from + 1))};
}
HEADRACE_INLINE Floats floats_of_bytes(const int8_t* from) {
    return to_floats({_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)),
                      _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(from + 8)))});
}

// Doubles

HEADRACE_INLINE Doubles add(Doubles a, Floats x) {
    a.parts[0] = _mm256_add_pd(a.parts[0], _mm256_cvtps_pd(_mm256_castps256_ps128(x.low)));
    a.parts[1] = _mm256_add_pd(a.parts[1], _mm256_cvtps_pd(_mm256_extractf128_ps(x.low, 1)));
    a.parts[2] = _mm256_add_pd(a.parts[2], _mm256_cvtps_pd(_mm256_castps256_ps128(x.high)));
    a.parts[3] = _mm256_add_pd(a.parts[3], _mm256_cvtps_pd(_mm256_extractf128_ps(x.high, 1)));
    return a;
}
HEADRACE_INLINE double sum(Doubles a) {
    const __m256d four = _mm256_add_pd(_mm256_add_pd(a.parts[0], a.parts[2]),
                                       _mm256_add_pd(a.parts[1], a.parts[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

// Memory

HEADRACE_INLINE void prefetch_near(const void* at) { _mm_prefetch((const char*)at, _MM_HINT_T0); }
HEADRACE_INLINE void prefetch_far(const void* at) { _mm_prefetch((const char*)at, _MM_HINT_T1); }
HEADRACE_INLINE void pause() { _mm_pause(); }

// Processor

inline bool runs_here() {
    __builtin_cpu_init();
#ifdef __AVXVNNI__
    unsigned a = 0, b, c, d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 4 & 1)) return false;
#endif
    // Each processor with both has F16C, too.
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// Products with quantized weights

constexpr int kQuantizedRows = 4, kQuantizedHalves = 1;

#ifdef __AVXVNNI__
constexpr int kSignedShift = 7;

struct CodeSums {
    Words total;
};
template <int Bits>
HEADRACE_INLINE void add_codes(CodeSums& sums, Words codes, Words row, int) {
    sums.total = dot_bytes(sums.total, codes, row);
}
HEADRACE_INLINE Words signed_operand(Words bytes) {
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    return {_mm256_xor_si256(bytes.low, sign), _mm256_xor_si256(bytes.high, sign)};
}
HEADRACE_INLINE int signed_value(uint8_t operand) { return operand - 128; }
HEADRACE_INLINE void add_signed(CodeSums& sums, Words operand, Words row) {
    sums.total = dot_bytes(sums.total, operand, row);
}
#else
constexpr int kSignedShift = -1;

struct CodeSums {
    Words total;
    Words pairs;  // sums of two products, of 16 bits
};
// As many sums of two products are added up in 16 bits as cannot exceed them.
template <int Bits>
HEADRACE_INLINE void add_codes(CodeSums& sums, Words codes, Words row, int word) {
    constexpr int kCount = Bits <= 4 ? 8 : Bits == 5 ? 4 : 2;
    static_assert(kCount * 2 * ((1 << Bits) - 1) * 127 < 1 << 15);
    const __m256i low = _mm256_maddubs_epi16(codes.low, row.low);
    const __m256i high = _mm256_maddubs_epi16(codes.high, row.high);
    if (word % kCount == 0) {
        sums.pairs = {low, high};
    } else {
        sums.pairs = {_mm256_add_epi16(sums.pairs.low, low),
                      _mm256_add_epi16(sums.pairs.high, high)};
    }
    // Otherwise GCC sums up in another order, for which there are not enough registers.
    asm("" : "+x"(sums.pairs.low), "+x"(sums.pairs.high));
    if (word % kCount == kCount - 1) {
        const __m256i ones = _mm256_set1_epi16(1);
        sums.total = sums.total + Words{_mm256_madd_epi16(sums.pairs.low, ones),
                                        _mm256_madd_epi16(sums.pairs.high, ones)};
        asm("" : "+x"(sums.total.low), "+x"(sums.total.high));
    }
}
HEADRACE_INLINE Words signed_operand(Words bytes) { return bytes; }
HEADRACE_INLINE int signed_value(uint8_t operand) { return (int8_t)operand; }
HEADRACE_INLINE void add_signed(CodeSums& sums, Words operand, Words row) {
    // The operand's sign goes to the row.
    const Words magnitude{_mm256_abs_epi8(operand.low), _mm256_abs_epi8(operand.high)};
    const Words signed_row{_mm256_sign_epi8(row.low, operand.low),
                           _mm256_sign_epi8(row.high, operand.high)};
    sums.total = dot_small_bytes(sums.total, magnitude, signed_row);
    asm("" : "+x"(sums.total.low), "+x"(sums.total.high));
}
#endif
HEADRACE_INLINE CodeSums code_sums(Words first) {
    CodeSums sums{};
    sums.total = first;
    return sums;
}
HEADRACE_INLINE Words look_up_bytes(const int8_t (&table)[16], Words indices) {
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
    return {_mm256_shuffle_epi8(twice, indices.low), _mm256_shuffle_epi8(twice, indices.high)};
}

}  // namespace headrace
