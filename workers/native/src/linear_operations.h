// Linear layers: products with weights, and the operations on their sums before they are stored.
#pragma once

#include "lora_operations.h"

namespace headrace {

// Rows of a step that are multiplied with panels. all: of the step. is_alone: the thread computes
// all panels for these rows, not some of them for all rows.
struct RowRange {
    int64_t first, count, all;
    bool is_alone;

    static RowRange whole(int64_t rows) { return {0, rows, rows, false}; }
};

template <class E>
class LinearOperations : public LoraOperations<E> {
  protected:
    using Base = LoraOperations<E>;
    using typename Base::Element;
    using typename Base::Row;
    using Base::arena_;
    using Base::buffers_;
    using Base::row_of;
    using Base::packed_row;
    using Base::starts_;
    using Base::step_;
    using Base::Base;

    // sizes: outputs, words (or blocks) of inputs, kind, activation, weight format, index among the
    // products that adapters may change (-1: they may not). data: panels, bias, scales of 8-bit
    // weights. Kinds: 0 out = activation(product); 1 out += product * numbers[0]; 2 the panels hold
    // 16 outputs of a gate and 16 of its partner, out = activation(gate) * partner. Weight formats
    // (WeightFormat in weight_format.py): 0 words; 1 8-bit integers, data[2] holds the scale of each
    // output; 2 8-bit integers that are multiplied with 8-bit rows (see `round`), data[2] holds the
    // scales and then the excess to subtract, in[1] the scales of the rows; from 3 on blocks, that
    // are multiplied with rows rounded in blocks. Biases and scales are padded to whole panels.
    void linear(const Instruction& i, RowRange rows, int panel, Scratch& scratch) {
        if (i.sizes[2] == 2) {
            return i.packed ? gated<Row>(i, rows, panel, scratch)
                            : gated<F32>(i, rows, panel, scratch);
        }
        return i.packed ? plain<Row>(i, rows, panel, scratch) : plain<F32>(i, rows, panel, scratch);
    }

    // activation(gate) * partner; or with sizes[7], both clamped to numbers[1],
    // (partner + 1) * gate * sigmoid(numbers[0] * gate).
    template <class Activation>
    static HEADRACE_INLINE Floats gate_product(const Instruction& i, const Activation& activation,
                                               Floats gate, Floats partner) {
        if (!i.sizes[7]) return activation(gate) * partner;
        const Floats limit = splat(i.numbers[1]), one = splat(1.0f);
        // This order of arguments keeps what is not a number.
        gate = min(limit, gate);
        partner = max(zeros() - limit, min(limit, partner));
        return (partner + one) * gate * sigmoid(gate * splat(i.numbers[0]));
    }

    template <class Finish>
    void multiply(const Instruction& i, RowRange rows, int panel, Scratch& scratch,
                  const Finish& finish) {
        if (i.sizes[4] >= kFirstBlockFormat) {
            return multiply_blocks(i, rows, panel, scratch, finish);
        }
        const int64_t number = (int64_t)panel * i.sizes[1] * kPanel;
        const auto* scales = (const float*)i.data[2] + (int64_t)panel * kPanel;
        float* sums = scratch.sums.data();
        if (i.sizes[4] == 2) return multiply_bytes(i, rows, panel, sums, finish);
        const auto* in = (const uint32_t*)packed_row(i.in[0], rows.first);
        const auto finish_row = [&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
            finish(rows.first + row, a, b);
        };
        const int64_t stride = buffers_[i.in[0].buffer].width / Row::kPerWord;
        if (i.sizes[4] == 0) {
            const StoredPanel words{(const uint32_t*)i.data[0] + number,
                                    next_words(i, rows, panel)};
            panel_product<E>(in, stride, rows.count, words, i.sizes[1], sums, finish_row);
            return;
        }
        const RoundedPanel<E> words{(const int8_t*)i.data[0] + number * E::kPerWord,
                                    scratch.words};
        const Floats left = load(scales), right = load(scales + kLanes);
        panel_product<E>(in, stride, rows.count, words, i.sizes[1], sums,
                         [&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
                             finish_row(row, a * left, b * right);
                         });
    }

