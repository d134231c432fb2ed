// Vectors of 16 lanes, the only place with instructions of a kind of processor.
//
// Each instruction set has a header with the same types and functions; a library of kernels is
// built for each from the same other sources, with the macro that chooses the header here (see
// setup.py). A lane has 32 bits. Where several versions of a function would be right, the comment
// says what all of them promise; beyond that, results may differ between instruction sets in their
// last bits, but never between two calls on one.
//
// Types
//   Floats, Words, Mask      16 float32 numbers, 16 words of 32 bits, 16 truth values
//   Doubles                  a float64 sum of float32 numbers, in several parts
//
// Constants
//   kTileRows, kTileHalves   rows, and halves of a panel (16 outputs), of a product's tile, whose
//                            sums fit the registers
//   kAttentionVectors        the same for attention, beside 6 queries: vectors of scores or values
//   kHasBf16Dot              whether `dot_bf16` exists: rows are then in bfloat16; else rows are in
//                            float32, and each half of a weight's words is multiplied by its own
//
// Floats
//   zeros() splat(x)         one number in all lanes
//   load(p) load(p, mask)    masked: zero in the other lanes, whose memory is not read
//   store(p, x) store(p, x, mask)
//   + - * / fma(a, b, c) fnma(a, b, c)   a * b + c, c - a * b; rounded once where the set can
//   min(a, b) max(a, b)      b where one is not a number
//   abs(x) with_sign_of(magnitude, x)    magnitude must not be negative
//   round_to_integer(x)      to the nearest; |x| < 2^22
//   times_power_of_2(x, n)   n whole, -250 < n < 250; gradual underflow, overflow to infinity
//   less(a, b) less_equal(a, b)          false where one is not a number
//   not_less(a, b) is_nan(x)             true where one is not a number
//   select(mask, a, b) keep(mask, a)     a where the mask is true, else b, or zero
//   sum(x) minimum(x) maximum(x)         over the lanes, in halves
//   store_taken(p, x, mask)  stores the lanes of the mask one after another and returns their
//                            number; may write 16 numbers
//
// Mask
//   lanes(first, count)      the lanes that hold elements first.. of a row of `count`
//   lanes_between(a, b)      lanes a to b - 1; 0 <= a, b <= 16
//   all_lanes() a & b  a | b  any(m)  count(m)
//
// Words
//   load_words(p) store_words(p, w) broadcast_word(p) splat_word(x)
//   + - & |  shift_left<n>(w) shift_right<n>(w)   the latter fills with zeros
//   as_words(x) as_floats(w) the same bits
//   to_words(x) to_floats(w) rounds to the nearest integer; converts integers
//   store_bytes(p, w, mask)  integers 0 to 255 as bytes; what others become is undefined
//   dot_bytes(sums, u, s)    adds the four products of unsigned bytes u and signed bytes s of each
//                            lane, exactly
//   dot_bytes_in_floats(sums, u, s)      the same, where the sums are the bits of floats
//   dot_small_bytes(sums, u, s)          the same for u < 128, faster on some sets
//
// Formats of 16 and 8 bits
//   load_bf16(p, mask) store_bf16(p, x, mask)     to the nearest, ties to even; NaN stays NaN
//   store_bf16_halves(p, x)  16 numbers in every other place from p on; nothing else is written
//   even_bf16(w) odd_bf16(w) the first (lower) and the second number of each word
//   load_f16(p)              16 numbers of half precision
//   bf16_of_bytes(p) floats_of_bytes(p)  32 or 16 signed bytes
//   dot_bf16(sums, a, b)     adds both products of each lane, with kHasBf16Dot only
//
// Doubles
//   add(d, x) sum(d)
//
// Products with quantized weights (see quantized_product.h)
//   kQuantizedRows, kQuantizedHalves     as kTileRows and kTileHalves
//   CodeSums                 the sums of a block's products, of 16 outputs; `total` after the last
//   code_sums(first)         such sums, beginning with `first`
//   add_codes<bits>(sums, codes, row, n) adds the products of unsigned bytes < 2^bits and signed
//                            bytes of -127 to 127; n: 0, 1, ... for the words of a block, 8 at most
//   signed_operand(w)        what `add_signed` takes for signed bytes; signed_value(byte) is the
//                            number that one of its bytes stands for
//   add_signed(sums, operand, row)       adds the products of signed bytes; where kSignedShift >= 0,
//                            they are too large by the row's bytes shifted by it
//   look_up_bytes(table, w)  table[byte] for each byte of w, all of which are < 16
//
// Memory
//   prefetch_near(p) prefetch_far(p)     to the first cache, to the second
//   pause()                  between two looks at memory that another thread writes
//
// Processor
//   runs_here()              whether this one has the set
#pragma once

#include <cstdint>
#include <cstring>

// Functions on vectors must be part of their callers: a call would move vectors through memory.
#define HEADRACE_INLINED __attribute__((always_inline))
#define HEADRACE_INLINE inline HEADRACE_INLINED
// A function that Python calls.
#define HEADRACE_EXPORT __attribute__((visibility("default")))

namespace headrace {

constexpr int kLanes = 16;

}  // namespace headrace

#if defined(HEADRACE_AVX512)
#include "avx512.h"
#elif defined(HEADRACE_AVX2)
#include "avx2.h"
#elif defined(HEADRACE_NEON)
#include "neon.h"
#else
#include "portable.h"
#endif
