// Any processor, by GCC's vector types: see simd.h.
//
// A vector is four of 16 bytes, which nearly all processors have: of wider ones GCC keeps parts in
// memory. Without fused multiply-add in general: a * b + c is rounded twice.
#pragma once

namespace headrace {

typedef float FloatQuad __attribute__((vector_size(16)));
typedef int32_t IntQuad __attribute__((vector_size(16)));
typedef uint32_t WordQuad __attribute__((vector_size(16)));
typedef int64_t LongPair __attribute__((vector_size(16)));
typedef double DoublePair __attribute__((vector_size(16)));
typedef int16_t HalfOctet __attribute__((vector_size(16)));
typedef uint16_t WordHalves __attribute__((vector_size(8)));
typedef int8_t FourBytes __attribute__((vector_size(4)));
typedef float FloatPair __attribute__((vector_size(8)));

struct Floats {
    FloatQuad parts[4];
};
struct Words {
    WordQuad parts[4];
};
struct Mask {
    IntQuad parts[4];  // -1 or 0
};
struct Doubles {
    DoublePair parts[8] = {};
};

constexpr int kTileRows = 4, kTileHalves = 1, kAttentionVectors = 1;
constexpr bool kHasBf16Dot = false;

// The vector of what function(0) to function(3) return.
template <class Vector, class Function>
HEADRACE_INLINE Vector in_parts(const Function& function) {
    return {{function(0), function(1), function(2), function(3)}};
}

template <class To, class From>
HEADRACE_INLINE To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class Vector>
HEADRACE_INLINE Vector load_vector(const void* from) {
    return bits_as<Vector>(*(const char(*)[sizeof(Vector)])from);
}

// Mask

HEADRACE_INLINE Mask lanes_between(int64_t from, int64_t to) {
    return in_parts<Mask>([&](int n) {
        const IntQuad lane = IntQuad{0, 1, 2, 3} + 4 * n;
        return (lane >= (int32_t)from) & (lane < (int32_t)to);
    });
}
HEADRACE_INLINE Mask all_lanes() {
    return in_parts<Mask>([](int) { return IntQuad{-1, -1, -1, -1}; });
}
HEADRACE_INLINE Mask lanes(int64_t first, int64_t count) {
    const int64_t left = count - first;
    if (left >= kLanes) return all_lanes();
    return lanes_between(0, left < 0 ? 0 : left);
}
HEADRACE_INLINE Mask operator&(Mask a, Mask b) {
    return in_parts<Mask>([&](int n) { return a.parts[n] & b.parts[n]; });
}
HEADRACE_INLINE Mask operator|(Mask a, Mask b) {
    return in_parts<Mask>([&](int n) { return a.parts[n] | b.parts[n]; });
}
HEADRACE_INLINE int lane_of(const Mask& mask, int lane) { return mask.parts[lane / 4][lane % 4]; }
HEADRACE_INLINE int count(Mask mask) {
    const IntQuad sums = mask.parts[0] + mask.parts[1] + mask.parts[2] + mask.parts[3];
    return -(sums[0] + sums[1] + sums[2] + sums[3]);
}
HEADRACE_INLINE bool any(Mask mask) {
    const auto both = bits_as<LongPair>(mask.parts[0] | mask.parts[1] | mask.parts[2] |
                                        mask.parts[3]);
    return (both[0] | both[1]) != 0;
}
HEADRACE_INLINE bool all(const Mask& mask) {
    const auto both = bits_as<LongPair>(mask.parts[0] & mask.parts[1] & mask.parts[2] &
                                        mask.parts[3]);
    return (both[0] & both[1]) == -1;
}

// Floats

HEADRACE_INLINE Floats splat(float x) {
    return in_parts<Floats>([&](int) { return FloatQuad{x, x, x, x}; });
}
HEADRACE_INLINE Floats zeros() { return splat(0.0f); }
HEADRACE_INLINE Floats load(const float* from) {
    return in_parts<Floats>([&](int n) { return load_vector<FloatQuad>(from + 4 * n); });
}
HEADRACE_INLINE void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }
HEADRACE_INLINE Floats load(const float* from, Mask mask) {
    if (all(mask)) return load(from);
    float some[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
        if (lane_of(mask, lane)) some[lane] = from[lane];
    }
    return load(some);
}
HEADRACE_INLINE void store(float* to, Floats x, Mask mask) {
    if (all(mask)) return store(to, x);
    float every[kLanes];
    store(every, x);
    for (int lane = 0; lane < kLanes; ++lane) {
        if (lane_of(mask, lane)) to[lane] = every[lane];
    }
}
HEADRACE_INLINE Floats operator+(Floats a, Floats b) {
    return in_parts<Floats>([&](int n) { return a.parts[n] + b.parts[n]; });
}
HEADRACE_INLINE Floats operator-(Floats a, Floats b) {
    return in_parts<Floats>([&](int n) { return a.parts[n] - b.parts[n]; });
}
HEADRACE_INLINE Floats operator*(Floats a, Floats b) {
    return in_parts<Floats>([&](int n) { return a.parts[n] * b.parts[n]; });
}
HEADRACE_INLINE Floats operator/(Floats a, Floats b) {
    return in_parts<Floats>([&](int n) { return a.parts[n] / b.parts[n]; });
}
HEADRACE_INLINE Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
HEADRACE_INLINE Floats fnma(Floats a, Floats b, Floats c) { return c - a * b; }
HEADRACE_INLINE Mask less(Floats a, Floats b) {
    return in_parts<Mask>([&](int n) { return a.parts[n] < b.parts[n]; });
}
HEADRACE_INLINE Mask less_equal(Floats a, Floats b) {
    return in_parts<Mask>([&](int n) { return a.parts[n] <= b.parts[n]; });
}
HEADRACE_INLINE Mask not_less(Floats a, Floats b) {
    return in_parts<Mask>([&](int n) { return ~(a.parts[n] < b.parts[n]); });
}
HEADRACE_INLINE Mask is_nan(Floats x) {
    return in_parts<Mask>([&](int n) { return x.parts[n] != x.parts[n]; });
}
HEADRACE_INLINE Floats select(Mask mask, Floats a, Floats b) {
    return in_parts<Floats>([&](int n) { return mask.parts[n] ? a.parts[n] : b.parts[n]; });
}
HEADRACE_INLINE Floats keep(Mask mask, Floats a) { return select(mask, a, zeros()); }
HEADRACE_INLINE Floats min(Floats a, Floats b) { return select(less(a, b), a, b); }
HEADRACE_INLINE Floats max(Floats a, Floats b) { return select(less(b, a), a, b); }
HEADRACE_INLINE Floats round_to_integer(Floats x) {
    // Beyond 2^23 the neighbours of a number are whole; the sum is rounded as any other.
    const Floats large = splat(1.5f * (1 << 23));
    return x + large - large;
}
// Combines the lanes of x in halves.
template <class Combine>
HEADRACE_INLINE float reduce(const Floats& x, const Combine& combine) {
    float every[kLanes];
    store(every, x);
    for (int half = kLanes / 2; half; half /= 2) {
        for (int lane = 0; lane < half; ++lane) {
            every[lane] = combine(every[lane], every[lane + half]);
        }
    }
    return every[0];
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
    float every[kLanes];
    store(every, x);
    int number = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
        to[number] = every[lane];
        number -= lane_of(mask, lane);
    }
    return number;
}

