// Scratch memory of the kernels: a block that each thread keeps, out of which arrays are cut one after the other.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "kernels.h"

namespace desc_ext::cpu {

static constexpr size_t kLine = 64;
static constexpr size_t kKept = size_t(4)
                                << 20;  // bytes that a thread keeps at most; what is larger comes from the heap

static void* from_heap(size_t bytes) {
  void* pointer = std::aligned_alloc(kLine, bytes);
  if (!pointer) throw std::bad_alloc();
  return pointer;
}

// AddressSanitizer sees arrays only that come from the heap.
#if defined(__SANITIZE_ADDRESS__)
static constexpr bool kReuse = false;
#else
static constexpr bool kReuse = true;
#endif

// Arrays are cut from the block as from a stack; one that is given back before those above it waits for them.
struct Scratch {
  struct Array {
    size_t begin;
    bool live;
  };
  char* block = nullptr;
  size_t size = 0, used = 0;
  size_t missed = 0;  // what would have been in use had an array found room
  std::vector<Array> arrays;

  ~Scratch() { std::free(block); }

  void* take(size_t bytes) {
    if (arrays.empty() && (missed || size < bytes)) grow(bytes);
    if (size - used < bytes) {
      missed = std::max(missed, used + bytes);
      return nullptr;
    }
    arrays.push_back({used, true});
    used += bytes;
    return block + arrays.back().begin;
  }

  bool give(const void* pointer) {
    const auto at = reinterpret_cast<uintptr_t>(pointer), begin = reinterpret_cast<uintptr_t>(block);
    if (!block || at < begin || at >= begin + size) return false;
    size_t i = arrays.size();
    while (arrays[--i].begin != at - begin) {
    }
    arrays[i].live = false;
    for (; !arrays.empty() && !arrays.back().live; arrays.pop_back()) used = arrays.back().begin;
    return true;
  }

  // Room for the next call of the kind that missed some.
  void grow(size_t bytes) noexcept {
    size_t next = std::max(size, size_t(1) << 18);
    while (next < std::max(bytes, missed) && next < kKept) next *= 2;
    missed = 0;
    if (next == size) return;
    std::free(block);
    block = static_cast<char*>(std::aligned_alloc(kLine, next));
    size = block ? next : 0;
  }
};

static thread_local Scratch scratch;

void* take_scratch(size_t bytes) {
  bytes = (bytes + kLine - 1) / kLine * kLine;
  if (kReuse && bytes <= kKept)
    if (void* pointer = scratch.take(bytes)) return pointer;
  return from_heap(bytes);
}

void give_scratch(void* pointer) noexcept {
  if (!kReuse || !scratch.give(pointer)) std::free(pointer);
}

}  // namespace desc_ext::cpu
