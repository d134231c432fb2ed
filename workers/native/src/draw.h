// Drawing a row's next token; see workers/native/draw.py, which fills in what is to be drawn.
//
// All cuts are floors under a token's level, its logit less the row's greatest over the temperature,
// and the greatest of them counts. Sums of weights are in float64 and in the order of the
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

// row: among the logits. uniform: in [0, 1). least: min_p's logarithm. top_k: 0 for all tokens.
struct Draw {
    int64_t row;
    double uniform;
    float temperature, least, top_p;
    int32_t top_k;
};

// A sum of float32 in float64.
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

// What the tokens from some level up come to: their weights, or their number.
struct Weight {
    static double from(const float* levels, int64_t count, float floor) {
        Sum sum;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 some = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(some, levels + i);
            // What is no number is let in, and the sum is none then.
            const __mmask16 taken =
                _mm512_mask_cmp_ps_mask(some, x, _mm512_set1_ps(floor), _CMP_NLT_UQ);
            if (taken) sum.add(_mm512_maskz_mov_ps(taken, exp(x)));
        }
        return sum.total();
    }
};

struct Number {
    static double from(const float* levels, int64_t count, float floor) {
        int64_t number = 0;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 some = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(some, levels + i);
            number += __builtin_popcount(
                _mm512_mask_cmp_ps_mask(some, x, _mm512_set1_ps(floor), _CMP_GE_OQ));
        }
        return (double)number;
    }
};

// One thread's memory for it.
class Drawer {
  public:
    void reserve(int64_t size) {
        if ((int64_t)levels_.size() >= size + kLanes) return;
        levels_.resize(size + kLanes);
        kept_.resize(size + kLanes);
        sums_.resize(size / kRun + 1);
    }

    // Where in the cumulative weights of `size` tokens the uniform falls; -1 if their sum is not
    // finite. `reserve` comes first.
    int64_t draw(const float* logits, int64_t size, const Draw& how) {
        scale(logits, size, how.temperature);
        float floor = how.least;
        if (how.top_k > 0 && how.top_k < size) {
            const int64_t count = collect(size, floor);
            if (count > how.top_k) floor = select<Number>(count, how.top_k);
        }
        if (how.top_p < 1.0f) {
            const double goal = how.top_p * Weight::from(levels_.data(), size, floor);
            // Further down all tokens together have less than the nucleus leaves over: the
            // greatest weight is 1.
            const double rest = (1.0 - (double)how.top_p) / (double)size;
            const int64_t count = collect(size, std::max(floor, (float)(std::log(rest) - 0.1)));
            if (count > 0) floor = select<Weight>(count, goal);
        }
        return look_up(size, floor, how.uniform);
    }

  private:
    static constexpr int kRun = 256;  // tokens whose weights are summed first

    void scale(const float* logits, int64_t size, float temperature) {
        const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        __m512 tops = lowest;
        for (int64_t i = 0; i < size; i += kLanes) {
            const __mmask16 some = lanes(i, size);
            tops = _mm512_max_ps(_mm512_mask_loadu_ps(lowest, some, logits + i), tops);
        }
        const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(tops));
        const __m512 divisor = _mm512_set1_ps(temperature);
        for (int64_t i = 0; i < size; i += kLanes) {
            const __mmask16 some = lanes(i, size);
            const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(some, logits + i), top);
            _mm512_mask_storeu_ps(levels_.data() + i, some, _mm512_div_ps(x, divisor));
        }
    }

    // Puts the levels from `floor` up into kept_; how many there are.
    int64_t collect(int64_t size, float floor) {
        return pack(levels_.data(), size, std::max(floor, -FLT_MAX), true);
    }

    // Of the first `count` in `from`, those from `floor` up, or those below; may be kept_ itself.
    int64_t pack(const float* from, int64_t count, float floor, bool upper) {
        int64_t number = 0;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __mmask16 some = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(some, from + i);
            const __m512 least = _mm512_set1_ps(floor);
            const __mmask16 taken = upper ? _mm512_mask_cmp_ps_mask(some, x, least, _CMP_GE_OQ)
                                          : _mm512_mask_cmp_ps_mask(some, x, least, _CMP_LT_OQ);
            if (!taken) continue;
            _mm512_storeu_ps(kept_.data() + number, _mm512_maskz_compress_ps(taken, x));
            number += __builtin_popcount(taken);
        }
        return number;
    }

    // The greatest of the `count` levels in kept_ from which up they measure `goal`; the least of
    // all if they never do. Their range is halved until one is left.
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
            const __mmask16 some = lanes(i, count);
            const __m512 x = _mm512_maskz_loadu_ps(some, kept_.data() + i);
            low = _mm512_mask_min_ps(low, some, low, x);
            high = _mm512_mask_max_ps(high, some, high, x);
        }
        return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high)};
    }

    int64_t look_up(int64_t size, float floor, double uniform) {
        const int64_t runs = (size + kRun - 1) / kRun;
        double total = 0;
        for (int64_t run = 0; run < runs; ++run) {
            const int64_t first = run * kRun;
            const int64_t count = std::min<int64_t>(kRun, size - first);
            total += Weight::from(levels_.data() + first, count, floor);
            sums_[run] = total;
        }
        if (!std::isfinite(total)) return -1;
        const double target = uniform * total;
        // By rounding the target can be the total itself: then it is the last token with a weight.
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
            const __mmask16 some = lanes(i, last);
            const __m512 x = _mm512_maskz_loadu_ps(some, levels_.data() + i);
            const __mmask16 taken =
                _mm512_mask_cmp_ps_mask(some, x, _mm512_set1_ps(floor), _CMP_GE_OQ);
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
