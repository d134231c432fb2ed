// Any processor, by GCC's vector types: see simd.h.
//
// Without fused multiply-add in general: a * b + c is rounded twice.
#pragma once

namespace headrace {

typedef float FloatLanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));
typedef uint32_t WordLanes __attribute__((vector_size(64)));
typedef double DoubleLanes __attribute__((vector_size(128)));
typedef uint16_t HalfLanes __attribute__((vector_size(32)));
typedef int16_t SignedHalfLanes __attribute__((vector_size(32)));
typedef int8_t ByteLanes __attribute__((vector_size(16)));

struct Floats {
    FloatLanes value;
};
struct Words {
    WordLanes value;
};
struct Mask {
    IntLanes value;  // -1 or 0
};
struct Doubles {
    DoubleLanes value = {};
};

constexpr int kTileRows = 4, kTileHalves = 1, kAttentionVectors = 1;
constexpr bool kHasBf16Dot = false;

constexpr IntLanes kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <class To, class From>
HEADRACE_INLINE To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Mask

HEADRACE_INLINE Mask all_lanes() { return {kLaneNumbers >= 0}; }
HEADRACE_INLINE Mask lanes_between(int64_t from, int64_t to) {
    return {(kLaneNumbers >= (int32_t)from) & (kLaneNumbers < (int32_t)to)};
}
HEADRACE_INLINE Mask lanes(int64_t first, int64_t count) {
    const int64_t left = count - first;
    return lanes_between(0, left < 0 ? 0 : left < kLanes ? left : kLanes);
}
HEADRACE_INLINE Mask operator&(Mask a, Mask b) { return {a.value & b.value}; }
HEADRACE_INLINE Mask operator|(Mask a, Mask b) { return {a.value | b.value}; }
HEADRACE_INLINE int count(Mask mask) {
    int number = 0;
    for (int lane = 0; lane < kLanes; ++lane) number -= mask.value[lane];
    return number;
}
HEADRACE_INLINE bool any(Mask mask) {
    int32_t all = 0;
    for (int lane = 0; lane < kLanes; ++lane) all |= mask.value[lane];
    return all != 0;
}

// Floats

HEADRACE_INLINE Floats zeros() { return {FloatLanes{}}; }
HEADRACE_INLINE Floats splat(float x) { return {FloatLanes{} + x}; }
HEADRACE_INLINE Floats load(const float* from) {
    Floats x;
    std::memcpy(&x.value, from, sizeof x.value);
    return x;
}
HEADRACE_INLINE Floats load(const float* from, Mask mask) {
    Floats x = zeros();
    for (int lane = 0; lane < kLanes; ++lane) {
        if (mask.value[lane]) x.value[lane] = from[lane];
    }
    return x;
}
HEADRACE_INLINE void store(float* to, Floats x) { std::memcpy(to, &x.value, sizeof x.value); }
HEADRACE_INLINE void store(float* to, Floats x, Mask mask) {
    for (int lane = 0; lane < kLanes; ++lane) {
        if (mask.value[lane]) to[lane] = x.value[lane];
    }
}
HEADRACE_INLINE Floats operator+(Floats a, Floats b) { return {a.value + b.value}; }
HEADRACE_INLINE Floats operator-(Floats a, Floats b) { return {a.value - b.value}; }
HEADRACE_INLINE Floats operator*(Floats a, Floats b) { return {a.value * b.value}; }
HEADRACE_INLINE Floats operator/(Floats a, Floats b) { return {a.value / b.value}; }
HEADRACE_INLINE Floats fma(Floats a, Floats b, Floats c) { return {a.value * b.value + c.value}; }
HEADRACE_INLINE Floats fnma(Floats a, Floats b, Floats c) { return {c.value - a.value * b.value}; }
HEADRACE_INLINE Floats min(Floats a, Floats b) {
    return {a.value < b.value ? a.value : b.value};
}
HEADRACE_INLINE Floats max(Floats a, Floats b) {
    return {a.value > b.value ? a.value : b.value};
}
HEADRACE_INLINE Floats abs(Floats x) {
    return {bits_as<FloatLanes>(bits_as<WordLanes>(x.value) & 0x7FFFFFFFu)};
}
HEADRACE_INLINE Floats with_sign_of(Floats magnitude, Floats x) {
    const WordLanes sign = bits_as<WordLanes>(x.value) & 0x80000000u;
    return {bits_as<FloatLanes>(bits_as<WordLanes>(magnitude.value) | sign)};
}
HEADRACE_INLINE Floats round_to_integer(Floats x) {
    // Beyond 2^23 the neighbours of a number are whole; the sum is rounded as any other.
    const Floats large = splat(1.5f * (1 << 23));
    return x + large - large;
}
HEADRACE_INLINE Mask less(Floats a, Floats b) { return {a.value < b.value}; }
HEADRACE_INLINE Mask less_equal(Floats a, Floats b) { return {a.value <= b.value}; }
HEADRACE_INLINE Mask not_less(Floats a, Floats b) { return {~(a.value < b.value)}; }
HEADRACE_INLINE Mask is_nan(Floats x) { return {x.value != x.value}; }
HEADRACE_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return {mask.value ? a.value : b.value};
}
HEADRACE_INLINE Floats keep(Mask mask, Floats a) { return select(mask, a, zeros()); }
// Combines the lanes of x in halves.
template <class Combine>
HEADRACE_INLINE float reduce(Floats x, const Combine& combine) {
    for (int half = kLanes / 2; half; half /= 2) {
        for (int lane = 0; lane < half; ++lane) {
            x.value[lane] = combine(x.value[lane], x.value[lane + half]);
        }
    }
    return x.value[0];
}
HEADRACE_INLINE float sum(Floats x) {
    return reduce(x, [](float a, float b) { return a + b; });
}
HEADRACE_INLINE float minimum(Floats x) {
    return reduce(x, [](float a, float b) { return a < b ? a : b; });
}
HEADRACE_INLINE float maximum(Floats x) {
    return reduce(x, [](float a, float b) { return a > b ? a : b; });
}
HEADRACE_INLINE int store_taken(float* to, Floats x, Mask mask) {
    int number = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
        to[number] = x.value[lane];
        number -= mask.value[lane];
    }
    return number;
}

