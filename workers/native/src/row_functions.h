// Functions of single rows: activations, norms, rotary embedding, sums.
#pragma once

#include <cmath>

#include "simd.h"

namespace headrace {

enum Activation : int32_t { kNone, kSilu, kGelu, kGeluTanh, kRelu, kSigmoid, kTanh };

// erf by Abramowitz and Stegun, 7.1.26; absolute error below 2e-7.
inline __m512 erf(__m512 x) {
    const __m512 a = _mm512_abs_ps(x), one = _mm512_set1_ps(1.0f);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(a, _mm512_set1_ps(0.3275911f), one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    const __m512 e = exp(_mm512_mul_ps(_mm512_mul_ps(a, a), _mm512_set1_ps(-1.0f)));
    const __m512 y = _mm512_fnmadd_ps(_mm512_mul_ps(p, t), e, one);
    return _mm512_or_ps(y, _mm512_and_ps(x, _mm512_set1_ps(-0.0f)));
}

inline __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

inline __m512 activate(int32_t kind, __m512 x) {
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    switch (kind) {
        case kSilu:
            return _mm512_mul_ps(x, sigmoid(x));
        case kGelu: {
            const __m512 y = erf(_mm512_mul_ps(x, _mm512_set1_ps(0.70710678f)));
            return _mm512_mul_ps(_mm512_mul_ps(x, half), _mm512_add_ps(y, one));
        }
        case kGeluTanh: {
            const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
            const __m512 inner = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
            const __m512 y = tanh(_mm512_mul_ps(inner, _mm512_set1_ps(0.79788456f)));
            return _mm512_mul_ps(_mm512_mul_ps(x, half), _mm512_add_ps(y, one));
        }
        case kRelu:
            return _mm512_max_ps(x, _mm512_setzero_ps());
        case kSigmoid:
            return sigmoid(x);
        case kTanh:
            return tanh(x);
        default:
            return x;
    }
}

// out = (in - mean) / deviation * weight + bias; without `centred` the mean is taken to be zero,
// which is the RMS norm (Zhang and Sennrich, 2019). weight and bias may be null.
template <class Out>
void norm(const float* in, typename Out::Element* out, int64_t size, const float* weight,
          const float* bias, float eps, bool centred) {
    float mean = 0;
    if (centred) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < size; i += kLanes) {
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes(i, size), in + i));
        }
        mean = _mm512_reduce_add_ps(sum) / (float)size;
    }
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += kLanes) {
        const __mmask16 mask = lanes(i, size);
        const __m512 x =
            _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, in + i), _mm512_set1_ps(mean));
        squares = _mm512_fmadd_ps(x, x, squares);
    }
    const float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / (float)size + eps);
    for (int64_t i = 0; i < size; i += kLanes) {
        const __mmask16 mask = lanes(i, size);
        __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, in + i), _mm512_set1_ps(mean));
        x = _mm512_mul_ps(x, _mm512_set1_ps(scale));
        if (weight) x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(mask, weight + i));
        if (bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, bias + i));
        Out::store(out + i, x, mask);
    }
}

// Applies rotary embedding (Su et al., 2021) to the first `size` numbers of one head, in place. The
// numbers of a pair are `size / 2` apart.
inline void rotate(float* head, const float* cos, const float* sin, int64_t size) {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; i += kLanes) {
        const __mmask16 mask = lanes(i, half);
        const __m512 a = _mm512_maskz_loadu_ps(mask, head + i);
        const __m512 b = _mm512_maskz_loadu_ps(mask, head + half + i);
        const __m512 low = _mm512_mul_ps(a, _mm512_maskz_loadu_ps(mask, cos + i));
        const __m512 high = _mm512_mul_ps(b, _mm512_maskz_loadu_ps(mask, cos + half + i));
        const __m512 low_sin = _mm512_maskz_loadu_ps(mask, sin + i);
        const __m512 high_sin = _mm512_maskz_loadu_ps(mask, sin + half + i);
        _mm512_mask_storeu_ps(head + i, mask, _mm512_fnmadd_ps(b, low_sin, low));
        _mm512_mask_storeu_ps(head + half + i, mask, _mm512_fmadd_ps(a, high_sin, high));
    }
}

// out = activation(a * scale_a + b * scale_b), or activation(a * b * scale_a) if `multiply`.
// Without b: activation(a * scale_a).
template <class Out>
void combine(const float* a, const float* b, typename Out::Element* out, int64_t size,
             float scale_a, float scale_b, bool multiply, int32_t activation) {
    for (int64_t i = 0; i < size; i += kLanes) {
        const __mmask16 mask = lanes(i, size);
        __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_set1_ps(scale_a));
        if (b) {
            const __m512 y = _mm512_maskz_loadu_ps(mask, b + i);
            x = multiply ? _mm512_mul_ps(x, y)
                         : _mm512_fmadd_ps(y, _mm512_set1_ps(scale_b), x);
        }
        Out::store(out + i, activate(activation, x), mask);
    }
}

}  // namespace headrace
