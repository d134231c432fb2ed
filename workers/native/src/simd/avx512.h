// AVX-512 (F, BW, VL, DQ), with its bfloat16 and VNNI: see simd.h.
#pragma once

#include <immintrin.h>

namespace headrace {

struct Floats {
    __m512 value;
};
struct Words {
    __m512i value;
};
struct Mask {
    __mmask16 value;
};
struct Doubles {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
};

constexpr int kTileRows = 12, kTileHalves = 2, kAttentionVectors = 4;
constexpr bool kHasBf16Dot = true;

// Mask

HEADRACE_INLINE Mask all_lanes() { return {0xFFFF}; }
HEADRACE_INLINE Mask lanes(int64_t first, int64_t count) {
    const int64_t left = count - first;
    if (left >= kLanes) return {0xFFFF};
    return {left <= 0 ? (__mmask16)0 : (__mmask16)((1u << left) - 1)};
}
HEADRACE_INLINE Mask lanes_between(int64_t from, int64_t to) {
    return {(__mmask16)(((1u << to) - 1) & ~((1u << from) - 1))};
}
HEADRACE_INLINE Mask operator&(Mask a, Mask b) { return {(__mmask16)(a.value & b.value)}; }
HEADRACE_INLINE Mask operator|(Mask a, Mask b) { return {(__mmask16)(a.value | b.value)}; }
HEADRACE_INLINE bool any(Mask mask) { return mask.value != 0; }
HEADRACE_INLINE int count(Mask mask) { return __builtin_popcount(mask.value); }

// Floats

HEADRACE_INLINE Floats zeros() { return {_mm512_setzero_ps()}; }
HEADRACE_INLINE Floats splat(float x) { return {_mm512_set1_ps(x)}; }
HEADRACE_INLINE Floats load(const float* from) { return {_mm512_loadu_ps(from)}; }
HEADRACE_INLINE Floats load(const float* from, Mask mask) {
    return {_mm512_maskz_loadu_ps(mask.value, from)};
}
HEADRACE_INLINE void store(float* to, Floats x) { _mm512_storeu_ps(to, x.value); }
HEADRACE_INLINE void store(float* to, Floats x, Mask mask) {
    _mm512_mask_storeu_ps(to, mask.value, x.value);
}
HEADRACE_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.value, b.value)}; }
HEADRACE_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.value, b.value)}; }
HEADRACE_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.value, b.value)}; }
HEADRACE_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.value, b.value)}; }
HEADRACE_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return {_mm512_fmadd_ps(a.value, b.value, c.value)};
}
HEADRACE_INLINE Floats fnma(Floats a, Floats b, Floats c) {
    return {_mm512_fnmadd_ps(a.value, b.value, c.value)};
}
HEADRACE_INLINE Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.value, b.value)}; }
HEADRACE_INLINE Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.value, b.value)}; }
HEADRACE_INLINE Floats abs(Floats x) { return {_mm512_abs_ps(x.value)}; }
HEADRACE_INLINE Floats with_sign_of(Floats magnitude, Floats x) {
    const __m512 sign = _mm512_and_ps(x.value, _mm512_set1_ps(-0.0f));
    return {_mm512_or_ps(magnitude.value, sign)};
}
HEADRACE_INLINE Floats round_to_integer(Floats x) {
    return {_mm512_roundscale_ps(x.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HEADRACE_INLINE Floats times_power_of_2(Floats x, Floats n) {
    return {_mm512_scalef_ps(x.value, n.value)};
}
HEADRACE_INLINE Mask less(Floats a, Floats b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ)};
}
HEADRACE_INLINE Mask less_equal(Floats a, Floats b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_LE_OQ)};
}
HEADRACE_INLINE Mask not_less(Floats a, Floats b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_NLT_UQ)};
}
HEADRACE_INLINE Mask is_nan(Floats x) {
    return {_mm512_cmp_ps_mask(x.value, x.value, _CMP_UNORD_Q)};
}
HEADRACE_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return {_mm512_mask_mov_ps(b.value, mask.value, a.value)};
}
HEADRACE_INLINE Floats keep(Mask mask, Floats a) {
    return {_mm512_maskz_mov_ps(mask.value, a.value)};
}
HEADRACE_INLINE float sum(Floats x) { return _mm512_reduce_add_ps(x.value); }
HEADRACE_INLINE float minimum(Floats x) { return _mm512_reduce_min_ps(x.value); }
HEADRACE_INLINE float maximum(Floats x) { return _mm512_reduce_max_ps(x.value); }
HEADRACE_INLINE int store_taken(float* to, Floats x, Mask mask) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask.value, x.value));
    return count(mask);
}

// Words

