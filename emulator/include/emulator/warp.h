// Warp collectives: every lane of the mask must come to the same one. As on the device, only __syncwarp orders memory;
// shuffles and votes do not, and ThreadSanitizer holds kernels to that.
#pragma once

#include <array>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "thread.h"

namespace emulator {

// Deposits `bytes` (1 to 16) at `value` for the other lanes of the mask, meets them, and returns the 32 deposits, one
// every `bytes` bytes; 0xFF stands where no lane of the mask is. They stay until this lane's next collective.
const unsigned char* meet(unsigned mask, const void* value, size_t bytes, const char* what, std::source_location where);

// meet(), and memory is ordered among the lanes of the mask.
void synchronize_warp(unsigned mask, std::source_location where);

template <class T>
T deposit_of(const unsigned char* deposits, int lane) {
  const Unobserved unobserved;
  T value;
  std::memcpy(&value, deposits + size_t(lane) * sizeof(T), sizeof(T));
  return value;
}

// The values of all 32 lanes, to every lane of the mask: what shuffles, votes and matrix fragments are made of.
template <class T>
std::array<T, warpSize> exchange(unsigned mask, const T& value,
                                 std::source_location where = std::source_location::current()) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  const unsigned char* deposits = meet(mask, &value, sizeof(T), "exchange", where);
  const Unobserved unobserved;
  std::array<T, warpSize> values;
  std::memcpy(values.data(), deposits, sizeof(values));
  return values;
}

// The part of a shuffle that is the same for all: `source` is the lane to read, the own value if not `inside`.
int first_lane(int width, const char* what, std::source_location where);  // of this lane's group of `width` lanes
void check_source(unsigned mask, int source, const char* what, std::source_location where);

template <class T>
T shuffle(unsigned mask, T value, int source, bool inside, const char* what, std::source_location where) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  static_assert(std::is_trivially_copyable_v<T>);
  const unsigned char* deposits = meet(mask, &value, sizeof(T), what, where);
  if (!inside) return value;
  check_source(mask, source, what, where);
  return deposit_of<T>(deposits, source);
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              std::source_location where = std::source_location::current()) {
  const int first = emulator::first_lane(width, "__shfl_sync", where);
  return emulator::shuffle(mask, value, first + (source & (width - 1)), true, "__shfl_sync", where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 std::source_location where = std::source_location::current()) {
  const int first = emulator::first_lane(width, "__shfl_up_sync", where);
  const int source = emulator::this_thread().lane - int(delta);
  return emulator::shuffle(mask, value, source, source >= first, "__shfl_up_sync", where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   std::source_location where = std::source_location::current()) {
  const int first = emulator::first_lane(width, "__shfl_down_sync", where);
  const int source = emulator::this_thread().lane + int(delta);
  return emulator::shuffle(mask, value, source, source < first + width, "__shfl_down_sync", where);
}
// Lanes of an earlier group may be read, those of a later one not.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  std::source_location where = std::source_location::current()) {
  const int first = emulator::first_lane(width, "__shfl_xor_sync", where);
  const int source = emulator::this_thread().lane ^ lane_mask;
  return emulator::shuffle(mask, value, source, source < first + width, "__shfl_xor_sync", where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  const unsigned char vote = predicate != 0;
  const unsigned char* votes = emulator::meet(mask, &vote, 1, "__ballot_sync", where);
  const emulator::Unobserved unobserved;
  unsigned ballot = 0;
  for (int lane = 0; lane < warpSize; ++lane) ballot |= unsigned(votes[lane] & 1) << lane;
  return ballot & mask;
}
// Lanes of the mask that hold the same value as this one.
template <class T>
unsigned __match_any_sync(unsigned mask, T value, std::source_location where = std::source_location::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const unsigned char* deposits = emulator::meet(mask, &value, sizeof(T), "__match_any_sync", where);
  unsigned same = 0;
  for (int lane = 0; lane < warpSize; ++lane)
    same |= unsigned(emulator::deposit_of<T>(deposits, lane) == value) << lane;
  return same & mask;
}
inline int __any_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, std::source_location where = std::source_location::current()) {
  emulator::synchronize_warp(mask, where);
}