// Words

HEADRACE_INLINE Words load_words(const void* from) {
    Words x;
    std::memcpy(&x.value, from, sizeof x.value);
    return x;
}
HEADRACE_INLINE void store_words(void* to, Words x) { std::memcpy(to, &x.value, sizeof x.value); }
HEADRACE_INLINE Words splat_word(int32_t x) { return {WordLanes{} + (uint32_t)x}; }
HEADRACE_INLINE Words broadcast_word(const void* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return splat_word(word);
}
HEADRACE_INLINE Words operator+(Words a, Words b) { return {a.value + b.value}; }
HEADRACE_INLINE Words operator-(Words a, Words b) { return {a.value - b.value}; }
HEADRACE_INLINE Words operator&(Words a, Words b) { return {a.value & b.value}; }
HEADRACE_INLINE Words operator|(Words a, Words b) { return {a.value | b.value}; }
template <int Bits>
HEADRACE_INLINE Words shift_left(Words x) {
    return {x.value << Bits};
}
template <int Bits>
HEADRACE_INLINE Words shift_right(Words x) {
    return {x.value >> Bits};
}
HEADRACE_INLINE Words as_words(Floats x) { return {bits_as<WordLanes>(x.value)}; }
HEADRACE_INLINE Floats as_floats(Words x) { return {bits_as<FloatLanes>(x.value)}; }
HEADRACE_INLINE Words to_words(Floats x) {
    // The lowest bits of the sum are those of the integer.
    const Floats shifted = x + splat(1.5f * (1 << 23));
    return as_words(shifted) - splat_word(0x4B400000);
}
HEADRACE_INLINE Floats to_floats(Words x) {
    return {__builtin_convertvector(bits_as<IntLanes>(x.value), FloatLanes)};
}
HEADRACE_INLINE Floats times_power_of_2(Floats x, Floats n) {
    // In two steps: the power itself may be no normal number.
    const IntLanes whole = bits_as<IntLanes>(to_words(n).value), half = whole >> 1;
    const auto power = [](IntLanes exponent) {
        return bits_as<FloatLanes>(bits_as<WordLanes>(exponent + 127) << 23);
    };
    return {x.value * power(half) * power(whole - half)};
}
HEADRACE_INLINE void store_bytes(uint8_t* to, Words x, Mask mask) {
    for (int lane = 0; lane < kLanes; ++lane) {
        if (mask.value[lane]) to[lane] = (uint8_t)x.value[lane];
    }
}
HEADRACE_INLINE Words dot_bytes(Words sums, Words u, Words s) {
    const IntLanes a = bits_as<IntLanes>(u.value), b = bits_as<IntLanes>(s.value);
    IntLanes total = bits_as<IntLanes>(sums.value);
    total += (a & 255) * (b << 24 >> 24);
    total += (a >> 8 & 255) * (b << 16 >> 24);
    total += (a >> 16 & 255) * (b << 8 >> 24);
    total += (a >> 24 & 255) * (b >> 24);
    return {bits_as<WordLanes>(total)};
}
HEADRACE_INLINE Words dot_small_bytes(Words sums, Words u, Words s) {
    return dot_bytes(sums, u, s);
}

// Formats of 16 and 8 bits