HEADRACE_INLINE Words load_words(const void* from) { return {_mm512_loadu_si512(from)}; }
HEADRACE_INLINE void store_words(void* to, Words x) { _mm512_storeu_si512(to, x.value); }
HEADRACE_INLINE Words splat_word(int32_t x) { return {_mm512_set1_epi32(x)}; }
HEADRACE_INLINE Words broadcast_word(const void* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return splat_word(word);
}
HEADRACE_INLINE Words operator+(Words a, Words b) {
    return {_mm512_add_epi32(a.value, b.value)};
}
HEADRACE_INLINE Words operator-(Words a, Words b) {
    return {_mm512_sub_epi32(a.value, b.value)};
}
HEADRACE_INLINE Words operator&(Words a, Words b) {
    return {_mm512_and_si512(a.value, b.value)};
}
HEADRACE_INLINE Words operator|(Words a, Words b) { return {_mm512_or_si512(a.value, b.value)}; }
template <int Bits>
HEADRACE_INLINE Words shift_left(Words x) {
    return {_mm512_slli_epi32(x.value, Bits)};
}
template <int Bits>
HEADRACE_INLINE Words shift_right(Words x) {
    return {_mm512_srli_epi32(x.value, Bits)};
}
HEADRACE_INLINE Words as_words(Floats x) { return {_mm512_castps_si512(x.value)}; }
HEADRACE_INLINE Floats as_floats(Words x) { return {_mm512_castsi512_ps(x.value)}; }
HEADRACE_INLINE Words to_words(Floats x) { return {_mm512_cvtps_epi32(x.value)}; }
HEADRACE_INLINE Floats to_floats(Words x) { return {_mm512_cvtepi32_ps(x.value)}; }
HEADRACE_INLINE void store_bytes(uint8_t* to, Words x, Mask mask) {
    _mm_mask_storeu_epi8(to, mask.value, _mm512_cvtusepi32_epi8(x.value));
}
HEADRACE_INLINE Words dot_bytes(Words sums, Words u, Words s) {
    return {_mm512_dpbusd_epi32(sums.value, u.value, s.value)};
}
// As an instruction: around the intrinsic, GCC 12 keeps sums that are floats elsewhere in memory.
HEADRACE_INLINE Floats dot_bytes_in_floats(Floats sums, Words u, Words s) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums.value) : "v"(u.value), "v"(s.value));
    return sums;
}
HEADRACE_INLINE Words dot_small_bytes(Words sums, Words u, Words s) {
    return dot_bytes(sums, u, s);
}

// Formats of 16 and 8 bits

HEADRACE_INLINE Floats load_bf16(const uint16_t* from, Mask mask) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask.value, from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
HEADRACE_INLINE void store_bf16(uint16_t* to, Floats x, Mask mask) {
    _mm256_mask_storeu_epi16(to, mask.value, (__m256i)_mm512_cvtneps_pbh(x.value));
}
HEADRACE_INLINE void store_bf16_halves(uint16_t* to, Floats x) {
    const __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x.value));
    _mm512_mask_storeu_epi16(to, 0x55555555, wide);
}
HEADRACE_INLINE Floats even_bf16(Words x) { return as_floats(shift_left<16>(x)); }
HEADRACE_INLINE Floats odd_bf16(Words x) {
    return as_floats(x & splat_word((int32_t)0xFFFF0000));
}
HEADRACE_INLINE Floats load_f16(const uint16_t* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from))};
}
HEADRACE_INLINE Words bf16_of_bytes(const int8_t* from) {
    const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
    const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(wide));
    const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(wide, 1));
    return {(__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low))};
}
HEADRACE_INLINE Floats floats_of_bytes(const int8_t* from) {
    return to_floats({_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from))});
}
HEADRACE_INLINE Floats dot_bf16(Floats sums, Words a, Words b) {
    return {_mm512_dpbf16_ps(sums.value, (__m512bh)a.value, (__m512bh)b.value)};
}

// Doubles

HEADRACE_INLINE Doubles add(Doubles a, Floats x) {
    a.low = _mm512_add_pd(a.low, _mm512_cvtps_pd(_mm512_castps512_ps256(x.value)));
    a.high = _mm512_add_pd(a.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.value, 1)));
    return a;
}
HEADRACE_INLINE double sum(Doubles a) {
    return _mm512_reduce_add_pd(_mm512_add_pd(a.low, a.high));
}

// Memory

HEADRACE_INLINE void prefetch_near(const void* at) { _mm_prefetch((const char*)at, _MM_HINT_T0); }
HEADRACE_INLINE void prefetch_far(const void* at) { _mm_prefetch((const char*)at, _MM_HINT_T1); }
HEADRACE_INLINE void pause() { _mm_pause(); }

// Processor

inline bool runs_here() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

// Products with quantized weights

constexpr int kQuantizedRows = 6, kQuantizedHalves = 2, kSignedShift = 7;

struct CodeSums {
    Words total;
};
HEADRACE_INLINE CodeSums code_sums(Words first) { return {first}; }
template <int Bits>
HEADRACE_INLINE void add_codes(CodeSums& sums, Words codes, Words row, int) {
    sums.total = dot_bytes(sums.total, codes, row);
}
HEADRACE_INLINE Words signed_operand(Words bytes) {
    return {_mm512_xor_si512(bytes.value, _mm512_set1_epi8((char)0x80))};
}
HEADRACE_INLINE int signed_value(uint8_t operand) { return operand - 128; }
HEADRACE_INLINE void add_signed(CodeSums& sums, Words operand, Words row) {
    sums.total = dot_bytes(sums.total, operand, row);
}
HEADRACE_INLINE Words look_up_bytes(const int8_t (&table)[16], Words indices) {
    const __m128i once = _mm_loadu_si128((const __m128i*)table);
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(once), indices.value)};
}

}  // namespace headrace
