// Self-expression family: the k largest coefficients or affinities of every row, their gradients, and what a learned C
// needs beside products.
//
// The largest of a row. Operations 2·n²·p in the product engine: every ordered pair is visited from its own row, so
// each product is computed twice, and in exchange nothing is ever added across rows. A block of pairs (pair_blocks.h)
// stands in L2, and is written and read there once, 8 bytes a pair; one warp a row tests 32 of its values at a time
// against the last of the k that it keeps, sorted, in global memory. About k·ln(n/k) of n values get through; each is
// put in its place by all lanes at once, ⌈k/32⌉ packs of entries. The gradient: 2·n·k·p operations for the products
// again, then 4·n·k·p as every row collects what it and those that chose it contribute; entries are sorted by whom they
// chose.
//
// A learned C [n, n]: 2·n²·p operations each forward, for dC and for dZ, in the engines. They take C from blocks that
// stand in L2, into which it is copied without its diagonal, in the type of the arithmetic, while its size is added up:
// so C is read once from memory for each of the three, and dC is written once.
//
// Registers: up to 64, which leave four blocks of 256 threads on a multiprocessor; no shared memory.
// budget: (select|selected|expression)_.* registers <= 64, shared <= 0, dynamic <= 0
#pragma once

#include <cmath>

#include "pair_rows.cuh"

namespace desc_ext::cuda {

// ---------------------------------------------------------------- the largest of every row
template <class T>
struct Selection {
  PairBlock block;
  const T* products;  // y_i·y_j
  const T* scale;     // [n] s: the sizes compared are |y_i·y_j| (s_i + s_j)/2; null: |y_i·y_j|
  int64_t k;
  T* values;         // [n, k], signed, by decreasing size
  int64_t* indices;  // [n, k], −1 where nothing has been found yet
};

// Puts a value that is larger than the last of a row's k into its place, behind those of its size.
template <class T>
__device__ __forceinline__ void insert(T value, int64_t j, int64_t k, T* values, int64_t* indices) {
  const T size = magnitude(value);
  const auto before = [&](int64_t at) { return read(indices + at) < 0 || magnitude(read(values + at)) < size; };
#pragma unroll 1
  for (int64_t end = k; end > 0; end -= kWarp) {  // from behind
    const int64_t at = end - 1 - lane_index();
    const bool changes = at >= 0 && before(at);
    T next_value = value;
    int64_t next_index = j;
    if (changes && at > 0 && before(at - 1)) next_value = read(values + at - 1), next_index = read(indices + at - 1);
    __syncwarp();  // all have read
    if (changes) write(values + at, next_value), write(indices + at, next_index);
    __syncwarp();
    if (__ballot_sync(kAllLanes, changes) != kAllLanes) return;
  }
}

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) select_largest(Selection<T> job) {
  const int lane = lane_index();
  const int64_t local = warp_row(), row = job.block.row + local, k = job.k;
  if (local >= job.block.rows) return;
  T* values = job.values + row * k;
  int64_t* indices = job.indices + row * k;
  const T* products = job.products + local * job.block.pitch;
  if (job.block.column == 0) {
    for (int64_t at = lane; at < k; at += kWarp) write(indices + at, int64_t(-1));
    __syncwarp();
  }
  const auto last_size = [&] { return read(indices + k - 1) < 0 ? T(-1) : magnitude(read(values + k - 1)); };
  const T own = job.scale ? read(job.scale + row) : T(0);
  T last = last_size();
  for (int64_t first = 0; first < job.block.columns; first += kWarp) {
    const int64_t j = job.block.column + first + lane;
    T value = 0;
    bool larger = false;
    if (first + lane < job.block.columns && j != row) {
      value = read(products + first + lane);
      if (job.scale) value *= (own + read(job.scale + j)) * T(0.5);
      larger = magnitude(value) > last;  // columns ascend: the first of a size has come before; NaN is nobody's largest
    }
    for (unsigned left = __ballot_sync(kAllLanes, larger); left; left &= left - 1) {
      const int source = __ffs(int(left)) - 1;
      const T next = __shfl_sync(kAllLanes, value, source);
      if (!(magnitude(next) > last)) continue;
      insert(next, job.block.column + first + source, k, values, indices);
      last = last_size();
    }
  }
}

