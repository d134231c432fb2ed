// See quantized.h. Python calls the C functions at the end, to measure and test products.
#include "quantized.h"

#include <limits>
#include <memory>

namespace headrace {
namespace {

template <class Layout>
constexpr QuantizedKernel kernel_of() {
    return {Layout::panel_bytes, quantized_rows<Layout>, quantized_output<Layout>};
}

constexpr QuantizedKernel kKernels[] = {
    kernel_of<Q8_0>(), kernel_of<Q4_0>(), kernel_of<Q4_1>(),   kernel_of<Q5_0>(),
    kernel_of<Q5_1>(), kernel_of<Q4_K>(), kernel_of<Q5_K>(),   kernel_of<Q6_K>(),
    kernel_of<Iq4_Nl>(), kernel_of<Mxfp4>(),
};

template <int Group>
void round_block(const Floats (&x)[2], int row, RowBlocks<Group>& to) {
    const float scale = maximum(max(abs(x[0]), abs(x[1]))) / 127.0f;
    // Of a block of numbers that are too small to divide by, nothing remains.
    const bool is_empty = !(scale > 1e-35f);
    const Floats inverse = splat(is_empty ? 0.0f : 1.0f / scale);
    for (int half = 0; half < 2; ++half) {
        const Words numbers = to_words(x[half] * inverse);
        to.minus_half[half][row] = -(int32_t)headrace::sum(to_floats(numbers));
        uint8_t bytes[kLanes];
        store_bytes(bytes, numbers + splat_word(128), all_lanes());
        for (int w = 0; w < kLanes / 4; ++w) {
            uint32_t word;
            std::memcpy(&word, bytes + w * 4, 4);
            to.codes[half * kLanes / 4 + w][row] = word ^ 0x80808080;
        }
    }
    to.minus_sum[row] = to.minus_half[0][row] + to.minus_half[1][row];
    // Bytes cannot represent NaN; the scale can, and makes the whole product NaN.
    const bool has_nan = any(is_nan(x[0]) | is_nan(x[1]));
    to.scale[row] = has_nan ? std::numeric_limits<float>::quiet_NaN() : is_empty ? 0.0f : scale;
    to.sum[row] = -(float)to.minus_sum[row] * to.scale[row];
}

template <int Group>
void round_blocks(const float* from, int64_t size, BlockRange range, int row,
                  RowBlocks<Group>* to) {
    constexpr int kAhead = 512;  // numbers; without it rows from memory take three times as long
    for (int64_t block = range.first; block < range.last; ++block) {
        const int64_t first = block * kBlock;
        prefetch_near(from + first + kAhead);
        prefetch_near(from + first + kAhead + kLanes);
        const Floats x[2] = {load(from + first, lanes(first, size)),
                             load(from + first + kLanes, lanes(first + kLanes, size))};
        round_block(x, row, to[block]);
    }
}

}  // namespace

const QuantizedKernel& quantized_kernel(int format) { return kKernels[format]; }

void round_row(const float* from, int64_t size, BlockRange range, int64_t row, int64_t rows,
               void* to) {
    if (rows == 1) return round_blocks(from, size, range, 0, (RowBlocks<1>*)to);
    auto* group = (RowBlocks<kQuantizedRows>*)to + row / kQuantizedRows * blocks_of(size);
    round_blocks(from, size, range, (int)(row % kQuantizedRows), group);
}

}  // namespace headrace

using namespace headrace;

extern "C" {

// Returns the bytes of a panel of `blocks` blocks, as the kernels read it.
HEADRACE_EXPORT int64_t headrace_quantized_panel_bytes(int32_t format, int64_t blocks) {
    return quantized_kernel(format).panel_bytes(blocks);
}

// Rounds rows [rows, inputs]; to: memory of `rounded_bytes`; returns those if it is null.
HEADRACE_EXPORT int64_t headrace_round_rows(const float* rows, int64_t count, int64_t inputs, void* to) {
    for (int64_t row = 0; to && row < count; ++row) {
        round_row(rows + row * inputs, inputs, row, count, to);
    }
    return rounded_bytes(count, blocks_of(inputs));
}

// Multiplies rounded rows with `panels` panels: out [panels, rows, 32].
HEADRACE_EXPORT void headrace_multiply_quantized(int32_t format, const void* in, int64_t rows,
                                 const uint8_t* weight, int64_t panels, int32_t blocks,
                                 float* out) {
    const QuantizedKernel& kernel = quantized_kernel(format);
    const auto decoded = std::make_unique<DecodedPanel>();
    const int64_t bytes = kernel.panel_bytes(blocks);
    for (int64_t panel = 0; panel < panels; ++panel) {
        const uint8_t* start = weight + panel * bytes;
        const uint8_t* next = panel + 1 < panels ? start + bytes : nullptr;
        kernel.rows(in, rows, 0, rows, start, next, blocks, *decoded, out + panel * rows * kPanel);
    }
}

}  // extern "C"
