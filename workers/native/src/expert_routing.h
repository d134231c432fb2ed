// How a row chooses its experts. Each row is computed alone, in one order.
#pragma once

#include <limits>

#include "program.h"
#include "row_functions.h"

namespace headrace {

constexpr int kMaxExperts = 1024;

// The indices of the best values, from the best to the worst; of equal ones the first. What is not
// a number is chosen only where too few others come before it, so that indices are always valid.
inline void best_of(const float* values, int count, int wanted, int* best) {
    int found = 0;
    for (int n = 0; n < count; ++n) {
        if (found == wanted && !(values[n] > values[best[found - 1]])) continue;
        int at = found < wanted ? found++ : wanted - 1;
        for (; at > 0 && values[n] > values[best[at - 1]]; --at) best[at] = best[at - 1];
        best[at] = n;
    }
}

inline void softmax(const float* in, float* out, int count) {
    const Floats lowest = splat(-std::numeric_limits<float>::infinity());
    Floats highest = lowest;
    for (int n = 0; n < count; n += kLanes) {
        const Mask mask = lanes(n, count);
        highest = max(select(mask, load(in + n, mask), lowest), highest);
    }
    const Floats offset = splat(maximum(highest));
    Floats total = zeros();
    for (int n = 0; n < count; n += kLanes) {
        const Mask mask = lanes(n, count);
        const Floats x = keep(mask, exp(load(in + n, mask) - offset));
        total = total + x;
        store(out + n, x, mask);
    }
    const Floats factor = splat(1.0f / sum(total));
    for (int n = 0; n < count; n += kLanes) {
        const Mask mask = lanes(n, count);
        store(out + n, load(out + n, mask) * factor, mask);
    }
}

// Writes each expert's score, from its logit; see `route_row`.
inline void score(const Instruction& i, const float* logits, float* scores) {
    if (!i.sizes[2]) return softmax(logits, scores, i.sizes[0]);
    for (int n = 0; n < i.sizes[0]; n += kLanes) {
        const Mask mask = lanes(n, i.sizes[0]);
        store(scores + n, sigmoid(load(logits + n, mask)), mask);
    }
}

// Makes the experts of all groups but the best ones the last choice.
inline void keep_groups(const Instruction& i, float* choice) {
    const int groups = i.sizes[4], each = i.sizes[0] / groups;
    float values[kMaxExperts];
    for (int group = 0; group < groups; ++group) {
        int two[2];
        const float* of_group = choice + group * each;
        best_of(of_group, each, i.sizes[6] ? 2 : 1, two);
        values[group] = i.sizes[6] ? of_group[two[0]] + of_group[two[1]] : of_group[two[0]];
    }
    int kept[kMaxExperts];
    best_of(values, groups, i.sizes[5], kept);
    bool is_kept[kMaxExperts] = {};
    for (int n = 0; n < i.sizes[5]; ++n) is_kept[kept[n]] = true;
    for (int n = 0; n < i.sizes[0]; ++n) {
        if (!is_kept[n / each]) choice[n] = -std::numeric_limits<float>::infinity();
    }
}

// Writes the weights of the chosen experts, then their numbers. sizes: experts, chosen ones,
// whether scores are sigmoids of the logits (else the softmax), whether weights are divided by
// their sum, groups, kept groups, whether a group is as good as its two best scores (else as its
// best). numbers: factor of the weights. data: added to the scores for the choice, or null.
inline void route_row(const Instruction& i, const float* logits, float* weights) {
    const int experts = i.sizes[0], count = i.sizes[1];
    float scores[kMaxExperts], choice[kMaxExperts];
    score(i, logits, scores);
    const auto* bias = (const float*)i.data[0];
    for (int n = 0; n < experts; ++n) choice[n] = bias ? scores[n] + bias[n] : scores[n];
    if (i.sizes[5] < i.sizes[4]) keep_groups(i, choice);
    int best[kMaxExperts];
    best_of(choice, experts, count, best);
    float total = 0;
    for (int n = 0; n < count; ++n) total += scores[best[n]];
    const float factor = i.sizes[3] ? i.numbers[0] / total : i.numbers[0];
    for (int n = 0; n < count; ++n) {
        weights[n] = scores[best[n]] * factor;
        weights[count + n] = (float)best[n];
    }
}

}  // namespace headrace
