#include "emulator/settings.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>

namespace emulator {
namespace {

std::mutex mutex;

void check(const Settings& settings) {
  if (settings.threads < 1)
    throw std::invalid_argument("emulator: threads must be at least 1, got " + std::to_string(settings.threads));
  if (settings.tensor_core_bits != 24 && settings.tensor_core_bits != 25)
    throw std::invalid_argument("emulator: the tensor cores' sums have 24 or 25 fractional bits, got " +
                                std::to_string(settings.tensor_core_bits));
}

Settings first_settings() {
  Settings settings;
  if (const char* asked = std::getenv("EMULATOR_TENSOR_CORE_BITS")) settings.tensor_core_bits = std::atoi(asked);
  check(settings);
  current_tensor_core_bits = settings.tensor_core_bits;
  return settings;
}

Settings current_settings = first_settings();
Counters current_counters;

}  // namespace

Settings settings() {
  const std::lock_guard lock(mutex);
  return current_settings;
}

void set_settings(const Settings& settings) {
  check(settings);
  const std::lock_guard lock(mutex);
  current_settings = settings;
  current_tensor_core_bits = settings.tensor_core_bits;
}

Counters counters() {
  const std::lock_guard lock(mutex);
  return current_counters;
}

void reset_counters() {
  const std::lock_guard lock(mutex);
  current_counters = {};
}

void add_counters(const Counters& added) {
  const std::lock_guard lock(mutex);
  Counters& sum = current_counters;
  sum.launches += added.launches, sum.blocks += added.blocks, sum.barriers += added.barriers;
  sum.largest_shared_bytes = std::max(sum.largest_shared_bytes, added.largest_shared_bytes);
  sum.loads += added.loads, sum.load_bytes += added.load_bytes;
  sum.stores += added.stores, sum.store_bytes += added.store_bytes;
}

}  // namespace emulator