// Words

HEADRACE_INLINE Words load_words(const void* from) {
    return in_parts<Words>(
        [&](int n) { return load_vector<WordQuad>((const char*)from + 16 * n); });
}
HEADRACE_INLINE void store_words(void* to, Words x) { std::memcpy(to, &x, sizeof x); }
HEADRACE_INLINE Words splat_word(int32_t x) {
    const auto word = (uint32_t)x;
    return in_parts<Words>([&](int) { return WordQuad{word, word, word, word}; });
}
HEADRACE_INLINE Words broadcast_word(const void* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return splat_word(word);
}
HEADRACE_INLINE Words operator+(Words a, Words b) {
    return in_parts<Words>([&](int n) { return a.parts[n] + b.parts[n]; });
}
HEADRACE_INLINE Words operator-(Words a, Words b) {
    return in_parts<Words>([&](int n) { return a.parts[n] - b.parts[n]; });
}
HEADRACE_INLINE Words operator&(Words a, Words b) {
    return in_parts<Words>([&](int n) { return a.parts[n] & b.parts[n]; });
}
HEADRACE_INLINE Words operator|(Words a, Words b) {
    return in_parts<Words>([&](int n) { return a.parts[n] | b.parts[n]; });
}
template <int Bits>
HEADRACE_INLINE Words shift_left(Words x) {
    return in_parts<Words>([&](int n) { return x.parts[n] << Bits; });
}
template <int Bits>
HEADRACE_INLINE Words shift_right(Words x) {
    return in_parts<Words>([&](int n) { return x.parts[n] >> Bits; });
}
HEADRACE_INLINE Words as_words(Floats x) {
    return in_parts<Words>([&](int n) { return (WordQuad)x.parts[n]; });
}
HEADRACE_INLINE Floats as_floats(Words x) {
    return in_parts<Floats>([&](int n) { return (FloatQuad)x.parts[n]; });
}
HEADRACE_INLINE Floats abs(Floats x) { return as_floats(as_words(x) & splat_word(0x7FFFFFFF)); }
HEADRACE_INLINE Floats with_sign_of(Floats magnitude, Floats x) {
    return as_floats(as_words(magnitude) | (as_words(x) & splat_word((int32_t)0x80000000)));
}
HEADRACE_INLINE Words to_words(Floats x) {
    // The lowest bits of the sum are those of the integer.
    const Floats shifted = x + splat(1.5f * (1 << 23));
    return as_words(shifted) - splat_word(0x4B400000);
}
HEADRACE_INLINE Floats to_floats(Words x) {
    return in_parts<Floats>(
        [&](int n) { return __builtin_convertvector((IntQuad)x.parts[n], FloatQuad); });
}
HEADRACE_INLINE Floats times_power_of_2(Floats x, Floats n) {
    // In two steps: the power itself may be no normal number.
    const Words whole = to_words(n), bias = splat_word(127);
    const Words half =
        in_parts<Words>([&](int i) { return (WordQuad)((IntQuad)whole.parts[i] >> 1); });
    const Floats first = as_floats(shift_left<23>(half + bias));
    return x * first * as_floats(shift_left<23>(whole - half + bias));
}
HEADRACE_INLINE void store_bytes(uint8_t* to, Words x, Mask mask) {
    uint32_t every[kLanes];
    store_words(every, x);
    for (int lane = 0; lane < kLanes; ++lane) {
        if (lane_of(mask, lane)) to[lane] = (uint8_t)every[lane];
    }
}
// The sum of both products of 16 bits in each word.
HEADRACE_INLINE WordQuad dot_halves(HalfOctet a, HalfOctet b) {
#ifdef __SSE2__
    return (WordQuad)__builtin_ia32_pmaddwd128(a, b);
#else
    const auto low = [](HalfOctet x) { return (IntQuad)x << 16 >> 16; };
    const auto high = [](HalfOctet x) { return (IntQuad)x >> 16; };
    return (WordQuad)(low(a) * low(b) + high(a) * high(b));
#endif
}
HEADRACE_INLINE Words dot_bytes(Words sums, Words u, Words s) {
    return in_parts<Words>([&](int n) {
        const auto a = (HalfOctet)u.parts[n], b = (HalfOctet)s.parts[n];
        const auto odd = (HalfOctet)(u.parts[n] >> 8);
        return sums.parts[n] + dot_halves(a & 255, (HalfOctet)(b << 8) >> 8) +
               dot_halves(odd & 255, b >> 8);
    });
}
HEADRACE_INLINE Floats dot_bytes_in_floats(Floats sums, Words u, Words s) {
    return as_floats(dot_bytes(as_words(sums), u, s));
}
HEADRACE_INLINE Words dot_small_bytes(Words sums, Words u, Words s) {
    return dot_bytes(sums, u, s);
}

