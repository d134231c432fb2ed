// Sums of a softmax over some of the tokens, and how they are merged.
#pragma once

#include "elements.h"

namespace headrace {

constexpr int kMaxTileRows = 64;  // queries of all heads of a tile
constexpr float kNoScore = -1e30f;  // the maximum of no scores

// Partial softmax sums of some queries: a score near the maximal one, the sum of weights in 16
// lanes, and the weighted sum of values. A weight is 2 to the power of a score less that maximum.
struct PartialSums {
    float* maximum;
    float* total;   // [queries, kLanes]
    float* values;  // [queries, stride]
    int64_t stride;

    PartialSums from(int q) const {
        return {maximum + q, total + q * kLanes, values + q * stride, stride};
    }
    float total_of(int q) const {
        return sum(load(total + q * kLanes));
    }
};

// The factors of the sums so far and of a part's sums for their common maximum; one factor is 1.
struct MergeScales {
    float before[kMaxTileRows], added[kMaxTileRows];

    MergeScales(float* maximum, const float* part_maximum, int rows) {
        const Floats one = splat(1.0f);
        for (int q = 0; q < rows; q += kLanes) {
            const Mask mask = lanes(q, rows);
            const Floats a = load(maximum + q, mask), b = load(part_maximum + q, mask);
            const Floats factor = exp2<F32>(min(a, b) - max(a, b));
            store(before + q, select(less_equal(b, a), one, factor));
            store(added + q, select(less_equal(a, b), one, factor));
            store(maximum + q, max(a, b), mask);
        }
    }
};

// Adds a part's sums to those of all parts before it, all of one query.
HEADRACE_INLINE void add_part(float* all, Floats part, const MergeScales& scales, int q) {
    store(all, fma(part, splat(scales.added[q]), load(all) * splat(scales.before[q])));
}

// Adds the sums of a part to those of all parts before it. A part without tokens that a query may
// read does not change the query's sums.
inline void merge(const PartialSums& all, const PartialSums& part, int rows, int value_dim) {
    const MergeScales scales(all.maximum, part.maximum, rows);
    for (int q = 0; q < rows; ++q) {
        add_part(all.total + q * kLanes, load(part.total + q * kLanes), scales, q);
        for (int d = 0; d < value_dim; d += kLanes) {
            add_part(all.values + q * all.stride + d, load(part.values + q * part.stride + d),
                     scales, q);
        }
    }
}

// Where the weighted sums of values of some queries are kept while a part is computed, and then
// merged into those of the parts before it.
struct ValueSums {
    float* part;
    float* all;  // null: they are not merged after these tokens
    int64_t stride;
    const MergeScales* scales;
    bool is_first;  // there are no sums of the part yet

    HEADRACE_INLINE Floats before(int64_t place) const {
        return is_first ? zeros() : load(part + place);
    }
    HEADRACE_INLINE void keep(int64_t place, Floats sums, int q) const {
        if (all) {
            add_part(all + place, sums, *scales, q);
        } else {
            store(part + place, sums);
        }
    }
};

}  // namespace headrace
