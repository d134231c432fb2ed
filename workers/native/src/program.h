// A model's forward pass as a list of instructions over buffers, written by
// workers/native/program.py. The structs that Python fills in have the same layout in
// workers/native/library.py.
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
    kRoundBlocks,
    kRoute,
    kSortPairs,
    kCopyRows,
    kExpertsUp,
    kExpertsDown,
    kCopyHeads,
    kRoundPairs,
    kReorder,
    kScores,
};

// The last of an attention instruction's sizes: whose keys and values it reads or writes.
//
// kOwn: the cache of its sequence. kSource: what an encoder has made for the sequence, which other
// programs of the same list have written. kPassing: those of this step alone; all layers share
// their memory.
enum CacheKind : int32_t { kOwn, kSource, kPassing };

// The sizes of the caches, in blocks.
struct CacheBlocks {
    int64_t counts[3];  // by CacheKind
};

// Where a value begins in the rows of a buffer. buffer: -1 none, -2 the step's output.
struct Operand {
    int32_t buffer, offset;
};

// One instruction. The meaning of the fields is described where each operation is run.
struct Instruction {
    int32_t operation;
    int32_t logit_rows_only;  // 1: runs only on the rows whose logits are needed
    Operand in[3];
    Operand out;
    int32_t packed;  // 1: `out` is in the type that products are computed in, else float32
    int32_t sizes[9];
    float numbers[3];
    const void* data[3];
};

// width: numbers in a row. kind: 0 float32, 1 the type that products are computed in, 2 bytes; 3
// rows as in rounded_rows.h, width being a number of blocks. copies: rows for each row of the step.
struct Buffer {
    int32_t width, kind, copies;
};

// A LoRA adapter's matrices for one linear layer, to whose product they add rows @ down.T @ up.
// down: [rank, inputs]. up: [panels, rank, 32], outputs as in the weight's panels. Both in the type
// of the products.
struct Adapter {
    int32_t rank;
    const void* down;
    const void* up;
};

// One step. positions, token_ids: [rows]. logit_rows: [num_logit_rows], the rows whose logits are
// needed. tables: [rows, width] each. slots: [rows], the slot of each row's adapter, -1 for none;
// null if no row has one. adapters: [linears, num_slots]. max_rank: the maximum of their ranks.
// token_types: [rows], null if no instruction looks them up.
//
// begin, end: the instructions that are run: a list may hold several programs, one after another.
// sources: [num_spans], what spans attend to besides their own tokens, see `Span`; their blocks are
// among `blocks`. features: the input of row r begins at r * feature_stride. scores: receives the
// scores of attention to sources, for some heads, [heads, rows, score_stride]; null: none.
struct Step {
    int32_t rows, num_logit_rows, num_spans;
    const int32_t* token_ids;
    const int32_t* positions;
    const int32_t* logit_rows;
    const void* spans;
    const int32_t* blocks;
    const float* const* tables;
    float* output;
    const int32_t* slots;
    const Adapter* adapters;
    int32_t num_slots, max_rank;
    const int32_t* token_types;
    int32_t begin, end;
    const void* sources;
    const float* features;
    float* scores;
    int32_t feature_stride, score_stride;
};

}  // namespace headrace
