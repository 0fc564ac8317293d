// What is done once for each basis S_k [p, d], all of it small beside the products: the rotation that makes its
// residual a sum of squares, the layouts of the product engine, and the gradient of the basis from its coefficient
// moments.
//
// With M = 2I − SᵀS = Q diag(scale) Qᵀ and S̃ = S Q, ‖z − S Sᵀz‖² = ‖z‖² − Σ_c scale_c (S̃ᵀz)_c². Q comes from Jacobi
// rotations in float64: a block for each basis, d/2 disjoint rotations at a time (round robin), so a sweep is d − 1
// steps of two barriers; bases are nearly orthonormal, one or two sweeps do. Operations: K·(p·d² + sweeps·6·d³).
// Registers and shared memory are no concern here: one block a basis, 8·d bytes.
// budget: (prepare_bases|pack_.*|basis_gradient).* registers <= 96, shared <= 0, dynamic <= 49152
#pragma once

#include "projection.cuh"

namespace desc_ext::cuda {

inline constexpr int kBasisThreads = 256;

template <class T>
struct BasisArrays {
  T* columns;        // [K, d, p] the basis, its columns contiguous
  T* rotated;        // [K, d, p]
  T* scale;          // [K, d]
  double* matrix;    // [K, d, d] working space
  double* rotation;  // [K, d, d] Q
};

// Sum over the block of a product of two rows, for one (a, b) by each warp.
template <class T>
__device__ __forceinline__ double warp_dot(const T* a, const T* b, int64_t p) {
  double sum = 0;
  for (int64_t j = int(threadIdx.x) % kWarp; j < p; j += kWarp) sum += double(read(a + j)) * double(read(b + j));
  return warp_sum(sum);
}

// Partner of `player` in round `round` of a round robin of `players` (even): player players − 1 stays, the others turn.
__device__ __forceinline__ int partner(int player, int round, int players) {
  const int turning = players - 1;
  if (player == turning) {
    // the one that would meet itself: 2x = round (mod turning)
    return round % 2 == 0 ? round / 2 : (round + turning) / 2;
  }
  const int other = (round - player % turning + turning) % turning;
  return other == player ? turning : other;
}

// Makes m [d, d] diagonal by rotations that `rotation` collects; `cosine` and `sine` hold d elements each.
__device__ __forceinline__ void jacobi(double* m, double* rotation, int d, double tolerance, double* cosine,
                                       double* sine) {
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  double norm = 0;
  for (int i = thread % kWarp; i < d * d; i += kWarp) norm += m[i] * m[i];
  norm = warp_sum(norm);  // the same in every warp
  for (int i = thread; i < d * d; i += threads) rotation[i] = i / d == i % d ? 1.0 : 0.0;
  const double small = tolerance * sqrt(norm) / double(d);
  const bool finite = norm - norm == 0;
  const int players = d + d % 2;
  for (int sweep = 0; sweep < 40 && finite && d > 1; ++sweep) {
    bool turned = false;
    for (int round = 0; round + 1 < players; ++round) {
      __syncthreads();
      for (int a = thread; a < d; a += threads) {
        const int b = partner(a, round, players);
        double c = 1, s = 0;
        if (b < d) {
          const int low = a < b ? a : b, high = a < b ? b : a;
          const double off = m[low * d + high];
          if (fabs(off) > small) {
            turned = true;
            const double theta = (m[high * d + high] - m[low * d + low]) / (2 * off);
            const double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
            c = 1 / sqrt(t * t + 1);
            s = a == low ? -t * c : t * c;  // column a becomes c·a + s·partner
          }
        }
        cosine[a] = c, sine[a] = s;
      }
      __syncthreads();
      // Columns of m and of the rotation: each pair (row i, columns a < b) belongs to one thread.
      for (int at = thread; at < d * d; at += threads) {
        const int i = at / d, a = at % d, b = partner(a, round, players);
        if (b >= d || b < a || sine[a] == 0) continue;
        const double x = m[i * d + a], y = m[i * d + b];
        m[i * d + a] = cosine[a] * x + sine[a] * y;
        m[i * d + b] = cosine[b] * y + sine[b] * x;
        const double u = rotation[i * d + a], v = rotation[i * d + b];
        rotation[i * d + a] = cosine[a] * u + sine[a] * v;
        rotation[i * d + b] = cosine[b] * v + sine[b] * u;
      }
      __syncthreads();
      for (int at = thread; at < d * d; at += threads) {
        const int a = at / d, i = at % d, b = partner(a, round, players);
        if (b >= d || b < a || sine[a] == 0) continue;
        const double x = m[a * d + i], y = m[b * d + i];
        m[a * d + i] = i == b ? 0 : cosine[a] * x + sine[a] * y;
        m[b * d + i] = i == a ? 0 : cosine[b] * y + sine[b] * x;
      }
    }
    if (!__syncthreads_or(turned)) break;
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kBasisThreads)
    prepare_bases(const void* bases, Storage storage, int64_t p, int d, Metric metric, BasisArrays<T> arrays) {
  const int thread = int(threadIdx.x), warp = thread / kWarp, warps = kBasisThreads / kWarp;
  const int64_t k = blockIdx.x, size = p * d;
  T *columns = arrays.columns + k * size, *rotated = arrays.rotated + k * size;
  for (int64_t at = thread; at < size; at += kBasisThreads)
    write(columns + at % d * p + at / d, load_element<T>(bases, storage, k * size + at));
  if (metric == Metric::energy) return;
  __syncthreads();
  double *m = arrays.matrix + k * d * d, *rotation = arrays.rotation + k * d * d;
  for (int at = warp; at < d * d; at += warps) {
    const int a = at / d, b = at % d;
    if (b < a) continue;
    const double gram = warp_dot(columns + a * p, columns + b * p, p);
    if (thread % kWarp == 0) m[a * d + b] = m[b * d + a] = (a == b ? 2.0 : 0.0) - gram;
  }
  __syncthreads();
  double* cosine = static_cast<double*>(dynamic_shared());
  jacobi(m, rotation, d, (sizeof(T) == 8 ? 0x1p-52 : 0x1p-23) / 64, cosine, cosine + d);
  for (int c = thread; c < d; c += kBasisThreads) write(arrays.scale + k * d + c, T(m[c * d + c]));
  for (int64_t at = thread; at < size; at += kBasisThreads) {
    const int64_t c = at / p, j = at % p;
    double sum = 0;
    for (int a = 0; a < d; ++a) sum += double(columns[a * p + j]) * rotation[a * d + c];
    write(rotated + at, T(sum));
  }
}

// Panels of the plan from columns [K·d, p] or, for `transposed`, from rows [p, K·d] times row_scale. One thread an
// element.
template <class T>
__global__ void __launch_bounds__(256)
    pack_panels(Plan plan, const T* source, bool transposed, const T* row_scale, T* panels) {
  constexpr int pack = TileShape<T>::pack, pieces = TileShape<T>::pieces;
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= plan.panel_elements()) return;
  const int64_t line = at / pack, slot = line % plan.slots, piece = line / plan.slots % pieces;
  const int64_t depth = line / plan.slots / pieces % plan.depth, block = line / plan.slots / pieces / plan.depth;
  const int64_t tile = block / plan.chunks, chunk = block % plan.chunks;
  const int64_t c = piece * pack + at % pack, dim_in_slot = plan.width / plan.shared_slot;
  const int64_t k = (tile * plan.slots + slot) * plan.shared_slot + c / dim_in_slot;
  const int64_t inside = chunk * dim_in_slot + c % dim_in_slot;
  T value = 0;
  if (c < plan.width && k < plan.count && inside < plan.dim && depth < plan.p) {
    const int64_t column = k * plan.dim + inside;
    value = read(source + (transposed ? depth * plan.count * plan.dim + column : column * plan.p + depth));
    if (row_scale) value *= read(row_scale + depth);
  }
  write(panels + at, value);
}

// scale [K, d] as the panels' columns stand: [tiles][chunks][slots][8].
template <class T>
__global__ void __launch_bounds__(256) pack_scale(Plan plan, const T* scale, T* out) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= plan.scale_elements()) return;
  const int64_t c = at % kSlotColumns, slot = at / kSlotColumns % plan.slots, block = at / kSlotColumns / plan.slots;
  const int64_t tile = block / plan.chunks, chunk = block % plan.chunks, dim_in_slot = plan.width / plan.shared_slot;
  const int64_t k = (tile * plan.slots + slot) * plan.shared_slot + c / dim_in_slot;
  const int64_t inside = chunk * dim_in_slot + c % dim_in_slot;
  const bool stands = c < plan.width && k < plan.count && inside < plan.dim;
  write(out + at, stands ? read(scale + k * plan.dim + inside) : T(0));
}

