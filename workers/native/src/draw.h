// Draws a row's next token; see workers/native/draw.py, which fills in the parameters.
//
// All cutoffs are lower bounds on a token's level: its logit less the row's maximum, divided by the
// temperature. The highest bound counts. Sums of weights are in float64 and in the order of the
// vocabulary, so that they depend on the row alone.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "simd.h"

namespace headrace {

// The parameters of one draw. row: index in the logits. uniform: in [0, 1). log_min_p: the
// logarithm of min_p. top_k: 0 for all tokens.
struct Draw {
    int64_t row;
    double uniform;
    float temperature, log_min_p, top_p;
    int32_t top_k;
};

// A float64 sum of float32 numbers.
class Sum {
  public:
    void add(__m512 values) {
        low_ = _mm512_add_pd(low_, _mm512_cvtps_pd(_mm512_castps512_ps256(values)));
        high_ = _mm512_add_pd(high_, _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1)));
    }
    double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(low_, high_)); }

  private:
    __m512d low_ = _mm512_setzero_pd(), high_ = _mm512_setzero_pd();
};

// Measures of the tokens at or above a level: the sum of their weights, or their number.
struct WeightSum {
    static double from(const float* levels, int64_t count, float floor) {
        Sum sum;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 mask = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(mask, levels + i);
            // NaN is included, and makes the sum NaN.
            const __mmask16 taken =
                _mm512_mask_cmp_ps_mask(mask, x, _mm512_set1_ps(floor), _CMP_NLT_UQ);
            if (taken) sum.add(_mm512_maskz_mov_ps(taken, exp(x)));
        }
        return sum.total();
    }
};

struct TokenCount {
    static double from(const float* levels, int64_t count, float floor) {
        int64_t number = 0;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 mask = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(mask, levels + i);
            number += __builtin_popcount(
                _mm512_mask_cmp_ps_mask(mask, x, _mm512_set1_ps(floor), _CMP_GE_OQ));
        }
        return (double)number;
    }
};

// Draws tokens on one thread, with its working memory.
class Drawer {
  public:
    void reserve(int64_t size) {
        if ((int64_t)levels_.size() >= size + kLanes) return;
        levels_.resize(size + kLanes);
        kept_.resize(size + kLanes);
        sums_.resize(size / kRun + 1);
    }

    // Returns the token at which the cumulative weights of `size` tokens exceed the uniform's
    // share; -1 if their sum is not finite. `reserve` must be called before.
    int64_t draw(const float* logits, int64_t size, const Draw& params) {
        scale(logits, size, params.temperature);
        float floor = params.log_min_p;
        if (params.top_k > 0 && params.top_k < size) {
            const int64_t count = collect(size, floor);
            if (count > params.top_k) floor = select<TokenCount>(count, params.top_k);
        }
        if (params.top_p < 1.0f) {
            const double goal = params.top_p * WeightSum::from(levels_.data(), size, floor);
            // Below this level all tokens together weigh less than the nucleus leaves out, since
            // the maximal weight is 1.
            const double rest = (1.0 - (double)params.top_p) / (double)size;
            const int64_t count = collect(size, std::max(floor, (float)(std::log(rest) - 0.1)));
            if (count > 0) floor = select<WeightSum>(count, goal);
        }
        return look_up(size, floor, params.uniform);
    }

  private:
    static constexpr int kRun = 256;  // tokens of one partial sum

