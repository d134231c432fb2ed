// How a step's attention is cut into tasks.
#pragma once

#include <vector>

#include "attention.h"
#include "memory.h"

namespace headrace {

// One kind of attention layer in a step: its tiles, and which of them are parts of one.
struct Plan {
    AttentionSizes sizes;
    CacheShape shape;
    std::vector<Tile> tiles;
    struct Whole {
        Tile tile;
        int32_t first_partial, num_partials;
    };
    std::vector<Whole> wholes;
    int32_t num_partials = 0;
};

// Numbers that the unfinished sums of one tile take.
inline int64_t partial_size(const Plan& plan) {
    return kTileQueries * ((int64_t)plan.shape.value_dim + kLanes + 1);
}

// Cuts tiles by tokens, if there are too few for all threads.
inline void split_tiles(Plan& plan, int64_t total, int threads) {
    const int64_t fair = round_up(total / (6 * threads) + 1, kTileTokens);
    const size_t before = plan.tiles.size();
    if (threads == 1 || before >= 32u * threads) return;
    for (size_t i = 0; i < before; ++i) {
        const Tile whole = plan.tiles[i];
        const int64_t begin = whole.begin / kGroup * kGroup;
        if (whole.end - begin <= fair * 3 / 2) continue;
        const int first_partial = plan.num_partials;
        for (int64_t from = begin; from < whole.end; from += fair) {
            Tile part = whole;
            part.begin = (int)std::max<int64_t>(from, whole.begin);
            part.end = (int)std::min<int64_t>(from + fair, whole.end);
            part.partial = plan.num_partials++;
            if (from == begin) {
                plan.tiles[i] = part;
            } else {
                plan.tiles.push_back(part);
            }
        }
        plan.wholes.push_back({whole, first_partial, plan.num_partials - first_partial});
    }
}

// Cuts the step's queries into tiles.
inline void make_tiles(Plan& plan, const Span* spans, int num_spans, int threads) {
    plan.tiles.clear();
    plan.wholes.clear();
    plan.num_partials = 0;
    const int shared = plan.sizes.shared();
    int64_t total = 0;
    for (int s = 0; s < num_spans; ++s) {
        const Span& span = spans[s];
        const int queries = span.num_rows * shared;
        for (int first = 0; first < queries; first += kTileQueries) {
            const int count = std::min(kTileQueries, queries - first);
            const int end = span.context + (first + count - 1) / shared + 1;
            const int seen = span.context + first / shared + 1;
            const int begin = plan.sizes.window ? std::max(0, seen - plan.sizes.window) : 0;
            total += (int64_t)(end - begin) * plan.sizes.kv_heads;
            for (int head = 0; head < plan.sizes.kv_heads; ++head) {
                plan.tiles.push_back({s, head, first, count, begin, end, -1});
            }
        }
    }
    split_tiles(plan, total, threads);
}

}  // namespace headrace
