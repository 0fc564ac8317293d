// From tensors to the kernels' plain arrays: current stream and device, workspace, checks of every launch. Compiled for
// CUDA tensors, and with other definitions of the macros below for tests that run the kernels elsewhere.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

#include "../checks.h"
#include "../tensors.h"
#include "engine.h"

#ifndef DESC_EXT_NAMESPACE  // of the operators, as in operators.cpp
#define DESC_EXT_NAMESPACE desc_ext
#endif
#ifndef DESC_EXT_DISPATCH_KEY  // of the tensors that these kernels take
#define DESC_EXT_DISPATCH_KEY CUDA
#endif
#ifndef DESC_EXT_LIMITS
#define DESC_EXT_LIMITS Limits()
#endif
// One more macro, so that the preprocessor puts both in first.
#define DESC_EXT_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)
#define DESC_EXT_CUDA_LIBRARY(m) DESC_EXT_LIBRARY_IMPL(DESC_EXT_NAMESPACE, DESC_EXT_DISPATCH_KEY, m)

namespace desc_ext::cuda {

using torch::stable::contiguous;

// torch's current stream of a CUDA device. The function that tells it is libtorch_cuda's: a CPU-only torch lacks that
// library, so this one is not linked with it, but where there are CUDA tensors it is in the process.
// Stream::nativeHandle(), which would need neither, came with torch 2.13.
inline cudaStream_t current_stream(int32_t device_index) {
  using Function = AOTITorchError (*)(int32_t device_index, void** stream);
  static const auto function = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Function>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(function, "this torch has no aoti_torch_get_current_cuda_stream in libtorch_cuda.so");
  STD_TORCH_CHECK(function(device_index, &stream) == AOTI_TORCH_SUCCESS, "no current stream of CUDA device ",
                  device_index);
  return static_cast<cudaStream_t>(stream);
}

// Makes the tensor's device the current one for its scope and holds its current stream. Tensors on the CPU, which only
// tests pass in, have neither.
class Device {
 public:
  explicit Device(const Tensor& tensor) {
    if (tensor.is_cpu()) return;
    const auto index = tensor.get_device_index();
    guard_.emplace(index);
    stream = current_stream(index);
  }

  cudaStream_t stream = nullptr;
  const Limits limits = DESC_EXT_LIMITS;

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

inline void check_launch(const char* op, cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, op, ": CUDA reports: ", cudaGetErrorString(error));
}

inline void check_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(
      tensor.is_cpu() == like.is_cpu() && (tensor.is_cpu() || tensor.get_device_index() == like.get_device_index()), op,
      ": ", name, " is on another device than the other arguments");
}

inline Storage storage_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Storage::f64;
    case ScalarType::Half: return Storage::f16;
    case ScalarType::BFloat16: return Storage::bf16;
    default: return Storage::f32;
  }
}

template <class T>
inline constexpr Storage kStorage = std::is_same_v<T, double> ? Storage::f64 : Storage::f32;

inline int64_t element_size(Storage storage) { return storage == Storage::f64 ? 8 : storage == Storage::f32 ? 4 : 2; }

// Rows from `first` on of a contiguous tensor, whose last dimension is the row.
inline Rows rows_of(const Tensor& tensor, int64_t first = 0, const int64_t* index = nullptr) {
  const int64_t width = tensor.size(tensor.dim() - 1);
  return {static_cast<const char*>(tensor.const_data_ptr()) + first * width * element_size(storage_of(tensor)),
          storage_of(tensor), width, index};
}

inline MutableRows mutable_rows_of(Tensor& tensor, int64_t first = 0) {
  const int64_t width = tensor.size(tensor.dim() - 1);
  return {static_cast<char*>(tensor.mutable_data_ptr()) + first * width * element_size(storage_of(tensor)),
          storage_of(tensor), width};
}

// Device memory of torch's allocator, which knows the stream and takes it back in order.
template <class T>
class Workspace {
 public:
  Workspace(const Tensor& like, int64_t elements)
      : bytes_(empty_of(like, {elements * int64_t(sizeof(T))}, ScalarType::Byte)) {}
  T* get() { return static_cast<T*>(bytes_.mutable_data_ptr()); }
  operator T*() { return get(); }
  void zero() { torch::stable::zero_(bytes_); }

 private:
  Tensor bytes_;
};

// Runs `job`, whose out is set, with slots of its own.
template <class T>
void moments_to_out(const char* op, Moments<T> job, const Tensor& like, const Device& device) {
  Workspace<T> slots(like, moment_slots(job));
  job.slots = slots;
  check_launch(op, run_moments(job, device.stream));
}