    void scale(const float* logits, int64_t size, float temperature) {
        const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        __m512 maxima = lowest;
        for (int64_t i = 0; i < size; i += kLanes) {
            const __mmask16 mask = lanes(i, size);
            maxima = _mm512_max_ps(_mm512_mask_loadu_ps(lowest, mask, logits + i), maxima);
        }
        const __m512 maximum = _mm512_set1_ps(_mm512_reduce_max_ps(maxima));
        const __m512 divisor = _mm512_set1_ps(temperature);
        for (int64_t i = 0; i < size; i += kLanes) {
            const __mmask16 mask = lanes(i, size);
            const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, logits + i), maximum);
            _mm512_mask_storeu_ps(levels_.data() + i, mask, _mm512_div_ps(x, divisor));
        }
    }

    // Copies the levels at or above `floor` to kept_ and returns their number.
    int64_t collect(int64_t size, float floor) {
        return pack(levels_.data(), size, std::max(floor, -FLT_MAX), true);
    }

    // Copies, of the first `count` levels in `from`, those at or above `floor`, or those below it,
    // to kept_. `from` may be kept_ itself.
    int64_t pack(const float* from, int64_t count, float floor, bool upper) {
        int64_t number = 0;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 mask = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(mask, from + i);
            const __m512 lowest = _mm512_set1_ps(floor);
            const __mmask16 taken = upper ? _mm512_mask_cmp_ps_mask(mask, x, lowest, _CMP_GE_OQ)
                                          : _mm512_mask_cmp_ps_mask(mask, x, lowest, _CMP_LT_OQ);
            if (!taken) continue;
            _mm512_storeu_ps(kept_.data() + number, _mm512_maskz_compress_ps(taken, x));
            number += __builtin_popcount(taken);
        }
        return number;
    }

    // Returns the highest of the `count` levels in kept_ at and above which the tokens measure at
    // least `goal`; the lowest of all if they never do. Halves the range until one level is left.
    template <class Measure>
    float select(int64_t count, double goal) {
        double above = 0;
        for (;;) {
            const auto [low, high] = range(count);
            if (low == high) return low;
            float middle = low + (high - low) / 2;
            if (middle <= low) middle = high;
            const double measure = above + Measure::from(kept_.data(), count, middle);
            const bool reached = measure >= goal;
            if (!reached) above = measure;
            count = pack(kept_.data(), count, middle, reached);
        }
    }

    std::pair<float, float> range(int64_t count) const {
        __m512 low = _mm512_set1_ps(FLT_MAX), high = _mm512_set1_ps(-FLT_MAX);
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 mask = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(mask, kept_.data() + i);
            low = _mm512_mask_min_ps(low, mask, low, x);
            high = _mm512_mask_max_ps(high, mask, high, x);
        }
        return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)};
    }

    int64_t look_up(int64_t size, float floor, double uniform) {
        const int64_t runs = (size + kRun - 1) / kRun;
        double total = 0;
        for (int64_t run = 0; run < runs; ++run) {
            const int64_t first = run * kRun;
            const int64_t count = std::min<int64_t>(kRun, size - first);
            total += WeightSum::from(levels_.data() + first, count, floor);
            sums_[run] = total;
        }
        if (!std::isfinite(total)) return -1;
        const double target = uniform * total;
        // Rounding can make the target the total itself: then the last token with a weight counts.
        const double* end = sums_.data() + runs;
        const double* found = std::upper_bound((const double*)sums_.data(), end, target);
        if (found == end) found = std::lower_bound((const double*)sums_.data(), end, total);
        const int64_t run = found - sums_.data();
        return look_up_in_run(run * kRun, std::min(size, (run + 1) * kRun), floor,
                              target - (run ? sums_[run - 1] : 0.0));
    }

    int64_t look_up_in_run(int64_t first, int64_t last, float floor, double target) const {
        double sum = 0;
        int64_t token = first;
        for (int64_t i = first; i < last; i += kLanes) {
            const __mmask16 mask = lanes(i, last);
            const __m512 x = _mm512_maskz_loadu_ps(mask, levels_.data() + i);
            const __mmask16 taken =
                _mm512_mask_cmp_ps_mask(mask, x, _mm512_set1_ps(floor), _CMP_GE_OQ);
            alignas(64) float weights[kLanes];
            _mm512_store_ps(weights, _mm512_maskz_mov_ps(taken, exp(x)));
            for (int lane = 0; lane < kLanes; ++lane) {
                if (weights[lane] == 0) continue;
                token = i + lane;
                sum += weights[lane];
                if (sum > target) return token;
            }
        }
        return token;
    }

    std::vector<float> levels_, kept_;
    std::vector<double> sums_;
};

}  // namespace headrace
