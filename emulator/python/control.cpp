// The Python module _emulator, by which tests control the emulator. It is linked against the library that runs the
// kernels, never against another copy of the emulator: the state is that library's.
#include <pybind11/pybind11.h>

#include <map>
#include <stdexcept>
#include <string>

#include "emulator/settings.h"

namespace {

namespace py = pybind11;
using namespace emulator;

template <class Order>
Order order_of(const char* argument, const std::map<std::string, Order>& known, const std::string& name) {
  const auto found = known.find(name);
  if (found != known.end()) return found->second;
  std::string names;
  for (const auto& [key, order] : known) names += (names.empty() ? "'" : ", '") + key + "'";
  throw std::invalid_argument(std::string("set_order: ") + argument + " must be one of " + names + ", got '" + name +
                              "'");
}

void set_order(const std::string& lanes, const std::string& blocks, uint64_t seed) {
  Settings wanted = settings();
  wanted.lanes = order_of<LaneOrder>(
      "lanes", {{"forward", LaneOrder::forward}, {"reverse", LaneOrder::reverse}, {"shuffled", LaneOrder::shuffled}},
      lanes);
  wanted.blocks =
      order_of<BlockOrder>("blocks", {{"forward", BlockOrder::forward}, {"reverse", BlockOrder::reverse}}, blocks);
  wanted.seed = seed;
  set_settings(wanted);
}

void set_threads(int count) {
  Settings wanted = settings();
  wanted.threads = count;
  set_settings(wanted);
}

void set_tensor_core_bits(int bits) {
  Settings wanted = settings();
  wanted.tensor_core_bits = bits;
  set_settings(wanted);
}

py::dict counters_dict() {
  const Counters now = counters();
  py::dict all;
  all["launches"] = now.launches;
  all["blocks"] = now.blocks;
  all["barriers"] = now.barriers;
  all["largest_shared_bytes"] = now.largest_shared_bytes;
  all["loads"] = now.loads;
  all["load_bytes"] = now.load_bytes;
  all["stores"] = now.stores;
  all["store_bytes"] = now.store_bytes;
  return all;
}

}  // namespace

PYBIND11_MODULE(_emulator, module) {
  module.doc() = "Controls the emulator that runs CUDA kernels on the CPU in tests.";
  module.def(
      "set_order", &set_order, py::kw_only(), py::arg("lanes") = "forward", py::arg("blocks") = "forward",
      py::arg("seed") = 0,
      "Order in which lanes ('forward', 'reverse', 'shuffled' by the seed) and blocks ('forward', 'reverse') run.");
  module.def("set_threads", &set_threads, py::arg("count"), "Number of operating-system threads that run blocks.");
  module.def("set_tensor_core_bits", &set_tensor_core_bits, py::arg("bits"),
             "Fractional bits of the tensor cores' sums: 24 (Ampere, Ada) or 25 (Hopper, Blackwell).");
  module.def("tensor_core_bits", [] { return settings().tensor_core_bits; });
  module.def("counters", &counters_dict,
             "Since the last reset: launches, blocks, barriers, the largest dynamic shared memory of a block in bytes, "
             "and the loads from and stores to global memory with their bytes.");
  module.def("reset_counters", &reset_counters, "Sets all counters to zero.");
}
