// Dynamic shared memory, asynchronous copies, atomics, fences, and the count of global memory traffic.
#pragma once

#include <atomic>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include "thread.h"

namespace emulator {

// The dynamic shared memory of this thread's block: 128-byte aligned, filled with NaN when the block begins.
inline void* dynamic_shared() { return this_thread().block.shared; }

// cp.async: copies valid_bytes of `bytes` (4, 8 or 16; both addresses aligned to it) and fills the rest with zeros, at
// some time between now and the wait. Here that is the wait; until then the destination holds NaN, and a thread that
// still reads its old contents is as wrong as on the device.
void copy_async(void* shared, const void* global, int bytes, int valid_bytes,
                std::source_location where = std::source_location::current());

// The copies issued since the last commit become a group.
void commit_copies();

// Waits until at most `groups_still_allowed` of this thread's youngest groups are under way. Other threads may read
// what was copied after a barrier that follows.
void wait_copies(int groups_still_allowed, std::source_location where = std::source_location::current());

inline void count_load(int bytes) {
  Traffic& traffic = this_thread().traffic;
  ++traffic.loads;
  traffic.load_bytes += bytes;
}
inline void count_store(int bytes) {
  Traffic& traffic = this_thread().traffic;
  ++traffic.stores;
  traffic.store_bytes += bytes;
}

// Atomics are relaxed, as on the device: what they publish needs a fence.
template <class T, class Update>
T update_atomically(T* pointer, Update update) {
  std::atomic_ref<T> reference(*pointer);
  T old = reference.load(std::memory_order_relaxed);
  while (!reference.compare_exchange_weak(old, update(old), std::memory_order_relaxed)) {
  }
  return old;
}

void fence();

}  // namespace emulator

template <class T>
T atomicAdd(T* pointer, std::type_identity_t<T> value) {
  return emulator::update_atomically(pointer, [=](T old) { return T(old + value); });
}
template <class T>
T atomicSub(T* pointer, std::type_identity_t<T> value) {
  return emulator::update_atomically(pointer, [=](T old) { return T(old - value); });
}
template <class T>
T atomicMax(T* pointer, std::type_identity_t<T> value) {
  return emulator::update_atomically(pointer, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* pointer, std::type_identity_t<T> value) {
  return emulator::update_atomically(pointer, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicExch(T* pointer, std::type_identity_t<T> value) {
  return emulator::update_atomically(pointer, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* pointer, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  std::atomic_ref<T>(*pointer).compare_exchange_strong(compare, value, std::memory_order_relaxed);
  return compare;
}

inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }
