// Runs a program: see program.h. The C functions at the end are all that Python sees.
#include "program.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "attention.h"
#include "gemm.h"
#include "rows.h"
#include "threads.h"

namespace headrace {
namespace {

constexpr int kCacheLine = 64;
constexpr int64_t kHugePage = 2 << 20;

// Zeroed memory in huge pages where the system has them: reading weights misses no address then.
class Memory {
  public:
    Memory() = default;
    explicit Memory(int64_t bytes) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
        void* start = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start == MAP_FAILED) throw std::bad_alloc();
        madvise(start, bytes_, MADV_HUGEPAGE);
        start_ = (char*)start;
    }
    Memory(Memory&& other) noexcept { *this = std::move(other); }
    Memory& operator=(Memory&& other) noexcept {
        std::swap(start_, other.start_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Memory() {
        if (start_) munmap(start_, bytes_);
    }
    char* start() const { return start_; }
    int64_t bytes() const { return bytes_; }

  private:
    char* start_ = nullptr;
    int64_t bytes_ = 0;
};

// One kind of attention layer in a step: its tiles, and which of them are parts of one.
struct Plan {
    AttentionSizes sizes;
    CacheShape shape;
    std::vector<Tile> tiles;
    struct Whole {
        Tile tile;
        int32_t first_partial, num_partials;
    };
    std::vector<Whole> wholes;
    int32_t num_partials = 0;
};

struct LayerCache {
    uint32_t *keys, *values;
};

// What one thread needs for itself.
struct Scratch {
    std::vector<float> sums = std::vector<float>(kBlockRows * kPanel);
    alignas(64) uint32_t words[RoundedPanel<Bf16>::kDepth * kPanel];
    alignas(64) uint32_t queries[kTileQueries * kMaxDim];
    alignas(64) float values[kTileQueries * kMaxDim];
};

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

template <class E>
class Program {
  public:
    Program(const Instruction* list, int count, const Buffer* buffers, int num_buffers, int threads,
            int64_t num_blocks, int block_size)
        : instructions_(list, list + count),
          buffers_(buffers, buffers + num_buffers),
          threads_(threads),
          progress_(count),
          scratch_(threads),
          starts_(num_buffers),
          block_size_(block_size) {
        place_layers(num_blocks * block_size);
        for (auto& instruction : instructions_) {
            if (instruction.operation == kAttend || instruction.operation == kFinishAttend) {
                instruction.sizes[7] = plan_for(instruction);
            }
        }
    }

    void run(const Step& step) {
        step_ = &step;
        place_buffers();
        for (auto& plan : plans_) make_tiles(plan);
        for (auto& progress : progress_) {
            progress.taken.store(0, std::memory_order_relaxed);
            progress.done.store(0, std::memory_order_relaxed);
        }
        threads_.run([](void* self, int thread) { ((Program*)self)->work(thread); }, this);
    }

  private:
    using Element = typename E::Element;

    // All layers' keys and values lie in one piece of memory; sizes[5] is a layer's number.
    void place_layers(int64_t tokens) {
        std::vector<int64_t> starts;
        int64_t bytes = 0;
        for (const auto& instruction : instructions_) {
            if (instruction.operation != kAttend) continue;
            const CacheShape shape = shape_of(sizes_of(instruction));
            const int64_t groups = tokens / kGroup * shape.kv_heads;
            layers_.resize(std::max<size_t>(layers_.size(), instruction.sizes[5] + 1));
            starts.push_back(bytes);
            bytes += round_up(groups * shape.key_group() * 4, kCacheLine);
            starts.push_back(bytes);
            bytes += round_up(groups * shape.value_group() * 4, kCacheLine);
        }
        cache_ = Memory(std::max<int64_t>(bytes, 1));
        const int64_t* start = starts.data();
        for (const auto& instruction : instructions_) {
            if (instruction.operation != kAttend) continue;
            auto& layer = layers_[instruction.sizes[5]];
            layer.keys = (uint32_t*)(cache_.start() + *start++);
            layer.values = (uint32_t*)(cache_.start() + *start++);
        }
    }

    static AttentionSizes sizes_of(const Instruction& i) {
        return {i.sizes[0], i.sizes[1],   i.sizes[2],  i.sizes[3],
                i.sizes[4], i.numbers[0], i.numbers[1]};
    }

    static CacheShape shape_of(const AttentionSizes& sizes) {
        return {sizes.kv_heads, (sizes.key_dim + E::kPerWord - 1) / E::kPerWord,
                (int)round_up(sizes.value_dim, kLanes), E::kPerWord};
    }

    int plan_for(const Instruction& instruction) {
        const AttentionSizes sizes = sizes_of(instruction);
        for (size_t i = 0; i < plans_.size(); ++i) {
            if (std::memcmp(&plans_[i].sizes, &sizes, sizeof sizes) == 0) return (int)i;
        }
        plans_.push_back({sizes, shape_of(sizes), {}, {}, 0});
        return (int)plans_.size() - 1;
    }

    // Buffers lie one after another, each with as many rows as the step has.
    void place_buffers() {
        int64_t bytes = 0;
        for (size_t i = 0; i < buffers_.size(); ++i) {
            starts_[i] = bytes;
            const int64_t sizes[] = {sizeof(float), sizeof(Element), 1};
            const int64_t size = sizes[buffers_[i].kind];
            bytes += round_up(size * buffers_[i].width * step_->rows + kCacheLine, kCacheLine);
        }
        if (bytes > arena_.bytes()) arena_ = Memory(bytes);
    }

    // Cuts the step's queries into tiles, and these by tokens if there are too few for all threads.
    void make_tiles(Plan& plan) {
        plan.tiles.clear();
        plan.wholes.clear();
        plan.num_partials = 0;
        const int shared = plan.sizes.shared();
        int64_t total = 0;
        for (int s = 0; s < step_->num_spans; ++s) {
            const Span& span = spans()[s];
            const int queries = span.num_rows * shared;
            for (int first = 0; first < queries; first += kTileQueries) {
                const int count = std::min(kTileQueries, queries - first);
                const int end = span.context + (first + count - 1) / shared + 1;
                const int seen = span.context + first / shared + 1;
                const int begin = plan.sizes.window ? std::max(0, seen - plan.sizes.window) : 0;
                total += (int64_t)(end - begin) * plan.sizes.kv_heads;
                for (int head = 0; head < plan.sizes.kv_heads; ++head) {
                    plan.tiles.push_back({s, head, first, count, begin, end, -1});
                }
            }
        }
        split_tiles(plan, total);
    }

    void split_tiles(Plan& plan, int64_t total) {
        const int64_t fair = round_up(total / (6 * threads_.count()) + 1, kTileTokens);
        const size_t before = plan.tiles.size();
        if (threads_.count() == 1 || before >= 32u * threads_.count()) return;
        for (size_t i = 0; i < before; ++i) {
            const Tile whole = plan.tiles[i];
            const int64_t begin = whole.begin / kGroup * kGroup;
            if (whole.end - begin <= fair * 3 / 2) continue;
            const int first_partial = plan.num_partials;
            for (int64_t from = begin; from < whole.end; from += fair) {
                Tile part = whole;
                part.begin = (int)std::max<int64_t>(from, whole.begin);
                part.end = (int)std::min<int64_t>(from + fair, whole.end);
                part.partial = plan.num_partials++;
                if (from == begin) {
                    plan.tiles[i] = part;
                } else {
                    plan.tiles.push_back(part);
                }
            }
            plan.wholes.push_back({whole, first_partial, plan.num_partials - first_partial});
        }
        const size_t needed = (size_t)plan.num_partials * partial_size(plan);
        if (partials_.size() < needed) partials_.resize(needed);
    }

    static int64_t partial_size(const Plan& plan) {
        return kTileQueries * ((int64_t)plan.shape.value_dim + 2);
    }

    Sums partial_sums(const Plan& plan, int number) {
        float* start = partials_.data() + number * partial_size(plan);
        return {start, start + kTileQueries, start + 2 * kTileQueries, plan.shape.value_dim};
    }

    const Span* spans() const { return (const Span*)step_->spans; }

    void work(int thread) {
        for (size_t i = 0; i < instructions_.size(); ++i) {
            const Instruction& instruction = instructions_[i];
            Progress& progress = progress_[i];
            const int rows = instruction.wanted ? step_->num_wanted : step_->rows;
            const int tasks = num_tasks(instruction, rows);
            for (;;) {
                if (progress.taken.load(std::memory_order_relaxed) >= tasks) break;
                const int task = progress.taken.fetch_add(1, std::memory_order_relaxed);
                if (task >= tasks) break;
                execute(instruction, rows, task, tasks, thread);
                progress.done.fetch_add(1, std::memory_order_release);
            }
            for (int turn = 0; progress.done.load(std::memory_order_acquire) < tasks; ++turn) {
                Threads::pause(turn);
            }
        }
    }

    int num_tasks(const Instruction& instruction, int rows) {
        switch (instruction.operation) {
            case kLinear:
                return rows ? (instruction.sizes[0] + kPanel - 1) / kPanel : 0;
            case kAttend:
                return (int)plans_[instruction.sizes[7]].tiles.size();
            case kFinishAttend:
                return (int)plans_[instruction.sizes[7]].wholes.size();
            default:  // rows, in as many parts as keep all threads busy
                return rows <= 4 ? (rows > 0) : std::min(rows, threads_.count() * 4);
        }
    }

    void execute(const Instruction& instruction, int rows, int task, int tasks, int thread) {
        switch (instruction.operation) {
            case kLinear:
                return linear(instruction, rows, task, scratch_[thread]);
            case kAttend:
                return attend_one(instruction, task, scratch_[thread]);
            case kFinishAttend:
                return finish_attend(instruction, task);
            default: {
                const int64_t first = (int64_t)rows * task / tasks;
                const int64_t last = (int64_t)rows * (task + 1) / tasks;
                for (int64_t row = first; row < last; ++row) row_by_row(instruction, row);
            }
        }
    }

    void row_by_row(const Instruction& instruction, int64_t row) {
        switch (instruction.operation) {
            case kEmbed:
                return embed(instruction, row);
            case kNorm:
                return instruction.packed ? norms<E>(instruction, row)
                                          : norms<F32>(instruction, row);
            case kConvert:
                return convert(instruction, row);
            case kRotate:
                return rotary(instruction, row);
            case kWrite:
                return write(instruction, row);
            case kCombine:
                return instruction.packed ? combined<E>(instruction, row)
                                          : combined<F32>(instruction, row);
            case kGather:
                return gather(instruction, row);
            case kRound:
                return round(instruction, row);
        }
    }

    float* row_of(Place place, int64_t row) const {
        return (float*)(arena_.start() + starts_[place.buffer]) +
               row * buffers_[place.buffer].width + place.at;
    }

    Element* packed_row(Place place, int64_t row) const {
        return (Element*)(arena_.start() + starts_[place.buffer]) +
               row * buffers_[place.buffer].width + place.at;
    }

    template <class Out>
    typename Out::Element* out_row(const Instruction& instruction, int64_t row, int64_t at) const {
        const Place place{instruction.out.buffer, instruction.out.at + (int32_t)at};
        if constexpr (std::is_same_v<Out, F32>) {
            if (place.buffer == -2) return step_->output + row * instruction.sizes[0] + place.at;
            return row_of(place, row);
        } else {
            return packed_row(place, row);
        }
    }

    // data[0]: table [numbers, sizes[0]], in float32 or, with sizes[1], in the products' type; with
    // sizes[4] it is the head's, in panels. Looked up are token ids or, with sizes[2], positions
    // plus sizes[3].
    void embed(const Instruction& i, int64_t row) {
        const int64_t id = i.sizes[2] ? step_->positions[row] + i.sizes[3] : step_->token_ids[row];
        float* to = row_of(i.out, row);
        if (i.sizes[4]) return embed_from_panels(i, id, to);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const __mmask16 some = lanes(d, i.sizes[0]);
            const int64_t at = id * i.sizes[0] + d;
            const __m512 x = i.sizes[1] ? E::load((const Element*)i.data[0] + at, some)
                                        : F32::load((const float*)i.data[0] + at, some);
            _mm512_mask_storeu_ps(to + d, some, x);
        }
    }

    void embed_from_panels(const Instruction& i, int64_t id, float* to) {
        const int64_t words = (i.sizes[0] + E::kPerWord - 1) / E::kPerWord;
        const auto* from = (const uint32_t*)i.data[0] + id / kPanel * words * kPanel + id % kPanel;
        for (int64_t word = 0; word < words; ++word) {
            Element pair[2] = {0, 0};
            std::memcpy(pair, from + word * kPanel, 4);
            for (int64_t n = 0; n < E::kPerWord && word * E::kPerWord + n < i.sizes[0]; ++n) {
                to[word * E::kPerWord + n] = _mm512_cvtss_f32(E::load(pair + n, 1));
            }
        }
    }

    // sizes: size of one norm, how many side by side, whether centred. data: weight, bias.
    template <class Out>
    void norms(const Instruction& i, int64_t row) {
        const float* in = row_of(i.in[0], row);
        for (int32_t n = 0; n < i.sizes[1]; ++n) {
            norm<Out>(in + (int64_t)n * i.sizes[0],
                      out_row<Out>(i, row, (int64_t)n * i.sizes[0]), i.sizes[0],
                      (const float*)i.data[0], (const float*)i.data[1], i.numbers[0], i.sizes[2]);
        }
    }

    // sizes: outputs, words of inputs, kind, activation, form of the weight. data: panels, bias,
    // what 8 bits need. Kinds: 0 out = activation(product); 1 out += product * numbers[0]; 2 the
    // panels hold 16 outputs of a gate and 16 of its partner, out = activation(gate) * partner.
    // Forms: 0 words; 1 integers of 8 bits, data[2] holds each output's scale; 2 integers that rows
    // of bytes (see `round`) are multiplied with, data[2] holds scales and then what is to be
    // subtracted, in[1] the rows' scales. Biases and scales are of whole panels.
    void linear(const Instruction& i, int rows, int panel, Scratch& scratch) {
        if (i.sizes[2] == 2) {
            return i.packed ? gated<E>(i, rows, panel, scratch)
                            : gated<F32>(i, rows, panel, scratch);
        }
        return i.packed ? plain<E>(i, rows, panel, scratch) : plain<F32>(i, rows, panel, scratch);
    }

    template <class Finish>
    void multiply(const Instruction& i, int rows, int panel, Scratch& scratch,
                  const Finish& finish) {
        const int64_t number = (int64_t)panel * i.sizes[1] * kPanel;
        const auto* scales = (const float*)i.data[2] + (int64_t)panel * kPanel;
        float* sums = scratch.sums.data();
        if (i.sizes[4] == 2) return multiply_bytes(i, rows, panel, sums, finish);
        const auto* in = (const uint32_t*)packed_row(i.in[0], 0);
        const int64_t stride = buffers_[i.in[0].buffer].width / E::kPerWord;
        if (i.sizes[4] == 0) {
            const StoredPanel words{(const uint32_t*)i.data[0] + number, ahead_of(i, panel)};
            panel_product<E>(in, stride, rows, words, i.sizes[1], sums, finish);
            return;
        }
        const RoundedPanel<E> words{(const int8_t*)i.data[0] + number * E::kPerWord,
                                    scratch.words};
        const __m512 left = _mm512_loadu_ps(scales), right = _mm512_loadu_ps(scales + kLanes);
        panel_product<E>(in, stride, rows, words, i.sizes[1], sums,
                         [&](int64_t row, __m512 a, __m512 b) {
                             finish(row, _mm512_mul_ps(a, left), _mm512_mul_ps(b, right));
                         });
    }

    const uint32_t* ahead_of(const Instruction& i, int panel) const {
        const int64_t next = panel + threads_.count();
        if (next * kPanel >= i.sizes[0]) return nullptr;
        return (const uint32_t*)i.data[0] + next * i.sizes[1] * kPanel;
    }

    template <class Finish>
    void multiply_bytes(const Instruction& i, int rows, int panel, float* sums,
                        const Finish& finish) {
        const int64_t first = (int64_t)panel * kPanel;
        const int64_t all = round_up(i.sizes[0], kPanel);
        const auto* scales = (const float*)i.data[2] + first;
        const auto* excess = (const int32_t*)i.data[2] + all + first;
        const __m512 left = _mm512_loadu_ps(scales), right = _mm512_loadu_ps(scales + kLanes);
        const __m512i left_excess = _mm512_loadu_si512(excess);
        const __m512i right_excess = _mm512_loadu_si512(excess + kLanes);
        const auto* in = (const uint32_t*)(arena_.start() + starts_[i.in[0].buffer]);
        const int64_t stride = buffers_[i.in[0].buffer].width / Int8::kPerWord;
        const StoredPanel words{(const uint32_t*)i.data[0] + first * i.sizes[1],
                                ahead_of(i, panel)};
        panel_product<Int8>(
            in, stride, rows, words, i.sizes[1], sums, [&](int64_t row, __m512 a, __m512 b) {
                const __m512 scale = _mm512_set1_ps(*row_of(i.in[1], row));
                const __m512i x = _mm512_sub_epi32(_mm512_castps_si512(a), left_excess);
                const __m512i y = _mm512_sub_epi32(_mm512_castps_si512(b), right_excess);
                finish(row, _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(x), left), scale),
                       _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(y), right), scale));
            });
    }

    template <class Out>
    void plain(const Instruction& i, int rows, int panel, Scratch& scratch) {
        const int64_t first = (int64_t)panel * kPanel;
        const __mmask16 left = lanes(first, i.sizes[0]), right = lanes(first + kLanes, i.sizes[0]);
        const float* bias = i.data[1] ? (const float*)i.data[1] + first : nullptr;
        const __m512 bias_left = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
        const __m512 bias_right = bias ? _mm512_loadu_ps(bias + kLanes) : _mm512_setzero_ps();
        const __m512 scale = _mm512_set1_ps(i.numbers[0]);
        multiply(i, rows, panel, scratch, [&](int64_t row, __m512 a, __m512 b) {
            auto* to = out_row<Out>(i, row, first);
            a = _mm512_add_ps(a, bias_left);
            b = _mm512_add_ps(b, bias_right);
            if (i.sizes[2] == 1) {
                a = _mm512_fmadd_ps(a, scale, Out::load(to, left));
                b = _mm512_fmadd_ps(b, scale, Out::load(to + kLanes, right));
            } else if (i.sizes[3]) {
                a = activate(i.sizes[3], a);
                b = activate(i.sizes[3], b);
            }
            Out::store(to, a, left);
            Out::store(to + kLanes, b, right);
        });
    }

    template <class Out>
    void gated(const Instruction& i, int rows, int panel, Scratch& scratch) {
        const int64_t first = (int64_t)panel * kLanes;
        const __mmask16 some = lanes(first, i.sizes[0] / 2);
        const float* bias = i.data[1] ? (const float*)i.data[1] + (int64_t)panel * kPanel : nullptr;
        multiply(i, rows, panel, scratch, [&](int64_t row, __m512 gate, __m512 partner) {
            if (bias) {
                gate = _mm512_add_ps(gate, _mm512_loadu_ps(bias));
                partner = _mm512_add_ps(partner, _mm512_loadu_ps(bias + kLanes));
            }
            Out::store(out_row<Out>(i, row, first),
                       _mm512_mul_ps(activate(i.sizes[3], gate), partner), some);
        });
    }

    // sizes[0] numbers become bytes, 128 more than the integers that stand for them; sizes[1] more
    // are 128, which stands for zero. in[1]: where the row's scale goes.
    void round(const Instruction& i, int64_t row) {
        const float* from = row_of(i.in[0], row);
        auto* to = (uint8_t*)(arena_.start() + starts_[i.out.buffer]) +
                   row * buffers_[i.out.buffer].width;
        __m512 greatest = _mm512_setzero_ps();
        __mmask16 no_numbers = 0;
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const __m512 x = _mm512_maskz_loadu_ps(lanes(d, i.sizes[0]), from + d);
            greatest = _mm512_max_ps(greatest, _mm512_abs_ps(x));
            no_numbers |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        }
        float scale = std::max(_mm512_reduce_max_ps(greatest) / 127.0f, 1e-30f);
        // Bytes cannot say that a number is none; the scale can, and makes the whole product so.
        if (no_numbers) scale = std::numeric_limits<float>::quiet_NaN();
        const __m512 inverse = _mm512_set1_ps(1.0f / scale);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const __mmask16 some = lanes(d, i.sizes[0]);
            const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, from + d), inverse);
            const __m512i shifted = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
            _mm_mask_storeu_epi8(to + d, some, _mm512_cvtusepi32_epi8(shifted));
        }
        std::memset(to + i.sizes[0], 128, i.sizes[1]);
        *row_of(i.in[1], row) = scale;
    }

    // sizes[0] numbers become the products' type; sizes[1] more are zero.
    void convert(const Instruction& i, int64_t row) {
        const float* from = row_of(i.in[0], row);
        Element* to = packed_row(i.out, row);
        for (int64_t d = 0; d < i.sizes[0]; d += kLanes) {
            const __mmask16 some = lanes(d, i.sizes[0]);
            E::store(to + d, _mm512_maskz_loadu_ps(some, from + d), some);
        }
        std::memset(to + i.sizes[0], 0, i.sizes[1] * sizeof(Element));
    }

    // in place, on `out`. sizes: heads, distance between heads, numbers turned in each, which
    // tables hold cosines and sines, these tables' width.
    void rotary(const Instruction& i, int64_t row) {
        const float* cos = step_->tables[i.sizes[3]] + row * i.sizes[5];
        const float* sin = step_->tables[i.sizes[4]] + row * i.sizes[5];
        float* heads = row_of(i.out, row);
        for (int32_t h = 0; h < i.sizes[0]; ++h) {
            rotate(heads + (int64_t)h * i.sizes[1], cos, sin, i.sizes[2]);
        }
    }

    // in: keys, values. sizes: as for attention, then the distances between heads of both.
    void write(const Instruction& i, int64_t row) {
        const CacheShape shape = shape_of(sizes_of(i));
        const LayerCache& layer = layers_[i.sizes[5]];
        const Span& span = span_of(row);
        const int64_t token = span.context + row - span.first_row;
        const int64_t group = groups_of(span).of(token) * shape.kv_heads;
        uint32_t* values = layer.values + group * shape.value_group();
        write_token<E>(token % kGroup, row_of(i.in[0], row), row_of(i.in[1], row), i.sizes[2],
                       i.sizes[3], i.sizes[6], i.sizes[7], shape,
                       layer.keys + group * shape.key_group(), values);
        const bool is_last = row + 1 == span.first_row + span.num_rows;
        const bool begun_here = token / kGroup * kGroup >= span.context;
        if (is_last && begun_here && token % kGroup + 1 < kGroup) {
            clear_values<E>(token % kGroup + 1, shape, values);
        }
    }

    const Span& span_of(int64_t row) const {
        const Span* after = std::upper_bound(
            spans(), spans() + step_->num_spans, row,
            [](int64_t wanted, const Span& span) { return wanted < span.first_row; });
        return after[-1];
    }

    Groups groups_of(const Span& span) const {
        return {step_->blocks + span.table_at, block_size_};
    }

    // sizes: heads, kv heads, key dim, value dim, window, layer, distance between the queries'
    // heads, the plan's number. numbers: scaling, softcap.
    void attend_one(const Instruction& i, int task, Scratch& scratch) {
        Plan& plan = plans_[i.sizes[7]];
        const Tile& tile = plan.tiles[task];
        const Span& span = spans()[tile.span];
        load_queries(i, plan, tile, span, scratch);
        float greatest[kTileQueries], total[kTileQueries];
        Sums sums = tile.partial >= 0
                        ? partial_sums(plan, tile.partial)
                        : Sums{greatest, total, scratch.values, plan.shape.value_dim};
        for (int q = 0; q < kTileQueries; ++q) {
            sums.greatest[q] = -std::numeric_limits<float>::infinity();
            sums.total[q] = 0;
        }
        std::fill_n(sums.values, kTileQueries * sums.stride, 0.0f);
        const LayerCache& layer = layers_[i.sizes[5]];
        attend<E>(tile, span, groups_of(span), plan.shape, plan.sizes, layer.keys, layer.values,
                  scratch.queries, sums);
        if (tile.partial < 0) store_tile(i, plan, tile, sums);
    }

    void load_queries(const Instruction& i, const Plan& plan, const Tile& tile, const Span& span,
                      Scratch& scratch) {
        const int dim = plan.sizes.key_dim, shared = plan.sizes.shared();
        auto* to = (Element*)scratch.queries;
        const int64_t stride = (int64_t)plan.shape.key_words * E::kPerWord;
        for (int q = 0; q < tile.count; ++q) {
            const int number = tile.first + q;
            const float* from = row_of(i.in[0], span.first_row + number / shared) +
                                (int64_t)(tile.head * shared + number % shared) * i.sizes[6];
            to[q * stride + stride - 1] = 0;
            for (int d = 0; d < dim; d += kLanes) {
                const __mmask16 some = lanes(d, dim);
                const __m512 x = _mm512_maskz_loadu_ps(some, from + d);
                E::store(to + q * stride + d,
                         _mm512_mul_ps(x, _mm512_set1_ps(plan.sizes.scaling)), some);
            }
        }
    }

    void store_tile(const Instruction& i, const Plan& plan, const Tile& tile, const Sums& sums) {
        if (i.packed) {
            store_queries<E>(i, plan, tile, sums);
        } else {
            store_queries<F32>(i, plan, tile, sums);
        }
    }

    template <class Out>
    void store_queries(const Instruction& i, const Plan& plan, const Tile& tile, const Sums& sums) {
        const int dim = plan.sizes.value_dim, shared = plan.sizes.shared();
        for (int q = 0; q < tile.count; ++q) {
            const int number = tile.first + q;
            const int64_t row = spans()[tile.span].first_row + number / shared;
            auto* to = out_row<Out>(i, row, (int64_t)(tile.head * shared + number % shared) * dim);
            const __m512 scale = _mm512_set1_ps(1.0f / sums.total[q]);
            for (int d = 0; d < dim; d += kLanes) {
                const __mmask16 some = lanes(d, dim);
                const __m512 x = _mm512_maskz_loadu_ps(some, sums.values + q * sums.stride + d);
                Out::store(to + d, _mm512_mul_ps(x, scale), some);
            }
        }
    }

    // Puts the parts of one tile together.
    void finish_attend(const Instruction& i, int task) {
        Plan& plan = plans_[i.sizes[7]];
        const typename Plan::Whole& whole = plan.wholes[task];
        Sums all = partial_sums(plan, whole.first_partial);
        for (int p = 1; p < whole.num_partials; ++p) {
            const Sums part = partial_sums(plan, whole.first_partial + p);
            for (int q = 0; q < whole.tile.count; ++q) {
                const float now = std::max(all.greatest[q], part.greatest[q]);
                if (now == -std::numeric_limits<float>::infinity()) continue;
                const float before = std::exp(all.greatest[q] - now);
                const float added = std::exp(part.greatest[q] - now);
                all.greatest[q] = now;
                all.total[q] = all.total[q] * before + part.total[q] * added;
                float* to = all.values + q * all.stride;
                const float* from = part.values + q * part.stride;
                for (int d = 0; d < plan.shape.value_dim; ++d) {
                    to[d] = to[d] * before + from[d] * added;
                }
            }
        }
        store_tile(i, plan, whole.tile, all);
    }

    // in: a, and b or none. sizes: size, 1 to multiply, activation, 1 if data[0] holds b for all
    // rows. numbers: scales of a and b.
    template <class Out>
    void combined(const Instruction& i, int64_t row) {
        const float* b = i.sizes[3] ? (const float*)i.data[0]
                         : i.in[1].buffer >= 0 ? row_of(i.in[1], row)
                                               : nullptr;
        combine<Out>(row_of(i.in[0], row), b, out_row<Out>(i, row, 0), i.sizes[0], i.numbers[0],
                     i.numbers[1], i.sizes[1], i.sizes[2]);
    }

    // sizes[0] numbers of each wanted row.
    void gather(const Instruction& i, int64_t row) {
        std::memcpy(row_of(i.out, row), row_of(i.in[0], step_->wanted[row]),
                    i.sizes[0] * sizeof(float));
    }

    std::vector<Instruction> instructions_;
    std::vector<Buffer> buffers_;
    Threads threads_;
    std::vector<Progress> progress_;
    std::vector<Scratch> scratch_;
    std::vector<int64_t> starts_;
    int block_size_;
    Memory arena_;
    Memory cache_;
    std::vector<LayerCache> layers_;
    std::vector<Plan> plans_;
    std::vector<float> partials_;
    const Step* step_ = nullptr;
};

