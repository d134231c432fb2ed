// Splits a step's attention into tasks.
#pragma once

#include <vector>

#include "attention.h"
#include "memory.h"

namespace headrace {

// The tiles of one kind of attention layer in a step, and which of them are parts of a split tile.
struct Plan {
    AttentionSizes sizes;
    CacheShape shape;
    int32_t first, last;  // of the instructions that use it
    std::vector<Tile> tiles;
    struct SplitTile {
        Tile tile;
        int32_t first_partial, num_partials;
    };
    std::vector<SplitTile> split_tiles;
    int32_t num_partials = 0;
    int32_t max_rows = 0;  // of a tile
};

// The size of the partial sums of one tile, in numbers.
inline int64_t partial_size(const Plan& plan) {
    return plan.max_rows * ((int64_t)plan.shape.value_dim + kLanes + 1);
}

// Splits long tiles into parts for several threads, if there are too few tiles for all threads.
inline void split_long_tiles(Plan& plan, int64_t total, int threads) {
    const int64_t fair = total / (6 * threads) + 1;
    const size_t before = plan.tiles.size();
    if (threads == 1) return;
    for (size_t i = 0; i < before; ++i) {
        const Tile whole = plan.tiles[i];
        if (whole.end - whole.begin <= fair * 3 / 2 || part_end(whole.begin) >= whole.end) continue;
        const int first_partial = plan.num_partials;
        for (int64_t from = whole.begin; from < whole.end; from = part_end(from)) {
            Tile part = whole;
            part.begin = (int)from;
            part.end = (int)std::min<int64_t>(part_end(from), whole.end);
            part.partial = plan.num_partials++;
            if (from == whole.begin) {
                plan.tiles[i] = part;
            } else {
                plan.tiles.push_back(part);
            }
        }
        plan.split_tiles.push_back({whole, first_partial, plan.num_partials - first_partial});
    }
}

// The number of key heads in one tile, with `queries` queries each. All of them if one tile
// computes the sequence, which then reads the cache from its start to its end; else one, whose keys
// and values stay in the processor's cache for the next tile.
inline int heads_together(const Plan& plan, int queries) {
    if (queries > kTileQueries) return 1;
    const int widest = std::max(plan.shape.query_words, plan.shape.value_dim);
    const int rows = std::min(kMaxTileRows, kTileQueries * kMaxDim / widest);
    return std::min(plan.sizes.kv_heads, rows / queries);
}

// Splits the step's queries into tiles; there are none yet.
inline void make_tiles(Plan& plan, const Span* spans, int num_spans, int threads) {
    plan.num_partials = plan.max_rows = 0;
    const int shared = plan.sizes.shared(), kv_heads = plan.sizes.kv_heads;
    int64_t total = 0;
    for (int s = 0; s < num_spans; ++s) {
        const Span& span = spans[s];
        const int queries = span.num_rows * shared;
        const int together = heads_together(plan, queries);
        // One head after another: the tiles of a head read the same keys.
        for (int head = 0; head < kv_heads; head += together) {
            const int heads = std::min(together, kv_heads - head);
            for (int first = 0; first < queries; first += kTileQueries) {
                const int count = std::min(kTileQueries, queries - first);
                const int64_t last = span.context + (first + count - 1) / shared;
                const int begin =
                    (int)plan.sizes.visible(span.context + first / shared, span.length()).begin;
                const int end = (int)plan.sizes.visible(last, span.length()).end;
                plan.tiles.push_back({s, head, heads, first, count, begin, end, -1});
                plan.max_rows = std::max(plan.max_rows, heads * count);
                total += end - begin;
            }
        }
    }
    split_long_tiles(plan, total, threads);
}

}  // namespace headrace
