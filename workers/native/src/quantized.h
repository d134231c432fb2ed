// The kernels of each format of weights in quantized blocks, compiled once for all programs.
#pragma once

#include "quantized_product.h"

namespace headrace {

// The kernels of one format; see the functions of the same names.
struct QuantizedKernel {
    int64_t (*panel_bytes)(int64_t blocks);
    void (*rows)(const void* in, int64_t rows, int64_t first, int64_t count, const uint8_t* panel,
                 const uint8_t* next, int blocks, DecodedPanel& decoded, float* sums);
    void (*output)(const uint8_t* panel, int lane, int64_t inputs, float* to);
};

constexpr int kFirstBlockFormat = 3;  // in the enumeration `WeightFormat` of weight_format.py

// format: its index there, less that of the first.
const QuantizedKernel& quantized_kernel(int format);

}  // namespace headrace
