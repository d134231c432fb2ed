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
    kShrink,
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

// What a LoRA adapter adds to the product of a linear: rows @ down.T @ up. down: [rank, inputs]. up:
// [panels, rank, 32], outputs as in the weight's panels. Both in the type of the products.
struct Adapter {
    int32_t rank;
    const void* down;
    const void* up;
};

// One step. positions, token_ids: [rows]. wanted: [num_wanted] rows. tables: [rows, width] each.
// slots: [rows], which adapter is each row's, -1 for none; null if no row has one. adapters:
// [linears, num_slots]. max_rank: the greatest of theirs.
struct Step {
    int32_t rows, num_wanted, num_spans;
    const int32_t* token_ids;
    const int32_t* positions;
    const int32_t* wanted;
    const void* spans;
    const int32_t* blocks;
    const float* const* tables;
    float* output;
    const int32_t* slots;
    const Adapter* adapters;
    int32_t num_slots, max_rank;
};

}  // namespace headrace
