// Checks the functions of one instruction set (workers/native/src/simd) against plain C++, and that
// the products of a row do not depend on the number of rows. Prints what differs, and returns 1.
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "gemm.h"
#include "quantized.h"

using namespace headrace;

namespace {

int failures = 0;
uint64_t state = 1;

uint32_t random_bits() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}
float random_float(float scale) { return ((int32_t)random_bits() / 2147483648.0f) * scale; }

bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || a == b; }
bool close(float a, float b, float tolerance) {
    return same(a, b) || std::fabs(a - b) <= tolerance * std::fabs(b);
}

void expect(bool holds, const char* what, int lane, double found, double expected) {
    if (holds) return;
    ++failures;
    std::printf("%s: lane %d is %.9g, not %.9g\n", what, lane, found, expected);
}

struct Lanes {
    float at[kLanes];
    explicit Lanes(Floats x) { store(at, x); }
};
struct WordLanesOf {
    uint32_t at[kLanes];
    explicit WordLanesOf(Words x) { store_words(at, x); }
};

// Calls check(lane, found, numbers) for each lane of function(a, b, c).
template <class Function, class Scalar>
void compare(const char* what, const Function& function, const Scalar& scalar,
             float tolerance = 0) {
    const float special[] = {0.0f, -0.0f, 1.0f, -2.5f, 1e-40f, 3e38f, INFINITY, -INFINITY, NAN};
    for (int round = 0; round < 200; ++round) {
        float a[kLanes], b[kLanes], c[kLanes];
        for (int i = 0; i < kLanes; ++i) {
            const bool odd = round % 4 == 0;
            a[i] = odd ? special[random_bits() % 9] : random_float(100);
            b[i] = odd && random_bits() % 2 ? special[random_bits() % 9] : random_float(50);
            c[i] = random_float(10);
        }
        const Lanes found(function(load(a), load(b), load(c)));
        for (int i = 0; i < kLanes; ++i) {
            const float expected = scalar(a[i], b[i], c[i]);
            expect(close(found.at[i], expected, tolerance), what, i, found.at[i], expected);
        }
    }
}

void check_arithmetic() {
    compare("+", [](auto a, auto b, auto) { return a + b; },
            [](float a, float b, float) { return a + b; });
    compare("-", [](auto a, auto b, auto) { return a - b; },
            [](float a, float b, float) { return a - b; });
    compare("*", [](auto a, auto b, auto) { return a * b; },
            [](float a, float b, float) { return a * b; });
    compare("/", [](auto a, auto b, auto) { return a / b; },
            [](float a, float b, float) { return a / b; });
    compare("min", [](auto a, auto b, auto) { return min(a, b); },
            [](float a, float b, float) { return a < b ? a : b; });
    compare("max", [](auto a, auto b, auto) { return max(a, b); },
            [](float a, float b, float) { return a > b ? a : b; });
    compare("abs", [](auto a, auto, auto) { return abs(a); },
            [](float a, float, float) { return std::fabs(a); });
    compare("with_sign_of", [](auto a, auto b, auto) { return with_sign_of(abs(b), a); },
            [](float a, float b, float) { return std::copysign(std::fabs(b), a); });
    compare("select", [](auto a, auto b, auto c) { return select(less(a, b), b, c); },
            [](float a, float b, float c) { return a < b ? b : c; });
    compare("less_equal", [](auto a, auto b, auto c) { return keep(less_equal(a, b), c); },
            [](float a, float b, float c) { return a <= b ? c : 0.0f; });
    compare("not_less", [](auto a, auto b, auto c) { return keep(not_less(a, b), c); },
            [](float a, float b, float c) { return !(a < b) ? c : 0.0f; });
    compare("is_nan", [](auto a, auto, auto c) { return keep(is_nan(a), c); },
            [](float a, float, float c) { return std::isnan(a) ? c : 0.0f; });
}

