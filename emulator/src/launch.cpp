#include "emulator/launch.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "emulator/settings.h"
#include "emulator/thread.h"

namespace emulator {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t check(const LaunchRequest& request) {
  const auto [grid, block] = std::pair(request.grid, request.block);
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (block.x < 1 || block.y < 1 || block.z < 1 || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      block.x * block.y * block.z > 1024)
    return cudaErrorInvalidConfiguration;
  return request.shared_bytes > kMaxSharedBytes ? cudaErrorInvalidValue : cudaSuccess;
}

// Blocks keep their fibers and stacks when a launch ends, for the next one.
class Pool {
 public:
  std::unique_ptr<Block> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        auto block = std::move(idle_.back());
        idle_.pop_back();
        return block;
      }
    }
    return std::make_unique<Block>();
  }

  void give_back(std::unique_ptr<Block> block) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(block));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> idle_;
};

Pool pool;

class Launch {
 public:
  explicit Launch(const LaunchRequest& request)
      : settings_(settings()),
        job_{request.grid, request.block, request.shared_bytes, request.call, request.kernel, lane_order_.data()},
        blocks_(int64_t(request.grid.x) * request.grid.y * request.grid.z),
        warp_order_((request.block.x * request.block.y * request.block.z + warpSize - 1) / warpSize) {
    order(lane_order_);
    order(warp_order_);
    counted_.launches = 1;
    counted_.blocks = blocks_;
    counted_.largest_shared_bytes = int64_t(request.shared_bytes);
  }

  void run() {
    if constexpr (kThreadSanitizer)
      run_apart();
    else
      run_together();
    add_counters(counted_);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  template <class Order>
  void order(Order& order) const {
    std::iota(order.begin(), order.end(), 0);
    if (settings_.lanes == LaneOrder::reverse) std::reverse(order.begin(), order.end());
    if (settings_.lanes == LaneOrder::shuffled)
      std::shuffle(order.begin(), order.end(), std::mt19937_64(settings_.seed));
  }

  uint3 index_of(int64_t number) const {
    if (settings_.blocks == BlockOrder::reverse) number = blocks_ - 1 - number;
    const int64_t x = job_.grid.x, y = job_.grid.y;
    return {unsigned(number % x), unsigned(number / x % y), unsigned(number / (x * y))};
  }

  // Runs the blocks whose numbers next() gives, until it gives one that does not exist.
  template <class Next>
  void run_blocks(Block& block, Next next) {
    int64_t barriers;
    {
      const Unobserved unobserved;
      block.scheduler.attach();
      block.traffic = {};
      barriers = block.barrier.generation;
    }
    std::exception_ptr error;
    try {
      for (int64_t number = next(); number < blocks_; number = next()) block.run(job_, index_of(number), warp_order_);
    } catch (...) {
      error = std::current_exception();
      next_ = blocks_;
    }
    const std::lock_guard lock(mutex_);
    counted_.barriers += block.barrier.generation - barriers;
    counted_.loads += block.traffic.loads, counted_.load_bytes += block.traffic.load_bytes;
    counted_.stores += block.traffic.stores, counted_.store_bytes += block.traffic.store_bytes;
    if (error && !error_) error_ = error;
  }

  void run_share() {
    auto block = pool.take();
    run_blocks(*block, [this] { return next_++; });
    pool.give_back(std::move(block));
  }

  void run_together() {
    // AddressSanitizer has one static shared memory for all (keywords.h).
    const int64_t wanted = kAddressSanitizer ? 1 : std::min<int64_t>(settings_.threads, blocks_);
    std::vector<std::jthread> others;
    for (int64_t i = 1; i < wanted; ++i) others.emplace_back([this] { run_share(); });
    run_share();
  }

  // For ThreadSanitizer: one block after the other, each on an OS thread of its own, which has static shared memory of
  // its own, and with no order between blocks, so that races between them are seen too. Fibers are dear to it (a third
  // of a millisecond each, and every barrier costs the square of their number): a block uses those of the third before
  // it, which orders these two.
  void run_apart() {
    std::vector<std::unique_ptr<Block>> fibers(size_t(std::min<int64_t>(blocks_, 3)));
    for (auto& block : fibers) block = pool.take();
    begin_.release();
    {
      const Unobserved unobserved;
      for (int64_t number = 0; number < blocks_ && !error_; ++number) {
        Block* const block = fibers[size_t(number) % fibers.size()].get();
        std::thread([this, block, number] { run_one_apart(*block, number); }).join();
      }
    }
    end_.acquire();
    for (auto& block : fibers) pool.give_back(std::move(block));
  }

  void run_one_apart(Block& block, int64_t number) {
    begin_.acquire();
    run_blocks(block, [&] { return std::exchange(number, blocks_); });
    end_.release();
  }

  const Settings settings_;
  std::array<int, warpSize> lane_order_;
  Job job_;
  const int64_t blocks_;
  std::vector<int> warp_order_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  Counters counted_;
  std::exception_ptr error_;
  OrderToken begin_, end_;
};

}  // namespace

cudaError_t launch_blocks(const LaunchRequest& request) {
  const cudaError_t refused = check(request);
  if (refused != cudaSuccess) return last_error = refused;
  Launch(request).run();
  return cudaSuccess;
}

}  // namespace emulator

cudaError_t cudaPeekAtLastError() { return emulator::last_error; }

cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }
