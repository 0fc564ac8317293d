#include "emulator/memory.h"

#include <cstring>
#include <string>

namespace emulator {
namespace {

bool aligned(const void* pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % uintptr_t(bytes) == 0; }

void check_copy(const void* shared, const void* global, int bytes, int valid_bytes, std::source_location where) {
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail("copy_async: bytes must be 4, 8 or 16, got " + std::to_string(bytes), where);
  if (valid_bytes < 0 || valid_bytes > bytes)
    fail("copy_async: valid_bytes must lie between 0 and " + std::to_string(bytes) + ", got " +
             std::to_string(valid_bytes),
         where);
  if (!aligned(shared, bytes))
    fail("copy_async: the shared address is not aligned to " + std::to_string(bytes) + " bytes", where);
  if (!aligned(global, bytes))
    fail("copy_async: the global address is not aligned to " + std::to_string(bytes) + " bytes", where);
}

}  // namespace

void copy_async(void* shared, const void* global, int bytes, int valid_bytes, std::source_location where) {
  {
    const Unobserved unobserved;
    check_copy(shared, global, bytes, valid_bytes, where);
    Thread& thread = this_thread();
    thread.copies.push_back({shared, global, bytes, valid_bytes, thread.copy_group, where});
  }
  // The hardware may read and write from here on. Sanitizers are shown that here, at the line that issued the copy.
  if (kThreadSanitizer || kAddressSanitizer) std::memcpy(shared, global, size_t(valid_bytes));
  std::memset(shared, 0xFF, size_t(bytes));
}

void commit_copies() {
  const Unobserved unobserved;
  ++this_thread().copy_group;
}

void wait_copies(int groups_still_allowed, std::source_location where) {
  std::vector<AsyncCopy>* copies;
  size_t done = 0;
  {
    const Unobserved unobserved;
    Thread& thread = this_thread();
    if (groups_still_allowed < 0)
      fail("wait_copies: the number of groups must not be negative, got " + std::to_string(groups_still_allowed),
           where);
    copies = &thread.copies;
    while (done < copies->size() && (*copies)[done].group < thread.copy_group - groups_still_allowed) ++done;
  }
  for (size_t i = 0; i < done; ++i) {
    AsyncCopy copy;
    {
      const Unobserved unobserved;
      copy = (*copies)[i];
    }
    std::memcpy(copy.shared, copy.global, size_t(copy.valid_bytes));
    std::memset(static_cast<char*>(copy.shared) + copy.valid_bytes, 0, size_t(copy.bytes - copy.valid_bytes));
  }
  const Unobserved unobserved;
  copies->erase(copies->begin(), copies->begin() + std::ptrdiff_t(done));
}

void fence() {
#ifdef EMULATOR_THREAD_SANITIZER
  // It knows no fences. Every fence ordering every later one is more than the device promises, and no false alarm.
  static OrderToken order;
  order.release();
  order.acquire();
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

}  // namespace emulator
