// A few threads that run a program's tasks together.
//
// Threads take tasks from a shared counter and continue with the next instruction when all tasks of
// this one are done. So a thread that the system suspends between two tasks delays nothing: the
// others do its share. Threads wait by spinning, since a wait lasts microseconds, and yield the
// core if it lasts longer: other processes may need it.
#pragma once

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <vector>

#include "simd/simd.h"

namespace headrace {

struct alignas(64) Progress {
    std::atomic<int32_t> taken{0};
    std::atomic<int32_t> done{0};
};

class Threads {
  public:
    explicit Threads(int count) {
        for (int number = 1; number < count; ++number) {
            threads_.emplace_back([this, number] { worker_loop(number); });
        }
    }

    ~Threads() {
        stopping_.store(true);
        epoch_.fetch_add(1);
        wake();
        for (auto& thread : threads_) thread.join();
    }

    int count() const { return (int)threads_.size() + 1; }

    // Calls work(argument, index of the thread) in all threads, with index 0 in this one, and
    // returns when it has returned in all of them.
    void run(void (*work)(void*, int), void* argument) {
        work_ = work;
        argument_ = argument;
        accepting_.store(true);
        epoch_.fetch_add(1);
        wake();
        work(argument, 0);
        accepting_.store(false);
        for (int attempt = 0; active_.load() != 0; ++attempt) spin_wait(attempt);
    }

    static void spin_wait(int attempt) {
        if (attempt < kSpins) {
            pause();
        } else {
            sched_yield();
        }
    }

  private:
    static constexpr int kSpins = 4000;

    void worker_loop(int number) {
        uint32_t seen = 0;
        for (;;) {
            wait_for_next(seen);
            seen = epoch_.load();
            if (stopping_.load()) return;
            // `active_` is incremented before `accepting_` is read; `run` does it in reverse order.
            active_.fetch_add(1);
            if (accepting_.load()) work_(argument_, number);
            active_.fetch_sub(1);
        }
    }

    void wait_for_next(uint32_t seen) {
        for (int attempt = 0; attempt < kSpins; ++attempt) {
            if (epoch_.load() != seen) return;
            pause();
        }
        sleeping_.fetch_add(1);
        while (epoch_.load() == seen) {
            syscall(SYS_futex, &epoch_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
        }
        sleeping_.fetch_sub(1);
    }

    void wake() {
        if (sleeping_.load() > 0) {
            syscall(SYS_futex, &epoch_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
        }
    }

    void (*work_)(void*, int) = nullptr;
    void* argument_ = nullptr;
    alignas(64) std::atomic<uint32_t> epoch_{0};
    alignas(64) std::atomic<int32_t> active_{0};
    alignas(64) std::atomic<int32_t> sleeping_{0};
    std::atomic<bool> accepting_{false};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

}  // namespace headrace
