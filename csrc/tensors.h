// Between tensors and plain arrays, the same for all back ends.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

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

inline Tensor empty_of(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, sizes, type);
}

// An array like `tensor` to be filled, or an empty tensor where it is not needed.
inline Tensor gradient_like(const Tensor& tensor, bool needed) {
  if (!needed) return empty_of(tensor, {0}, tensor.scalar_type());
  return torch::stable::empty_like(tensor);
}

// Calls f.operator()<float>() or <double>() by the type the arithmetic is in.
template <class F>
auto dispatch(ScalarType compute, const F& f) {
  return compute == ScalarType::Double ? f.template operator()<double>() : f.template operator()<float>();
}

}  // namespace desc_ext
