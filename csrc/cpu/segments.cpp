// segment_gram and its gradient on the CPU.
#include "segments.h"

#include <tuple>

namespace desc_ext::cpu {

static const char* kGram = "segment_gram";

static Tensor segment_gram(const Tensor& z, const Tensor& labels, int64_t n_segments, std::optional<Tensor> weight) {
  check_shape(kGram, "z", z, {-1, -1});
  STD_TORCH_CHECK(n_segments > 0, kGram, ": n_segments must be at least 1, got ", n_segments);
  const auto compute = compute_type(kGram, "z", z);
  const int64_t n = z.size(0), p = z.size(1);
  const Segments segments(kGram, labels, n, n_segments);
  if (weight) {
    check_shape(kGram, "weight", *weight, {n});
    check_type(kGram, "weight", *weight, compute);
  }
  Tensor out = empty_of(z, {n_segments, p, p}, compute);
  const Tensor rows = as_contiguous(z), weights = weight ? as_contiguous(*weight) : z;
  dispatch(compute, [&]<class T>() {
    segment_grams<T>(rows, weight ? data<T>(weights) : nullptr, segments, mutable_data<T>(out));
  });
  return out;
}

// dz_i = weight_i (G + Gᵀ) z_i and dweight_i = z_iᵀ G z_i, with G the upstream gradient of the row's segment.
static std::tuple<Tensor, Tensor> segment_gram_backward(const Tensor& grad, const Tensor& z, const Tensor& labels,
                                                        std::optional<Tensor> weight, bool need_z, bool need_weight) {
  const char* op = "segment_gram_backward";
  const int64_t n = z.size(0), p = z.size(1), n_segments = grad.size(0);
  check_shape(op, "grad", grad, {n_segments, p, p});
  const auto compute = compute_type(op, "z", z);
  check_type(op, "grad", grad, compute);
  const Segments segments(op, labels, n, n_segments);
  const Tensor rows = as_contiguous(z), upstream = as_contiguous(grad), weights = weight ? as_contiguous(*weight) : z;
  if (weight) check_type(op, "weight", *weight, compute);
  Tensor dz = gradient_like(rows, need_z), dweight = empty_of(z, {need_weight ? n : 0}, compute);
  dispatch(compute, [&]<class T>() {
    Array<T> symmetric(p * p);
    for (int64_t k = 0; k < n_segments; ++k) {
      const T* g = data<T>(upstream) + k * p * p;
      for (int64_t a = 0; a < p; ++a)
        for (int64_t b = 0; b < p; ++b) symmetric[a * p + b] = g[a * p + b] + g[b * p + a];
      rows_times<T>(rows, segments.order + segments.begin[k], segments.begin[k + 1] - segments.begin[k],
                    weight ? data<T>(weights) : nullptr, symmetric, need_z ? &dz : nullptr,
                    need_weight ? mutable_data<T>(dweight) : nullptr);
    }
    // The symmetric matrix counts every product twice.
    if (need_weight)
      for (int64_t i = 0; i < n; ++i) mutable_data<T>(dweight)[i] /= 2;
  });
  return {dz, dweight};
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  m.impl("segment_gram", TORCH_BOX(&desc_ext::cpu::segment_gram));
  m.impl("segment_gram_backward", TORCH_BOX(&desc_ext::cpu::segment_gram_backward));
}
