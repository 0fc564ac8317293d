// The threads of a block: where a thread is (threadIdx and its like), barriers, and the scheduler that runs them.
//
// The scheduler runs each warp until none of its lanes can go on, then the next. When no thread of the block can, all
// of them wait at the barrier, which lets them go, or they wait for something that will never come.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "fiber.h"
#include "keywords.h"

constexpr int warpSize = 32;

namespace emulator {

struct Block;

// Global memory traffic that kernels report through count_load and count_store.
struct Traffic {
  int64_t loads = 0, load_bytes = 0, stores = 0, store_bytes = 0;
};

// A cp.async that was issued and not yet waited for.
struct AsyncCopy {
  void* shared;
  const void* global;
  int bytes, valid_bytes;
  int64_t group;
  std::source_location where;
};

// A meeting of the lanes of one mask. Lanes that were let go may come to the next meeting while others still read the
// deposits of this one, but never to the one after it: hence two sets of deposits, in turn.
struct Meeting {
  uint32_t mask = 0, arrived = 0, generation = 0;
  const char* what = nullptr;
  std::source_location where;
  OrderToken order[2];
  alignas(16) unsigned char deposits[2][warpSize * 16];
};

struct Warp {
  uint32_t alive = 0, ready = 0;
  Meeting full;                 // of all 32 lanes
  std::deque<Meeting> partial;  // of other masks, in the order of their first use
};

struct Thread {
  Thread(Block& block, int number, Stack stack);

  Block& block;
  const int number;  // in the block
  uint3 index{};
  int lane = 0;
  Warp* warp = nullptr;
  const char* waits_in = nullptr;
  std::source_location waits_at;
  Traffic traffic;
  std::vector<AsyncCopy> copies;  // oldest first
  int64_t copy_group = 0;         // the group that the next copy belongs to
  Fiber fiber;
};

struct BarrierResult {
  int any = 0, all = 1, count = 0;
};

struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
  std::source_location where;
  BarrierResult votes, result;
  OrderToken order[2];  // in turn: a fast thread's next arrival must not order a slow one
};

// What every block of a launch shares.
struct Job {
  dim3 grid, block;
  size_t shared_bytes;
  void (*call)(const void* kernel);
  const void* kernel;
  const int* lane_order;  // [32]
};

struct Block {
  Block() = default;
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Runs one block of the job; throws what went wrong in it.
  void run(const Job& job, uint3 index, const std::vector<int>& warp_order);

  const Job* job = nullptr;
  uint3 index{};
  dim3 size, grid;
  int alive = 0;
  Barrier barrier;
  std::exception_ptr error;
  unsigned char* shared = nullptr;
  Scheduler scheduler;  // attached to the OS thread that runs the block
  Traffic traffic;      // added up when a thread ends
  OrderToken begin, end;

 private:
  friend struct Thread;
  static void run_fiber(void* thread);
  void run_thread(Thread& thread);
  void prepare(uint3 index);
  void provide_shared();
  void add_threads(size_t count);
  void run_threads(const std::vector<int>& warp_order);
  void run_warp(Warp& warp, int number);
  void release_barrier();
  void wake_all();
  std::exception_ptr deadlock() const;

  Stacks stacks_;
  std::vector<std::unique_ptr<Thread>> threads_;  // kept with their stacks from block to block
  std::vector<std::unique_ptr<Warp>> warps_;
  size_t warp_count_ = 0, shared_capacity_ = 0;
};

extern constinit thread_local Thread* current_thread;
inline Thread& this_thread() { return *current_thread; }

// Ends the launch with an error that names the block, the thread and the source line.
[[noreturn]] void fail(const std::string& what, std::source_location where = std::source_location::current());

// Hands over to other threads until something makes this one ready again.
void wait(const char* what, std::source_location where);

// Meets all threads of the block that have not ended.
BarrierResult synchronize(const char* what, int predicate, std::source_location where);

std::string to_string(std::source_location where);
std::string to_string(uint3 index);

}  // namespace emulator

#define threadIdx (::emulator::this_thread().index)
#define blockIdx (::emulator::this_thread().block.index)
#define blockDim (::emulator::this_thread().block.size)
#define gridDim (::emulator::this_thread().block.grid)

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  emulator::synchronize("__syncthreads", 0, where);
}
inline int __syncthreads_or(int predicate, std::source_location where = std::source_location::current()) {
  return emulator::synchronize("__syncthreads_or", predicate, where).any;
}
inline int __syncthreads_and(int predicate, std::source_location where = std::source_location::current()) {
  return emulator::synchronize("__syncthreads_and", predicate, where).all;
}
inline int __syncthreads_count(int predicate, std::source_location where = std::source_location::current()) {
  return emulator::synchronize("__syncthreads_count", predicate, where).count;
}
[[noreturn]] inline void __trap(std::source_location where = std::source_location::current()) {
  emulator::fail("__trap", where);
}