// From the k largest to results. A row of NaN has found too few: it gets the first others, and NaN.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4)
    select_finish(T* values, int64_t* indices, const T* scale, bool affinity, int64_t count, int64_t n, int64_t k) {
  const int lane = lane_index();
  const int64_t row = warp_row(), first = row * k;
  if (row >= count) return;
  const bool missing = read(indices + first + k - 1) < 0;
  __syncwarp();
  if (missing && lane == 0) {
    int64_t next = 0;
    for (int64_t at = 0; at < k; ++at) {
      if (read(indices + first + at) >= 0) continue;
      const auto taken = [&] {
        if (next == row % n) return true;
        for (int64_t e = 0; e < at; ++e)
          if (read(indices + first + e) == next) return true;
        return false;
      };
      while (taken()) ++next;
      write(indices + first + at, next);
      write(values + first + at, T(NAN));
    }
  }
  __syncwarp();
  for (int64_t at = first + lane; at < first + k; at += kWarp)
    write(values + at, affinity ? magnitude(read(values + at)) : read(values + at) * read(scale + row));
}

template <class T>
cudaError_t run_select(const Selection<T>& job, cudaStream_t stream) {
  return launch_rows(select_largest<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_select_finish(T* values, int64_t* indices, const T* scale, bool affinity, int64_t count, int64_t n,
                              int64_t k, cudaStream_t stream) {
  return launch_rows(select_finish<T>, count, stream, values, indices, scale, affinity, count, n, k);
}

// ---------------------------------------------------------------- gradient of the largest
// Entry e = i·k + a with j = indices_e adds across_e y_j + own_e y_i to row i, and across_e y_i + other_e y_j to row j.
template <class T>
struct Selected {
  const T* y;  // [n, p]
  int64_t n, p, k;
  bool affinity;
  const int64_t* indices;   // [n, k]
  const T* grad;            // [n, k]
  const T *scale, *slope;   // [n]
  T *across, *own, *other;  // [n, k]
};

// One warp an entry.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) selected_weights(Selected<T> job) {
  const int64_t e = warp_row();
  if (e >= job.n * job.k) return;
  const int64_t i = e / job.k, j = read(job.indices + e);
  const double product = warp_dot(job.y + i * job.p, job.y + j * job.p, job.p);
  if (lane_index() != 0) return;
  const T grad = i == j ? T(0) : read(job.grad + e);  // a single row has no other
  const T signed_size = T(product), size = magnitude(signed_size);
  if (job.affinity) {
    const T sign = T((product > 0) - (product < 0));
    write(job.across + e, grad * sign * (read(job.scale + i) + read(job.scale + j)) / 2);
    write(job.own + e, grad * size * read(job.slope + i));
    write(job.other + e, grad * size * read(job.slope + j));
  } else {
    write(job.across + e, grad * read(job.scale + i));
    write(job.own + e, 2 * grad * signed_size * read(job.slope + i));
    write(job.other + e, T(0));
  }
}

// One warp a row; order[begin[i] .. begin[i + 1]) are the entries that chose row i.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4)
    selected_rows(Selected<T> job, const int64_t* begin, const int64_t* order, MutableRows out) {
  const int lane = lane_index();
  const int64_t row = warp_row(), p = job.p, k = job.k;
  if (row >= job.n) return;
  const int64_t from = read(begin + row), to = read(begin + row + 1);
  T own = 0;
  for (int64_t e = row * k + lane; e < (row + 1) * k; e += kWarp) own += read(job.own + e);
  for (int64_t at = from + lane; at < to; at += kWarp) own += read(job.other + read(order + at));
  own = warp_sum(own);
  for (int64_t c = lane; c < p; c += kWarp) {
    T sum = own * read(job.y + row * p + c);
#pragma unroll 4
    for (int64_t e = row * k; e < (row + 1) * k; ++e)
      sum += read(job.across + e) * read(job.y + read(job.indices + e) * p + c);
#pragma unroll 4
    for (int64_t at = from; at < to; ++at) {
      const int64_t e = read(order + at);
      sum += read(job.across + e) * read(job.y + e / k * p + c);
    }
    store_element<T>(out.data, out.storage, row * p + c, sum);
  }
}

template <class T>
cudaError_t run_selected(const Selected<T>& job, const int64_t* begin, const int64_t* order, const MutableRows& out,
                         cudaStream_t stream) {
  DESC_EXT_TRY(launch_rows(selected_weights<T>, job.n * job.k, stream, job));
  return launch_rows(selected_rows<T>, job.n, stream, job, begin, order, out);
}

// ---------------------------------------------------------------- a learned C
// C̃, that is C without its diagonal, of a block, and what each row adds to its size.
template <class T>
struct ExpressionBlock {
  PairBlock block;
  Rows coef;  // [n, n]
  bool absolute;
  T* out;                   // [rows, pitch]
  double* sizes = nullptr;  // [n] Σ_j |c̃_ij| or Σ_j c̃_ij², where wanted
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) expression_block(ExpressionBlock<T> job) {
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  end_row(job.block, local, job.out);
  T sum = 0;
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t j = job.block.column + c;
    const T coef = j == row ? T(0) : load_element<T>(job.coef.data, job.coef.storage, row * job.coef.width + j);
    write(job.out + local * job.block.pitch + c, coef);
    sum += job.absolute ? magnitude(coef) : coef * coef;
  }
  if (!job.sizes) return;
  const double size = warp_sum(double(sum));
  if (lane_index() == 0) add_to_row(job.block, job.sizes + row, size);
}

