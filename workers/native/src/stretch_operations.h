// Stretches of instructions that compute each row from the same row alone.
//
// Many rows run through a stretch in blocks, each from its first instruction to its last. So a block
// stays in the processor's cache, and threads wait for each other at the end of a stretch only. Each
// block reads all weights of the stretch, which therefore must fit into the cache of all threads.
#pragma once

#include <unistd.h>

#include "attention_operations.h"

namespace headrace {

template <class E>
class StretchOperations : public AttentionOperations<E> {
  protected:
    using Base = AttentionOperations<E>;
    using typename Base::Row;
    using Base::buffers_;
    using Base::scratch_;
    using Base::step_;
    using Base::Base;

    // Returns for each instruction the end of the stretch that begins with it, or is cut there.
    std::vector<size_t> find_stretches(const std::vector<Instruction>& all) const {
        std::vector<size_t> ends(all.size());
        const int64_t most = shared_cache_bytes() / 2;
        for (size_t first = 0; first < all.size();) {
            size_t end = first;
            int64_t bytes = 0;
            while (end < all.size() && is_row_local(all[end]) &&
                   bytes + this->weight_bytes(all[end]) <= most) {
                bytes += this->weight_bytes(all[end++]);
            }
            end = std::max(end, first + 1);
            std::fill(ends.begin() + first, ends.begin() + end, end);
            first = end;
        }
        return ends;
    }

    // Whether a step has enough rows for whole blocks on all threads.
    bool runs_in_blocks() const { return step_->rows >= kStretchRows * num_threads(); }

    // As many for each thread.
    int num_blocks() const {
        const int blocks = (step_->rows + kStretchRows - 1) / kStretchRows;
        return (blocks + num_threads() - 1) / num_threads() * num_threads();
    }

    // Runs the instructions from `begin` to `end` on one block.
    void run_stretch(const Instruction* begin, const Instruction* end, int block,
                     Scratch& scratch) {
        const int64_t units = (step_->rows + kUnit - 1) / kUnit, blocks = num_blocks();
        const int64_t first = units * block / blocks * kUnit;
        const int64_t last = std::min<int64_t>(units * (block + 1) / blocks * kUnit, step_->rows);
        const RowRange rows{first, last - first, step_->rows, true};
        for (const Instruction* i = begin; i < end; ++i) {
            if (i->operation == kLinear) {
                for (int panel = 0; panel < this->num_panels(*i); ++panel) {
                    this->linear(*i, rows, panel, scratch);
                }
            } else if (i->operation == kRoundBlocks) {
                this->round_rows(*i, first, last, step_->rows);
            } else {
                run_on_rows(*i, first, last);
            }
        }
    }

    void run_on_rows(const Instruction& instruction, int64_t first, int64_t last) {
        if (instruction.operation == kWrite) return this->write(instruction, first, last);
        for (int64_t row = first; row < last; ++row) run_on_row(instruction, row);
    }

    void run_on_row(const Instruction& instruction, int64_t row) {
        switch (instruction.operation) {
            case kEmbed:
                return this->embed(instruction, row);
            case kNorm:
                return instruction.packed ? this->template norm_heads<Row>(instruction, row)
                                          : this->template norm_heads<F32>(instruction, row);
            case kConvert:
                return this->convert(instruction, row);
            case kRotate:
                return this->rotary(instruction, row);
            case kCombine:
                return instruction.packed ? this->template combined<Row>(instruction, row)
                                          : this->template combined<F32>(instruction, row);
            case kGather:
                return this->gather(instruction, row);
            case kRound:
                return this->round(instruction, row);
            case kRoute:
                return this->route(instruction, row);
            case kCopyRows:
                return this->copy_row(instruction, row);
            case kCopyHeads:
                return this->copy_heads(instruction, row);
            case kRoundPairs:
                return this->round_pair(instruction, row);
            case kReorder:
                return this->reorder(instruction, row);
        }
    }

  private:
    // Rows of a block, and what blocks are multiples of: whole tiles and groups of rounded rows.
    static constexpr int kUnit = 12, kStretchRows = 8 * kUnit;
    static_assert(kUnit % kTileRows == 0 && kUnit % kQuantizedRows == 0);

    int num_threads() const { return (int)scratch_.size(); }

    static int64_t shared_cache_bytes() {
        const long found = sysconf(_SC_LEVEL3_CACHE_SIZE);
        return found > 0 ? found : 8 << 20;
    }

    bool is_row_local(const Instruction& i) const {
        if (i.logit_rows_only || (i.out.buffer >= 0 && buffers_[i.out.buffer].copies != 1)) {
            return false;
        }
        switch (i.operation) {
            case kEmbed:
            case kNorm:
            case kLinear:
            case kConvert:
            case kRotate:
            case kWrite:
            case kCombine:
            case kRound:
            case kRoundBlocks:
            case kCopyHeads:
            case kReorder:
                return true;
            default:
                return false;
        }
    }
};

}  // namespace headrace
