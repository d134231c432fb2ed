// NEON of aarch64 with dot products (ARMv8.2): see simd.h.
//
// A vector is four registers, of lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#pragma once

#include <arm_neon.h>
#include <sys/auxv.h>

namespace headrace {

struct Floats {
    float32x4_t parts[4];
};
struct Words {
    uint32x4_t parts[4];
};
struct Mask {
    uint32x4_t parts[4];  // all bits of a lane are set, or none
};
struct Doubles {
    float64x2_t parts[8];
};

constexpr int kTileRows = 6, kTileHalves = 1, kAttentionVectors = 1;
constexpr bool kHasBf16Dot = false;

// Applies a function to the parts of vectors.
template <class To, class Function, class... From>
HEADRACE_INLINE To each(const Function& function, const From&... from) {
    return {function(from.parts[0]...), function(from.parts[1]...), function(from.parts[2]...),
            function(from.parts[3]...)};
}

// Mask

HEADRACE_INLINE Mask all_lanes() {
    const uint32x4_t all = vdupq_n_u32(0xFFFFFFFF);
    return {all, all, all, all};
}
HEADRACE_INLINE Mask lanes_between(int64_t from, int64_t to) {
    static const uint32_t numbers[4] = {0, 1, 2, 3};
    const uint32x4_t first = vld1q_u32(numbers);
    const auto between = [&](uint32_t offset) {
        const uint32x4_t lane = vaddq_u32(first, vdupq_n_u32(offset));
        return vandq_u32(vcgeq_u32(lane, vdupq_n_u32((uint32_t)from)),
                         vcltq_u32(lane, vdupq_n_u32((uint32_t)to)));
    };
    return {between(0), between(4), between(8), between(12)};
}
HEADRACE_INLINE Mask lanes(int64_t first, int64_t count) {
    const int64_t left = count - first;
    if (left >= kLanes) return all_lanes();
    return lanes_between(0, left < 0 ? 0 : left);
}
HEADRACE_INLINE Mask operator&(Mask a, Mask b) {
    return each<Mask>([](auto x, auto y) { return vandq_u32(x, y); }, a, b);
}
HEADRACE_INLINE Mask operator|(Mask a, Mask b) {
    return each<Mask>([](auto x, auto y) { return vorrq_u32(x, y); }, a, b);
}
HEADRACE_INLINE bool any(Mask mask) {
    const uint32x4_t low = vorrq_u32(mask.parts[0], mask.parts[1]);
    return vmaxvq_u32(vorrq_u32(low, vorrq_u32(mask.parts[2], mask.parts[3]))) != 0;
}
HEADRACE_INLINE bool is_full(Mask mask) {
    const uint32x4_t low = vandq_u32(mask.parts[0], mask.parts[1]);
    return vminvq_u32(vandq_u32(low, vandq_u32(mask.parts[2], mask.parts[3]))) != 0;
}
HEADRACE_INLINE int count(Mask mask) {
    const uint32x4_t low = vaddq_u32(mask.parts[0], mask.parts[1]);
    return -(int32_t)vaddvq_u32(vaddq_u32(low, vaddq_u32(mask.parts[2], mask.parts[3])));
}

// Floats

HEADRACE_INLINE Floats splat(float x) {
    const float32x4_t all = vdupq_n_f32(x);
    return {all, all, all, all};
}
HEADRACE_INLINE Floats zeros() { return splat(0); }
HEADRACE_INLINE Floats load(const float* from) {
    return {vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}
HEADRACE_INLINE void store(float* to, Floats x) {
    for (int part = 0; part < 4; ++part) vst1q_f32(to + 4 * part, x.parts[part]);
}
// Calls function(lane) for each lane of the mask.
template <class Function>
HEADRACE_INLINE void for_lanes(Mask mask, const Function& function) {
    alignas(16) uint32_t taken[kLanes];
    for (int part = 0; part < 4; ++part) vst1q_u32(taken + 4 * part, mask.parts[part]);
    for (int lane = 0; lane < kLanes; ++lane) {
        if (taken[lane]) function(lane);
    }
}
HEADRACE_INLINE Floats load(const float* from, Mask mask) {
    if (is_full(mask)) return load(from);
    alignas(16) float all[kLanes] = {};
    for_lanes(mask, [&](int lane) { all[lane] = from[lane]; });
    return load(all);
}
HEADRACE_INLINE void store(float* to, Floats x, Mask mask) {
    if (is_full(mask)) return store(to, x);
    alignas(16) float all[kLanes];
    store(all, x);
    for_lanes(mask, [&](int lane) { to[lane] = all[lane]; });
}
HEADRACE_INLINE Floats operator+(Floats a, Floats b) {
    return each<Floats>([](auto x, auto y) { return vaddq_f32(x, y); }, a, b);
}
HEADRACE_INLINE Floats operator-(Floats a, Floats b) {
    return each<Floats>([](auto x, auto y) { return vsubq_f32(x, y); }, a, b);
}
HEADRACE_INLINE Floats operator*(Floats a, Floats b) {
    return each<Floats>([](auto x, auto y) { return vmulq_f32(x, y); }, a, b);
}
HEADRACE_INLINE Floats operator/(Floats a, Floats b) {
    return each<Floats>([](auto x, auto y) { return vdivq_f32(x, y); }, a, b);
}
HEADRACE_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return each<Floats>([](auto x, auto y, auto z) { return vfmaq_f32(z, x, y); }, a, b, c);
}
HEADRACE_INLINE Floats fnma(Floats a, Floats b, Floats c) {
    return each<Floats>([](auto x, auto y, auto z) { return vfmsq_f32(z, x, y); }, a, b, c);
}
HEADRACE_INLINE Mask less(Floats a, Floats b) {
    return each<Mask>([](auto x, auto y) { return vcltq_f32(x, y); }, a, b);
}
HEADRACE_INLINE Mask less_equal(Floats a, Floats b) {
    return each<Mask>([](auto x, auto y) { return vcleq_f32(x, y); }, a, b);
}
HEADRACE_INLINE Mask not_less(Floats a, Floats b) {
    return each<Mask>([](auto x, auto y) { return vmvnq_u32(vcltq_f32(x, y)); }, a, b);
}
HEADRACE_INLINE Mask is_nan(Floats x) {
    return each<Mask>([](auto y) { return vmvnq_u32(vceqq_f32(y, y)); }, x);
}
HEADRACE_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return each<Floats>([](auto m, auto x, auto y) { return vbslq_f32(m, x, y); }, mask, a, b);
}
HEADRACE_INLINE Floats keep(Mask mask, Floats a) { return select(mask, a, zeros()); }
// NEON's own instructions give NaN where one argument is.
HEADRACE_INLINE Floats min(Floats a, Floats b) { return select(less(a, b), a, b); }
HEADRACE_INLINE Floats max(Floats a, Floats b) { return select(less(b, a), a, b); }
HEADRACE_INLINE Floats abs(Floats x) {
    return each<Floats>([](auto y) { return vabsq_f32(y); }, x);
}
HEADRACE_INLINE Floats round_to_integer(Floats x) {
    return each<Floats>([](auto y) { return vrndnq_f32(y); }, x);
}
// Combines the lanes of x in halves.
template <class Combine>
HEADRACE_INLINE float reduce(Floats x, const Combine& combine) {
    const float32x4_t low = combine(x.parts[0], x.parts[2]), high = combine(x.parts[1], x.parts[3]);
    const float32x4_t four = combine(low, high);
    const float32x4_t two = combine(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(combine(two, vextq_f32(two, two, 1)), 0);
}
HEADRACE_INLINE float sum(Floats x) {
    return reduce(x, [](float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); });
}
HEADRACE_INLINE float minimum(Floats x) {
    return reduce(x, [](float32x4_t a, float32x4_t b) { return vminq_f32(a, b); });
}
HEADRACE_INLINE float maximum(Floats x) {
    return reduce(x, [](float32x4_t a, float32x4_t b) { return vmaxq_f32(a, b); });
}
HEADRACE_INLINE int store_taken(float* to, Floats x, Mask mask) {
    alignas(16) float all[kLanes];
    store(all, x);
    int number = 0;
    for_lanes(mask, [&](int lane) { to[number++] = all[lane]; });
    return number;
}

