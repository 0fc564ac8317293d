// Products with plain columns (product.cuh has the engine, its tiling and its numbers): distances to centroids,
// products of pairs of rows, the coefficients of a backward, and the rows of a gradient. Operations 2·n·p·C, 3·n·p·K
// for distances; bytes as the engine's, and the output once, in packs of 16 bytes where it is aligned.
//
// Registers and shared memory as the engine plans them; nothing is added.
// budget: product_(distances|pairs|coefficients|rows).*<float.* registers <= 128, shared <= 0, dynamic <= 37376
// budget: product_rows<float,.*false.* registers <= 224, shared <= 0, dynamic <= 37376
// budget: product_(distances|pairs|coefficients|rows).*<double.* registers <= 200, shared <= 0, dynamic <= 37376
// budget: cut_rows.* registers <= 48, shared <= 0, dynamic <= 0
#pragma once

#include "product.cuh"

namespace desc_ext::cuda {

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& values, bool whole, int64_t count) {
  if (whole) {
    write(reinterpret_cast<Pack<T>*>(to), values);
    return;
  }
#pragma unroll
  for (int u = 0; u < Pack<T>::size; ++u)
    if (u < count) write(to + u, values.at[u]);
}

// f(i, c, row, column, whole): thread row i and slot columns [c, c + pack) are columns [column, column + pack) of
// `row`; `whole` where all of them exist and a 16-byte store is aligned.
template <int Width, class T, class F>
__device__ __forceinline__ void for_each_pack(const Product<T>& job, const BlockView<T>& view, int tile, bool aligned,
                                              const F& f) {
  using Shape = TileShape<T>;
  if (view.tx >= job.plan.slots) return;
  const int count = int(job.plan.count), first = (tile * job.plan.slots + view.tx) * Width;
#pragma unroll
  for (int h = 0; h < Width / Shape::pack; ++h) {
    const int column = first + h * Shape::pack;
    if (column >= count) return;
    const bool whole = aligned && column + Shape::pack <= count;
#pragma unroll
    for (int i = 0; i < Shape::thread_rows; ++i) {
      if (view.row(i) < view.active_rows) f(i, h * Shape::pack, view.first + view.row(i), column, whole);
      keep_order();
    }
  }
}

template <class T, int Width>
using SlotSums = T[TileShape<T>::thread_rows][Width];

// What the engine makes of row i and column k to values [n, pitch]; where `Padded`, rows begin and end at packs.
template <class T, int Width, bool Padded>
struct ValuesEpilogue {
  const Product<T>& job;
  T* values;
  int pitch;

  __device__ __forceinline__ void chunk(const BlockView<T>& view, int tile, int, const SlotSums<T, Width>& sum) {
    const int count = int(job.plan.count);
    const bool aligned = Padded || pitch % Pack<T>::size == 0;
    for_each_pack<Width>(job, view, tile, aligned, [&](int i, int c, int64_t row, int column, bool whole) {
      Pack<T> pack;
#pragma unroll
      for (int u = 0; u < Pack<T>::size; ++u) pack.at[u] = sum[i][c + u];
      store_pack(values + row * pitch + column, pack, Padded || whole, count - column);
    });
  }
};

// ‖z_i − c_k‖². All terms are positive and a chain of p additions would lose digits that the differences do not: each
// stage is summed on its own, so a slot has only four columns, and two sums each.
template <class T>
__global__ void __launch_bounds__(256, TileShape<T>::blocks) product_distances(Product<T> job, T* values, int pitch) {
  ValuesEpilogue<T, kDistanceColumns, false> epilogue{job, values, pitch};
  walk<LaneEngine<T, kDistanceColumns, true>>(job, epilogue);
}

// z_i·c_k.
template <class T>
__global__ void __launch_bounds__(256, TileShape<T>::blocks) product_pairs(Product<T> job, T* values, int pitch) {
  ValuesEpilogue<T, kSlotColumns, true> epilogue{job, values, pitch};
  walk<LaneEngine<T, kSlotColumns, false>>(job, epilogue);
}

// What multiplies the energy or residual of row i and subspace k on its way back: (grad_ik − shift_i)·factor_i·scalar.
template <class T>
struct Upstream {
  const T* grad;    // [n, K]
  const T* shift;   // [n] or null
  const T* factor;  // [n] or null
  const T* scalar;  // one element or null

  __device__ __forceinline__ T shift_of(int64_t row) const { return shift ? read(shift + row) : T(0); }
  __device__ __forceinline__ T factor_of(int64_t row) const {
    return (factor ? read(factor + row) : T(1)) * (scalar ? read(scalar) : T(1));
  }
};

// g_ik a_ic to out [n, C], C = K·d columns.
template <class T>
struct CoefficientsEpilogue {
  const Product<T>& job;
  const Upstream<T>& upstream;
  int d;
  T* out;

