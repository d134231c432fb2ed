// Instructions that compute one row after another.
#pragma once

#include "elements.h"
#include "row_functions.h"
#include "state.h"

namespace headrace {

template <class E>
class RowOperations : public State<E> {
  protected:
    using Base = State<E>;
    using typename Base::Element;
    using typename Base::Row;
    using Base::arena_;
    using Base::buffers_;
    using Base::row_of;
    using Base::packed_row;
    using Base::starts_;
    using Base::step_;
    using Base::Base;
    using Base::layers_;

    // data[0]: table [entries, sizes[0]], in float32 or, with sizes[1], in the products' type; with
    // sizes[4] it is a weight in panels, of the format sizes[5] (see `linear`). Looks up
    // token ids; with sizes[2] of 1 positions plus sizes[3], with 2 the types of tokens. With 3 it
    // copies the row's features.
    void embed(const Instruction& i, int64_t row) {
        if (i.sizes[2] == 3) {
            std::memcpy(row_of(i.out, row), step_->features + row * step_->feature_stride,
                        i.sizes[0] * sizeof(float));
            return;
        }
        const int64_t id = i.sizes[2] == 2   ? step_->token_types[row]
                           : i.sizes[2] == 1 ? step_->positions[row] + i.sizes[3]
                                             : step_->token_ids[row];
        float* to = row_of(i.out, row);
        if (i.sizes[4]) return embed_from_panels(i, id, to);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const Mask mask = lanes(d, i.sizes[0]);
            const int64_t at = id * i.sizes[0] + d;
            store(to + d,
                  i.sizes[1] ? E::load((const Element*)i.data[0] + at, mask)
                             : load((const float*)i.data[0] + at, mask),
                  mask);
        }
    }

    void embed_from_panels(const Instruction& i, int64_t id, float* to) {
        if (i.sizes[5] >= kFirstBlockFormat) {
            const QuantizedKernel& kernel = quantized_kernel(i.sizes[5] - kFirstBlockFormat);
            const int64_t blocks = (i.sizes[0] + kBlock - 1) / kBlock;
            const auto* panel = (const uint8_t*)i.data[0] + id / kPanel * kernel.panel_bytes(blocks);
            return kernel.output(panel, (int)(id % kPanel), i.sizes[0], to);
        }
        const int64_t words = (i.sizes[0] + E::kPerWord - 1) / E::kPerWord;
        const auto* from = (const uint32_t*)i.data[0] + id / kPanel * words * kPanel + id % kPanel;
        for (int64_t word = 0; word < words; ++word) {
            Element pair[2] = {0, 0};
            std::memcpy(pair, from + word * kPanel, 4);
            for (int64_t n = 0; n < E::kPerWord && word * E::kPerWord + n < i.sizes[0]; ++n) {
                to[word * E::kPerWord + n] = E::value(pair[n]);
            }
        }
    }

    // sizes: size of one norm, number of norms in the row, whether centred. data: weight, bias.
    template <class Out>
    void norm_heads(const Instruction& i, int64_t row) {
        const float* in = row_of(i.in[0], row);
        for (int32_t n = 0; n < i.sizes[1]; ++n) {
            norm<Out>(in + (int64_t)n * i.sizes[0],
                      this->template out_row<Out>(i, row, (int64_t)n * i.sizes[0]), i.sizes[0],
                      (const float*)i.data[0], (const float*)i.data[1], i.numbers[0], i.sizes[2]);
        }
    }