// The gradient of S_k from B̃ = Σ_i g_ik z_i ã_ikᵀ, which stands in `moments` [K, d, p]: 2B for the energy, and for the
// residual −2BM + 2S(SᵀB), computed in the rotated columns, where M is diagonal, and rotated back:
// out_a = Σ_c (−2 scale_c Q_ac) b̃_c + Σ_b (Σ_c 2 s̃_b·b̃_c Q_ac) s̃_b. In float64. `matrix` and `weights` are [K, d, d].
template <class T>
__global__ void __launch_bounds__(kBasisThreads)
    basis_gradient(const T* moments, BasisArrays<T> arrays, double* weights, int64_t p, int d, Metric metric, void* out,
                   Storage storage) {
  const int thread = int(threadIdx.x), warp = thread / kWarp, warps = kBasisThreads / kWarp;
  const int64_t k = blockIdx.x, size = p * d;
  const T *moment = moments + k * size, *rotated = arrays.rotated + k * size;
  const double* rotation = arrays.rotation + k * d * d;
  double *inner = arrays.matrix + k * d * d, *weight = weights + k * d * d;
  if (metric == Metric::residual) {
    for (int at = warp; at < d * d; at += warps) {
      const double dot = warp_dot(rotated + at / d * p, moment + at % d * p, p);
      if (thread % kWarp == 0) inner[at] = dot;
    }
    __syncthreads();
    for (int at = thread; at < d * d; at += kBasisThreads) {
      const int a = at / d, b = at % d;
      double sum = 0;
      for (int c = 0; c < d; ++c) sum += inner[b * d + c] * rotation[a * d + c];
      weight[at] = 2 * sum;
    }
    __syncthreads();
  }
  for (int64_t at = thread; at < size; at += kBasisThreads) {
    const int64_t a = at % d, j = at / d;
    double sum = 2 * double(read(moment + a * p + j));
    if (metric == Metric::residual) {
      sum = 0;
      for (int c = 0; c < d; ++c)
        sum += weight[a * d + c] * double(read(rotated + c * p + j)) -
               2 * double(read(arrays.scale + k * d + c)) * rotation[a * d + c] * double(read(moment + c * p + j));
    }
    store_element<T>(out, storage, k * size + at, T(sum));
  }
}

