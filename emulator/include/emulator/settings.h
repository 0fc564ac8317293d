// How tests control the emulator and what it counts. Process-wide; a change takes effect at the next launch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace emulator {

// The tests' Python module lives in another shared library than the state.
#define EMULATOR_API __attribute__((visibility("default")))

enum class LaneOrder { forward, reverse, shuffled };  // of lanes within a warp, and of warps within a block
enum class BlockOrder { forward, reverse };

struct Settings {
  LaneOrder lanes = LaneOrder::forward;
  BlockOrder blocks = BlockOrder::forward;
  uint64_t seed = 0;  // of the shuffled order
  int threads = 1;    // OS threads that run blocks, one block each at a time
  // Fractional bits of the tensor cores' sums (tensor_core.h): 24 or 25. Begins as the environment variable
  // EMULATOR_TENSOR_CORE_BITS, or 24, the coarser.
  int tensor_core_bits = 24;
};

struct Counters {
  int64_t launches = 0, blocks = 0;
  int64_t barriers = 0;                                            // of whole blocks
  int64_t largest_shared_bytes = 0;                                // dynamic, of one block
  int64_t loads = 0, load_bytes = 0, stores = 0, store_bytes = 0;  // what kernels reported
};

EMULATOR_API Settings settings();
EMULATOR_API void set_settings(const Settings& settings);  // throws std::invalid_argument
EMULATOR_API Counters counters();
EMULATOR_API void reset_counters();

void add_counters(const Counters& of_one_launch);

// settings().tensor_core_bits of the library that includes this, without a lock.
inline std::atomic<int> current_tensor_core_bits{24};
inline int tensor_core_bits() { return current_tensor_core_bits.load(std::memory_order_relaxed); }

}  // namespace emulator
