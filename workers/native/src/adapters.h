// LoRA adapters (Hu et al., 2021): what each row's adapter adds to the products of linears.
//
// Each row is done by itself and in the same order, so that what it gets does not depend on which
// rows are beside it, nor on their adapters.
#pragma once

#include "row_operations.h"

namespace headrace {

template <class E>
class Adapters : public RowOperations<E> {
  protected:
    using Base = RowOperations<E>;
    using typename Base::Element;
    using Base::Base;
    using Base::packed_row;
    using Base::row_of;
    using Base::step_;

    // Room for what `shrink` gives for each row, as long as one linear needs it.
    void place_inner() {
        if (!step_->slots) return;
        const size_t size = (size_t)step_->rows * step_->max_rank;
        if (inner_.size() < size) inner_.resize(size);
    }

    // A few rows keep all threads busy only if the ranks of each are shared out.
    int shrink_tasks(int rows, int threads) const {
        if (!step_->slots) return 0;
        return rows <= kFewRows ? rows * rank_parts() : std::min(rows, threads * 4);
    }

    // in[0]: a linear's rows, in the products' type if `packed`. sizes: their width, and in
    // sizes[5] the linear's number. Some rows times `down` of their adapters.
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

    // Whether some rows of a linear may have an adapter.
    bool has_adapters(const Instruction& i) const { return step_->slots && i.sizes[5] >= 0; }

    // Adds, to a row's sums with one panel, what `shrink` gave times that panel's `up`.
    void expand(const Instruction& i, int64_t row, int panel, __m512& left, __m512& right) const {
        const Adapter* adapter = adapter_of(i, row);
        if (!adapter) return;
        const float* inner = inner_.data() + row * step_->max_rank;
        const auto* up = (const Element*)adapter->up + (int64_t)panel * adapter->rank * kPanel;
        for (int32_t r = 0; r < adapter->rank; ++r, up += kPanel) {
            const __m512 x = _mm512_set1_ps(inner[r]);
            left = _mm512_fmadd_ps(x, E::load(up, 0xFFFF), left);
            right = _mm512_fmadd_ps(x, E::load(up + kLanes, 0xFFFF), right);
        }
    }

  private:
    // Null if the row has none, or it leaves this linear as it is.
    const Adapter* adapter_of(const Instruction& i, int64_t row) const {
        const int32_t slot = step_->slots[i.wanted ? step_->wanted[row] : row];
        if (slot < 0) return nullptr;
        const Adapter* adapter = step_->adapters + (int64_t)i.sizes[5] * step_->num_slots + slot;
        return adapter->rank ? adapter : nullptr;
    }

    static constexpr int kFewRows = 4, kRankPart = 8;

    int rank_parts() const { return (step_->max_rank + kRankPart - 1) / kRankPart; }

    // A row times what its adapter has of `down` in [first, last).
    void shrink_row(const Instruction& i, int64_t row, int first, int last) {
        const Adapter* adapter = adapter_of(i, row);
        if (!adapter) return;
        last = std::min(last, adapter->rank);
        float* to = inner_.data() + row * step_->max_rank;
        if (i.packed) {
            products<E>(*adapter, packed_row(i.in[0], row), i.sizes[0], first, last, to);
        } else {
            products<F32>(*adapter, row_of(i.in[0], row), i.sizes[0], first, last, to);
        }
    }

    template <class In>
    static void products(const Adapter& adapter, const typename In::Element* row, int64_t width,
                         int first, int last, float* to) {
        const auto* down = (const Element*)adapter.down;
        int r = first;
        for (; r + 4 <= last; r += 4) {  // each read of the row serves four
            dots<In, 4>(down + r * width, row, width, to + r);
        }
        for (; r < last; ++r) dots<In, 1>(down + r * width, row, width, to + r);
    }

    template <class In, int Count>
    static void dots(const Element* down, const typename In::Element* row, int64_t width,
                     float* to) {
        __m512 sums[Count];
        for (int n = 0; n < Count; ++n) sums[n] = _mm512_setzero_ps();
        for (int64_t d = 0; d < width; d += kLanes) {
            const __mmask16 some = lanes(d, width);
            const __m512 x = In::load(row + d, some);
#pragma GCC unroll 4
            for (int n = 0; n < Count; ++n) {
                sums[n] = _mm512_fmadd_ps(x, E::load(down + n * width + d, some), sums[n]);
            }
        }
        for (int n = 0; n < Count; ++n) to[n] = _mm512_reduce_add_ps(sums[n]);
    }

    std::vector<float> inner_;  // [rows, max_rank]
};

}  // namespace headrace