    // Rounds sizes[0] numbers to 8-bit integers, stored unsigned by adding 128; the next sizes[1]
    // bytes are 128, which stands for zero. in[1]: receives the row's scale.
    void round(const Instruction& i, int64_t row) {
        const float* from = row_of(i.in[0], row);
        auto* to = (uint8_t*)(arena_.start() + starts_[i.out.buffer]) +
                   row * buffers_[i.out.buffer].width;
        Floats magnitude = zeros();
        Mask no_numbers = is_nan(magnitude);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const Floats x = load(from + d, lanes(d, i.sizes[0]));
            magnitude = max(magnitude, abs(x));
            no_numbers = no_numbers | is_nan(x);
        }
        float scale = std::max(maximum(magnitude) / 127.0f, 1e-30f);
        // Bytes cannot represent NaN; the scale can, and makes the whole product NaN.
        if (any(no_numbers)) scale = std::numeric_limits<float>::quiet_NaN();
        const Floats inverse = splat(1.0f / scale);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const Mask mask = lanes(d, i.sizes[0]);
            const Words rounded = to_words(load(from + d, mask) * inverse);
            store_bytes(to + d, rounded + splat_word(128), mask);
        }
        std::memset(to + i.sizes[0], 128, i.sizes[1]);
        *row_of(i.in[1], row) = scale;
    }

    // Few rows are divided into ranges of blocks, many into groups of rows: no two tasks write the
    // same cache line.
    int round_tasks(const Instruction& i, int rows) const {
        if (rows <= 4) return rows > 0;
        const int most = (int)this->scratch_.size() * 4;
        const int groups = (rows + kQuantizedRows - 1) / kQuantizedRows;
        return std::min(most, groups < most ? (int)blocks_of(i.sizes[0]) : groups);
    }

    // Rounds sizes[0] numbers to 8-bit integers in blocks; see rounded_rows.h.
    void round_to_blocks(const Instruction& i, int rows, int task, int tasks) {
        const int64_t blocks = blocks_of(i.sizes[0]);
        const int64_t groups = (rows + kQuantizedRows - 1) / kQuantizedRows;
        const bool by_groups = groups >= tasks;
        const int64_t all = by_groups ? groups : blocks;
        const BlockRange part{all * task / tasks, all * (task + 1) / tasks};
        const BlockRange range = by_groups ? BlockRange{0, blocks} : part;
        const BlockRange mine = by_groups ? part : BlockRange{0, groups};
        const int64_t last = std::min<int64_t>(rows, mine.last * kQuantizedRows);
        for (int64_t row = mine.first * kQuantizedRows; row < last; ++row) {
            round_row(row_of(i.in[0], row), i.sizes[0], range, row, rows,
                      arena_.start() + starts_[i.out.buffer]);
        }
    }

    // Rounds these rows, whole groups of them, or up to the last of all.
    void round_rows(const Instruction& i, int64_t first, int64_t last, int64_t all) {
        for (int64_t row = first; row < last; ++row) {
            round_row(row_of(i.in[0], row), i.sizes[0], {0, blocks_of(i.sizes[0])}, row, all,
                      arena_.start() + starts_[i.out.buffer]);
        }
    }

    // Writes the sizes[0] numbers of a row in another order; data[0]: the place of each, 32 bits.
    void reorder(const Instruction& i, int64_t row) {
        const float* from = row_of(i.in[0], row);
        float* to = row_of(i.out, row);
        const auto* places = (const int32_t*)i.data[0];
        for (int64_t d = 0; d < i.sizes[0]; ++d) to[d] = from[places[d]];
    }

    // Converts sizes[0] numbers to the type of rows; the next sizes[1] become zero.
    void convert(const Instruction& i, int64_t row) {
        const float* from = row_of(i.in[0], row);
        auto* to = packed_row(i.out, row);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const Mask mask = lanes(d, i.sizes[0]);
            Row::store(to + d, load(from + d, mask), mask);
        }
        std::memset(to + i.sizes[0], 0, i.sizes[1] * sizeof *to);
    }

    // Works in place, on `out`. sizes: heads, stride between heads, rotated numbers of each, the
    // indices of the tables of cosines and of sines, the tables' width, and how a pair's numbers
    // lie: 0 and 1 in the halves of a head, 2 beside each other. But for 0, tables are read as if
    // they had one number for each pair.
    void rotary(const Instruction& i, int64_t row) {
        const float* cos = step_->tables[i.sizes[3]] + row * i.sizes[5];
        const float* sin = step_->tables[i.sizes[4]] + row * i.sizes[5];
        float* heads = row_of(i.out, row);
        for (int32_t h = 0; h < i.sizes[0]; ++h) {
            float* head = heads + (int64_t)h * i.sizes[1];
            if (i.sizes[6] == 2) {
                rotate_neighbours(head, cos, sin, i.sizes[2]);
            } else {
                const int64_t second = i.sizes[6] ? 0 : i.sizes[2] / 2;
                rotate(head, cos, sin, cos + second, sin + second, i.sizes[2]);
            }
        }
    }

    // Copies parts of a row. sizes: their number, the strides between them in the input and in the
    // output, their size.
    void copy_heads(const Instruction& i, int64_t row) {
        const float* from = row_of(i.in[0], row);
        float* to = row_of(i.out, row);
        for (int32_t h = 0; h < i.sizes[0]; ++h) {
            std::memcpy(to + (int64_t)h * i.sizes[2], from + (int64_t)h * i.sizes[1],
                        i.sizes[3] * sizeof(float));
        }
    }

    // Writes rows first to last - 1 to the cache. in: keys, values. sizes: as for attention, then
    // the strides between the heads of both.
    void write(const Instruction& i, int64_t first, int64_t last) {
        const CacheShape shape = this->shape_of(this->sizes_of(i));
        for (int64_t row = first; row < last;) {
            const Span& span = this->span_of(i.sizes[8], row);
            const int64_t token = span.context + row - span.first_row;
            const int64_t of_span = span.first_row + span.num_rows - row;
            const int64_t of_group = kGroup - token % kGroup;
            const int64_t count = std::min({of_span, of_group, last - row});
            write_group(i, shape, span, row, token, (int)count);
            row += count;
        }
    }

    // Writes rows whose tokens, the first of which is `token`, are in one group.
    void write_group(const Instruction& i, const CacheShape& shape, const Span& span, int64_t row,
                     int64_t token, int count) {
        uint32_t* group = layers_[i.sizes[5]] +
                          this->block_table_of(span).group_of(token) * shape.group();
        const bool is_last = row + count == span.first_row + span.num_rows;
        const bool begun_here = token / kGroup * kGroup >= span.context;
        const int64_t end = token % kGroup + count;
        this->with_cache([&](auto cache) {
            using Cache = decltype(cache);
            store_tokens<Cache>({token % kGroup, count, row_of(i.in[0], row), row_of(i.in[1], row),
                                 buffers_[i.in[0].buffer].width, buffers_[i.in[1].buffer].width,
                                 i.sizes[2], i.sizes[3], i.sizes[6], i.sizes[7]},
                                shape, group);
            if (is_last && begun_here && end < kGroup) clear_values<Cache>(end, shape, group);
        });
    }

    // in: a, and b or none. sizes: size, 1 to multiply, activation, 1 if data[0] holds b for all
    // rows, 1 to multiply by the one number of b. numbers: the scales of a and b.
    template <class Out>
    void combined(const Instruction& i, int64_t row) {
        const float* b = i.sizes[3] ? (const float*)i.data[0]
                         : i.in[1].buffer >= 0 ? row_of(i.in[1], row)
                                               : nullptr;
        const float scale = i.sizes[4] ? i.numbers[0] * *b : i.numbers[0];
        combine<Out>(row_of(i.in[0], row), i.sizes[4] ? nullptr : b,
                     this->template out_row<Out>(i, row, 0), i.sizes[0], scale, i.numbers[1],
                     i.sizes[1], i.sizes[2]);
    }

    // Copies sizes[0] numbers of each logit row.
    void gather(const Instruction& i, int64_t row) {
        std::memcpy(row_of(i.out, row), row_of(i.in[0], step_->logit_rows[row]),
                    i.sizes[0] * sizeof(float));
    }
};

}  // namespace headrace