// out = outer · (row_factor x + inner · weights · columns) for weights [n, C] and the columns in `panels`, its depth
// cut where the rows alone would not fill the device.
template <class T>
void rows_to_out(const char* op, const T* weights, int64_t n, const Plan& plan, const T* panels, const RowsOut<T>& out,
                 const Tensor& like, const Device& device) {
  const auto depth = cut_depth<T>(plan, n, device.limits.partial);
  if (depth.cuts == 1) {
    const Rows rows{weights, kStorage<T>, plan.p, nullptr};
    return check_launch(op, run_rows<T>(make_product<T>(rows, n, plan, panels), out, device.stream));
  }
  Workspace<T> partial(like, depth.partial_elements(plan));
  check_launch(op, run_cut_rows<T>(depth, weights, plan, panels, out, partial, device.stream));
}

inline Metric metric_of(const char* op, const std::string& name) {
  return asks_residual(op, name) ? Metric::residual : Metric::energy;
}

// Bases in the layouts of the kernels: no copy grows with n.
template <class T>
class PreparedBases {
 public:
  const int64_t K, p, d;
  const Metric metric;
  BasisArrays<T> arrays;

  PreparedBases(const char* op, const Tensor& bases, Metric metric_, const Device& device)
      : K(bases.size(0)), p(bases.size(1)), d(bases.size(2)), metric(metric_), op_(op), like_(bases), device_(device),
        columns_(bases, K * d * p), rotated_(bases, metric == Metric::residual ? K * d * p : 0),
        scale_(bases, metric == Metric::residual ? K * d : 0),
        matrix_(bases, metric == Metric::residual ? K * d * d : 0),
        rotation_(bases, metric == Metric::residual ? K * d * d : 0) {
    const Tensor dense = contiguous(bases);
    arrays = {columns_, metric == Metric::residual ? rotated_.get() : columns_.get(), scale_, matrix_, rotation_};
    check_launch(
        op_, run_prepare_bases<T>(dense.const_data_ptr(), storage_of(dense), K, p, d, metric, arrays, device.stream));
  }

  // The forward job of rows [first, first + n) of z, whose panels this keeps; all its calls are for one z.
  Projection<T> projection(const Tensor& z, int64_t first, int64_t n, bool allow_tf32 = false) {
    const int parts = sizeof(T) == 4 ? tensor_parts(storage_of(z), allow_tf32, K, d, p) : 0;
    const Plan plan = parts ? plan_tensor(K, d, p) : plan_subspaces<T>(K, d, p);
    if (!panels_) pack(plan, parts);
    Projection<T> job{make_product<T>(rows_of(z, first), n, plan, *panels_),
                      metric,
                      packed_scale_ ? packed_scale_->get() : nullptr,
                      arrays.columns,
                      nullptr,
                      parts};
    job.product.norms = metric == Metric::residual;
    if (parts) job.product.threads = TensorTile::threads, job.product.stage = TensorTile::stage;
    return job;
  }

  // The gradient of the bases from Σ_i g_ik z_i a_ikᵀ, `moments` [K, d, p].
  void gradient(const T* moments, Tensor& out) {
    Workspace<double> weights(like_, metric == Metric::residual ? K * d * d : 0);
    check_launch(op_, run_basis_gradient<T>(moments, arrays, weights, K, p, d, metric, out.mutable_data_ptr(),
                                            storage_of(out), device_.stream));
  }

 private:
  void pack(const Plan& plan, int parts) {
    panels_.emplace(like_, plan.panel_elements());
    if (parts || metric == Metric::residual) packed_scale_.emplace(like_, (parts ? 2 : 1) * plan.scale_elements());
    if constexpr (sizeof(T) == 4)
      if (parts) {
        const T* weight = metric == Metric::residual ? arrays.scale : nullptr;
        return check_launch(op_, run_pack_tensor_panels(plan, {arrays.rotated, K * d, p}, weight, *panels_,
                                                        *packed_scale_, device_.stream));
      }
    check_launch(op_, run_pack_panels<T>(plan, arrays.rotated, false, nullptr, *panels_, device_.stream));
    if (metric == Metric::residual)
      check_launch(op_, run_pack_scale<T>(plan, arrays.scale, *packed_scale_, device_.stream));
  }

  const char* op_;
  const Tensor like_;
  const Device& device_;
  Workspace<T> columns_, rotated_, scale_;
  Workspace<double> matrix_, rotation_;
  std::optional<Workspace<T>> panels_, packed_scale_;
};

// The grid of a values-like launch and the scratch of its direct residuals.
template <class T>
struct ValuesLaunch {
  dim3 grid;
  Workspace<T> scratch;
  ValuesLaunch(Projection<T>& job, const Tensor& like)
      : grid(product_grid(job.product)), scratch(like, values_scratch(job, grid)) {
    job.scratch = scratch;
  }
};

}  // namespace desc_ext::cuda
