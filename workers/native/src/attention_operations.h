// The attention instructions.
#pragma once

#include "expert_operations.h"
#include "attention_tiles.h"

namespace headrace {

template <class E>
class AttentionOperations : public ExpertOperations<E> {
  protected:
    using Base = ExpertOperations<E>;
    using typename Base::Element;
    using typename Base::Row;
    using Base::arena_;
    using Base::buffers_;
    using Base::row_of;
    using Base::packed_row;
    using Base::starts_;
    using Base::step_;
    using Base::Base;
    using Base::block_table_of;
    using Base::layers_;
    using Base::spans;

    // sizes: heads, kv heads, key dim, value dim, window, layer, stride between query heads, index
    // of the plan. numbers: scaling, softcap. data: a sink for each head, or null; a ScoreBias, or
    // null.
    void attend_task(const Instruction& i, int task, Scratch& scratch) {
        Plan& plan = plans_[i.sizes[7]];
        const Tile& tile = plan.tiles[task];
        const Span& span = spans(i.sizes[8])[tile.span];
        load_queries(i, plan, tile, span, scratch);
        float maximum[2][kMaxTileRows], total[2][kMaxTileRows * kLanes];
        const int64_t stride = plan.shape.value_dim;
        const PartialSums whole{maximum[0], total[0], scratch.values, stride};
        const PartialSums part{maximum[1], total[1], scratch.part, stride};
        if (tile.partial >= 0) {
            attend_tokens(i, tile, span, scratch, sums_of_part(plan, tile.partial), part);
        } else {
            attend_tokens(i, tile, span, scratch, whole, part);
            store_tile(i, plan, tile, whole);
        }
    }

    void attend_tokens(const Instruction& i, const Tile& tile, const Span& span,
                       const Scratch& scratch, const PartialSums& all, const PartialSums& part) {
        const Plan& plan = plans_[i.sizes[7]];
        const int shared = plan.sizes.shared();
        const int64_t first = span.context + tile.first / shared;
        const int64_t last = span.context + (tile.first + tile.count - 1) / shared;
        const int64_t begin = plan.sizes.visible(last, span.length()).begin;
        const int64_t end = plan.sizes.visible(first, span.length()).end;
        this->with_cache([&](auto cache) {
            attend<decltype(cache)>({tile, span, plan.shape, plan.sizes, scratch.queries, all, part,
                                     std::max<int64_t>(tile.begin, begin),
                                     std::min<int64_t>(end, tile.end),
                                     (const ScoreBias*)i.data[1], tile.head},
                                    block_table_of(span), layers_[i.sizes[5]]);
        });
    }

    void load_queries(const Instruction& i, const Plan& plan, const Tile& tile, const Span& span,
                      Scratch& scratch) {
        const int dim = plan.sizes.key_dim, shared = plan.sizes.shared();
        // With a softcap, this factor is applied after the tanh.
        const float log2 = plan.sizes.softcap != 0 ? 1.0f : kLog2OfE;
        const float scaling = plan.sizes.scaling * log2;
        for (int q = 0; q < tile.rows(); ++q) {
            const int number = tile.first + q % tile.count, head = tile.head + q / tile.count;
            const float* from = row_of(i.in[0], span.first_row + number / shared) +
                                (int64_t)(head * shared + number % shared) * i.sizes[6];
            this->with_cache([&](auto cache) {
                decltype(cache)::load_query(from, dim, scaling, plan.shape,
                                            scratch.queries + q * plan.shape.query_words);
            });
        }
    }

    void store_tile(const Instruction& i, const Plan& plan, const Tile& tile,
                    const PartialSums& sums) {
        if (i.packed) {
            store_queries<Row>(i, plan, tile, sums);
        } else {
            store_queries<F32>(i, plan, tile, sums);
        }
    }

    template <class Out>
    void store_queries(const Instruction& i, const Plan& plan, const Tile& tile,
                       const PartialSums& sums) {
        const int dim = plan.sizes.value_dim, shared = plan.sizes.shared();
        const float output_factor =
            this->with_cache([](auto cache) { return decltype(cache)::kOutputFactor; });
        for (int q = 0; q < tile.rows(); ++q) {
            const int number = tile.first + q % tile.count, head = tile.head + q / tile.count;
            const int64_t row = spans(i.sizes[8])[tile.span].first_row + number / shared;
            const int64_t first = (int64_t)(head * shared + number % shared) * dim;
            auto* to = this->template out_row<Out>(i, row, first);
            const float sink = i.data[0] ? sink_of(i, head * shared + number % shared, sums, q) : 0;
            const Floats scale = splat(output_factor / (sums.total_of(q) + sink));
            for (int d = 0; d < dim; d += kLanes) {
                const Mask mask = lanes(d, dim);
                Out::store(to + d, load(sums.values + q * sums.stride + d, mask) * scale, mask);
            }
        }
    }

