// What every back end checks before it reads memory. The Python functions give the same errors at more length; these
// guard direct calls through torch.ops.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <optional>
#include <string>

namespace desc_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

// `sizes` gives the wanted size of each dimension, −1 for any.
inline void check_shape(const char* op, const char* name, const Tensor& tensor, std::initializer_list<int64_t> sizes) {
  bool right = tensor.dim() == int64_t(sizes.size());
  int64_t i = 0;
  for (const int64_t size : sizes) {
    right = right && (size < 0 || tensor.size(i) == size);
    ++i;
  }
  if (right) return;
  std::string wanted;
  for (const int64_t size : sizes)
    wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? std::string("any") : std::to_string(size));
  STD_TORCH_CHECK(false, op, ": ", name, " has shape ", shape_of(tensor), "; wanted [", wanted, "]");
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

// Float64 stands alone; float32, float16 and bfloat16 may meet, and are computed in float32.
inline ScalarType compute_type(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(is_floating(tensor.scalar_type()), op, ": ", name, " is not float32, float64, float16 or bfloat16");
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_same_type(const char* op, const char* name, const Tensor& tensor, ScalarType compute) {
  STD_TORCH_CHECK(compute_type(op, name, tensor) == compute, op, ": ", name,
                  " must not mix float64 with other types; convert one of them");
}

inline void check_type(const char* op, const char* name, const Tensor& tensor, ScalarType wanted) {
  STD_TORCH_CHECK(tensor.scalar_type() == wanted, op, ": ", name,
                  " has the wrong dtype; wanted the dtype of the result");
}

inline void check_bases(const char* op, const Tensor& z, const Tensor& bases) {
  check_shape(op, "z", z, {-1, -1});
  check_shape(op, "bases", bases, {-1, z.size(1), -1});
  STD_TORCH_CHECK(bases.size(0) > 0, op, ": bases holds no subspace (K = 0)");
  STD_TORCH_CHECK(bases.size(2) > 0 && bases.size(2) <= bases.size(1), op,
                  ": bases [K, p, d] must have 1 <= d <= p, got d = ", bases.size(2), ", p = ", bases.size(1));
  check_same_type(op, "bases", bases, compute_type(op, "z", z));
}

inline void check_weight(const char* op, const Tensor& z, const Tensor& bases, const Tensor& weight) {
  check_bases(op, z, bases);
  check_shape(op, "weight", weight, {z.size(0), bases.size(0)});
  check_type(op, "weight", weight, compute_type(op, "z", z));
}

inline void check_sample_weight(const char* op, const Tensor& z, const std::optional<Tensor>& sample_weight) {
  if (!sample_weight) return;
  check_shape(op, "sample_weight", *sample_weight, {z.size(0)});
  check_type(op, "sample_weight", *sample_weight, compute_type(op, "z", z));
}

inline void check_centroids(const char* op, const Tensor& z, const Tensor& centroids, double dof) {
  check_shape(op, "z", z, {-1, -1});
  check_shape(op, "centroids", centroids, {-1, z.size(1)});
  STD_TORCH_CHECK(centroids.size(0) > 0, op, ": centroids holds no row (K = 0)");
  STD_TORCH_CHECK(std::isfinite(dof) && dof > 0, op, ": dof must be finite and positive, got ", dof);
  check_same_type(op, "centroids", centroids, compute_type(op, "z", z));
}

// Whether the metric of nearest_subspace is the residual; else it is the energy.
inline bool asks_residual(const char* op, const std::string& metric) {
  STD_TORCH_CHECK(metric == "residual" || metric == "energy", op, ": metric must be 'residual' or 'energy', got '",
                  metric, "'");
  return metric == "residual";
}

// Whether block orthogonality asks for orthonormal columns inside a block; else for unit ones.
inline bool asks_orthonormal(const char* op, const Tensor& bases, const std::string& within) {
  check_shape(op, "bases", bases, {-1, -1, -1});
  STD_TORCH_CHECK(bases.size(0) > 0 && bases.size(2) > 0 && bases.size(2) <= bases.size(1), op,
                  ": bases [K, p, d] must have K >= 1 and 1 <= d <= p, got ", shape_of(bases));
  STD_TORCH_CHECK(within == "unit" || within == "orthonormal", op, ": within must be 'unit' or 'orthonormal', got '",
                  within, "'");
  return within == "orthonormal";
}

// Rows [b, n, p] of the families that take a leading batch dimension.
inline ScalarType check_batch(const char* op, const char* name, const Tensor& tensor) {
  check_shape(op, name, tensor, {-1, -1, -1});
  return compute_type(op, name, tensor);
}

inline ScalarType check_topk(const char* op, const Tensor& y, int64_t k) {
  check_shape(op, "y", y, {-1, -1, -1});
  const int64_t n = y.size(1);
  STD_TORCH_CHECK(k >= 0 && k <= (n > 1 ? n - 1 : 0), op, ": k must be between 0 and n - 1 = ", n - 1, ", got ", k);
  return compute_type(op, "y", y);
}

inline void check_selected(const char* op, const Tensor& indices, std::initializer_list<int64_t> sizes) {
  check_shape(op, "indices", indices, sizes);
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, op, ": indices must be int64");
}

// Whether the size of a learned C is asked for as the sum of magnitudes; else it is that of squares.
inline bool asks_absolute(const char* op, const Tensor& z, const Tensor& coef, const std::string& penalty) {
  check_shape(op, "z", z, {-1, -1, -1});
  check_shape(op, "coef", coef, {z.size(0), z.size(1), z.size(1)});
  check_same_type(op, "coef", coef, compute_type(op, "z", z));
  STD_TORCH_CHECK(penalty == "l1" || penalty == "l2", op, ": penalty must be 'l1' or 'l2', got '", penalty, "'");
  return penalty == "l1";
}

inline ScalarType check_collaboration(const char* op, const Tensor& prediction, const Tensor& y,
                                      const Tensor& row_max) {
  check_shape(op, "y", y, {-1, -1, -1});
  check_shape(op, "prediction", prediction, {y.size(0), y.size(1), -1});
  check_shape(op, "row_max", row_max, {y.size(0), y.size(1)});
  const auto compute = compute_type(op, "y", y);
  check_same_type(op, "prediction", prediction, compute);
  check_type(op, "row_max", row_max, compute);
  return compute;
}

inline ScalarType check_energy(const char* op, const Tensor& z, const Tensor& features, double bandwidth) {
  check_shape(op, "z", z, {-1, -1, -1});
  check_shape(op, "features", features, {z.size(0), z.size(1), -1});
  const auto compute = compute_type(op, "z", z);
  check_same_type(op, "features", features, compute);
  STD_TORCH_CHECK(std::isfinite(bandwidth) && bandwidth > 0, op, ": bandwidth must be finite and positive, got ",
                  bandwidth);
  return compute;
}

inline ScalarType check_info_nce(const char* op, const Tensor& z, const Tensor& g, double temperature) {
  check_shape(op, "z", z, {-1, -1, -1});
  check_shape(op, "g", g, {z.size(0), z.size(1), z.size(2)});
  const auto compute = compute_type(op, "z", z);
  check_same_type(op, "g", g, compute);
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature > 0, op, ": temperature must be finite and positive, got ",
                  temperature);
  return compute;
}

}  // namespace desc_ext
