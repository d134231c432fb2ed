// Draws tokens for the rows of a batch, distributed over threads; see draw.h.
#include "draw.h"

#include <mutex>
#include <new>

#include "threads.h"

namespace headrace {
namespace {

class DrawPool {
  public:
    explicit DrawPool(int threads) : threads_(threads), drawers_(threads) {}

    void run(const float* logits, int64_t stride, int64_t size, const Draw* draws, int count,
             int64_t* token_ids) {
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto& drawer : drawers_) drawer.reserve(size);
        job_ = {logits, stride, size, draws, count, token_ids};
        taken_.store(0);
        if (count == 1) return work(0);  // waking others would take as long
        threads_.run([](void* self, int thread) { ((DrawPool*)self)->work(thread); }, this);
    }

  private:
    struct Job {
        const float* logits;
        int64_t stride, size;
        const Draw* draws;
        int count;
        int64_t* token_ids;
    };

    void work(int thread) {
        for (int i = taken_.fetch_add(1); i < job_.count; i = taken_.fetch_add(1)) {
            const Draw& draw = job_.draws[i];
            const float* row = job_.logits + draw.row * job_.stride;
            job_.token_ids[i] = drawers_[thread].draw(row, job_.size, draw);
        }
    }

    Threads threads_;
    std::vector<Drawer> drawers_;
    std::mutex mutex_;
    Job job_{};
    std::atomic<int> taken_{0};
};

}  // namespace
}  // namespace headrace

using namespace headrace;

extern "C" {

// Creates threads that draw; null if there is no memory for them.
HEADRACE_EXPORT void* headrace_new_draws(int32_t threads) {
    try {
        return new DrawPool(threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}

// Draws `count` tokens. token_ids: [count], -1 where no token can be drawn. logits: [rows, size],
// `stride` numbers apart. Returns 0, or -1 if memory ran out.
HEADRACE_EXPORT int32_t headrace_draw(void* draws, const float* logits, int64_t stride,
                                      int64_t size, const Draw* list, int32_t count,
                                      int64_t* token_ids) {
    try {
        ((DrawPool*)draws)->run(logits, stride, size, list, count, token_ids);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

}  // extern "C"
