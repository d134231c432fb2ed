// Functions of single rows: activations, norms, rotary embedding, sums.
#pragma once

#include <cmath>

#include "vector_math.h"

namespace headrace {

enum Activation : int32_t { kNone, kSilu, kGelu, kGeluTanh, kRelu, kSigmoid, kTanh };

template <int Kind>
HEADRACE_INLINE Floats activate_as(Floats x) {
    const Floats half = splat(0.5f), one = splat(1.0f);
    if constexpr (Kind == kSilu) {
        return x * sigmoid(x);
    } else if constexpr (Kind == kGelu) {
        return x * half * (normal_share(x) + one);
    } else if constexpr (Kind == kGeluTanh) {
        const Floats inner = fma(x * x * x, splat(0.044715f), x);
        return x * half * (tanh(inner * splat(0.79788456f)) + one);
    } else if constexpr (Kind == kRelu) {
        return max(x, zeros());
    } else if constexpr (Kind == kSigmoid) {
        return sigmoid(x);
    } else if constexpr (Kind == kTanh) {
        return tanh(x);
    } else {
        return x;
    }
}

// Calls a function with the activation of this kind, a function of Floats.
template <class Run>
HEADRACE_INLINE void with_activation(int32_t kind, const Run& run) {
    switch (kind) {
#define HEADRACE_ACTIVATION(k) \
    case k:                    \
        return run([](Floats x) HEADRACE_INLINED { return activate_as<k>(x); });
        HEADRACE_ACTIVATION(kSilu)
        HEADRACE_ACTIVATION(kGelu)
        HEADRACE_ACTIVATION(kGeluTanh)
        HEADRACE_ACTIVATION(kRelu)
        HEADRACE_ACTIVATION(kSigmoid)
        HEADRACE_ACTIVATION(kTanh)
#undef HEADRACE_ACTIVATION
        default:
            return run([](Floats x) { return x; });
    }
}

// out = (in - mean) / deviation * weight + bias; without `centred` the mean is taken to be zero,
// which is the RMS norm (Zhang and Sennrich, 2019). weight and bias may be null.
template <class Out>
void norm(const float* in, typename Out::Element* out, int64_t size, const float* weight,
          const float* bias, float eps, bool centred) {
    float mean = 0;
    if (centred) {
        Floats total = zeros();
        for (int64_t i = 0; i < size; i += kLanes) total = total + load(in + i, lanes(i, size));
        mean = sum(total) / (float)size;
    }
    Floats squares = zeros();
    for (int64_t i = 0; i < size; i += kLanes) {
        const Mask mask = lanes(i, size);
        const Floats x = keep(mask, load(in + i, mask) - splat(mean));
        squares = fma(x, x, squares);
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / (float)size + eps);
    for (int64_t i = 0; i < size; i += kLanes) {
        const Mask mask = lanes(i, size);
        Floats x = (load(in + i, mask) - splat(mean)) * splat(scale);
        if (weight) x = x * load(weight + i, mask);
        if (bias) x = x + load(bias + i, mask);
        Out::store(out + i, x, mask);
    }
}

// Applies rotary embedding (Su et al., 2021) to the first `size` numbers of one head, in place. The
// numbers of a pair are `size / 2` apart. cos, sin: of the first ones; the others: of the second.
inline void rotate(float* head, const float* cos, const float* sin, const float* other_cos,
                   const float* other_sin, int64_t size) {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; i += kLanes) {
        const Mask mask = lanes(i, half);
        const Floats a = load(head + i, mask), b = load(head + half + i, mask);
        const Floats low = a * load(cos + i, mask), high = b * load(other_cos + i, mask);
        store(head + i, fnma(b, load(sin + i, mask), low), mask);
        store(head + half + i, fma(a, load(other_sin + i, mask), high), mask);
    }
}

// The same where the numbers of a pair are neighbours, with one cosine and sine for each pair.
inline void rotate_neighbours(float* head, const float* cos, const float* sin, int64_t size) {
    for (int64_t i = 0; i < size / 2; ++i) {
        const float a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cos[i] - b * sin[i];
        head[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

// out = activation(a * scale_a + b * scale_b), or activation(a * b * scale_a) if `multiply`.
// Without b: activation(a * scale_a).
template <class Out>
void combine(const float* a, const float* b, typename Out::Element* out, int64_t size,
             float scale_a, float scale_b, bool multiply, int32_t activation) {
    with_activation(activation, [&](auto activate) {
        for (int64_t i = 0; i < size; i += kLanes) {
            const Mask mask = lanes(i, size);
            Floats x = load(a + i, mask) * splat(scale_a);
            if (b) {
                const Floats y = load(b + i, mask);
                x = multiply ? x * y : fma(y, splat(scale_b), x);
            }
            Out::store(out + i, activate(x), mask);
        }
    });
}

}  // namespace headrace
