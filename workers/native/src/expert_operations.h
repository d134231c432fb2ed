// Mixtures of experts: each row is multiplied with the weights of the experts that it has chosen.
//
// A step's pairs of a row and an expert are sorted by experts, so that rows that share an expert
// share each read of its weights, and no others are read. The products of a pair are those of a
// linear layer. A row's results are added from its first expert to its last, by one thread, so that
// they do not depend on the other rows.
#pragma once

#include "expert_routing.h"
#include "linear_operations.h"

namespace headrace {

// is_first: whether the row has no pair before this one.
// run: the index of its expert's run.
struct ExpertPair {
    int32_t row, run;
    float weight;
    bool is_first;
};

// The pairs of an expert.
// first_group: of its rows that are rounded in blocks.
struct ExpertRun {
    int32_t expert, first, count, first_group;
};

template <class E>
class ExpertOperations : public LinearOperations<E> {
  protected:
    using Base = LinearOperations<E>;
    using Base::arena_;
    using Base::Base;
    using Base::buffers_;
    using Base::max_experts_;
    using Base::row_of;
    using Base::scratch_;
    using Base::starts_;
    using Base::step_;

    void count_experts(const std::vector<Instruction>& instructions) {
        for (const auto& i : instructions) {
            if (i.operation != kSortPairs) continue;
            max_experts_ = std::max(max_experts_, i.sizes[0]);
            max_chosen_ = std::max(max_chosen_, i.sizes[1]);
        }
        ends_.resize(max_experts_);
        runs_.reserve(max_experts_);
    }

    // Allocates what `sort_pairs` writes.
    void allocate_pairs() {
        const size_t pairs = (size_t)step_->rows * max_chosen_;
        if (pairs_.size() < pairs) pairs_.resize(pairs);
    }

    // in[0]: a logit for each expert. See `route_row`.
    void route(const Instruction& i, int64_t row) {
        route_row(i, row_of(i.in[0], row), row_of(i.out, row));
    }

    // in: each row's weights, and the numbers of its experts. sizes: experts, experts of a row.
    void sort_pairs(const Instruction& i, int rows) {
        std::fill_n(ends_.begin(), i.sizes[0], 0);
        for (int64_t row = 0; row < rows; ++row) {
            const float* chosen = row_of(i.in[1], row);
            for (int n = 0; n < i.sizes[1]; ++n) ++ends_[(int)chosen[n]];
        }
        runs_.clear();
        int32_t first = 0, group = 0;
        for (int expert = 0; expert < i.sizes[0]; ++expert) {
            const int32_t count = ends_[expert];
            if (!count) continue;
            const auto run = (int32_t)runs_.size();
            runs_.push_back({expert, first, count, group});
            for (int32_t n = 0; n < count; ++n) pairs_[first + n].run = run;
            ends_[expert] = first;
            first += count;
            group += (count + kQuantizedRows - 1) / kQuantizedRows;
        }
        for (int64_t row = 0; row < rows; ++row) {
            const float* weights = row_of(i.in[0], row);
            const float* chosen = row_of(i.in[1], row);
            const float lowest = *std::min_element(chosen, chosen + i.sizes[1]);
            for (int n = 0; n < i.sizes[1]; ++n) {
                ExpertPair& pair = pairs_[ends_[(int)chosen[n]]++];
                pair = {(int32_t)row, pair.run, weights[n], chosen[n] == lowest};
            }
        }
    }

    // Copies a row for a pair: the products of an expert need its rows one after another.
    void copy_row(const Instruction& i, int64_t pair) {
        const int64_t width = this->bytes_of_row(buffers_[i.out.buffer]);
        std::memcpy(arena_.start() + starts_[i.out.buffer] + pair * width,
                    arena_.start() + starts_[i.in[0].buffer] + pairs_[pair].row * width, width);
    }

    // Rounds sizes[0] numbers to 8 bits in blocks, as the rows of each expert's products; see
    // rounded_rows.h. sizes[1]: whether in[0] has a row for each pair; else each row of the step.
    void round_pair(const Instruction& i, int64_t pair) {
        const ExpertRun& run = runs_[pairs_[pair].run];
        const Buffer& buffer = buffers_[i.out.buffer];
        char* to = arena_.start() + starts_[i.out.buffer] +
                   run.first_group * this->group_bytes(buffer);
        round_row(row_of(i.in[0], i.sizes[1] ? pair : pairs_[pair].row), i.sizes[0],
                  pair - run.first, run.count, to);
    }