template <class E>
void pack(const void* weight, int64_t outputs, int64_t inputs, int64_t stride, int64_t first_panel,
          int64_t lane, int64_t lanes_each, uint32_t* panels) {
    using Element = typename E::Element;
    const int64_t words = (inputs + E::kPerWord - 1) / E::kPerWord;
    for (int64_t n = 0; n < outputs; ++n) {
        const Element* from = (const Element*)weight + n * stride;
        uint32_t* to = panels + (first_panel + n / lanes_each) * words * kPanel + lane +
                       n % lanes_each;
        for (int64_t word = 0; word < words; ++word) {
            Element pair[2] = {from[word * E::kPerWord], 0};
            if (E::kPerWord == 2 && word * 2 + 1 < inputs) pair[1] = from[word * 2 + 1];
            std::memcpy(to + word * kPanel, pair, 4);
        }
    }
}

}  // namespace
}  // namespace headrace

using namespace headrace;

extern "C" {

// What this processor can run: 2 float32, bfloat16 and integers of 8 bits, 1 float32 only, 0 none.
int32_t headrace_level() {
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return !wide ? 0 : __builtin_cpu_supports("avx512bf16") &&
                           __builtin_cpu_supports("avx512vnni")
                       ? 2
                       : 1;
}

// Memory for `bytes` of packed weights, to be freed by headrace_free; null if there is none.
void* headrace_allocate(int64_t bytes) {
    void* start = mmap(nullptr, round_up(bytes, kHugePage), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    madvise(start, round_up(bytes, kHugePage), MADV_HUGEPAGE);
    return start;
}

void headrace_free(void* start, int64_t bytes) { munmap(start, round_up(bytes, kHugePage)); }

// Packs a weight [outputs, inputs] into panels from `first_panel` on, lanes_each outputs in each,
// from lane `lane` of the panel on. bf16: its type, and that of the products.
void headrace_pack(int32_t bf16, const void* weight, int64_t outputs, int64_t inputs,
                   int64_t stride, int64_t first_panel, int64_t lane, int64_t lanes_each,
                   uint32_t* panels) {
    auto* run = bf16 ? pack<Bf16> : pack<F32>;
    run(weight, outputs, inputs, stride, first_panel, lane, lanes_each, panels);
}

void* headrace_new(int32_t bf16, const Instruction* list, int32_t count, const Buffer* buffers,
                   int32_t num_buffers, int32_t threads, int64_t num_blocks, int32_t block_size) {
    try {
        if (bf16) {
            return new Program<Bf16>(list, count, buffers, num_buffers, threads, num_blocks,
                                     block_size);
        }
        return new Program<F32>(list, count, buffers, num_buffers, threads, num_blocks, block_size);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

// 0, or -1 if memory ran out.
int32_t headrace_run(int32_t bf16, void* program, const Step* step) {
    try {
        bf16 ? ((Program<Bf16>*)program)->run(*step) : ((Program<F32>*)program)->run(*step);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

void headrace_delete(int32_t bf16, void* program) {
    if (bf16) {
        delete (Program<Bf16>*)program;
    } else {
        delete (Program<F32>*)program;
    }
}

}  // extern "C"
