// Attention over the cache.
#pragma once

#include "products.h"
#include "tiles.h"

namespace headrace {

template <class E>
class Attends : public Products<E> {
  protected:
    using Base = Products<E>;
    using typename Base::Element;
    using Base::arena_;
    using Base::buffers_;
    using Base::row_of;
    using Base::packed_row;
    using Base::starts_;
    using Base::step_;
    using Base::Base;
    using Base::groups_of;
    using Base::layers_;
    using Base::spans;

    // sizes: heads, kv heads, key dim, value dim, window, layer, distance between the queries'
    // heads, the plan's number. numbers: scaling, softcap.
    void attend_one(const Instruction& i, int task, Scratch& scratch) {
        Plan& plan = plans_[i.sizes[7]];
        const Tile& tile = plan.tiles[task];
        const Span& span = spans()[tile.span];
        load_queries(i, plan, tile, span, scratch);
        float greatest[kMaxTileRows], total[kMaxTileRows * kLanes];
        const Sums whole{greatest, total, scratch.values, plan.shape.value_dim};
        if (tile.partial >= 0) {
            attend_part(i, tile, span, scratch, partial_sums(plan, tile.partial));
        } else {
            attend_parts(i, tile, span, scratch, whole);
            store_tile(i, plan, tile, whole);
        }
    }

    // A tile's parts one after another.
    void attend_parts(const Instruction& i, const Tile& tile, const Span& span, Scratch& scratch,
                      const Sums& all) {
        float greatest[kMaxTileRows], total[kMaxTileRows * kLanes];
        const Sums next{greatest, total, scratch.part, all.stride};
        for (int64_t from = tile.begin; from < tile.end; from = part_end(from)) {
            Tile part = tile;
            part.begin = (int)from;
            part.end = (int)std::min<int64_t>(part_end(from), tile.end);
            const bool first = from == tile.begin;
            attend_part(i, part, span, scratch, first ? all : next);
            if (!first) merge(all, next, tile.rows(), (int)all.stride);
        }
    }

    void attend_part(const Instruction& i, const Tile& tile, const Span& span,
                     const Scratch& scratch, const Sums& sums) {
        const Plan& plan = plans_[i.sizes[7]];
        std::fill_n(sums.greatest, tile.rows(), kLowest);
        std::fill_n(sums.total, tile.rows() * kLanes, 0.0f);
        std::fill_n(sums.values, tile.rows() * sums.stride, 0.0f);
        const int shared = plan.sizes.shared(), window = plan.sizes.window;
        const int64_t first = span.context + tile.first / shared + 1;
        const int64_t last = span.context + (tile.first + tile.count - 1) / shared + 1;
        const int64_t all_from = std::max<int64_t>(tile.begin, window ? last - window : 0);
        attend<E>({tile, span, plan.shape, plan.sizes, scratch.queries, sums, all_from,
                   std::min<int64_t>(first, tile.end)},
                  groups_of(span), layers_[i.sizes[5]]);
    }

    void load_queries(const Instruction& i, const Plan& plan, const Tile& tile, const Span& span,
                      Scratch& scratch) {
        const int dim = plan.sizes.key_dim, shared = plan.sizes.shared();
        const float log2 = plan.sizes.softcap != 0 ? 1.0f : kLog2OfE;  // else after the tanh
        const __m512 scaling = _mm512_set1_ps(plan.sizes.scaling * log2);
        auto* to = (Element*)scratch.queries;
        const int64_t stride = (int64_t)plan.shape.key_words * E::kPerWord;
        for (int q = 0; q < tile.rows(); ++q) {
            const int number = tile.first + q % tile.count, head = tile.head + q / tile.count;
            const float* from = row_of(i.in[0], span.first_row + number / shared) +
                                (int64_t)(head * shared + number % shared) * i.sizes[6];
            to[q * stride + stride - 1] = 0;
            for (int d = 0; d < dim; d += kLanes) {
                const __mmask16 some = lanes(d, dim);
                const __m512 x = _mm512_maskz_loadu_ps(some, from + d);
                E::store(to + q * stride + d, _mm512_mul_ps(x, scaling), some);
            }
        }
    }

    void store_tile(const Instruction& i, const Plan& plan, const Tile& tile, const Sums& sums) {
        if (i.packed) {
            store_queries<E>(i, plan, tile, sums);
        } else {
            store_queries<F32>(i, plan, tile, sums);
        }
    }

    template <class Out>
    void store_queries(const Instruction& i, const Plan& plan, const Tile& tile, const Sums& sums) {
        const int dim = plan.sizes.value_dim, shared = plan.sizes.shared();
        for (int q = 0; q < tile.rows(); ++q) {
            const int number = tile.first + q % tile.count, head = tile.head + q / tile.count;
            const int64_t row = spans()[tile.span].first_row + number / shared;
            auto* to = this->template out_row<Out>(i, row, (int64_t)(head * shared + number % shared) * dim);
            const __m512 scale = _mm512_set1_ps(1.0f / sums.total_of(q));
            for (int d = 0; d < dim; d += kLanes) {
                const __mmask16 some = lanes(d, dim);
                const __m512 x = _mm512_maskz_loadu_ps(some, sums.values + q * sums.stride + d);
                Out::store(to + d, _mm512_mul_ps(x, scale), some);
            }
        }
    }

    // Puts the parts of one tile together.
    void finish_attend(const Instruction& i, int task) {
        Plan& plan = plans_[i.sizes[7]];
        const typename Plan::Whole& whole = plan.wholes[task];
        const Sums all = partial_sums(plan, whole.first_partial);
        for (int p = 1; p < whole.num_partials; ++p) {
            merge(all, partial_sums(plan, whole.first_partial + p), whole.tile.rows(),
                  plan.shape.value_dim);
        }
        store_tile(i, plan, whole.tile, all);
    }

    void plan_tiles() {
        size_t needed = 0;
        for (auto& plan : plans_) {
            make_tiles(plan, spans(), step_->num_spans, (int)this->scratch_.size());
            needed = std::max(needed, (size_t)(plan.num_partials * partial_size(plan)));
        }
        if (partials_.size() < needed) partials_.resize(needed);
    }

    int plan_for(const Instruction& instruction) {
        const AttentionSizes sizes = this->sizes_of(instruction);
        for (size_t i = 0; i < plans_.size(); ++i) {
            if (std::memcmp(&plans_[i].sizes, &sizes, sizeof sizes) == 0) return (int)i;
        }
        plans_.push_back({sizes, this->shape_of(sizes), {}, {}});
        return (int)plans_.size() - 1;
    }

    Sums partial_sums(const Plan& plan, int number) {
        float* start = partials_.data() + number * partial_size(plan);
        return {start, start + plan.max_rows, start + plan.max_rows * (1 + kLanes),
                plan.shape.value_dim};
    }

    std::vector<Plan> plans_;
    std::vector<float> partials_;
};

}  // namespace headrace
