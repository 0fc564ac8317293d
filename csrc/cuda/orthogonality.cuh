// Block orthogonality ‖SᵀS ⊙ I − I‖² + ‖SᵀS ⊙ O‖² in float64, as on the CPU (csrc/cpu/orthogonality.cpp has the
// formulas): the off-diagonal blocks hold ‖SᵀS‖² − Σ_k ‖G_k‖², and ‖SᵀS‖² is taken from the smaller of SᵀS and SSᵀ.
//
// Operations: the Gram matrix on the moment engine, p·Kd·min(p, Kd) in float64, backward as much again on the product
// engine; the kernels here touch each element once. Bases are small beside the rows that the other operators read.
// budget: (spread_bases|block_grams|penalty).* registers <= 96, shared <= 128, dynamic <= 0
#pragma once

#include "bases.cuh"
#include "moments.cuh"

namespace desc_ext::cuda {

struct Blocks {
  int64_t K, p, d;
  bool tall;                // K·d ≤ p
  bool orthonormal;         // S_kᵀS_k = I is asked inside the blocks, else unit columns
  double* rows = nullptr;   // S [p, Kd] when tall, else Sᵀ [Kd, p]
  double* gram = nullptr;   // rowsᵀ rows
  double* block = nullptr;  // [K, d, d] G_k

  __host__ __device__ int64_t size() const { return tall ? K * d : p; }  // of the Gram matrix
  int64_t length() const { return tall ? p : K * d; }                    // number of rows
  __device__ __forceinline__ int64_t element(int64_t k, int64_t j, int64_t c) const {
    return tall ? j * K * d + k * d + c : (k * d + c) * p + j;
  }
  // What G_k is beyond what is asked of it inside its block; entries that nothing is asked of are 0.
  __device__ __forceinline__ double excess(int64_t k, int64_t a, int64_t b) const {
    return !orthonormal && a != b ? 0.0 : read(block + (k * d + a) * d + b) - (a == b ? 1.0 : 0.0);
  }
};

template <int Unused = 0>
__global__ void __launch_bounds__(256) spread_bases(const void* bases, Storage storage, Blocks s) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= s.K * s.p * s.d) return;
  const int64_t c = at % s.d, j = at / s.d % s.p, k = at / s.d / s.p;
  write(s.rows + s.element(k, j, c), load_element<double>(bases, storage, at));
}

// G_k, one block a basis, one warp an entry.
template <int Unused = 0>
__global__ void __launch_bounds__(256) block_grams(Blocks s) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t k = blockIdx.x;
  for (int64_t at = warp; at < s.d * s.d; at += 8) {
    const int64_t a = at / s.d, b = at % s.d;
    if (b < a) continue;
    double sum = 0;
    for (int64_t j = lane; j < s.p; j += kWarp)
      sum += read(s.rows + s.element(k, j, a)) * read(s.rows + s.element(k, j, b));
    sum = warp_sum(sum);
    if (lane != 0) continue;
    write(s.block + (k * s.d + a) * s.d + b, sum);
    if (b > a) write(s.block + (k * s.d + b) * s.d + a, sum);
  }
}

// Sums over the Gram matrix and the blocks: [outside, inside] of each block of threads.
template <int Unused = 0>
__global__ void __launch_bounds__(256) penalty_partials(Blocks s, int64_t size, double* partial) {
  __shared__ double shared[8];
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  double outside = 0, inside = 0;
  for (int64_t at = first; at < size * size; at += step) {
    const double g = read(s.gram + at);
    if (!s.tall || at / size / s.d != at % size / s.d) outside += g * g;
  }
  for (int64_t at = first; at < s.K * s.d * s.d; at += step) {
    const double g = read(s.block + at), excess = s.excess(at / s.d / s.d, at / s.d % s.d, at % s.d);
    if (!s.tall) outside -= g * g;
    inside += excess * excess;
  }
  outside = block_sum(outside, shared);
  inside = block_sum(inside, shared);
  if (threadIdx.x != 0) return;
  write(partial + 2 * blockIdx.x, outside);
  write(partial + 2 * blockIdx.x + 1, inside);
}