// Formats of 16 and 8 bits

HEADRACE_INLINE Floats even_bf16(Words x) { return as_floats(shift_left<16>(x)); }
HEADRACE_INLINE Floats odd_bf16(Words x) {
    return as_floats(x & splat_word((int32_t)0xFFFF0000));
}
HEADRACE_INLINE Words words_of_halves(const uint16_t* from) {
    return in_parts<Words>([&](int n) {
        return __builtin_convertvector(load_vector<WordHalves>(from + 4 * n), WordQuad);
    });
}
HEADRACE_INLINE Floats load_bf16(const uint16_t* from, Mask mask) {
    if (all(mask)) return as_floats(shift_left<16>(words_of_halves(from)));
    uint16_t some[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
        if (lane_of(mask, lane)) some[lane] = from[lane];
    }
    return as_floats(shift_left<16>(words_of_halves(some)));
}
HEADRACE_INLINE void store_bf16(uint16_t* to, Floats x, Mask mask) {
    const Words bits = as_words(x);
    const Words tie = shift_right<16>(bits) & splat_word(1);
    const Words rounded = shift_right<16>(bits + tie + splat_word(0x7FFF));
    const Words nan = shift_right<16>(bits) | splat_word(0x40);
    uint32_t halves[kLanes];
    store_words(halves, as_words(select(is_nan(x), as_floats(nan), as_floats(rounded))));
    const bool whole = all(mask);
    for (int lane = 0; lane < kLanes; ++lane) {
        if (whole || lane_of(mask, lane)) to[lane] = (uint16_t)halves[lane];
    }
}
HEADRACE_INLINE void store_bf16_halves(uint16_t* to, Floats x) {
    uint16_t numbers[kLanes];
    store_bf16(numbers, x, all_lanes());
    for (int i = 0; i < kLanes; ++i) to[2 * i] = numbers[i];
}
HEADRACE_INLINE Floats load_f16(const uint16_t* from) {
    const Words bits = words_of_halves(from);
    const Words sign = shift_left<16>(bits & splat_word(0x8000));
    // The exponent is too small by 127 - 15; the product is exact, for numbers below 2^-14 too.
    const Floats raw = as_floats(shift_left<13>(bits & splat_word(0x7FFF)));
    const Floats scaled = raw * as_floats(splat_word((127 + 112) << 23));
    const Words infinite = as_words(raw) | splat_word(0x7F800000);
    const Mask has_number = less(raw, as_floats(splat_word(0x0F800000)));
    return as_floats(as_words(select(has_number, scaled, as_floats(infinite))) | sign);
}
HEADRACE_INLINE Floats floats_of_bytes(const int8_t* from) {
    return in_parts<Floats>([&](int n) {
        return __builtin_convertvector(load_vector<FourBytes>(from + 4 * n), FloatQuad);
    });
}
HEADRACE_INLINE Words bf16_of_bytes(const int8_t* from) {
    int8_t even[kLanes], odd[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        even[lane] = from[2 * lane];
        odd[lane] = from[2 * lane + 1];
    }
    return shift_right<16>(as_words(floats_of_bytes(even))) | as_words(floats_of_bytes(odd));
}

