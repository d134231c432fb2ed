// Memory from the system, for data that lives as long as a program.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace headrace {

constexpr int kCacheLine = 64;
constexpr int64_t kHugePage = 2 << 20;

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Zeroed memory, in huge pages if the system has them: reading weights then has few TLB misses.
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

}  // namespace headrace