template <class T>
__global__ void __launch_bounds__(256) penalty_total(const double* partial, int count, T* out) {
  __shared__ double shared[8];
  double outside = 0, inside = 0;
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
    outside += read(partial + 2 * i);
    inside += read(partial + 2 * i + 1);
  }
  outside = block_sum(outside, shared);
  inside = block_sum(inside, shared);
  if (threadIdx.x == 0) write(out, T((outside > 0 ? outside : 0) + inside));
}

// Backward, tall: the diagonal blocks of the Gram matrix become their excess.
template <int Unused = 0>
__global__ void __launch_bounds__(256) penalty_excess(Blocks s) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= s.K * s.d * s.d) return;
  const int64_t k = at / s.d / s.d, a = at / s.d % s.d, b = at % s.d;
  write(s.gram + (k * s.d + a) * s.K * s.d + k * s.d + b, s.excess(k, a, b));
}

// d/dS_k = 4 (S SᵀS)_k − 4 S_k G_k + 4 S_k E_k, with `product` = rows · Gram.
template <class T>
__global__ void __launch_bounds__(256)
    penalty_gradient(Blocks s, const double* product, const T* grad, void* out, Storage storage) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= s.K * s.p * s.d) return;
  const int64_t c = at % s.d, j = at / s.d % s.p, k = at / s.d / s.p;
  double x = read(product + s.element(k, j, c));
  if (!s.tall)
    for (int64_t a = 0; a < s.d; ++a)
      x += read(s.rows + s.element(k, j, a)) * (s.excess(k, a, c) - read(s.block + (k * s.d + a) * s.d + c));
  store_element<T>(out, storage, at, T(4 * double(read(grad)) * x));
}

inline constexpr int kPenaltyBlocks = 128;

inline Rows double_rows(const Blocks& s) { return {s.rows, Storage::f64, s.size(), nullptr}; }

// Fills rows, block and gram; `moments` is made by make_moments<double> of double_rows with itself.
inline cudaError_t run_block_grams(const void* bases, Storage storage, const Blocks& s, const Moments<double>& moments,
                                   cudaStream_t stream) {
  DESC_EXT_TRY(launch(spread_bases<>, grid_of(s.K * s.p * s.d), 256, 0, stream, bases, storage, s));
  DESC_EXT_TRY(launch(block_grams<>, dim3(unsigned(s.K)), 256, 0, stream, s));
  return run_moments(moments, stream);
}

// `partial` holds 2 · kPenaltyBlocks elements.
template <class T>
cudaError_t run_penalty(const Blocks& s, double* partial, T* out, cudaStream_t stream) {
  DESC_EXT_TRY(launch(penalty_partials<>, dim3(kPenaltyBlocks), 256, 0, stream, s, s.size(), partial));
  return launch(penalty_total<T>, dim3(1), 256, 0, stream, partial, kPenaltyBlocks, out);
}

// `panels` holds plan_columns<double>(size, size).panel_elements() elements, `product` as many as the bases.
template <class T>
cudaError_t run_penalty_gradient(const Blocks& s, double* panels, double* product, const T* grad, void* out,
                                 Storage storage, cudaStream_t stream) {
  if (s.tall) DESC_EXT_TRY(launch(penalty_excess<>, grid_of(s.K * s.d * s.d), 256, 0, stream, s));
  const Plan plan = plan_columns<double>(s.size(), s.size());
  DESC_EXT_TRY(run_pack_panels<double>(plan, s.gram, false, nullptr, panels, stream));
  const RowsOut<double> rows{{product, Storage::f64, s.size()}, {}, nullptr, 1.0, 1.0};
  DESC_EXT_TRY(run_rows(make_product<double>(double_rows(s), s.length(), plan, panels), rows, stream));
  return launch(penalty_gradient<T>, grid_of(s.K * s.p * s.d), 256, 0, stream, s, product, grad, out, storage);
}

}  // namespace desc_ext::cuda
