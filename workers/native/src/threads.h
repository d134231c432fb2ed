// A few threads that run a program's tasks together.
//
// Threads take tasks from a shared counter, one after another, and go on to the next instruction
// when all tasks of this one are done. So a thread that the system has put aside between two tasks
// delays nobody: the others do its share. Threads wait by spinning, since a wait lasts microseconds,
// and give the core away when it lasts longer: other processes may need it.
#pragma once

#include <immintrin.h>
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

namespace headrace {

struct alignas(64) Progress {
    std::atomic<int32_t> taken{0};
    std::atomic<int32_t> done{0};
};

class Threads {
  public:
    explicit Threads(int count) {
        for (int number = 1; number < count; ++number) {
            members_.emplace_back([this, number] { serve(number); });
        }
    }

    ~Threads() {
        stopping_.store(true);
        epoch_.fetch_add(1);
        wake();
        for (auto& member : members_) member.join();
    }

    int count() const { return (int)members_.size() + 1; }

    // Calls work(argument, number of the thread) in all threads, in this one as number 0, and
    // returns when none is in it any more.
    void run(void (*work)(void*, int), void* argument) {
        work_ = work;
        argument_ = argument;
        open_.store(true);
        epoch_.fetch_add(1);
        wake();
        work(argument, 0);
        open_.store(false);
        for (int turn = 0; inside_.load() != 0; ++turn) pause(turn);
    }

    static void pause(int turn) {
        if (turn < kSpins) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }

  private:
    static constexpr int kSpins = 4000;

    void serve(int number) {
        uint32_t seen = 0;
        for (;;) {
            wait_for_next(seen);
            seen = epoch_.load();
            if (stopping_.load()) return;
            // Entering is announced before `open_` is read: `run` looks the other way round.
            inside_.fetch_add(1);
            if (open_.load()) work_(argument_, number);
            inside_.fetch_sub(1);
        }
    }

    void wait_for_next(uint32_t seen) {
        for (int turn = 0; turn < kSpins; ++turn) {
            if (epoch_.load() != seen) return;
            _mm_pause();
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
    alignas(64) std::atomic<int32_t> inside_{0};
    alignas(64) std::atomic<int32_t> sleeping_{0};
    std::atomic<bool> open_{false};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> members_;
};

}  // namespace headrace
