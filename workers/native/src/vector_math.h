// Elementary functions of 16 numbers.
#pragma once

#include "simd/simd.h"

namespace headrace {

// Evaluates a polynomial by Horner's rule; coefficients from the highest power to the constant.
template <int Count>
HEADRACE_INLINE Floats polynomial(Floats x, const float (&coefficients)[Count]) {
    Floats sum = splat(coefficients[0]);
    for (int i = 1; i < Count; ++i) sum = fma(sum, x, splat(coefficients[i]));
    return sum;
}

// e to the power of x, by a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2]; relative error below
// 3e-7 where the result is a normal number. Exactly zero below -104, infinite above 89.
inline Floats exp(Floats x) {
    // This order of arguments keeps NaN.
    x = min(splat(89.0f), max(splat(-120.0f), x));
    const Floats n = round_to_integer(x * splat(1.44269504f));
    Floats r = fnma(n, splat(0.693359375f), x);
    r = fnma(n, splat(-2.12194440e-4f), r);
    const Floats p = polynomial(r, {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f});
    return times_power_of_2(p, n);
}

// The hyperbolic tangent; exact limits, relative error below 1e-6 (near zero by its series).
inline Floats tanh(Floats x) {
    const Floats e = exp(abs(x) * splat(-2.0f));
    const Floats one = splat(1.0f);
    const Floats y = (one - e) / (one + e);
    const Floats square = x * x;
    const Floats cubic = fma(square, splat(2.0f / 15), splat(-1.0f / 3));
    const Floats series = fma(cubic * square, abs(x), abs(x));
    return with_sign_of(select(less(abs(x), splat(0.04f)), series, y), x);
}

// erf by Abramowitz and Stegun, 7.1.26; absolute error below 2e-7.
inline Floats erf(Floats x) {
    const Floats a = abs(x), one = splat(1.0f);
    const Floats t = one / fma(a, splat(0.3275911f), one);
    const Floats p = polynomial(
        t, {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f});
    const Floats e = exp(a * a * splat(-1.0f));
    return with_sign_of(fnma(p * t, e, one), x);
}

inline Floats sigmoid(Floats x) {
    const Floats one = splat(1.0f);
    return one / (one + exp(zeros() - x));
}

}  // namespace headrace