    // The weight of a head's sink (Xiao et al., 2023), a score without a value.
    static float sink_of(const Instruction& i, int head, const PartialSums& sums, int q) {
        return std::exp2(((const float*)i.data[0])[head] * kLog2OfE - sums.maximum[q]);
    }

    // Merges the parts of a split tile.
    void finish_attend(const Instruction& i, int task) {
        Plan& plan = plans_[i.sizes[7]];
        const typename Plan::SplitTile& whole = plan.split_tiles[task];
        const PartialSums all = sums_of_part(plan, whole.first_partial);
        for (int p = 1; p < whole.num_partials; ++p) {
            merge(all, sums_of_part(plan, whole.first_partial + p), whole.tile.rows(),
                  plan.shape.value_dim);
        }
        store_tile(i, plan, whole.tile, all);
    }

    void plan_tiles() {
        size_t needed = 0;
        for (auto& plan : plans_) {
            plan.tiles.clear();
            plan.split_tiles.clear();
            if (plan.last < step_->begin || plan.first >= step_->end) continue;
            make_tiles(plan, spans(plan.sizes.cache), step_->num_spans,
                       (int)this->scratch_.size());
            needed = std::max(needed, (size_t)(plan.num_partials * partial_size(plan)));
        }
        if (partials_.size() < needed) partials_.resize(needed);
    }

    // index: the instruction's.
    int plan_for(const Instruction& instruction, int index) {
        const AttentionSizes sizes = this->sizes_of(instruction);
        for (size_t i = 0; i < plans_.size(); ++i) {
            if (std::memcmp(&plans_[i].sizes, &sizes, sizeof sizes) == 0) {
                plans_[i].last = index;
                return (int)i;
            }
        }
        plans_.push_back({sizes, this->shape_of(sizes), index, index, {}, {}});
        return (int)plans_.size() - 1;
    }

    // Writes the scores of some heads of a row, before their softmax, as exponents of two. sizes and
    // numbers: as of `attend_task`. data[0]: for each head its place among those of Step::scores,
    // or -1.
    void write_scores(const Instruction& i, int64_t row, Scratch& scratch) {
        const AttentionSizes sizes = this->sizes_of(i);
        const CacheShape shape = this->shape_of(sizes);
        const Span& span = this->span_of(i.sizes[8], row);
        for (int head = 0; head < sizes.heads; ++head) {
            const int place = ((const int32_t*)i.data[0])[head];
            if (place < 0) continue;
            const float* query = row_of(i.in[0], row) + (int64_t)head * i.sizes[6];
            float* to = step_->scores + (place * (int64_t)step_->rows + row) * step_->score_stride;
            this->with_cache([&](auto cache) {
                score_tokens<decltype(cache)>(query, sizes, shape, span, head / sizes.shared(),
                                              layers_[i.sizes[5]], scratch, to);
            });
        }
    }

    template <class Cache>
    void score_tokens(const float* query, const AttentionSizes& sizes, const CacheShape& shape,
                      const Span& span, int head, const uint32_t* cache, Scratch& scratch,
                      float* to) const {
        Cache::load_query(query, sizes.key_dim, sizes.scaling * kLog2OfE, shape, scratch.queries);
        const BlockTable blocks = block_table_of(span);
        GroupHeads groups{};
        for (int64_t token = 0; token < span.length(); token += kGroup) {
            groups.keys[0] = cache + blocks.group_of(token) * shape.group() + head * shape.head();
            groups.values[0] = groups.keys[0] + shape.key_group();
            Floats scores[1][1];
            Cache::template scores_of_some<1, 1>(scratch.queries, shape, groups, 0, scores);
            store(to + token, scores[0][0], lanes(token, span.length()));
        }
    }

    PartialSums sums_of_part(const Plan& plan, int number) {
        float* start = partials_.data() + number * partial_size(plan);
        return {start, start + plan.max_rows, start + plan.max_rows * (1 + kLanes),
                plan.shape.value_dim};
    }

    std::vector<Plan> plans_;
    std::vector<float> partials_;
};

}  // namespace headrace
