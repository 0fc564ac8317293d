// Between tensors and plain arrays, the same for all back ends.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>

namespace desc_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// What every call does goes past the dispatcher, whose look-up of an operator by name takes as long as a small kernel.
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline int32_t number_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double: return aoti_torch_dtype_float64();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Long: return aoti_torch_dtype_int64();
    case ScalarType::Byte: return aoti_torch_dtype_uint8();
    default: return aoti_torch_dtype_float32();
  }
}

// An array of its own on the device of `other`.
inline Tensor empty_of(const Tensor& other, const int64_t* sizes, int64_t dim, ScalarType type) {
  int64_t strides[8] = {}, next = 1;
  STD_TORCH_CHECK(dim <= 8, "desc_ext: an array of ", dim, " dimensions");
  for (int64_t i = dim - 1; i >= 0; --i) strides[i] = next, next *= std::max<int64_t>(1, sizes[i]);
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(other.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(other.get(), &device_index));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, number_of(type), device_type, device_index, &made));
  return Tensor(made);
}

inline Tensor empty_of(const Tensor& other, std::initializer_list<int64_t> sizes, ScalarType type) {
  return empty_of(other, sizes.begin(), int64_t(sizes.size()), type);
}

inline Tensor like(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return empty_of(tensor, sizes.data(), int64_t(sizes.size()), tensor.scalar_type());
}

// An array like `tensor` to be filled, or an empty tensor where it is not needed.
inline Tensor gradient_like(const Tensor& tensor, bool needed) {
  return needed ? like(tensor) : empty_of(tensor, {0}, tensor.scalar_type());
}

// Calls f.operator()<float>() or <double>() by the type the arithmetic is in.
template <class F>
auto dispatch(ScalarType compute, const F& f) {
  return compute == ScalarType::Double ? f.template operator()<double>() : f.template operator()<float>();
}

}  // namespace desc_ext
