// Products with plain columns on tensor cores (tensor.cuh has the engine): the coefficients of a backward and the rows
// of a gradient, in place of those of columns.cuh. Columns stand 8 in a slot, whatever subspace they belong to.
//
// Operations and bytes as there; the rows of a gradient are weights [n, C] in float32, so they take three products.
// What comes out infinite or NaN is computed again by the lane that holds it.
// budget: product_tensor_(coefficients|rows).* registers <= 255, shared <= 0, dynamic <= 67072
#pragma once

#include "columns.cuh"
#include "tensor.cuh"

namespace desc_ext::cuda {

inline Plan plan_tensor_columns(int64_t columns, int64_t depth) {
  return plan_tensor(ceil_div<int64_t>(columns, kSlotColumns), kSlotColumns, depth);
}

inline int tensor_parts_of_columns(Storage storage, int64_t columns, int64_t depth) {
  return tensor_parts(storage, false, ceil_div<int64_t>(columns, kSlotColumns), kSlotColumns, depth);
}

// A lane's products: two columns of each of its 8 slots, in 8 rows that are 8 apart. `Store` takes them.
template <class Store>
struct TensorColumnsEpilogue {
  const Product<float>& job;
  const Columns& columns;
  const float* scales;
  const Store& store;

  __device__ __forceinline__ void chunk(const BlockView<float>& view, int tile, int, const TensorTile::Sum& sum) {
    const int first_slot = view.warp / 2 * TensorTile::warp_slots;
    const int first_row = view.warp % 2 * TensorTile::warp_rows + view.lane / 4;
    const int first_column = (tile * job.plan.slots + first_slot) * kSlotColumns + view.lane % 4 * 2;
    unsigned again[TensorTile::warp_slots / 2] = {};  // a bit for each product that is not finite
#pragma unroll
    for (int s = 0; s < TensorTile::warp_slots; ++s) {
      const int column = first_column + s * kSlotColumns;
      if (first_slot + s >= job.plan.slots || column >= columns.count) continue;
      const auto scale = read(reinterpret_cast<const Pack<float>*>(scales + 2 * int64_t(column)));
      const auto place = store.place(column, columns.count);
#pragma unroll
      for (int i = 0; i < 2 * TensorTile::row_tiles; ++i) {
        const auto& product = sum[i / 2 * TensorTile::warp_slots + s];
        const float low = product[i % 2 * 2] * scale.at[0], high = product[i % 2 * 2 + 1] * scale.at[2];
        again[s / 2] |= unsigned(!(low - low == 0)) << (s % 2 * 16 + i * 2);
        again[s / 2] |= unsigned(!(high - high == 0)) << (s % 2 * 16 + i * 2 + 1);
        const int row = first_row + i * 8;
        if (row < view.active_rows) store.pair(view.first + row, place, low, high);
        keep_order();
      }
    }
#pragma unroll
    for (int word = 0; word < TensorTile::warp_slots / 2; ++word) {
#pragma unroll 1
      while (again[word]) {
        const int bit = __ffs(int(again[word])) - 1, row = first_row + bit % 16 / 2 * 8;
        const int column = first_column + (word * 2 + bit / 16) * kSlotColumns + bit % 2;
        again[word] &= again[word] - 1;
        if (row >= view.active_rows || column >= columns.count) continue;
        const int64_t at = (view.first + row) * job.z.width;
        float product = 0;
#pragma unroll 1
        for (int64_t k = 0; k < columns.depth; ++k)
          product += load_element<float>(job.z.data, job.z.storage, at + k) * columns.element(column, k);
        store.one(view.first + row, column, product);
      }
    }
  }
};

// g_ik a_ic to out [n, C], as CoefficientsEpilogue.
struct CoefficientsStore {
  Upstream<float> upstream;
  int d, C;
  float* out;