void check_functions() {
    const float rounding = 1e-4f;  // of a sum that may cancel, without fused operations
    const auto in_double = [](float a, float b, float c) { return (double)a * b + c; };
    for (int i = 0; i < 2000; ++i) {
        const float a = random_float(3), b = random_float(3), c = random_float(30);
        const float found = Lanes(fma(splat(a), splat(b), splat(c))).at[7];
        expect(std::fabs(found - in_double(a, b, c)) < rounding, "fma", 7, found,
               in_double(a, b, c));
        const float minus = Lanes(fnma(splat(a), splat(b), splat(c))).at[3];
        expect(std::fabs(minus - in_double(-a, b, c)) < rounding, "fnma", 3, minus,
               in_double(-a, b, c));
        const float x = random_float(200), n = std::nearbyint(random_float(240));
        const float whole = Lanes(round_to_integer(splat(x))).at[5];
        expect(same(whole, std::nearbyint(x)), "round_to_integer", 5, whole, std::nearbyint(x));
        const float power = Lanes(times_power_of_2(splat(x), splat(n))).at[11];
        expect(close(power, std::ldexp(x, (int)n), 1e-7f) || std::fabs(power) < 2e-38f,
               "times_power_of_2", 11, power, std::ldexp(x, (int)n));
        const float e = Lanes(exp(splat(x / 2.5f))).at[0];
        expect(close(e, std::exp((double)x / 2.5f), 1e-5f) || e < 2e-38f, "exp", 0, e,
               std::exp(x / 2.5f));
        const int32_t integer = (int32_t)WordLanesOf(to_words(splat(x))).at[9];
        expect(integer == (int32_t)std::nearbyint(x), "to_words", 9, integer, std::nearbyint(x));
        const float back = Lanes(to_floats(splat_word(integer * 1000))).at[2];
        expect(back == (float)(integer * 1000), "to_floats", 2, back, integer * 1000);
    }
    expect(std::isnan(Lanes(exp(splat(NAN))).at[0]), "exp", 0, 0, NAN);
}

void check_lanes() {
    float in[kLanes + 16], out[kLanes + 16];
    for (int i = 0; i < kLanes + 16; ++i) in[i] = (float)(i + 1);
    for (int from = 0; from <= kLanes; ++from) {
        for (int to = from; to <= kLanes; ++to) {
            const Mask mask = lanes_between(from, to);
            const Lanes found(load(in, mask));
            for (float& x : out) x = -1;
            store(out, load(in), mask);
            for (int i = 0; i < kLanes; ++i) {
                const bool taken = i >= from && i < to;
                expect(found.at[i] == (taken ? in[i] : 0), "load", i, found.at[i], in[i]);
                expect(out[i] == (taken ? in[i] : -1), "store", i, out[i], in[i]);
            }
            expect(count(mask) == to - from, "count", 0, count(mask), to - from);
            expect(any(mask) == (to > from), "any", 0, any(mask), to > from);
            expect(count(lanes(3, 3 + to)) == to, "lanes", 0, count(lanes(3, 3 + to)), to);
            const int number = store_taken(out, load(in), mask);
            expect(number == to - from, "store_taken", 0, number, to - from);
            for (int i = 0; i < number; ++i) {
                expect(out[i] == in[from + i], "store_taken", i, out[i], in[from + i]);
            }
            uint16_t halves[kLanes] = {};
            store_bf16(halves, load(in), mask);
            const Lanes rounded(load_bf16(halves, all_lanes()));
            const Lanes some(load_bf16(halves, mask));
            uint8_t bytes[kLanes] = {};
            store_bytes(bytes, to_words(load(in) * splat(15)), mask);
            for (int i = 0; i < kLanes; ++i) {
                const float expected = i >= from && i < to ? in[i] : 0;
                expect(rounded.at[i] == expected, "store_bf16", i, rounded.at[i], expected);
                expect(some.at[i] == expected, "load_bf16", i, some.at[i], expected);
                expect(bytes[i] == expected * 15, "store_bytes", i, bytes[i], expected * 15);
            }
        }
    }
    expect(count(lanes(5, 3)) == 0, "lanes", 0, count(lanes(5, 3)), 0);
    expect(count(lanes(0, 99)) == kLanes, "lanes", 0, count(lanes(0, 99)), kLanes);
    expect(sum(load(in)) == 136, "sum", 0, sum(load(in)), 136);
    expect(minimum(load(in)) == 1, "minimum", 0, minimum(load(in)), 1);
    expect(maximum(load(in)) == 16, "maximum", 0, maximum(load(in)), 16);
    const double doubled = sum(add(add(Doubles{}, load(in)), load(in)));
    expect(doubled == 272, "Doubles", 0, doubled, 272);
}