// Words

HEADRACE_INLINE Words load_words(const void* from) {
    const auto* words = (const uint32_t*)from;
    return {vld1q_u32(words), vld1q_u32(words + 4), vld1q_u32(words + 8), vld1q_u32(words + 12)};
}
HEADRACE_INLINE void store_words(void* to, Words x) {
    for (int part = 0; part < 4; ++part) vst1q_u32((uint32_t*)to + 4 * part, x.parts[part]);
}
HEADRACE_INLINE Words splat_word(int32_t x) {
    const uint32x4_t all = vdupq_n_u32((uint32_t)x);
    return {all, all, all, all};
}
HEADRACE_INLINE Words broadcast_word(const void* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return splat_word(word);
}
HEADRACE_INLINE Words operator+(Words a, Words b) {
    return each<Words>([](auto x, auto y) { return vaddq_u32(x, y); }, a, b);
}
HEADRACE_INLINE Words operator-(Words a, Words b) {
    return each<Words>([](auto x, auto y) { return vsubq_u32(x, y); }, a, b);
}
HEADRACE_INLINE Words operator&(Words a, Words b) {
    return each<Words>([](auto x, auto y) { return vandq_u32(x, y); }, a, b);
}
HEADRACE_INLINE Words operator|(Words a, Words b) {
    return each<Words>([](auto x, auto y) { return vorrq_u32(x, y); }, a, b);
}
template <int Bits>
HEADRACE_INLINE Words shift_left(Words x) {
    return each<Words>([](auto y) { return vshlq_n_u32(y, Bits); }, x);
}
template <int Bits>
HEADRACE_INLINE Words shift_right(Words x) {
    return each<Words>([](auto y) { return vshrq_n_u32(y, Bits); }, x);
}
HEADRACE_INLINE Words as_words(Floats x) {
    return each<Words>([](auto y) { return vreinterpretq_u32_f32(y); }, x);
}
HEADRACE_INLINE Floats as_floats(Words x) {
    return each<Floats>([](auto y) { return vreinterpretq_f32_u32(y); }, x);
}
HEADRACE_INLINE Words to_words(Floats x) {
    return each<Words>([](auto y) { return vreinterpretq_u32_s32(vcvtnq_s32_f32(y)); }, x);
}
HEADRACE_INLINE Floats to_floats(Words x) {
    return each<Floats>([](auto y) { return vcvtq_f32_s32(vreinterpretq_s32_u32(y)); }, x);
}
HEADRACE_INLINE Floats with_sign_of(Floats magnitude, Floats x) {
    return as_floats(as_words(magnitude) | (as_words(x) & splat_word((int32_t)0x80000000)));
}
HEADRACE_INLINE Floats times_power_of_2(Floats x, Floats n) {
    // In two steps: the power itself may be no normal number.
    const auto scale = [](float32x4_t y, float32x4_t exponent) {
        const int32x4_t whole = vcvtnq_s32_f32(exponent), half = vshrq_n_s32(whole, 1);
        const auto power = [](int32x4_t z) {
            return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(z, vdupq_n_s32(127)), 23));
        };
        return vmulq_f32(vmulq_f32(y, power(half)), power(vsubq_s32(whole, half)));
    };
    return each<Floats>(scale, x, n);
}
HEADRACE_INLINE void store_bytes(uint8_t* to, Words x, Mask mask) {
    const uint16x8_t low = vcombine_u16(vmovn_u32(x.parts[0]), vmovn_u32(x.parts[1]));
    const uint16x8_t high = vcombine_u16(vmovn_u32(x.parts[2]), vmovn_u32(x.parts[3]));
    const uint8x16_t bytes = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
    if (is_full(mask)) return vst1q_u8(to, bytes);
    alignas(16) uint8_t all[kLanes];
    vst1q_u8(all, bytes);
    for_lanes(mask, [&](int lane) { to[lane] = all[lane]; });
}
HEADRACE_INLINE Floats dot_bytes_in_floats(Floats sums, Words u, Words s) {
    return as_floats(dot_bytes(as_words(sums), u, s));
}
HEADRACE_INLINE Words dot_small_bytes(Words sums, Words u, Words s) {
    const auto dot = [](uint32x4_t total, uint32x4_t a, uint32x4_t b) {
        return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(total),
                                               vreinterpretq_s8_u32(a), vreinterpretq_s8_u32(b)));
    };
    return each<Words>(dot, sums, u, s);
}
HEADRACE_INLINE Words dot_bytes(Words sums, Words u, Words s) {
    // u = 128 + a signed byte, and 128 = 64 + 64.
    const Words shifted = each<Words>(
        [](auto x) { return veorq_u32(x, vdupq_n_u32(0x80808080)); }, u);
    const Words half = splat_word(0x40404040);
    return dot_small_bytes(dot_small_bytes(dot_small_bytes(sums, shifted, s), half, s), half, s);
}