  __device__ __forceinline__ void chunk(const BlockView<T>& view, int tile, int, const SlotSums<T, kSlotColumns>& sum) {
    const int C = int(job.plan.count), K = C / d;
    const bool aligned = C % Pack<T>::size == 0;
    for_each_pack<kSlotColumns>(job, view, tile, aligned, [&](int i, int c, int64_t row, int column, bool whole) {
      const T shift = upstream.shift_of(row), factor = upstream.factor_of(row);
      const T* grad = upstream.grad + row * K;
      int k = column / d, next = (k + 1) * d;
      Pack<T> pack;
#pragma unroll
      for (int u = 0; u < Pack<T>::size; ++u) {
        if (column + u == next) ++k, next += d;
        if (column + u < C) pack.at[u] = (read(grad + k) - shift) * factor * sum[i][c + u];
      }
      store_pack(out + row * C + column, pack, whole, C - column);
    });
  }
};

template <class T>
__global__ void __launch_bounds__(256, TileShape<T>::blocks)
    product_coefficients(Product<T> job, Upstream<T> upstream, int d, T* out) {
  CoefficientsEpilogue<T> epilogue{job, upstream, d, out};
  walk<LaneEngine<T, kSlotColumns, false>>(job, epilogue);
}

// outer · (row_factor_i x_i + inner · product): rows of a gradient, in their own storage type.
template <class T>
struct RowsOut {
  MutableRows out;
  Rows x;               // read where row_factor is given
  const T* row_factor;  // [n] or null
  T outer, inner;
};

// `Packs` where every access is a whole aligned pack of T, rows that are wider than the columns being filled up with
// zeros; the other kernel goes element by element, in any storage type.
template <class T, bool Packs>
struct RowsEpilogue {
  const Product<T>& job;
  const RowsOut<T>& rows;

  __device__ __forceinline__ void chunk(const BlockView<T>& view, int tile, int, const SlotSums<T, kSlotColumns>& sum) {
    for_each_pack<kSlotColumns>(job, view, tile, Packs, [&](int i, int c, int64_t row, int column, bool) {
      row += blockIdx.z * job.set_rows;
      const T factor = rows.row_factor ? read(rows.row_factor + row) : T(0);
      const int64_t at = row * rows.out.width + column;
      Pack<T> pack;
#pragma unroll
      for (int u = 0; u < Pack<T>::size; ++u) pack.at[u] = rows.inner * sum[i][c + u];
      if constexpr (Packs) {
        if (rows.row_factor) {
          const auto x = read(reinterpret_cast<const Pack<T>*>(static_cast<const T*>(rows.x.data) + at));
#pragma unroll
          for (int u = 0; u < Pack<T>::size; ++u) pack.at[u] += factor * x.at[u];
        }
#pragma unroll
        for (int u = 0; u < Pack<T>::size; ++u) pack.at[u] *= rows.outer;
        write(reinterpret_cast<Pack<T>*>(static_cast<T*>(rows.out.data) + at), pack);
      } else {
#pragma unroll
        for (int u = 0; u < Pack<T>::size; ++u) {
          if (column + u >= int(job.plan.count)) return;
          if (rows.row_factor) pack.at[u] += factor * load_element<T>(rows.x.data, rows.x.storage, at + u);
          store_element<T>(rows.out.data, rows.out.storage, at + u, rows.outer * pack.at[u]);
          keep_order();
        }
      }
    });
  }
};

template <class T, bool Packs>
__global__ void __launch_bounds__(256, Packs ? TileShape<T>::blocks : 1) product_rows(Product<T> job, RowsOut<T> rows) {
  RowsEpilogue<T, Packs> epilogue{job, rows};
  walk<LaneEngine<T, kSlotColumns, false>, true>(job, epilogue);
}

// Rows [n, p] from weights [n, C] and C columns, where blocks of whole rows would leave multiprocessors idle: the depth
// C is cut into equal parts, whose products stand in `partial` until they are added up in order.
template <class T>
struct DepthCuts {
  int64_t n, set_rows;  // n, and n rounded up to whole blocks
  int cuts;

  int64_t partial_elements(const Plan& plan) const { return cuts > 1 ? cuts * set_rows * plan.count : 0; }

  // The products of `weights` [n, C] with the depth from `first` on of the panels, a part in each set of blocks.
  Product<T> job(const T* weights, int64_t C, Plan plan, const T* panels, int64_t first) const {
    plan.p = C / cuts;
    const int64_t slice = kSlotColumns * plan.slots;
    const Rows rows{weights, sizeof(T) == 8 ? Storage::f64 : Storage::f32, C, nullptr};
    auto product = make_product<T>(rows, n, plan, panels + first * slice);
    product.packs = int(plan.p / TileShape<T>::pack);
    product.sets = cuts, product.set_rows = set_rows, product.set_elements = plan.p * slice;
    return product;
  }
};

