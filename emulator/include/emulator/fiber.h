// Fibers: functions on stacks of their own that hand the processor back to the scheduler which resumed them.
#pragma once

#include <cstddef>
#include <vector>

#include "sanitizer.h"

// Everywhere but on x86-64, and where a test asks for it.
#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#endif
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

#ifdef EMULATOR_THREAD_SANITIZER
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
}
#endif
#ifdef EMULATOR_ADDRESS_SANITIZER
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* begin, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** begin, size_t* size);
}
#endif

namespace emulator {

#ifndef EMULATOR_UCONTEXT
struct Context {
  void* stack_pointer = nullptr;  // everything else lies on the stack
};

// swapcontext saves the signal mask by two system calls; this takes nanoseconds. Inline, so that every fiber's returns
// come in the order in which the processor predicts them. The caller may hold nothing in floating-point registers that
// only AVX-512 has.
__attribute__((always_inline)) inline void switch_context(Context& from, Context& to) {
  void** save = &from.stack_pointer;
  void** load = &to.stack_pointer;
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"  // the red zone stays as it is
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rcx\n\t"
      "pushq %%rcx\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq (%1), %%rsp\n\t"
      "popq %%rcx\n\t"
      "jmp *%%rcx\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp"
      : "+a"(save), "+d"(load)
      :
      : "rbx", "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0",
        "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
        "xmm14", "xmm15");
}
#else
using Context = ucontext_t;

inline void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

struct Stack {
  char* begin = nullptr;
  size_t size = 0;
};

// Memory of stacks, each with a guard page below it. Only what is touched becomes real memory.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks();

  // The stacks of `count` more fibers.
  std::vector<Stack> add(size_t count);

 private:
  std::vector<Stack> mapped_;
};

// The side of an OS thread that fibers are resumed from.
struct Scheduler {
  Context context;
  void* thread_sanitizer = nullptr;
  void* fake_stack = nullptr;  // this and the two below are AddressSanitizer's
  const void* stack_begin = nullptr;
  size_t stack_size = 0;

  void attach();  // to the OS thread that calls
};

class Fiber {
 public:
  // entry(argument) runs at the first resume, and must call arrived() before all else and never return.
  Fiber(Stack stack, void (*entry)(void*), void* argument);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  void resume(Scheduler& scheduler);   // on the scheduler's side: runs the fiber until it suspends itself
  void suspend(Scheduler& scheduler);  // on the fiber's side
  void arrived(Scheduler& scheduler);

 private:
  Context context_;
  Stack stack_;
  void* thread_sanitizer_ = nullptr;
  void* fake_stack_ = nullptr;
};

// Flag 1 of __tsan_switch_to_fiber: the change-over itself orders nothing.

inline void Fiber::resume(Scheduler& scheduler) {
#ifdef EMULATOR_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&scheduler.fake_stack, stack_.begin, stack_.size);
#endif
#ifdef EMULATOR_THREAD_SANITIZER
  __tsan_switch_to_fiber(thread_sanitizer_, 1);
#endif
  switch_context(scheduler.context, context_);
#ifdef EMULATOR_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
}

inline void Fiber::suspend(Scheduler& scheduler) {
#ifdef EMULATOR_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&fake_stack_, scheduler.stack_begin, scheduler.stack_size);
#endif
#ifdef EMULATOR_THREAD_SANITIZER
  void* to;
  {
    const Unobserved unobserved;
    to = scheduler.thread_sanitizer;
  }
  __tsan_switch_to_fiber(to, 1);
#endif
  switch_context(context_, scheduler.context);
  arrived(scheduler);
}

inline void Fiber::arrived([[maybe_unused]] Scheduler& scheduler) {
#ifdef EMULATOR_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(fake_stack_, &scheduler.stack_begin, &scheduler.stack_size);
#endif
}

}  // namespace emulator