    // The number of panels of one task. A gate's panel has 16 outputs, half a cache line in 16
    // bits: two threads that wrote the halves of one line would compete for it.
    static int panels_per_task(const Instruction& i) { return i.sizes[2] == 2 ? 2 : 1; }

    static int num_panels(const Instruction& i) { return (i.sizes[0] + kPanel - 1) / kPanel; }

    // Of the panels of a linear layer; 0 for other instructions.
    static int64_t weight_bytes(const Instruction& i) {
        if (i.operation != kLinear) return 0;
        const int format = i.sizes[4];
        const int64_t words = (int64_t)i.sizes[1] * kPanel;
        const int64_t of_panel =
            format >= kFirstBlockFormat
                ? quantized_kernel(format - kFirstBlockFormat).panel_bytes(i.sizes[1])
            : format == 1 ? words * E::kPerWord
                          : words * 4;
        return of_panel * num_panels(i);
    }

    // The panel that this thread is likely to compute next; null if there is none. bytes: of one.
    const uint8_t* next_panel(const Instruction& i, RowRange rows, int panel,
                              int64_t bytes) const {
        const int each = panels_per_task(i), threads = (int)this->scratch_.size();
        const bool is_of_task = rows.is_alone || (panel + 1) % each;
        const int64_t next = panel + (is_of_task ? 1 : each * (threads - 1) + 1);
        return next < num_panels(i) ? (const uint8_t*)i.data[0] + next * bytes : nullptr;
    }

    const uint32_t* next_words(const Instruction& i, RowRange rows, int panel) const {
        return (const uint32_t*)next_panel(i, rows, panel, (int64_t)i.sizes[1] * kPanel * 4);
    }

    template <class Finish>
    void multiply_blocks(const Instruction& i, RowRange rows, int panel, Scratch& scratch,
                         const Finish& finish) {
        constexpr int kRows = kBlockRows / kQuantizedRows * kQuantizedRows;
        const QuantizedKernel& kernel = quantized_kernel(i.sizes[4] - kFirstBlockFormat);
        const int64_t bytes = kernel.panel_bytes(i.sizes[1]);
        const auto* weight = (const uint8_t*)i.data[0] + panel * bytes;
        const Operand rows_in = i.in[0];  // offset: in groups, of an expert's rows
        const void* in = arena_.start() + starts_[rows_in.buffer] +
                         rows_in.offset * this->group_bytes(buffers_[rows_in.buffer]);
        float* sums = scratch.sums.data();
        for (int64_t first = rows.first; first < rows.first + rows.count; first += kRows) {
            const int count = (int)std::min<int64_t>(kRows, rows.first + rows.count - first);
            kernel.rows(in, rows.all, first, count, weight, next_panel(i, rows, panel, bytes),
                        i.sizes[1], scratch.decoded, sums);
            for (int row = 0; row < count; ++row) {
                const float* from = sums + row * kPanel;
                finish(first + row, load(from), load(from + kLanes));
            }
        }
    }

    template <class Finish>
    void multiply_bytes(const Instruction& i, RowRange rows, int panel, float* sums,
                        const Finish& finish) {
        const int64_t first = (int64_t)panel * kPanel;
        const int64_t all = round_up(i.sizes[0], kPanel);
        const auto* scales = (const float*)i.data[2] + first;
        const auto* excess = (const int32_t*)i.data[2] + all + first;
        const Floats left = load(scales), right = load(scales + kLanes);
        const Words left_excess = load_words(excess);
        const Words right_excess = load_words(excess + kLanes);
        const auto* in = (const uint32_t*)(arena_.start() + starts_[i.in[0].buffer] +
                                          i.in[0].offset +
                                          rows.first * buffers_[i.in[0].buffer].width);
        const int64_t stride = buffers_[i.in[0].buffer].width / Int8::kPerWord;
        const StoredPanel words{(const uint32_t*)i.data[0] + first * i.sizes[1],
                                next_words(i, rows, panel)};
        panel_product<Int8>(
            in, stride, rows.count, words, i.sizes[1], sums,
            [&](int64_t n, Floats a, Floats b) HEADRACE_INLINED {
                const int64_t row = rows.first + n;
                const Floats scale = splat(*row_of(i.in[1], row));
                const Floats x = to_floats(as_words(a) - left_excess);
                const Floats y = to_floats(as_words(b) - right_excess);
                finish(row, x * left * scale, y * right * scale);
            });
    }