// Formats of 16 and 8 bits

HEADRACE_INLINE Floats even_bf16(Words x) { return as_floats(shift_left<16>(x)); }
HEADRACE_INLINE Floats odd_bf16(Words x) {
    return as_floats(x & splat_word((int32_t)0xFFFF0000));
}
HEADRACE_INLINE Floats load_bf16(const uint16_t* from, Mask mask) {
    alignas(16) uint16_t all[kLanes] = {};
    if (!is_full(mask)) {
        for_lanes(mask, [&](int lane) { all[lane] = from[lane]; });
        from = all;
    }
    const auto widen = [](const uint16_t* at) { return vshll_n_u16(vld1_u16(at), 16); };
    return as_floats({widen(from), widen(from + 4), widen(from + 8), widen(from + 12)});
}
HEADRACE_INLINE void store_bf16(uint16_t* to, Floats x, Mask mask) {
    const Words bits = as_words(x);
    const Words tie = shift_right<16>(bits) & splat_word(1);
    const Words rounded = shift_right<16>(bits + tie + splat_word(0x7FFF));
    const Words nan = shift_right<16>(bits) | splat_word(0x40);
    const Words halves = as_words(select(is_nan(x), as_floats(nan), as_floats(rounded)));
    alignas(16) uint16_t all[kLanes];
    uint16_t* at = is_full(mask) ? to : all;
    for (int part = 0; part < 4; ++part) vst1_u16(at + 4 * part, vmovn_u32(halves.parts[part]));
    if (at == all) for_lanes(mask, [&](int lane) { to[lane] = all[lane]; });
}
HEADRACE_INLINE void store_bf16_halves(uint16_t* to, Floats x) {
    uint16_t numbers[kLanes];
    store_bf16(numbers, x, all_lanes());
    for (int i = 0; i < kLanes; ++i) to[2 * i] = numbers[i];
}
HEADRACE_INLINE Floats load_f16(const uint16_t* from) {
    const auto widen = [](const uint16_t* at) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)));
    };
    return {widen(from), widen(from + 4), widen(from + 8), widen(from + 12)};
}
HEADRACE_INLINE Floats floats_of_bytes(const int8_t* from) {
    const int8x16_t bytes = vld1q_s8(from);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    const auto widen = [](int16x4_t halves) { return vcvtq_f32_s32(vmovl_s16(halves)); };
    return {widen(vget_low_s16(low)), widen(vget_high_s16(low)), widen(vget_low_s16(high)),
            widen(vget_high_s16(high))};
}
HEADRACE_INLINE Words bf16_of_bytes(const int8_t* from) {
    // 8-bit integers are exact in bfloat16: the lower halves of the floats are zero.
    const Words low = as_words(floats_of_bytes(from)), high = as_words(floats_of_bytes(from + 16));
    const auto upper = [](uint32x4_t a, uint32x4_t b) {
        return vreinterpretq_u32_u16(
            vuzp2q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
    };
    return {upper(low.parts[0], low.parts[1]), upper(low.parts[2], low.parts[3]),
            upper(high.parts[0], high.parts[1]), upper(high.parts[2], high.parts[3])};
}

// Doubles

HEADRACE_INLINE Doubles add(Doubles a, Floats x) {
    for (int part = 0; part < 4; ++part) {
        float64x2_t* to = a.parts + 2 * part;
        to[0] = vaddq_f64(to[0], vcvt_f64_f32(vget_low_f32(x.parts[part])));
        to[1] = vaddq_f64(to[1], vcvt_high_f64_f32(x.parts[part]));
    }
    return a;
}
HEADRACE_INLINE double sum(Doubles a) {
    for (int half = 4; half; half /= 2) {
        for (int n = 0; n < half; ++n) a.parts[n] = vaddq_f64(a.parts[n], a.parts[n + half]);
    }
    return vaddvq_f64(a.parts[0]);
}

// Memory

HEADRACE_INLINE void prefetch_near(const void* at) { __builtin_prefetch(at, 0, 3); }
HEADRACE_INLINE void prefetch_far(const void* at) { __builtin_prefetch(at, 0, 2); }
HEADRACE_INLINE void pause() { asm volatile("yield"); }

// Products with quantized weights

constexpr int kQuantizedRows = 4, kQuantizedHalves = 1, kSignedShift = -1;

struct CodeSums {
    Words total;
};
HEADRACE_INLINE CodeSums code_sums(Words first) { return {first}; }
template <int Bits>
HEADRACE_INLINE void add_codes(CodeSums& sums, Words codes, Words row, int) {
    sums.total = dot_small_bytes(sums.total, codes, row);
}
HEADRACE_INLINE Words signed_operand(Words bytes) { return bytes; }
HEADRACE_INLINE int signed_value(uint8_t operand) { return (int8_t)operand; }
HEADRACE_INLINE void add_signed(CodeSums& sums, Words operand, Words row) {
    sums.total = dot_small_bytes(sums.total, operand, row);  // takes both as signed
}
HEADRACE_INLINE Words look_up_bytes(const int8_t (&table)[16], Words indices) {
    const uint8x16_t numbers = vreinterpretq_u8_s8(vld1q_s8(table));
    return each<Words>(
        [&](auto x) {
            return vreinterpretq_u32_u8(vqtbl1q_u8(numbers, vreinterpretq_u8_u32(x)));
        },
        indices);
}

// Processor

inline bool runs_here() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }

}  // namespace headrace
