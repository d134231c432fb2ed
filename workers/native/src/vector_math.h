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
HEADRACE_INLINE Floats exp(Floats x) {
    // This order of arguments keeps NaN.
    x = min(splat(89.0f), max(splat(-120.0f), x));
    const Floats n = round_to_integer(x * splat(1.44269504f));
    Floats r = fnma(n, splat(0.693359375f), x);
    r = fnma(n, splat(-2.12194440e-4f), r);
    const Floats p = polynomial(r, {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f});
    return times_power_of_2(p, n);
}

// The hyperbolic tangent; exact limits, relative error below 1e-6 (near zero by its series).
HEADRACE_INLINE Floats tanh(Floats x) {
    const Floats e = exp(abs(x) * splat(-2.0f));
    const Floats one = splat(1.0f);
    const Floats y = (one - e) / (one + e);
    const Floats square = x * x;
    const Floats cubic = fma(square, splat(2.0f / 15), splat(-1.0f / 3));
    const Floats series = fma(cubic * square, abs(x), abs(x));
    return with_sign_of(select(less(abs(x), splat(0.04f)), series, y), x);
}

// erf(x / sqrt 2), the share of a normal distribution between -x and x, with the sign of x: x times a
// quotient of polynomials of x squared, fitted by weighted least squares; absolute error below 4e-7.
HEADRACE_INLINE Floats normal_share(Floats x) {
    constexpr float kEnd = 5.6f;  // where it is 1 in float32
    x = min(splat(kEnd), max(splat(-kEnd), x));  // keeps NaN
    const Floats square = x * x;
    const Floats over =
        polynomial(square, {4.42930338e-8f, 1.27124620e-5f, 3.47647536e-4f, 9.41418640e-3f,
                            6.87471567e-2f, 7.97884443e-1f});
    const Floats under =
        polynomial(square, {1.18022527e-6f, 7.50926920e-5f, 1.91282561e-3f, 2.89386113e-2f,
                            2.52827499e-1f, 1.0f});
    return x * over / under;
}

HEADRACE_INLINE Floats sigmoid(Floats x) {
    const Floats one = splat(1.0f);
    return one / (one + exp(zeros() - x));
}

}  // namespace headrace
