// Tensors of the program: what a handle of torch's stable ABI points to here.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace without_torch {

// As torch numbers them.
enum DType : int32_t { kUInt8 = 0, kInt64 = 4, kFloat16 = 5, kFloat32 = 6, kFloat64 = 7, kBFloat16 = 15 };

inline int64_t element_size(int32_t dtype) {
  switch (dtype) {
    case kUInt8: return 1;
    case kFloat16:
    case kBFloat16: return 2;
    case kFloat32: return 4;
    default: return 8;
  }
}

// Contiguous memory of the exact size, NaN until it is written, between guards.
class Array {
 public:
  explicit Array(int64_t bytes) : bytes_(size_t(bytes)), memory_(bytes_ + 2 * kGuard, kUnwritten) {}
  unsigned char* data() { return memory_.data() + kGuard; }
  size_t size() const { return bytes_; }
  bool guards_are_whole() const {
    for (size_t i = 0; i < kGuard; ++i)
      if (memory_[i] != kUnwritten || memory_[kGuard + bytes_ + i] != kUnwritten) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr unsigned char kUnwritten = 0xFF;
  size_t bytes_;
  std::vector<unsigned char> memory_;
};

}  // namespace without_torch

// Contiguous; a view has the array of the whole.
struct AtenTensorOpaque {
  int32_t dtype;
  std::vector<int64_t> sizes;
  std::shared_ptr<without_torch::Array> array;
  int64_t offset = 0;  // in bytes

  AtenTensorOpaque(int32_t of_dtype, std::vector<int64_t> of_sizes)
      : dtype(of_dtype), sizes(std::move(of_sizes)), array(std::make_shared<without_torch::Array>(bytes())) {}
  int64_t numel() const {
    int64_t product = 1;
    for (const int64_t size : sizes) product *= size;
    return product;
  }
  int64_t bytes() const { return numel() * without_torch::element_size(dtype); }
  unsigned char* data() const { return array->data() + offset; }
};

namespace without_torch {

using BoxedFunction = void (*)(StableIValue*, uint64_t, uint64_t);

// The kernels that were registered, by name.
std::map<std::string, BoxedFunction>& operators();

// How many threads parallel_for may use.
void set_threads(int64_t threads);

}  // namespace without_torch