    // Of both products: sizes, numbers and data as for a linear layer, but for sizes[6], the cache
    // lines from the weights of one expert to those of the next. Biases follow each other in whole
    // panels. Rows of in[0] and in[1], and of `out` of the first, are pairs.
    // The number of tasks must be the same all through the step, not depend on `runs_`: a thread
    // that was suspended may ask for it when others are at the next layer's experts.
    int up_tasks(const Instruction& i, int pairs) const {
        return std::min(pairs, max_experts_) * tasks_of_expert(i);
    }

    void experts_up(const Instruction& i, int task, Scratch& scratch) {
        const int tasks = tasks_of_expert(i), each = this->panels_per_task(i);
        if (task / tasks >= (int)runs_.size()) return;
        const ExpertRun& run = runs_[task / tasks];
        const Instruction one = of_expert(i, run);
        const int first = task % tasks * each;
        for (int panel = first; panel < std::min(first + each, this->num_panels(i)); ++panel) {
            this->linear(one, RowRange::whole(run.count), panel, scratch);
        }
    }

    int down_tasks(const Instruction& i, int rows) const {
        return rows ? (this->num_panels(i) + panels_of_down(i) - 1) / panels_of_down(i) : 0;
    }

    // Adds up the experts of all rows for some panels.
    void experts_down(const Instruction& i, int task, Scratch& scratch) {
        const int first = task * panels_of_down(i);
        const int last = std::min(first + panels_of_down(i), this->num_panels(i));
        for (const ExpertRun& run : runs_) {
            const Instruction one = of_expert(i, run);
            for (int panel = first; panel < last; ++panel) add_expert(one, run, panel, scratch);
        }
    }

  private:
    void add_expert(const Instruction& one, const ExpertRun& run, int panel, Scratch& scratch) {
        const int64_t first = (int64_t)panel * kPanel;
        const Mask left = lanes(first, one.sizes[0]), right = lanes(first + kLanes, one.sizes[0]);
        const float* bias = one.data[1] ? (const float*)one.data[1] + first : nullptr;
        const Floats bias_left = bias ? load(bias) : zeros();
        const Floats bias_right = bias ? load(bias + kLanes) : zeros();
        const ExpertPair* pairs = pairs_.data() + run.first;
        const auto add = [&](int64_t n, Floats a, Floats b) HEADRACE_INLINED {
            float* to = row_of(one.out, pairs[n].row) + first;
            const Floats weight = splat(pairs[n].weight);
            a = (a + bias_left) * weight;
            b = (b + bias_right) * weight;
            if (!pairs[n].is_first) {
                a = a + load(to, left);
                b = b + load(to + kLanes, right);
            }
            store(to, a, left);
            store(to + kLanes, b, right);
        };
        this->multiply(one, RowRange::whole(run.count), panel, scratch, add);
    }

    int tasks_of_expert(const Instruction& i) const {
        return (this->num_panels(i) + this->panels_per_task(i) - 1) / this->panels_per_task(i);
    }

    // Several panels share the reads of an expert's rows; a thread needs several tasks.
    int panels_of_down(const Instruction& i) const {
        return std::max(1, this->num_panels(i) / ((int)scratch_.size() * 8));
    }

    // The instruction with the weights and rows of one expert, as a linear layer's.
    Instruction of_expert(const Instruction& i, const ExpertRun& run) const {
        Instruction one = i;
        const int64_t shift = (int64_t)i.sizes[6] * kCacheLine * run.expert;
        one.data[0] = (const char*)i.data[0] + shift;
        if (i.data[1]) {
            one.data[1] = (const float*)i.data[1] + round_up(i.sizes[0], kPanel) * run.expert;
        }
        if (i.data[2]) one.data[2] = (const char*)i.data[2] + shift;
        for (Operand* operand : {&one.in[0], &one.in[1], &one.out}) {
            const bool is_of_rows = operand == &one.out && i.operation == kExpertsDown;
            if (is_of_rows || operand->buffer < 0) continue;
            const Buffer& buffer = buffers_[operand->buffer];
            operand->offset += buffer.kind == 3 ? run.first_group : run.first * buffer.width;
        }
        return one;
    }

    int32_t max_chosen_ = 0;         // experts of a row
    std::vector<ExpertPair> pairs_;  // sorted by experts, those of an expert by rows
    std::vector<ExpertRun> runs_;    // of the experts that have pairs
    std::vector<int32_t> ends_;      // of each expert's pairs
};

}  // namespace headrace