inline dim3 grid_of(int64_t elements) { return dim3(unsigned(ceil_div<int64_t>(elements, 256))); }

// Energies leave `rotated` out: it may be the same array as `columns`.
template <class T>
cudaError_t run_prepare_bases(const void* bases, Storage storage, int64_t K, int64_t p, int64_t d, Metric metric,
                              const BasisArrays<T>& arrays, cudaStream_t stream) {
  return launch(prepare_bases<T>, dim3(unsigned(K)), kBasisThreads, 2 * size_t(d) * sizeof(double), stream, bases,
                storage, p, int(d), metric, arrays);
}

template <class T>
cudaError_t run_pack_panels(const Plan& plan, const T* source, bool transposed, const T* row_scale, T* panels,
                            cudaStream_t stream) {
  return launch(pack_panels<T>, grid_of(plan.panel_elements()), 256, 0, stream, plan, source, transposed, row_scale,
                panels);
}

template <class T>
cudaError_t run_pack_scale(const Plan& plan, const T* scale, T* out, cudaStream_t stream) {
  return launch(pack_scale<T>, grid_of(plan.scale_elements()), 256, 0, stream, plan, scale, out);
}

template <class T>
cudaError_t run_basis_gradient(const T* moments, const BasisArrays<T>& arrays, double* weights, int64_t K, int64_t p,
                               int64_t d, Metric metric, void* out, Storage storage, cudaStream_t stream) {
  return launch(basis_gradient<T>, dim3(unsigned(K)), kBasisThreads, 0, stream, moments, arrays, weights, p, int(d),
                metric, out, storage);
}

}  // namespace desc_ext::cuda