  struct Place {
    int column, k, next_k;
    bool pair, packed;  // whether there is a second column, and both are stored at once
  };
  __device__ __forceinline__ Place place(int column, int64_t) const {
    return {column, column / d, (column + 1) / d, column + 1 < C, C % 2 == 0};
  }
  __device__ __forceinline__ float weight(int64_t row, int k) const {
    return (read(upstream.grad + row * (C / d) + k) - upstream.shift_of(row)) * upstream.factor_of(row);
  }
  __device__ __forceinline__ void one(int64_t row, int column, float a) const {
    write(out + row * C + column, weight(row, column / d) * a);
  }
  __device__ __forceinline__ void pair(int64_t row, const Place& place, float low, float high) const {
    const float first = weight(row, place.k);
    float* to = out + row * C + place.column;
    if (place.packed) {
      const float second = place.next_k == place.k ? first : weight(row, place.next_k);
      return write(reinterpret_cast<float2*>(to), make_float2(first * low, second * high));
    }
    write(to, first * low);
    if (place.pair) write(to + 1, weight(row, place.next_k) * high);
  }
};

// outer · (row_factor_i x_i + inner · product), as RowsEpilogue.
struct RowsStore {
  RowsOut<float> rows;
  bool packed;  // two float32 at once

  struct Place {
    int column;
    bool pair;
  };
  __device__ __forceinline__ Place place(int column, int64_t count) const { return {column, column + 1 < count}; }
  __device__ __forceinline__ void one(int64_t row, int column, float product) const {
    const int64_t at = row * rows.out.width + column;
    float value = rows.inner * product;
    if (rows.row_factor) value += read(rows.row_factor + row) * load_element<float>(rows.x.data, rows.x.storage, at);
    store_element<float>(rows.out.data, rows.out.storage, at, rows.outer * value);
  }
  __device__ __forceinline__ void pair(int64_t row, const Place& place, float low, float high) const {
    if (!packed) {
      one(row, place.column, low);
      if (place.pair) one(row, place.column + 1, high);
      return;
    }
    const int64_t at = row * rows.out.width + place.column;
    low *= rows.inner, high *= rows.inner;
    if (rows.row_factor) {
      const float factor = read(rows.row_factor + row);
      const float2 x = read(reinterpret_cast<const float2*>(static_cast<const float*>(rows.x.data) + at));
      low += factor * x.x, high += factor * x.y;
    }
    write(reinterpret_cast<float2*>(static_cast<float*>(rows.out.data) + at),
          make_float2(rows.outer * low, rows.outer * high));
  }
};

template <int Parts>
__global__ void __launch_bounds__(TensorTile::threads, 2)
    product_tensor_coefficients(Product<float> job, Columns columns, const float* scales, CoefficientsStore store) {
  TensorColumnsEpilogue<CoefficientsStore> epilogue{job, columns, scales, store};
  walk_tensor<Parts>(job, epilogue);
}

template <int Parts>
__global__ void __launch_bounds__(TensorTile::threads, 2)
    product_tensor_rows(Product<float> job, Columns columns, const float* scales, RowsStore store) {
  TensorColumnsEpilogue<RowsStore> epilogue{job, columns, scales, store};
  walk_tensor<Parts>(job, epilogue);
}

// `panels` and `scales` are those of pack_tensor_panels for plan_tensor_columns().
inline Product<float> tensor_product(const Rows& z, int64_t n, const Plan& plan, const float* panels) {
  auto job = make_product<float>(z, n, plan, panels);
  job.threads = TensorTile::threads, job.stage = TensorTile::stage;
  return job;
}

inline cudaError_t launch_tensor_coefficients(int parts, Product<float> job, const Columns& columns,
                                              const float* scales, const Upstream<float>& upstream, int64_t d,
                                              float* out, cudaStream_t stream) {
  const dim3 grid = product_grid(job);
  const CoefficientsStore store{upstream, int(d), int(columns.count), out};
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, job.threads, product_shared_bytes(job), stream, job, columns, scales, store);
  };
  return parts == 2 ? run(product_tensor_coefficients<2>) : run(product_tensor_coefficients<3>);
}

inline cudaError_t launch_tensor_rows(Product<float> job, const Columns& columns, const float* scales,
                                      const RowsOut<float>& out, cudaStream_t stream) {
  const dim3 grid = product_grid(job);
  const auto pairs = [](const Rows& rows) {
    return rows.storage == Storage::f32 && rows.width % 2 == 0 && reinterpret_cast<uintptr_t>(rows.data) % 8 == 0;
  };
  const bool packed =
      pairs({out.out.data, out.out.storage, out.out.width, nullptr}) && (!out.row_factor || pairs(out.x));
  return launch(product_tensor_rows<3>, grid, job.threads, product_shared_bytes(job), stream, job, columns, scales,
                RowsStore{out, packed});
}

}  // namespace desc_ext::cuda