void check_bytes() {
    for (int round = 0; round < 500; ++round) {
        uint32_t u[kLanes], small[kLanes], s[kLanes], sums[kLanes];
        for (int i = 0; i < kLanes; ++i) {
            u[i] = round ? random_bits() : 0xFFFFFFFF;
            s[i] = round ? random_bits() : 0x80808080;
            sums[i] = random_bits() >> 8;
            small[i] = u[i] & 0x7F7F7F7F;
        }
        const auto dot = [&](const uint32_t* a, int i) {
            int32_t total = (int32_t)sums[i];
            for (int byte = 0; byte < 32; byte += 8) {
                total += (int32_t)(a[i] >> byte & 255) * (int8_t)(s[i] >> byte & 255);
            }
            return total;
        };
        const Words all = load_words(sums);
        const WordLanesOf found(dot_bytes(all, load_words(u), load_words(s)));
        const Floats in_floats =
            dot_bytes_in_floats(as_floats(all), load_words(u), load_words(s));
        const WordLanesOf same(as_words(in_floats));
        const WordLanesOf few(dot_small_bytes(all, load_words(small), load_words(s)));
        const auto* bytes = (const int8_t*)s;
        const Lanes floats(floats_of_bytes(bytes));
        const Words pairs = bf16_of_bytes(bytes);
        const Lanes even(even_bf16(pairs)), odd(odd_bf16(pairs));
        const WordLanesOf shifted(shift_left<8>(load_words(u)) | shift_right<24>(load_words(u)));
        for (int i = 0; i < kLanes; ++i) {
            expect((int32_t)found.at[i] == dot(u, i), "dot_bytes", i, (int32_t)found.at[i],
                   dot(u, i));
            expect((int32_t)same.at[i] == dot(u, i), "dot_bytes_in_floats", i, (int32_t)same.at[i],
                   dot(u, i));
            expect((int32_t)few.at[i] == dot(small, i), "dot_small_bytes", i, (int32_t)few.at[i],
                   dot(small, i));
            expect(floats.at[i] == bytes[i], "floats_of_bytes", i, floats.at[i], bytes[i]);
            expect(even.at[i] == bytes[2 * i], "bf16_of_bytes", i, even.at[i], bytes[2 * i]);
            expect(odd.at[i] == bytes[2 * i + 1], "bf16_of_bytes", i, odd.at[i], bytes[2 * i + 1]);
            expect(shifted.at[i] == (u[i] << 8 | u[i] >> 24), "shifts", i, shifted.at[i], u[i]);
        }
    }
}

float f16_value(uint16_t x) {
    const int exponent = x >> 10 & 31, mantissa = x & 1023;
    float value = exponent == 31  ? (mantissa ? NAN : INFINITY)
                  : exponent == 0 ? std::ldexp((float)mantissa, -24)
                                  : std::ldexp((float)(1024 + mantissa), exponent - 25);
    return x & 0x8000 ? -value : value;
}

void check_halves() {
    for (uint32_t first = 0; first < 65536; first += kLanes) {
        uint16_t halves[kLanes], back[kLanes];
        for (int i = 0; i < kLanes; ++i) halves[i] = (uint16_t)(first + i);
        const Lanes found(load_f16(halves));
        const Floats wide = load_bf16(halves, all_lanes());
        store_bf16(back, wide, all_lanes());
        for (int i = 0; i < kLanes; ++i) {
            expect(same(found.at[i], f16_value(halves[i])), "load_f16", i, found.at[i],
                   f16_value(halves[i]));
            const int exponent = halves[i] >> 7 & 255;
            // Numbers below the normal ones may become zero, NaN another NaN.
            const bool exact = back[i] == halves[i] || exponent == 0 || exponent == 255;
            expect(exact, "bf16 and back", i, back[i], halves[i]);
        }
    }
    const float ties[] = {1.00390625f, 1.01171875f, 1.003907f, -1.00390625f};
    const float rounded[] = {1.0f, 1.015625f, 1.0078125f, -1.0f};
    for (int i = 0; i < 4; ++i) {
        uint16_t to[kLanes];
        store_bf16(to, splat(ties[i]), all_lanes());
        const float found = Lanes(load_bf16(to, all_lanes())).at[0];
        expect(found == rounded[i], "store_bf16", 0, found, rounded[i]);
    }
}

