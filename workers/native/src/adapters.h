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

    // in[0]: a linear's rows, in the products' type if `packed`. sizes: their width, and in
    // sizes[5] the linear's number. The row times `down` of its adapter.
    void shrink(const Instruction& i, int64_t row) {
        const Adapter* adapter = adapter_of(i, row);
        if (!adapter) return;
        float* to = inner_.data() + row * step_->max_rank;
        if (i.packed) {
            products<E>(*adapter, packed_row(i.in[0], row), i.sizes[0], to);
        } else {
            products<F32>(*adapter, row_of(i.in[0], row), i.sizes[0], to);
        }
    }

    // Whether some rows of a linear may have an adapter.
    bool has_adapters(const Instruction& i) const { return step_->slots && i.sizes[5] >= 0; }

    // Adds, to a row's sums with one panel, what `shrink` gave times that panel's `up`.
    void expand(const Instruction& i, int64_t row, int panel, __m512& left, __m512& right) const {
        const Adapter* adapter = adapter_of(i, row);
        if (!adapter) return;
        const float* inner = inner_.data() + row * step_->max_rank;
        const float* up = adapter->up + (int64_t)panel * adapter->rank * kPanel;
        for (int32_t r = 0; r < adapter->rank; ++r, up += kPanel) {
            const __m512 x = _mm512_set1_ps(inner[r]);
            left = _mm512_fmadd_ps(x, _mm512_loadu_ps(up), left);
            right = _mm512_fmadd_ps(x, _mm512_loadu_ps(up + kLanes), right);
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

    template <class In>
    static void products(const Adapter& adapter, const typename In::Element* row, int64_t width,
                         float* to) {
        int32_t r = 0;
        for (; r + 4 <= adapter.rank; r += 4) {  // each read of the row serves four
            dots<In, 4>(adapter.down + r * width, row, width, to + r);
        }
        for (; r < adapter.rank; ++r) dots<In, 1>(adapter.down + r * width, row, width, to + r);
    }

    template <class In, int Count>
    static void dots(const float* down, const typename In::Element* row, int64_t width, float* to) {
        __m512 sums[Count];
        for (int n = 0; n < Count; ++n) sums[n] = _mm512_setzero_ps();
        for (int64_t d = 0; d < width; d += kLanes) {
            const __mmask16 some = lanes(d, width);
            const __m512 x = In::load(row + d, some);
#pragma GCC unroll 4
            for (int n = 0; n < Count; ++n) {
                const __m512 y = _mm512_maskz_loadu_ps(some, down + n * width + d);
                sums[n] = _mm512_fmadd_ps(x, y, sums[n]);
            }
        }
        for (int n = 0; n < Count; ++n) to[n] = _mm512_reduce_add_ps(sums[n]);
    }

    std::vector<float> inner_;  // [rows, max_rank]
};

}  // namespace headrace
