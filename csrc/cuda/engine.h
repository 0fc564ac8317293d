// The engines' launches, compiled once, in engine.cu: every operator file would otherwise hold the same kernels again.
#pragma once

#include "bases.cuh"
#include "moments.cuh"
#include "tensor_columns.cuh"
#include "tensor_moments.cuh"

namespace desc_ext::cuda {

#define DESC_EXT_ENGINE(declare, T)                                                                               \
  declare template cudaError_t run_values<T>(const Projection<T>&, dim3, T*, const T*, cudaStream_t);             \
  declare template cudaError_t run_distances<T>(Product<T>, T*, cudaStream_t, int64_t);                           \
  declare template cudaError_t run_products<T>(Product<T>, T*, int64_t, cudaStream_t);                            \
  declare template cudaError_t run_coefficients<T>(Product<T>, const Upstream<T>&, int64_t, T*, cudaStream_t);    \
  declare template cudaError_t run_rows<T>(Product<T>, const RowsOut<T>&, cudaStream_t);                          \
  declare template cudaError_t run_cut_rows<T>(const DepthCuts<T>&, const T*, const Plan&, const T*,              \
                                               const RowsOut<T>&, T*, cudaStream_t);                              \
  declare template cudaError_t run_cut_sum<T>(const DepthCuts<T>&, int64_t, const T*, int64_t, const RowsOut<T>&, \
                                              cudaStream_t);                                                      \
  declare template cudaError_t run_moments<T>(const Moments<T>&, cudaStream_t);                                   \
  declare template cudaError_t run_upstream_rows<T>(const Upstream<T>&, const T*, int64_t, int64_t, T*, T*,       \
                                                    cudaStream_t);                                                \
  declare template cudaError_t run_prepare_bases<T>(const void*, Storage, int64_t, int64_t, int64_t, Metric,      \
                                                    const BasisArrays<T>&, cudaStream_t);                         \
  declare template cudaError_t run_pack_panels<T>(const Plan&, const T*, bool, const T*, T*, cudaStream_t);       \
  declare template cudaError_t run_pack_scale<T>(const Plan&, const T*, T*, cudaStream_t);                        \
  declare template cudaError_t run_basis_gradient<T>(const T*, const BasisArrays<T>&, double*, int64_t, int64_t,  \
                                                     int64_t, Metric, void*, Storage, cudaStream_t);

// tensor_columns.cuh
cudaError_t run_tensor_coefficients(int parts, const Product<float>& job, const Columns& columns, const float* scales,
                                    const Upstream<float>& upstream, int64_t d, float* out, cudaStream_t stream);
cudaError_t run_tensor_rows(const Product<float>& job, const Columns& columns, const float* scales,
                            const RowsOut<float>& out, cudaStream_t stream);
cudaError_t run_tensor_moments(const Moments<float>& job, cudaStream_t stream);  // tensor_moments.cuh

#ifndef DESC_EXT_ENGINE_HERE
DESC_EXT_ENGINE(extern, float)
DESC_EXT_ENGINE(extern, double)
#endif

}  // namespace desc_ext::cuda