// dC = g_size · (2 C or sign C) − g E Zᵀ of a block, from E Zᵀ; zero on the diagonal.
template <class T>
struct ExpressionCoef {
  PairBlock block;
  const T* products;  // e_i·z_j
  Rows coef;          // [n, n]
  bool absolute;
  const T *grad, *grad_size;  // an element each
  MutableRows out;            // [n, n]
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) expression_coef(ExpressionCoef<T> job) {
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  const T grad = read(job.grad), grad_size = read(job.grad_size);
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t j = job.block.column + c, at = row * job.coef.width + j;
    const T coef = load_element<T>(job.coef.data, job.coef.storage, at);
    const T slope = job.absolute ? T((coef > 0) - (coef < 0)) : 2 * coef;
    const T value = grad_size * slope - grad * read(job.products + local * job.block.pitch + c);
    store_element<T>(job.out.data, job.out.storage, at, j == row ? T(0) : value);
  }
}

// dZ = g (E − C̃ᵀE).
template <class T>
struct ExpressionRows {
  const T *difference, *moments;  // [n, p] E and C̃ᵀE
  const T* grad;                  // an element
  int64_t n;
  MutableRows out;
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) expression_rows(ExpressionRows<T> job) {
  const int64_t row = warp_row(), p = job.out.width;
  if (row >= job.n) return;
  const T grad = read(job.grad);
  for (int64_t at = row * p + lane_index(); at < (row + 1) * p; at += kWarp)
    store_element<T>(job.out.data, job.out.storage, at, grad * (read(job.difference + at) - read(job.moments + at)));
}

template <class T>
cudaError_t run_expression_block(const ExpressionBlock<T>& job, cudaStream_t stream) {
  return launch_rows(expression_block<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_expression_coef(const ExpressionCoef<T>& job, cudaStream_t stream) {
  return launch_rows(expression_coef<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_expression_rows(const ExpressionRows<T>& job, cudaStream_t stream) {
  return launch_rows(expression_rows<T>, job.n, stream, job);
}

}  // namespace desc_ext::cuda