HEADRACE_INLINE Floats even_bf16(Words x) { return as_floats(shift_left<16>(x)); }
HEADRACE_INLINE Floats odd_bf16(Words x) {
    return as_floats(x & splat_word((int32_t)0xFFFF0000));
}
HEADRACE_INLINE Words words_of_halves(const uint16_t* from, Mask mask) {
    HalfLanes x = {};
    for (int lane = 0; lane < kLanes; ++lane) {
        if (mask.value[lane]) x[lane] = from[lane];
    }
    return {__builtin_convertvector(x, WordLanes)};
}
HEADRACE_INLINE Floats load_bf16(const uint16_t* from, Mask mask) {
    return as_floats(shift_left<16>(words_of_halves(from, mask)));
}
HEADRACE_INLINE void store_bf16(uint16_t* to, Floats x, Mask mask) {
    const Words bits = as_words(x);
    const Words tie = shift_right<16>(bits) & splat_word(1);
    const Words rounded = shift_right<16>(bits + tie + splat_word(0x7FFF));
    const Words nan = shift_right<16>(bits) | splat_word(0x40);
    const Words halves = as_words(select(is_nan(x), as_floats(nan), as_floats(rounded)));
    for (int lane = 0; lane < kLanes; ++lane) {
        if (mask.value[lane]) to[lane] = (uint16_t)halves.value[lane];
    }
}
HEADRACE_INLINE Floats load_f16(const uint16_t* from) {
    const Words bits = words_of_halves(from, all_lanes());
    const Words sign = shift_left<16>(bits & splat_word(0x8000));
    // The exponent is too small by 127 - 15; the product is exact, for numbers below 2^-14 too.
    const Floats raw = as_floats(shift_left<13>(bits & splat_word(0x7FFF)));
    const Floats scaled = times_power_of_2(raw, splat(112.0f));
    const Words infinite = as_words(raw) | splat_word(0x7F800000);
    const Mask has_number = less(raw, as_floats(splat_word(0x0F800000)));
    return as_floats(as_words(select(has_number, scaled, as_floats(infinite))) | sign);
}
HEADRACE_INLINE Words bf16_of_bytes(const int8_t* from) {
    IntLanes even, odd;
    for (int lane = 0; lane < kLanes; ++lane) {
        even[lane] = from[2 * lane];
        odd[lane] = from[2 * lane + 1];
    }
    const Words low = as_words({__builtin_convertvector(even, FloatLanes)});
    const Words high = as_words({__builtin_convertvector(odd, FloatLanes)});
    return shift_right<16>(low) | high;
}
HEADRACE_INLINE Floats floats_of_bytes(const int8_t* from) {
    ByteLanes bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return {__builtin_convertvector(bytes, FloatLanes)};
}

// Doubles

HEADRACE_INLINE Doubles add(Doubles a, Floats x) {
    return {a.value + __builtin_convertvector(x.value, DoubleLanes)};
}
HEADRACE_INLINE double sum(Doubles a) {
    for (int half = kLanes / 2; half; half /= 2) {
        for (int lane = 0; lane < half; ++lane) a.value[lane] += a.value[lane + half];
    }
    return a.value[0];
}

// Memory

HEADRACE_INLINE void prefetch_near(const void* at) { __builtin_prefetch(at, 0, 3); }
HEADRACE_INLINE void prefetch_far(const void* at) { __builtin_prefetch(at, 0, 2); }
HEADRACE_INLINE void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Processor

inline bool runs_here() { return true; }

// Products with quantized weights

constexpr int kQuantizedRows = 4, kQuantizedHalves = 1, kSignedShift = 7;

struct CodeSums {
    Words total;
};
HEADRACE_INLINE CodeSums code_sums(Words first) { return {first}; }
template <int Bits>
HEADRACE_INLINE void add_codes(CodeSums& sums, Words codes, Words row, int) {
    sums.total = dot_small_bytes(sums.total, codes, row);
}
HEADRACE_INLINE Words signed_operand(Words bytes) { return {bytes.value ^ 0x80808080u}; }
HEADRACE_INLINE int signed_value(uint8_t operand) { return operand - 128; }
HEADRACE_INLINE void add_signed(CodeSums& sums, Words operand, Words row) {
    sums.total = dot_bytes(sums.total, operand, row);
}
HEADRACE_INLINE Words look_up_bytes(const int8_t (&table)[16], Words indices) {
    uint8_t bytes[sizeof indices.value];
    std::memcpy(bytes, &indices.value, sizeof bytes);
    for (uint8_t& byte : bytes) byte = (uint8_t)table[byte];
    Words found;
    std::memcpy(&found.value, bytes, sizeof bytes);
    return found;
}

}  // namespace headrace
