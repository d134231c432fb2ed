// The element types of the kernels, and the vector arithmetic that they share.
//
// Matrices are stored in words of 32 bits: four 8-bit integers, two bfloat16 numbers (neighbours
// along the dimension that is summed over) or one float32 number. A vector register holds 16 words,
// one for each of 16 outputs.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace headrace {

constexpr int kLanes = 16;

// Evaluates a polynomial by Horner's rule; coefficients from the highest power to the constant.
template <int Count>
inline __m512 polynomial(__m512 x, const float (&coefficients)[Count]) {
    __m512 sum = _mm512_set1_ps(coefficients[0]);
    for (int i = 1; i < Count; ++i) {
        sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(coefficients[i]));
    }
    return sum;
}

struct Bf16 {
    using Element = uint16_t;
    static constexpr int kPerWord = 2;

    static __m512 dot(__m512 sums, __m512i a, __m512i b) {
        return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
    }
    // Converts 8-bit integers, which bfloat16 holds exactly, to 16 words.
    static __m512i widen(const int8_t* from) {
        const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
        const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(wide));
        const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(wide, 1));
        return (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
    }
    static void store(Element* to, __m512 values, __mmask16 mask) {
        _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(values));
    }
    static __m512 load(const Element* from, __mmask16 mask) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }
    // 2 to the power of r for |r| <= 1/2; relative error below 8e-5, a fiftieth of the error of
    // rounding the result to bfloat16.
    static __m512 exp2_near_zero(__m512 r) {
        return polynomial(r, {0.0551716672f, 0.242611122f, 0.693260986f, 0.999928074f});
    }
};

struct F32 {
    using Element = float;
    static constexpr int kPerWord = 1;

    static __m512 dot(__m512 sums, __m512i a, __m512i b) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sums);
    }
    static __m512i widen(const int8_t* from) {
        const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from));
        return _mm512_castps_si512(_mm512_cvtepi32_ps(wide));
    }
    static void store(Element* to, __m512 values, __mmask16 mask) {
        _mm512_mask_storeu_ps(to, mask, values);
    }
    static __m512 load(const Element* from, __mmask16 mask) {
        return _mm512_maskz_loadu_ps(mask, from);
    }
    // The same, relative error below 3e-7.
    static __m512 exp2_near_zero(__m512 r) {
        return polynomial(r, {0.00132764718f, 0.00967554133f, 0.0555071327f, 0.240221197f,
                              0.693146967f, 1.00000007f});
    }
};

// Unsigned 8-bit rows and signed 8-bit weights; the sums are integers stored in a float register.
struct Int8 {
    static constexpr int kPerWord = 4;

    static __m512 dot(__m512 sums, __m512i b, __m512i a) {
        return _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sums), a, b));
    }
};

inline __m512i broadcast_word(const void* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
}

// The lanes that hold the elements first..first + 15 of a row of `count`.
inline __mmask16 lanes(int64_t first, int64_t count) {
    int64_t left = count - first;
    if (left >= kLanes) return 0xFFFF;
    return left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

// e to the power of x, by a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2]; relative error below
// 3e-7 where the result is a normal number. Exactly zero below -104, infinite above 89.
inline __m512 exp(__m512 x) {
    // This order of arguments keeps NaN.
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-120.0f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// 2 to the power of x <= 100, as exactly as results in E need it. Zero below -150.
template <class E>
inline __m512 exp2(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-160.0f), x);  // keeps NaN
    const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_scalef_ps(E::exp2_near_zero(_mm512_sub_ps(x, n)), n);
}

// The hyperbolic tangent; exact limits, relative error below 1e-6 (near zero by its series).
inline __m512 tanh(__m512 x) {
    const __m512 e = exp(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-2.0f)));
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 y = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    const __m512 square = _mm512_mul_ps(x, x);
    __m512 series = _mm512_fmadd_ps(square, _mm512_set1_ps(2.0f / 15), _mm512_set1_ps(-1.0f / 3));
    series = _mm512_fmadd_ps(_mm512_mul_ps(series, square), _mm512_abs_ps(x), _mm512_abs_ps(x));
    const __mmask16 small =
        _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0.04f), _CMP_LT_OQ);
    y = _mm512_mask_mov_ps(y, small, series);
    const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
    return _mm512_or_ps(y, sign);
}

}  // namespace headrace
