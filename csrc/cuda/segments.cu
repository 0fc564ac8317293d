// segment_gram and its gradient on CUDA; csrc/cpu/segments.cpp is its counterpart.
#include "gradients.h"

namespace desc_ext::cuda {

static const char* kGram = "segment_gram";
// Rows are sorted in pieces, so that positions take 8 MiB at most.
static constexpr int64_t kSortRows = int64_t(1) << 20;

static void check_rows_and_weight(const char* op, const Tensor& z, const Tensor& labels,
                                  const std::optional<Tensor>& weight) {
  check_shape(op, "z", z, {-1, -1});
  check_labels(op, labels, z);
  if (!weight) return;
  check_shape(op, "weight", *weight, {z.size(0)});
  check_type(op, "weight", *weight, compute_type(op, "z", z));
  check_same_device(op, "weight", *weight, z);
}

static Tensor segment_gram(const Tensor& z, const Tensor& labels, int64_t n_segments, std::optional<Tensor> weight) {
  check_rows_and_weight(kGram, z, labels, weight);
  STD_TORCH_CHECK(n_segments > 0, kGram, ": n_segments must be at least 1, got ", n_segments);
  const auto compute = compute_type(kGram, "z", z);
  const Device device(z);
  const int64_t n = z.size(0), p = z.size(1);
  Tensor out = empty_of(z, {n_segments, p, p}, compute);
  if (n == 0) return torch::stable::zero_(out);
  const Tensor rows = contiguous(z), label = contiguous(labels), weights = weight ? contiguous(*weight) : z;
  dispatch(compute, [&]<class T>() {
    for (int64_t first = 0; first < n; first += kSortRows) {
      const int64_t count = std::min(kSortRows, n - first);
      SortedLabels sorted(kGram, label, first, count, n_segments, device);
      const Rows here = rows_of(rows, first, sorted.order());
      auto job = make_moments<T>(here, here, count, sorted.begin(), n_segments);
      job.weight = weight ? data<T>(weights) + first : nullptr;
      job.symmetric = true, job.accumulate = first > 0, job.out = mutable_data<T>(out);
      moments_to_out(kGram, job, z, device);
    }
  });
  return out;
}

static std::tuple<Tensor, Tensor> segment_gram_backward(const Tensor& grad, const Tensor& z, const Tensor& labels,
                                                        std::optional<Tensor> weight, bool need_z, bool need_weight) {
  const char* op = "segment_gram_backward";
  check_rows_and_weight(op, z, labels, weight);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0), p = z.size(1), n_segments = grad.size(0);
  check_shape(op, "grad", grad, {n_segments, p, p});
  check_type(op, "grad", grad, compute);
  check_same_device(op, "grad", grad, z);
  const Device device(z);
  const Tensor rows = contiguous(z), label = contiguous(labels), upstream = contiguous(grad),
               weights = weight ? contiguous(*weight) : z;
  Tensor dz = gradient_like(rows, need_z), dweight = empty_of(z, {need_weight ? n : 0}, compute);
  dispatch(compute, [&]<class T>() {
    for (int64_t first = 0; first < n; first += kSortRows) {
      const int64_t count = std::min(kSortRows, n - first);
      SortedLabels sorted(op, label, first, count, n_segments, device);
      GramRows<T> job{rows_of(rows, first, sorted.order()), count, n_segments, sorted.begin(), data<T>(upstream)};
      job.weight = weight ? data<T>(weights) + first : nullptr;
      if (need_z) job.dz = mutable_rows_of(dz, first);
      if (need_weight) job.dweight = mutable_data<T>(dweight) + first;
      check_launch(op, run_gram_rows(job, device.stream));
    }
  });
  return {dz, dweight};
}

}  // namespace desc_ext::cuda

DESC_EXT_CUDA_LIBRARY(m) {
  m.impl("segment_gram", TORCH_BOX(&desc_ext::cuda::segment_gram));
  m.impl("segment_gram_backward", TORCH_BOX(&desc_ext::cuda::segment_gram_backward));
}
