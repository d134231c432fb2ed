// Runs a program; see program.h. Python calls the C functions at the end.
#include "program.h"

#include <new>

#include "pack.h"
#include "stretch_operations.h"
#include "threads.h"

namespace headrace {
namespace {

template <class E>
class Program : StretchOperations<E> {
  public:
    Program(const Instruction* list, int count, const Buffer* buffers, int num_buffers, int threads,
            const CacheBlocks& blocks, int block_size, CacheFormat cache_format,
            bool shares_layers)
        : Base(buffers, num_buffers, threads, block_size, cache_format),
          instructions_(list, list + count),
          stretches_(this->find_stretches(instructions_)),
          threads_(threads),
          progress_(count) {
        allocate_layers(blocks, shares_layers);
        this->count_experts(instructions_);
        for (int i = 0; i < count; ++i) {
            Instruction& instruction = instructions_[i];
            if (instruction.operation == kAttend || instruction.operation == kFinishAttend) {
                instruction.sizes[7] = this->plan_for(instruction, i);
            }
        }
    }

    void run(const Step& step) {
        step_ = &step;
        this->allocate_buffers();
        this->plan_tiles();
        this->allocate_inner();
        this->allocate_pairs();
        for (int i = step.begin; i < step.end; ++i) {
            progress_[i].taken.store(0, std::memory_order_relaxed);
            progress_[i].done.store(0, std::memory_order_relaxed);
        }
        threads_.run([](void* self, int thread) { ((Program*)self)->work(thread); }, this);
    }

  private:
    using Base = StretchOperations<E>;
    using typename Base::Row;
    using Base::buffers_;
    using Base::layers_;
    using Base::plans_;
    using Base::scratch_;
    using Base::step_;

    // Allocates the keys and values of all layers, those of each kind in one piece; sizes[5] is a
    // layer's index. shares_layers: all layers of a kind are in the same memory, as no step reads
    // those of the one before.
    void allocate_layers(const CacheBlocks& blocks, bool shares_layers) {
        std::vector<int64_t> starts;
        int64_t bytes[3] = {};  // by CacheKind
        for (const auto& instruction : instructions_) {
            if (instruction.operation != kAttend) continue;
            const CacheShape shape = this->shape_of(this->sizes_of(instruction));
            const int kind = instruction.sizes[8];
            const bool shares = shares_layers || kind == kPassing;
            layers_.resize(std::max<size_t>(layers_.size(), instruction.sizes[5] + 1));
            starts.push_back(shares ? 0 : bytes[kind]);
            const int64_t of_layer = blocks.counts[kind] * this->block_size_ / kGroup *
                                     shape.group() * sizeof(uint32_t);
            bytes[kind] = shares ? std::max(bytes[kind], of_layer) : bytes[kind] + of_layer;
        }
        for (int kind = 0; kind < 3; ++kind) {
            caches_[kind] = Memory(std::max<int64_t>(bytes[kind], 1));
        }
        const int64_t* start = starts.data();
        for (const auto& instruction : instructions_) {
            if (instruction.operation != kAttend) continue;
            char* cache = caches_[instruction.sizes[8]].start();
            layers_[instruction.sizes[5]] = (uint32_t*)(cache + *start++);
        }
    }

    void work(int thread) {
        const bool are_many = this->runs_in_blocks();
        for (size_t i = step_->begin; i < (size_t)step_->end;) {
            const size_t end = are_many ? std::min<size_t>(stretches_[i], step_->end) : i + 1;
            const Instruction& instruction = instructions_[i];
            const bool is_stretch = end > i + 1;
            const int rows = rows_of(instruction);
            const int tasks = is_stretch ? this->num_blocks() : num_tasks(instruction, rows);
            take_tasks(progress_[i], tasks, [&](int task) {
                if (is_stretch) {
                    this->run_stretch(&instruction, &instruction + end - i, task,
                                      scratch_[thread]);
                } else {
                    execute(instruction, rows, task, tasks, thread);
                }
            });
            i = end;
        }
    }

    // Runs tasks until none is left, and waits for those of other threads.
    template <class Run>
    static void take_tasks(Progress& progress, int tasks, const Run& run) {
        for (;;) {
            if (progress.taken.load(std::memory_order_relaxed) >= tasks) break;
            const int task = progress.taken.fetch_add(1, std::memory_order_relaxed);
            if (task >= tasks) break;
            run(task);
            progress.done.fetch_add(1, std::memory_order_release);
        }
        for (int attempt = 0; progress.done.load(std::memory_order_acquire) < tasks; ++attempt) {
            Threads::spin_wait(attempt);
        }
    }

    // Of the instruction's output.
    int rows_of(const Instruction& instruction) const {
        const int rows = instruction.logit_rows_only ? step_->num_logit_rows : step_->rows;
        return instruction.out.buffer < 0 ? rows : rows * buffers_[instruction.out.buffer].copies;
    }

