// A model's forward pass as a list of instructions over buffers; see workers/native/program.py,
// which writes it. Everything here that Python fills in has the same layout there.
#pragma once

#include <cstdint>

namespace headrace {

enum Operation : int32_t {
    kEmbed,
    kNorm,
    kLinear,
    kConvert,
    kRotate,
    kWrite,
    kAttend,
    kFinishAttend,
    kCombine,
    kGather,
    kRound,
};

// Where a value lies in a row of a buffer. buffer: -1 none, -2 the step's output.
struct Place {
    int32_t buffer, at;
};

// One instruction. What the fields mean for each operation stands where it is run.
struct Instruction {
    int32_t operation;
    int32_t wanted;  // 1: runs on the wanted rows only
    Place in[3];
    Place out;
    int32_t packed;  // 1: `out` is in the type that products are computed in, else float32
    int32_t sizes[8];
    float numbers[3];
    const void* data[3];
};

// width: numbers in a row. kind: 0 float32, 1 the type that products are computed in, 2 bytes.
struct Buffer {
    int32_t width, kind;
};

// One step. positions, token_ids: [rows]. wanted: [num_wanted] rows. tables: [rows, width] each.
struct Step {
    int32_t rows, num_wanted, num_spans;
    const int32_t* token_ids;
    const int32_t* positions;
    const int32_t* wanted;
    const void* spans;
    const int32_t* blocks;
    const float* const* tables;
    float* output;
};

}  // namespace headrace
