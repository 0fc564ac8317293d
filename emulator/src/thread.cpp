#include "emulator/thread.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

namespace emulator {

constinit thread_local Thread* current_thread = nullptr;

namespace {

// Nearly always the same literal.
bool same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

struct Stopped {};  // unwinds the threads of a block in which another one failed

bool same_place(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() && same_text(a.file_name(), b.file_name());
}

}  // namespace

std::string to_string(std::source_location where) {
  const char* name = std::strrchr(where.file_name(), '/');
  return std::string(name ? name + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

std::string to_string(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

void fail(const std::string& what, std::source_location where) {
  const Unobserved unobserved;
  const Thread& thread = this_thread();
  throw std::runtime_error("emulator: " + what + " [" + to_string(where) + ", block " + to_string(thread.block.index) +
                           ", thread " + to_string(thread.index) + "]");
}

void wait(const char* what, std::source_location where) {
  Thread& thread = this_thread();
  thread.waits_in = what;
  thread.waits_at = where;
  thread.fiber.suspend(thread.block.scheduler);
  if (thread.block.error) throw Stopped();
}

BarrierResult synchronize(const char* what, int predicate, std::source_location where) {
  BarrierResult result;
  OrderToken* order;
  {
    const Unobserved unobserved;
    Barrier& barrier = this_thread().block.barrier;
    order = &barrier.order[barrier.generation & 1];
  }
  order->release();
  {
    const Unobserved unobserved;
    Barrier& barrier = this_thread().block.barrier;
    if (barrier.arrived == 0)
      barrier.where = where;
    else if (!same_place(barrier.where, where))
      fail(std::string("divergent barrier: this thread is in ") + what + " while others wait at " +
               to_string(barrier.where),
           where);
    ++barrier.arrived;
    barrier.votes.any |= predicate != 0;
    barrier.votes.all &= predicate != 0;
    barrier.votes.count += predicate != 0;
    wait(what, where);
    result = barrier.result;  // stays until all threads have gone on and met again
  }
  order->acquire();
  return result;
}

Thread::Thread(Block& block, int number, Stack stack)
    : block(block), number(number), fiber(stack, &Block::run_fiber, this) {}

Block::~Block() { std::free(shared); }

// A fiber lives as long as its Block: it runs the kernel once for each block, and waits in between.
void Block::run_fiber(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  const auto block = [&]() -> Block& {
    const Unobserved unobserved;
    return thread.block;
  };
  Block& owner = block();  // once: what is read after a block's end is not ordered before the end of the Block
  thread.fiber.arrived(owner.scheduler);
  for (;;) {
    owner.run_thread(thread);
    thread.fiber.suspend(owner.scheduler);
  }
}

void Block::run_thread(Thread& thread) {
  std::exception_ptr thrown;
  begin.acquire();
  try {
    if (!error) job->call(job->kernel);
    const Unobserved unobserved;
    if (!error && !thread.copies.empty())
      fail(std::to_string(thread.copies.size()) + " asynchronous copies were never waited for; the first begins here",
           thread.copies.front().where);
  } catch (const Stopped&) {
  } catch (...) {
    const Unobserved unobserved;
    thrown = std::current_exception();
  }
  end.release();
  const Unobserved unobserved;
  if (thrown && !error) error = thrown;
  traffic.loads += thread.traffic.loads, traffic.load_bytes += thread.traffic.load_bytes;
  traffic.stores += thread.traffic.stores, traffic.store_bytes += thread.traffic.store_bytes;
  thread.warp->alive &= ~(1u << thread.lane);
  --alive;
}

void Block::add_threads(size_t count) {
  if (count <= threads_.size()) return;
  for (const Stack stack : stacks_.add(count - threads_.size()))
    threads_.push_back(std::make_unique<Thread>(*this, int(threads_.size()), stack));
}

// Fresh for every block and filled with NaN, so that nothing can be expected of it. Sanitizers get memory of its own
// for each block, of the exact size: they see one byte too many, and no false race with an earlier block.
void Block::provide_shared() {
  const size_t bytes = job->shared_bytes;
  const bool fresh = kThreadSanitizer || kAddressSanitizer;
  if (fresh || bytes > shared_capacity_) {
    std::free(std::exchange(shared, nullptr));
    void* memory = nullptr;
    if (bytes > 0 && posix_memalign(&memory, 128, bytes) != 0) throw std::bad_alloc();
    shared = static_cast<unsigned char*>(memory);
    shared_capacity_ = bytes;
  }
  if (bytes > 0) std::memset(shared, 0xFF, bytes);
}

void Block::prepare(uint3 block_index) {
  index = block_index, size = job->block, grid = job->grid;
  alive = int(size.x * size.y * size.z);
  barrier.arrived = 0, barrier.votes = {};
  error = nullptr;
  add_threads(size_t(alive));
  warp_count_ = (size_t(alive) + warpSize - 1) / warpSize;
  while (warps_.size() < warp_count_) warps_.push_back(std::make_unique<Warp>());
  for (size_t w = 0; w < warp_count_; ++w) {
    Warp& warp = *warps_[w];
    warp.alive = size_t(alive) >= (w + 1) * warpSize ? ~0u : (1u << alive % warpSize) - 1;
    warp.ready = warp.alive;
    warp.full.mask = ~0u, warp.full.arrived = 0;
    warp.partial.clear();
  }
  for (int i = 0; i < alive; ++i) {
    Thread& thread = *threads_[size_t(i)];
    thread.index = {unsigned(i) % size.x, unsigned(i) / size.x % size.y, unsigned(i) / (size.x * size.y)};
    thread.lane = i % warpSize, thread.warp = warps_[size_t(i / warpSize)].get();
    thread.traffic = {}, thread.copies.clear(), thread.copy_group = 0;
  }
  provide_shared();
}

void Block::run_warp(Warp& warp, int number) {
  while (warp.ready)
    for (int i = 0; i < warpSize && warp.ready; ++i) {
      const int lane = job->lane_order[i];
      if (!(warp.ready >> lane & 1)) continue;
      warp.ready &= ~(1u << lane);
      current_thread = threads_[size_t(number * warpSize + lane)].get();
      current_thread->fiber.resume(scheduler);
    }
}

void Block::wake_all() {
  for (size_t w = 0; w < warp_count_; ++w) warps_[w]->ready = warps_[w]->alive;
}

void Block::release_barrier() {
  barrier.result = std::exchange(barrier.votes, {});
  barrier.arrived = 0;
  ++barrier.generation;
  wake_all();
}

std::exception_ptr Block::deadlock() const {
  struct Group {
    const Thread* first;
    int count;
  };
  std::vector<Group> groups;
  for (size_t w = 0; w < warp_count_; ++w)
    for (int lane = 0; lane < warpSize; ++lane) {
      if (!(warps_[w]->alive >> lane & 1)) continue;
      const Thread& thread = *threads_[w * warpSize + size_t(lane)];
      bool known = false;
      for (Group& group : groups)
        if (group.first->waits_in == thread.waits_in && same_place(group.first->waits_at, thread.waits_at))
          ++group.count, known = true;
      if (!known) groups.push_back({&thread, 1});
    }
  std::string text = "emulator: deadlock in block " + to_string(index) + ":";
  for (const Group& group : groups)
    text += (&group == groups.data() ? " " : ", ") + std::to_string(group.count) + " threads (the first is " +
            to_string(group.first->index) + ") wait in " + group.first->waits_in + " at " +
            to_string(group.first->waits_at);
  return std::make_exception_ptr(std::runtime_error(text));
}

void Block::run_threads(const std::vector<int>& warp_order) {
  while (alive > 0) {
    for (const int w : warp_order) run_warp(*warps_[size_t(w)], w);
    if (alive == 0) break;
    if (!error && barrier.arrived == alive) {
      release_barrier();
      continue;
    }
    if (!error) error = deadlock();
    wake_all();  // to unwind
  }
  current_thread = nullptr;
}

void Block::run(const Job& what, uint3 block_index, const std::vector<int>& warp_order) {
  {
    const Unobserved unobserved;
    job = &what;
    prepare(block_index);
  }
  begin.release();
  {
    const Unobserved unobserved;
    run_threads(warp_order);
  }
  end.acquire();
  if (error) std::rethrow_exception(std::exchange(error, nullptr));
}

}  // namespace emulator
