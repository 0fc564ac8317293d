// What ThreadSanitizer and AddressSanitizer are told about the emulator.
//
// ThreadSanitizer sees each CUDA thread as a fiber of its own. Two of them are ordered by what orders them on the
// device (barriers, fences, the begin and end of a launch) and by nothing else: neither by the scheduler that runs them
// in turn, nor by the runtime's own variables.
#pragma once

#if defined(__SANITIZE_THREAD__)
#define EMULATOR_THREAD_SANITIZER
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ADDRESS_SANITIZER
#endif
#if defined(__has_feature)  // clang's way to tell
#if __has_feature(thread_sanitizer)
#define EMULATOR_THREAD_SANITIZER
#endif
#if __has_feature(address_sanitizer)
#define EMULATOR_ADDRESS_SANITIZER
#endif
#endif

#ifdef EMULATOR_THREAD_SANITIZER
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
void AnnotateIgnoreSyncBegin(const char*, int);
void AnnotateIgnoreSyncEnd(const char*, int);
}
#endif

namespace emulator {

#ifdef EMULATOR_THREAD_SANITIZER
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#ifdef EMULATOR_ADDRESS_SANITIZER
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

// Something that threads are ordered by: what came before a release comes before what follows a later acquire.
struct OrderToken {
  void release() {
#ifdef EMULATOR_THREAD_SANITIZER
    __tsan_release(this);
#endif
  }
  void acquire() {
#ifdef EMULATOR_THREAD_SANITIZER
    __tsan_acquire(this);
#endif
  }
  char address = 0;  // tokens lie apart
};

// For main(): starts the program again at fixed addresses, where ThreadSanitizer would otherwise not find room for its
// shadow memory on some kernels.
void without_address_randomisation(char** arguments);

// While it lives, ThreadSanitizer looks away from this thread: the runtime's bookkeeping is neither a race nor an
// order.
struct [[maybe_unused]] Unobserved {
#ifdef EMULATOR_THREAD_SANITIZER
  Unobserved() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
  }
  ~Unobserved() {
    AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unobserved() {}
#endif
  Unobserved(const Unobserved&) = delete;
  Unobserved& operator=(const Unobserved&) = delete;
};

}  // namespace emulator
