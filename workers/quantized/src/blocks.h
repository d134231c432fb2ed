// What the readers of quantized blocks have in common.

#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

// In the order of FORMATS in decoder_library.py.
enum Format { Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4, Q8_M };

// The 6-bit scale and minimum of block `index` of eight.
INLINE void k_scales(const uint8_t *packed, int index, float &scale, float &minimum) {
    if (index < 4) {
        scale = float(packed[index] & 63), minimum = float(packed[index + 4] & 63);
    } else {
        const int both = packed[index + 4];
        scale = float((both & 15) | (packed[index - 4] >> 6) << 4);
        minimum = float((both >> 4) | (packed[index] >> 6) << 4);
    }
}