// Doubles

HEADRACE_INLINE Doubles add(Doubles a, Floats x) {
    for (int n = 0; n < 4; ++n) {
        const FloatQuad four = x.parts[n];
        a.parts[2 * n] += __builtin_convertvector((FloatPair{four[0], four[1]}), DoublePair);
        a.parts[2 * n + 1] += __builtin_convertvector((FloatPair{four[2], four[3]}), DoublePair);
    }
    return a;
}
HEADRACE_INLINE double sum(Doubles a) {
    for (int half = 4; half; half /= 2) {
        for (int n = 0; n < half; ++n) a.parts[n] += a.parts[n + half];
    }
    return a.parts[0][0] + a.parts[0][1];
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
HEADRACE_INLINE Words signed_operand(Words bytes) {
    return in_parts<Words>([&](int n) { return bytes.parts[n] ^ 0x80808080u; });
}
HEADRACE_INLINE int signed_value(uint8_t operand) { return operand - 128; }
HEADRACE_INLINE void add_signed(CodeSums& sums, Words operand, Words row) {
    sums.total = dot_bytes(sums.total, operand, row);
}
HEADRACE_INLINE Words look_up_bytes(const int8_t (&table)[16], Words indices) {
    uint8_t bytes[sizeof indices];
    store_words(bytes, indices);
    for (uint8_t& byte : bytes) byte = (uint8_t)table[byte];
    return load_words(bytes);
}

}  // namespace headrace
