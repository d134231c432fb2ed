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

#include "vector_math.h"

namespace headrace {

// The parameters of one draw. row: index in the logits. uniform: in [0, 1). log_min_p: the
// logarithm of min_p. top_k: 0 for all tokens.
struct Draw {
    int64_t row;
    double uniform;
    float temperature, log_min_p, top_p;
    int32_t top_k;
};

// Measures of the tokens at or above a level: the sum of their weights, or their number.
struct WeightSum {
    static double from(const float* levels, int64_t count, float floor) {
        Doubles total{};
        for (int64_t i = 0; i < count; i += kLanes) {
            const Mask mask = lanes(i, count);
            const Floats x = load(levels + i, mask);
            // NaN is included, and makes the sum NaN.
            const Mask taken = mask & not_less(x, splat(floor));
            if (any(taken)) total = add(total, keep(taken, exp(x)));
        }
        return sum(total);
    }
};

struct TokenCount {
    static double from(const float* levels, int64_t size, float floor) {
        int64_t number = 0;
        for (int64_t i = 0; i < size; i += kLanes) {
            const Mask mask = lanes(i, size);
            const Floats x = load(levels + i, mask);
            number += count(mask & less_equal(splat(floor), x));
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
            if (count > params.top_k) floor = find_floor<TokenCount>(count, params.top_k);
        }
        if (params.top_p < 1.0f) {
            const double goal = params.top_p * WeightSum::from(levels_.data(), size, floor);
            // Below this level all tokens together weigh less than the nucleus leaves out, since
            // the maximal weight is 1.
            const double rest = (1.0 - (double)params.top_p) / (double)size;
            const int64_t count = collect(size, std::max(floor, (float)(std::log(rest) - 0.1)));
            if (count > 0) floor = find_floor<WeightSum>(count, goal);
        }
        return look_up(size, floor, params.uniform);
    }

  private:
    static constexpr int kRun = 256;  // tokens of one partial sum

    void scale(const float* logits, int64_t size, float temperature) {
        const Floats lowest = splat(-std::numeric_limits<float>::infinity());
        Floats maxima = lowest;
        for (int64_t i = 0; i < size; i += kLanes) {
            const Mask mask = lanes(i, size);
            maxima = max(select(mask, load(logits + i, mask), lowest), maxima);
        }
        const Floats highest = splat(maximum(maxima)), divisor = splat(temperature);
        for (int64_t i = 0; i < size; i += kLanes) {
            const Mask mask = lanes(i, size);
            store(levels_.data() + i, (load(logits + i, mask) - highest) / divisor, mask);
        }
    }

    // Copies the levels at or above `floor` to kept_ and returns their number.
    int64_t collect(int64_t size, float floor) {
        return pack(levels_.data(), size, std::max(floor, -FLT_MAX), true);
    }

    // Copies, of the first `count` levels in `from`, those at or above `floor`, or those below it,
    // to kept_. `from` may be kept_ itself.
    int64_t pack(const float* from, int64_t count, float floor, bool upper) {
        const Floats lowest = splat(floor);
        int64_t number = 0;
        for (int64_t i = 0; i < count; i += kLanes) {
            const Mask mask = lanes(i, count);
            const Floats x = load(from + i, mask);
            const Mask taken = mask & (upper ? less_equal(lowest, x) : less(x, lowest));
            if (any(taken)) number += store_taken(kept_.data() + number, x, taken);
        }
        return number;
    }

    // Returns the highest of the `count` levels in kept_ at and above which the tokens measure at
    // least `goal`; the lowest of all if they never do. Halves the range until one level is left.
    template <class Measure>
    float find_floor(int64_t count, double goal) {
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
        Floats low = splat(FLT_MAX), high = splat(-FLT_MAX);
        for (int64_t i = 0; i < count; i += kLanes) {
            const Mask mask = lanes(i, count);
            const Floats x = load(kept_.data() + i, mask);
            low = select(mask, min(low, x), low);
            high = select(mask, max(high, x), high);
        }
        return {minimum(low), maximum(high)};
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
            const Mask mask = lanes(i, last);
            const Floats x = load(levels_.data() + i, mask);
            alignas(64) float weights[kLanes];
            store(weights, keep(mask & less_equal(splat(floor), x), exp(x)));
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
