// The state that all instructions share: buffers, the step and the cache.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "attention.h"
#include "gemm.h"
#include "memory.h"
#include "program.h"
#include "quantized.h"
#include "store_token.h"

namespace headrace {

constexpr int kStagedRows = 96;

// The working memory of one thread.
struct Scratch {
    std::vector<float> sums = std::vector<float>(kBlockRows * kPanel);
    alignas(64) float staged[kStagedRows * kPanel];
    alignas(64) uint32_t words[RoundedPanel<Bf16>::kDepth * kPanel];
    alignas(64) uint32_t queries[kTileQueries * kMaxDim];
    alignas(64) float values[kTileQueries * kMaxDim];
    alignas(64) float part[kTileQueries * kMaxDim];
    DecodedPanel decoded;
};

template <class E>
class State {
  protected:
    using Element = typename E::Element;
    using Row = typename E::Row;

    State(const Buffer* buffers, int num_buffers, int num_threads, int block_size,
          CacheFormat cache_format)
        : buffers_(buffers, buffers + num_buffers),
          starts_(num_buffers),
          scratch_(num_threads),
          block_size_(block_size),
          cache_format_(cache_format) {}

    // Allocates the buffers one after another, each for the step's rows, or logit rows.
    void allocate_buffers() {
        int64_t bytes = 0;
        for (size_t i = 0; i < buffers_.size(); ++i) {
            starts_[i] = bytes;
            bytes += round_up(buffer_bytes(buffers_[i]) + kCacheLine, kCacheLine);
        }
        if (bytes > arena_.bytes()) arena_ = Memory(bytes);
    }

    int64_t buffer_bytes(const Buffer& buffer) const {
        // A row's logits may be wanted twice.
        const int64_t of_step = std::max(step_->rows, step_->num_logit_rows);
        const int64_t rows = of_step * buffer.copies;
        if (buffer.kind != 3) return bytes_of_row(buffer) * rows;
        // Each expert's rows begin a group.
        const int64_t of_experts = (rows / kQuantizedRows + max_experts_) * group_bytes(buffer);
        return std::max(rounded_bytes(rows, buffer.width), max_experts_ ? of_experts : 0);
    }

    int64_t bytes_of_row(const Buffer& buffer) const {
        const int64_t sizes[] = {sizeof(float), sizeof(typename Row::Element), 1};
        return sizes[buffer.kind] * buffer.width;
    }

    // Of a group of rows that are rounded in blocks.
    static int64_t group_bytes(const Buffer& buffer) {
        return buffer.width * (int64_t)sizeof(RowBlocks<kQuantizedRows>);
    }

    float* row_of(Operand operand, int64_t row) const {
        return (float*)(arena_.start() + starts_[operand.buffer]) +
               row * buffers_[operand.buffer].width + operand.offset;
    }

    typename Row::Element* packed_row(Operand operand, int64_t row) const {
        return (typename Row::Element*)(arena_.start() + starts_[operand.buffer]) +
               row * buffers_[operand.buffer].width + operand.offset;
    }

    template <class Out>
    typename Out::Element* out_row(const Instruction& instruction, int64_t row, int64_t at) const {
        const Operand operand{instruction.out.buffer, instruction.out.offset + (int32_t)at};
        if constexpr (std::is_same_v<Out, F32>) {
            if (operand.buffer == -2) {
                return step_->output + row * instruction.sizes[0] + operand.offset;
            }
            return row_of(operand, row);
        } else {
            return packed_row(operand, row);
        }
    }

    // What an attention instruction's rows attend to, or write.
    const Span* spans(int32_t cache) const {
        return (const Span*)(cache == kSource ? step_->sources : step_->spans);
    }

    const Span& span_of(int32_t cache, int64_t row) const {
        const Span* after = std::upper_bound(
            spans(cache), spans(cache) + step_->num_spans, row,
            [](int64_t target, const Span& span) { return target < span.first_row; });
        return after[-1];
    }

    BlockTable block_table_of(const Span& span) const {
        return {step_->blocks + span.table_offset, block_size_};
    }

    static AttentionSizes sizes_of(const Instruction& i) {
        return {i.sizes[0], i.sizes[1],   i.sizes[2],  i.sizes[3],
                i.sizes[4], i.numbers[0], i.numbers[1], i.sizes[8]};
    }

    // Calls a function with an object of the cache's type.
    template <class Run>
    auto with_cache(const Run& run) const {
        switch (cache_format_) {
            case kInt8Cache:
                return run(Int8Cache());
            case kFp8Cache:
                return run(FloatCache<Fp8>());
            case kBf16Cache:
                return run(FloatCache<Bf16>());
            default:
                return run(FloatCache<E>());
        }
    }

    CacheShape shape_of(const AttentionSizes& sizes) const {
        return with_cache([&](auto cache) -> CacheShape {
            using Cache = decltype(cache);
            const int words = (sizes.key_dim + Cache::kPerWord - 1) / Cache::kPerWord;
            return {sizes.kv_heads, words, (int)round_up(sizes.value_dim, kLanes), Cache::kPerWord,
                    Cache::query_words(words)};
        });
    }

    std::vector<Buffer> buffers_;
    std::vector<int64_t> starts_;
    std::vector<Scratch> scratch_;
    int block_size_;
    CacheFormat cache_format_;
    int32_t max_experts_ = 0;  // of a layer
    Memory arena_;
    std::vector<uint32_t*> layers_;  // the cache of each layer
    const Step* step_ = nullptr;
};

}  // namespace headrace
