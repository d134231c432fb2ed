// LoRA adapters (Hu et al., 2021): adds each row's adapter to the products of linear layers.
//
// Each row is computed alone and in the same order, so that its result does not depend on the other
// rows of the step or on their adapters.
#pragma once

#include "row_operations.h"

namespace headrace {

template <class E>
class LoraOperations : public RowOperations<E> {
  protected:
    using Base = RowOperations<E>;
    using typename Base::Element;
    using typename Base::Row;
    using Base::Base;
    using Base::packed_row;
    using Base::row_of;
    using Base::step_;

    // Allocates the results of `shrink` for each row; one product uses them at a time.
    void allocate_inner() {
        if (!step_->slots) return;
        const size_t size = (size_t)step_->rows * step_->max_rank;
        if (inner_.size() < size) inner_.resize(size);
    }

    // A few rows keep all threads busy only if the ranks of each are split among them.
    int shrink_tasks(int rows, int threads) const {
        if (!step_->slots) return 0;
        return rows <= kFewRows ? rows * rank_parts() : std::min(rows, threads * 4);
    }

    // Multiplies some rows with `down` of their adapters. in[0]: a linear layer's rows, in the
    // products' type if `packed`. sizes: [0] their width, [5] the index of the linear layer.
    void shrink(const Instruction& i, int rows, int task, int tasks) {
        if (rows <= kFewRows) {
            const int first = task % rank_parts() * kRankPart;
            return shrink_row(i, task / rank_parts(), first, first + kRankPart);
        }
        const int64_t last = (int64_t)rows * (task + 1) / tasks;
        for (int64_t row = (int64_t)rows * task / tasks; row < last; ++row) {
            shrink_row(i, row, 0, step_->max_rank);
        }
    }

    // Whether rows of a linear layer may have an adapter.
    bool has_adapters(const Instruction& i) const { return step_->slots && i.sizes[5] >= 0; }

    // Adds the result of `shrink` times the panel's `up` to a row's sums with that panel.
    void expand(const Instruction& i, int64_t row, int panel, Floats& left, Floats& right) const {
        const Adapter* adapter = adapter_of(i, row);
        if (!adapter) return;
        const float* inner = inner_.data() + row * step_->max_rank;
        const auto* up = (const Element*)adapter->up + (int64_t)panel * adapter->rank * kPanel;
        for (int32_t r = 0; r < adapter->rank; ++r, up += kPanel) {
            const Floats x = splat(inner[r]);
            left = fma(x, E::load(up), left);
            right = fma(x, E::load(up + kLanes), right);
        }
    }

  private:
    // Null if the row has no adapter, or one that does not change this linear layer.
    const Adapter* adapter_of(const Instruction& i, int64_t row) const {
        const int32_t slot = step_->slots[i.logit_rows_only ? step_->logit_rows[row] : row];
        if (slot < 0) return nullptr;
        const Adapter* adapter = step_->adapters + (int64_t)i.sizes[5] * step_->num_slots + slot;
        return adapter->rank ? adapter : nullptr;
    }

    static constexpr int kFewRows = 4, kRankPart = 8;

    int rank_parts() const { return (step_->max_rank + kRankPart - 1) / kRankPart; }

    // Multiplies a row with the ranks first to last - 1 of its adapter's `down`.
    void shrink_row(const Instruction& i, int64_t row, int first, int last) {
        const Adapter* adapter = adapter_of(i, row);
        if (!adapter) return;
        last = std::min(last, adapter->rank);
        float* to = inner_.data() + row * step_->max_rank;
        if (i.packed) {
            products<Row>(*adapter, packed_row(i.in[0], row), i.sizes[0], first, last, to);
        } else {
            products<F32>(*adapter, row_of(i.in[0], row), i.sizes[0], first, last, to);
        }
    }

    template <class In>
    static void products(const Adapter& adapter, const typename In::Element* row, int64_t width,
                         int first, int last, float* to) {
        const auto* down = (const Element*)adapter.down;
        int r = first;
        for (; r + 4 <= last; r += 4) {  // each read of the row serves four ranks
            dots<In, 4>(down + r * width, row, width, to + r);
        }
        for (; r < last; ++r) dots<In, 1>(down + r * width, row, width, to + r);
    }

    template <class In, int Count>
    static void dots(const Element* down, const typename In::Element* row, int64_t width,
                     float* to) {
        Floats sums[Count];
        for (int n = 0; n < Count; ++n) sums[n] = zeros();
        for (int64_t d = 0; d < width; d += kLanes) {
            const Mask mask = lanes(d, width);
            const Floats x = In::load(row + d, mask);
#pragma GCC unroll 4
            for (int n = 0; n < Count; ++n) {
                sums[n] = fma(x, E::load(down + n * width + d, mask), sums[n]);
            }
        }
        for (int n = 0; n < Count; ++n) to[n] = sum(sums[n]);
    }

    std::vector<float> inner_;  // [rows, max_rank]
};

}  // namespace headrace
