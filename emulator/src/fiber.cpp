#include "emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#ifndef EMULATOR_UCONTEXT
// The first resume of a fiber comes here with its argument and its entry on the stack.
asm(R"(
  .pushsection .text
  .globl emulator_begin_fiber
  .hidden emulator_begin_fiber
  .type emulator_begin_fiber,@function
emulator_begin_fiber:
  popq %rdi
  popq %rcx
  callq *%rcx
  ud2
  .size emulator_begin_fiber, .-emulator_begin_fiber
  .popsection
)");
extern "C" void emulator_begin_fiber();
#endif

namespace emulator {
namespace {

#ifndef EMULATOR_UCONTEXT
void prepare_context(Context& context, Stack stack, void (*entry)(void*), void* argument) {
  auto top = reinterpret_cast<uintptr_t>(stack.begin + stack.size) & ~uintptr_t(15);
  auto** slots = reinterpret_cast<void**>(top);
  *--slots = reinterpret_cast<void*>(entry);
  *--slots = argument;
  *--slots = reinterpret_cast<void*>(&emulator_begin_fiber);
  context.stack_pointer = slots;
}
#else
void call(unsigned entry_high, unsigned entry_low, unsigned argument_high, unsigned argument_low) {
  const auto join = [](unsigned high, unsigned low) { return uintptr_t(uint64_t(high) << 32 | low); };
  reinterpret_cast<void (*)(void*)>(join(entry_high, entry_low))(
      reinterpret_cast<void*>(join(argument_high, argument_low)));
}

void prepare_context(Context& context, Stack stack, void (*entry)(void*), void* argument) {
  const auto e = uint64_t(reinterpret_cast<uintptr_t>(entry)), a = uint64_t(reinterpret_cast<uintptr_t>(argument));
  getcontext(&context);
  context.uc_stack.ss_sp = stack.begin;
  context.uc_stack.ss_size = stack.size;
  context.uc_link = nullptr;
  // makecontext passes nothing wider than int.
  makecontext(&context, reinterpret_cast<void (*)()>(&call), 4, unsigned(e >> 32), unsigned(e), unsigned(a >> 32),
              unsigned(a));
}
#endif

constexpr size_t kStackSize = (kThreadSanitizer || kAddressSanitizer ? 256 : 64) << 10;

}  // namespace

std::vector<Stack> Stacks::add(size_t count) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE)), stride = page + kStackSize;
  void* memory =
      mmap(nullptr, count * stride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(memory);
  mapped_.push_back({begin, count * stride});
  std::vector<Stack> stacks;
  for (size_t i = 0; i < count; ++i) {
    if (mprotect(begin + i * stride, page, PROT_NONE) != 0) throw std::bad_alloc();
    // Tops at different places within a page, or all fibers would contend for the same few cache lines.
    stacks.push_back({begin + i * stride + page, kStackSize - i % 16 * 256});
  }
  return stacks;
}

Stacks::~Stacks() {
  for (const Stack& memory : mapped_) munmap(memory.begin, memory.size);
}

void Scheduler::attach() {
#ifdef EMULATOR_THREAD_SANITIZER
  thread_sanitizer = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(Stack stack, void (*entry)(void*), void* argument) : stack_(stack) {
  prepare_context(context_, stack, entry, argument);
#ifdef EMULATOR_THREAD_SANITIZER
  thread_sanitizer_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#ifdef EMULATOR_THREAD_SANITIZER
  __tsan_destroy_fiber(thread_sanitizer_);
#endif
}

}  // namespace emulator