// As many parts as keep two blocks on every multiprocessor, whose sums take at most `bytes`, with at least 64 columns
// each.
template <class T>
DepthCuts<T> cut_depth(const Plan& plan, int64_t n, int64_t bytes) {
  const int64_t rows = ceil_div<int64_t>(n, TileShape<T>::rows), set_rows = rows * TileShape<T>::rows;
  const int64_t wanted = TileShape<T>::blocks * multiprocessors() / (rows * plan.tiles);
  const int64_t fit = bytes / (set_rows * plan.count * int64_t(sizeof(T)));
  for (int64_t cuts = wanted < fit ? wanted : fit; cuts > 1; --cuts)
    if (plan.p % (cuts * TileShape<T>::pack) == 0 && plan.p / cuts >= 64) return {n, set_rows, int(cuts)};
  return {n, set_rows, 1};
}

// Rows are taken in pieces whose coefficients [rows, columns] take at most `bytes` (2,048 rows may take more), so that
// the workspace does not grow with n: as many whole waves of blocks as fit, or a half, a quarter, ... of one, which
// cut_depth() makes a whole one of.
template <class T>
int64_t piece_rows(int64_t n, int64_t columns, int64_t bytes) {
  const int64_t most = bytes / (columns * int64_t(sizeof(T))), fit = most < 2048 ? 2048 : most;
  int64_t wave = int64_t(TileShape<T>::blocks) * multiprocessors() * TileShape<T>::rows;
  while (wave > fit) wave /= 2;
  const int64_t piece = fit / wave * wave;
  return piece < n ? piece : n;
}

template <class T>
__global__ void __launch_bounds__(256)
    cut_rows_sum(DepthCuts<T> depth, int64_t width, const T* partial, int64_t pitch, RowsOut<T> rows) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, row = at / width;
  if (row >= depth.n) return;
  T sum = 0;
  for (int cut = 0; cut < depth.cuts; ++cut) sum += read(partial + (cut * depth.set_rows + row) * pitch + at % width);
  sum *= rows.inner;
  if (rows.row_factor) sum += read(rows.row_factor + row) * load_element<T>(rows.x.data, rows.x.storage, at);
  store_element<T>(rows.out.data, rows.out.storage, at, rows.outer * sum);
}

// Values stand `pitch` elements from row to row, or without a gap where it is not given.
template <class T>
cudaError_t run_distances(Product<T> job, T* values, cudaStream_t stream, int64_t pitch = 0) {
  const dim3 grid = product_grid(job);
  return launch(product_distances<T>, grid, job.threads, product_shared_bytes(job), stream, job, values,
                int(pitch ? pitch : job.plan.count));
}

// `pitch` is a multiple of 4.
template <class T>
cudaError_t run_products(Product<T> job, T* values, int64_t pitch, cudaStream_t stream) {
  const dim3 grid = product_grid(job);
  return launch(product_pairs<T>, grid, job.threads, product_shared_bytes(job), stream, job, values, int(pitch));
}

template <class T>
cudaError_t run_coefficients(Product<T> job, const Upstream<T>& upstream, int64_t d, T* out, cudaStream_t stream) {
  const dim3 grid = product_grid(job);
  return launch(product_coefficients<T>, grid, job.threads, product_shared_bytes(job), stream, job, upstream, int(d),
                out);
}

template <class T>
cudaError_t run_rows(Product<T> job, const RowsOut<T>& rows, cudaStream_t stream) {
  const dim3 grid = product_grid(job);
  const bool packs = copy_mode<T>({rows.out.data, rows.out.storage, rows.out.width, nullptr}) == CopyMode::packs &&
                     (!rows.row_factor || copy_mode<T>(rows.x) == CopyMode::packs);
  return launch(packs ? product_rows<T, true> : product_rows<T, false>, grid, job.threads, product_shared_bytes(job),
                stream, job, rows);
}

// The parts' sums, which stand `pitch` elements from row to row, added up in order.
template <class T>
cudaError_t run_cut_sum(const DepthCuts<T>& depth, int64_t width, const T* partial, int64_t pitch,
                        const RowsOut<T>& rows, cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div<int64_t>(depth.n * width, 256)));
  return launch(cut_rows_sum<T>, grid, 256, 0, stream, depth, width, partial, pitch, rows);
}

// run_rows() by parts; `partial` holds as many elements as `depth` says. `weights` [n, C] lie row after row.
template <class T>
cudaError_t run_cut_rows(const DepthCuts<T>& depth, const T* weights, const Plan& plan, const T* panels,
                         const RowsOut<T>& rows, T* partial, cudaStream_t stream) {
  const auto job = depth.job(weights, plan.p, plan, panels, 0);
  const RowsOut<T> plain{{partial, job.z.storage, plan.count}, {}, nullptr, T(1), T(1)};
  DESC_EXT_TRY(run_rows<T>(job, plain, stream));
  return run_cut_sum<T>(depth, plan.count, partial, plan.count, rows, stream);
}

}  // namespace desc_ext::cuda