// Compares the product of 1 to 25 rows with sums in float64, and each row's with its own alone.
template <class E>
void check_products(const char* what, int inputs) {
    using RowElement = typename E::Row::Element;
    const int words = inputs / E::kPerWord, stride = words * E::kParts;
    std::vector<typename E::Element> weight((size_t)inputs * kPanel);
    std::vector<uint32_t> rows((size_t)25 * stride);
    for (size_t i = 0; i < weight.size(); i += kLanes) {
        float x[kLanes];
        for (float& one : x) one = random_float(1);
        E::store(weight.data() + i, load(x));
    }
    for (int i = 0; i < 25 * inputs; i += kLanes) {
        float x[kLanes];
        for (float& one : x) one = random_float(1);
        E::Row::store((RowElement*)rows.data() + i, load(x));
    }
    std::vector<float> sums(kBlockRows * kPanel);
    const StoredPanel panel{(const uint32_t*)weight.data(), nullptr};
    std::vector<float> alone;
    for (int count : {1, 2, 5, 6, 7, 12, 13, 25}) {
        std::vector<float> found(count * kPanel);
        const auto keep_row = [&](int64_t row, Floats left, Floats right) {
            store(found.data() + row * kPanel, left);
            store(found.data() + row * kPanel + kLanes, right);
        };
        if (count == 1) {
            for (int row = 0; row < 25; ++row) {
                panel_product<E>(rows.data() + row * stride, stride, 1, panel, words, sums.data(),
                                 keep_row);
                alone.insert(alone.end(), found.begin(), found.end());
            }
            continue;
        }
        panel_product<E>(rows.data(), stride, count, panel, words, sums.data(), keep_row);
        for (int i = 0; i < count * kPanel; ++i) {
            expect(found[i] == alone[i], what, i, found[i], alone[i]);
        }
    }
    for (int i = 0; i < 25 * kPanel; ++i) {
        double expected = 0;
        for (int k = 0; k < inputs; ++k) {
            const int at = (k / E::kPerWord * kPanel + i % kPanel) * E::kPerWord + k % E::kPerWord;
            expected += (double)E::value(weight[at]) *
                        E::Row::value(((RowElement*)rows.data())[i / kPanel * inputs + k]);
        }
        expect(std::fabs(alone[i] - expected) < 1e-3, what, i, alone[i], expected);
    }
}

// Compares products with a panel in blocks with those of its numbers, and several rows with one.
template <class Layout>
void check_blocks(const char* what, int format) {
    constexpr int kBlocks = 24, kInputs = kBlocks * kBlock, kRows = 11;
    std::vector<uint8_t> panel(Layout::panel_bytes(kBlocks) + 8192);
    for (uint8_t& byte : panel) byte = random_bits() & 0x3F;  // as scales: small and no NaN
    for (int block = 0; block < kBlocks; ++block) {
        uint8_t* codes = panel.data() + Layout::block_at(block) + Layout::kCodesAt;
        for (int i = 0; i < kPanel * kBlock * Layout::kBits / 8; ++i) codes[i] = random_bits();
    }
    const QuantizedKernel& kernel = quantized_kernel(format);
    std::vector<float> rows(kRows * kInputs), weight(kInputs), found(kRows * kPanel), alone(kPanel);
    for (float& x : rows) x = random_float(3);
    std::vector<char> all(rounded_bytes(kRows, kBlocks)), one(rounded_bytes(1, kBlocks));
    for (int row = 0; row < kRows; ++row) {
        round_row(rows.data() + row * kInputs, kInputs, row, kRows, all.data());
    }
    DecodedPanel decoded;
    kernel.rows(all.data(), kRows, 0, kRows, panel.data(), nullptr, kBlocks, decoded, found.data());
    for (int row = 0; row < kRows; ++row) {
        round_row(rows.data() + row * kInputs, kInputs, 0, 1, one.data());
        kernel.rows(one.data(), 1, 0, 1, panel.data(), nullptr, kBlocks, decoded, alone.data());
        for (int lane = 0; lane < kPanel; ++lane) {
            kernel.output(panel.data(), lane, kInputs, weight.data());
            double expected = 0, size = 0;
            for (int i = 0; i < kInputs; ++i) {
                const RowBlocks<1>& block = ((const RowBlocks<1>*)one.data())[i / kBlock];
                const double product =
                    (double)weight[i] * ((const int8_t*)block.codes)[i % kBlock] * block.scale[0];
                expected += product;
                size += std::fabs(product);
            }
            const float at = found[row * kPanel + lane];
            expect(at == alone[lane], what, lane, at, alone[lane]);
            expect(std::fabs(at - expected) < 1e-5 * size, what, lane, at, expected);
        }
    }
}

}  // namespace

int main() {
    if (!runs_here()) {
        std::puts("this processor lacks the instructions");
        return 2;
    }
    check_arithmetic();
    check_functions();
    check_lanes();
    check_bytes();
    check_halves();
    check_products<F32>("products of float32", 2400);
    check_products<Bf16>("products of bfloat16", 4800);
    check_blocks<Q8_0>("q8_0", 0);
    check_blocks<Q4_0>("q4_0", 1);
    check_blocks<Q4_1>("q4_1", 2);
    check_blocks<Q5_0>("q5_0", 3);
    check_blocks<Q5_1>("q5_1", 4);
    check_blocks<Q4_K>("q4_k", 5);
    check_blocks<Q5_K>("q5_k", 6);
    check_blocks<Q6_K>("q6_k", 7);
    check_blocks<Iq4_Nl>("iq4_nl", 8);
    check_blocks<Mxfp4>("mxfp4", 9);
    check_blocks<Q8_M>("q8_m", 10);
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