    template <class Out>
    void plain(const Instruction& i, RowRange rows, int panel, Scratch& scratch) {
        const int64_t first = (int64_t)panel * kPanel;
        const Mask left = lanes(first, i.sizes[0]), right = lanes(first + kLanes, i.sizes[0]);
        const float* bias = i.data[1] ? (const float*)i.data[1] + first : nullptr;
        const Floats bias_left = bias ? load(bias) : zeros();
        const Floats bias_right = bias ? load(bias + kLanes) : zeros();
        const bool adapts = this->has_adapters(i);
        const auto biased = [&](int64_t row, Floats& a, Floats& b) HEADRACE_INLINED {
            if (adapts) this->expand(i, row, panel, a, b);
            a = a + bias_left;
            b = b + bias_right;
        };
        const auto store_row = [&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
            auto* to = this->template out_row<Out>(i, row, first);
            Out::store(to, a, left);
            Out::store(to + kLanes, b, right);
        };
        if (i.sizes[2] == 1) {
            const Floats scale = splat(i.numbers[0]);
            const auto add = [&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
                biased(row, a, b);
                const auto* to = this->template out_row<Out>(i, row, first);
                a = fma(a, scale, Out::load(to, left));
                b = fma(b, scale, Out::load(to + kLanes, right));
                store_row(row, a, b);
            };
            multiply(i, rows, panel, scratch, add);
        } else if (i.sizes[3]) {
            multiply_staged(i, rows, panel, scratch, biased, [&](const auto& for_each_row) {
                with_activation(i.sizes[3], [&](auto activation) {
                    for_each_row([&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
                        store_row(row, activation(a), activation(b));
                    });
                });
            });
        } else {
            const auto keep = [&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
                biased(row, a, b);
                store_row(row, a, b);
            };
            multiply(i, rows, panel, scratch, keep);
        }
    }

    // Multiplies some rows after the other, and calls prepare(row, left, right) with each row's
    // sums, to change them; then finish(for_each_row), which calls for_each_row with a function of
    // a row and of what prepare has made of its sums. So registers hold no other rows' sums then.
    template <class Prepare, class Finish>
    void multiply_staged(const Instruction& i, RowRange rows, int panel, Scratch& scratch,
                         const Prepare& prepare, const Finish& finish) {
        for (int64_t from = 0; from < rows.count; from += kStagedRows) {
            RowRange some = rows;
            some.first += from;
            some.count = std::min<int64_t>(kStagedRows, rows.count - from);
            float* staged = scratch.staged;
            const auto stage = [&](int64_t row, Floats a, Floats b) HEADRACE_INLINED {
                prepare(row, a, b);
                float* to = staged + (row - some.first) * kPanel;
                store(to, a);
                store(to + kLanes, b);
            };
            multiply(i, some, panel, scratch, stage);
            finish([&](const auto& run) HEADRACE_INLINED {
                for (int64_t n = 0; n < some.count; ++n) {
                    const float* sums = staged + n * kPanel;
                    run(some.first + n, load(sums), load(sums + kLanes));
                }
            });
        }
    }

    template <class Out>
    void gated(const Instruction& i, RowRange rows, int panel, Scratch& scratch) {
        const int64_t first = (int64_t)panel * kLanes;
        const Mask mask = lanes(first, i.sizes[0] / 2);
        const float* bias = i.data[1] ? (const float*)i.data[1] + (int64_t)panel * kPanel : nullptr;
        const bool adapts = this->has_adapters(i);
        const auto prepare = [&](int64_t row, Floats& gate, Floats& partner) HEADRACE_INLINED {
            if (adapts) this->expand(i, row, panel, gate, partner);
            if (bias) {
                gate = gate + load(bias);
                partner = partner + load(bias + kLanes);
            }
        };
        multiply_staged(i, rows, panel, scratch, prepare, [&](const auto& for_each_row) {
            with_activation(i.sizes[3], [&](auto activation) {
                for_each_row([&](int64_t row, Floats gate, Floats partner) HEADRACE_INLINED {
                    Out::store(this->template out_row<Out>(i, row, first),
                               gate_product(i, activation, gate, partner), mask);
                });
            });
        });
    }
};

}  // namespace headrace