    int num_tasks(const Instruction& instruction, int rows) {
        switch (instruction.operation) {
            case kLinear:
                return rows ? (this->num_panels(instruction) + this->panels_per_task(instruction) -
                               1) / this->panels_per_task(instruction)
                            : 0;
            case kAttend:
                return (int)plans_[instruction.sizes[7]].tiles.size();
            case kFinishAttend:
                return (int)plans_[instruction.sizes[7]].split_tiles.size();
            case kShrink:
                return this->shrink_tasks(rows, threads_.count());
            case kRoundBlocks:
                return this->round_tasks(instruction, rows);
            case kSortPairs:
                return rows > 0;
            case kExpertsUp:
                return this->up_tasks(instruction, rows);
            case kExpertsDown:
                return this->down_tasks(instruction, rows);
            case kScores:
                return step_->scores ? std::min(rows, threads_.count() * 4) : 0;
            default:  // rows, in as many parts as keep all threads busy
                return rows <= 4 ? (rows > 0) : std::min(rows, threads_.count() * 4);
        }
    }

    void execute(const Instruction& instruction, int rows, int task, int tasks, int thread) {
        switch (instruction.operation) {
            case kLinear: {
                const int each = this->panels_per_task(instruction);
                const int last = std::min((task + 1) * each, this->num_panels(instruction));
                for (int panel = task * each; panel < last; ++panel) {
                    this->linear(instruction, RowRange::whole(rows), panel, scratch_[thread]);
                }
                return;
            }
            case kAttend:
                return this->attend_task(instruction, task, scratch_[thread]);
            case kFinishAttend:
                return this->finish_attend(instruction, task);
            case kShrink:
                return this->shrink(instruction, rows, task, tasks);
            case kRoundBlocks:
                return this->round_to_blocks(instruction, rows, task, tasks);
            case kSortPairs:
                return this->sort_pairs(instruction, rows);
            case kExpertsUp:
                return this->experts_up(instruction, task, scratch_[thread]);
            case kExpertsDown:
                return this->experts_down(instruction, task, scratch_[thread]);
            default: {
                const int64_t first = (int64_t)rows * task / tasks;
                const int64_t last = (int64_t)rows * (task + 1) / tasks;
                if (instruction.operation != kScores) {
                    return this->run_on_rows(instruction, first, last);
                }
                for (int64_t row = first; row < last; ++row) {
                    this->write_scores(instruction, row, scratch_[thread]);
                }
            }
        }
    }

    std::vector<Instruction> instructions_;
    std::vector<size_t> stretches_;
    Threads threads_;
    std::vector<Progress> progress_;
    Memory caches_[3];  // by CacheKind
};

}  // namespace
}  // namespace headrace

using namespace headrace;

extern "C" {

// Returns 1 if this processor has the instructions that the library uses, else 0.
HEADRACE_EXPORT int32_t headrace_supported() { return runs_here(); }

// Allocates memory for packed weights, to be freed by headrace_free; null if there is none.
HEADRACE_EXPORT void* headrace_allocate(int64_t bytes) {
    void* start = mmap(nullptr, round_up(bytes, kHugePage), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    madvise(start, round_up(bytes, kHugePage), MADV_HUGEPAGE);
    return start;
}

HEADRACE_EXPORT void headrace_free(void* start, int64_t bytes) {
    munmap(start, round_up(bytes, kHugePage));
}

// Packs a weight [outputs, inputs] into panels from `first_panel` on, lanes_each outputs in each,
// starting at the panel's lane `lane`. bf16: the type of the weight and of the products.
HEADRACE_EXPORT void headrace_pack(int32_t bf16, const void* weight, int64_t outputs,
                                   int64_t inputs, int64_t stride, int64_t first_panel,
                                   int64_t lane, int64_t lanes_each, uint32_t* panels) {
    auto* run = bf16 ? pack<Bf16> : pack<F32>;
    run(weight, outputs, inputs, stride, first_panel, lane, lanes_each, panels);
}

HEADRACE_EXPORT void* headrace_new(int32_t bf16, const Instruction* list, int32_t count,
                                   const Buffer* buffers, int32_t num_buffers, int32_t threads,
                                   const CacheBlocks* blocks, int32_t block_size,
                                   int32_t cache_format, int32_t shares_layers) {
    const auto format = (CacheFormat)cache_format;
    try {
        if (bf16) {
            return new Program<Bf16>(list, count, buffers, num_buffers, threads, *blocks,
                                     block_size, format, shares_layers);
        }
        return new Program<F32>(list, count, buffers, num_buffers, threads, *blocks, block_size,
                                format, shares_layers);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

// Returns 0, or -1 if memory ran out.
HEADRACE_EXPORT int32_t headrace_run(int32_t bf16, void* program, const Step* step) {
    try {
        bf16 ? ((Program<Bf16>*)program)->run(*step) : ((Program<F32>*)program)->run(*step);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

HEADRACE_EXPORT void headrace_delete(int32_t bf16, void* program) {
    if (bf16) {
        delete (Program<Bf16>*)program;
    } else {
        delete (Program<F32>*)program;
    }
}

}  // extern "C"
