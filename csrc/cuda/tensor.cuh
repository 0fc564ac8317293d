// The projection kernels' products on tensor cores, TF32 in and float32 accumulated: rows and bases keep 10 bits of
// their mantissa, norms and direct residuals are float32 as ever. Taken only where the caller allows TF32 (the
// operators' allow_tf32) and tensor_cores_pay says that it is worth it.
//
// A block of 4 warps holds 128 rows and up to 16 slots of 8 columns, one subspace or chunk of one in each; a warp has
// 64 rows and 8 slots: 4 × 8 products of m16n8k8, 128 accumulators. Rows and columns lie in shared memory alike, 16
// floats of depth every 20, so that ldmatrix reads 8 lines of 16 bytes without a bank conflict. Rows are rounded to
// TF32 by the thread that copied them, before the barrier, and columns when they are packed: the inner loop is 32 HMMA
// for 8 ldmatrix. Rows and bases in half precision are exact in TF32 and come this way too. Products of bf16 would be
// twice as fast, but the columns of a residual are rotated ones, which bf16 rounds: 7e-5 of the residual instead of
// TF32's 9e-6 (p = 128, d = 8). A row's value is added up over the 4 lanes that hold its 8 columns, and each lane keeps
// two slots: 16 pairs a lane.
//
// Registers 128 + 32 + addresses, so two blocks of 128 threads. Shared memory 2 × 256 × 80 bytes + norms + what waits.
// budget: product_tensor_(values|loss).* registers <= 255, shared <= 0, dynamic <= 53760
// budget: product_tensor_nearest.* registers <= 255, shared <= 0, dynamic <= 70144
// budget: pack_tensor_panels.* registers <= 48, shared <= 0, dynamic <= 0
#pragma once

#include <cstdlib>
#include <string_view>

#include "pairs.cuh"

namespace desc_ext::cuda {

struct TensorEngine {
  using Shape = TileShape<float>;
  static constexpr int warp_rows = 64, warp_slots = 8, row_tiles = warp_rows / 16, threads = 128;
  static constexpr int stage = 2 * Shape::rows * Shape::pitch;
  static constexpr bool changes_rows = true;
  using Sum = float[row_tiles * warp_slots][4];

  int row_line, column_line;  // where the lane's lines of the first matrices stand in a stage

  __device__ __forceinline__ explicit TensorEngine(const BlockView<float>& view) {
    const int line = view.lane % 8, matrix = view.lane / 8;
    row_line = (view.warp % 2 * warp_rows + line + matrix % 2 * 8) * Shape::pitch + matrix / 2 * 4;
    const int column = view.warp / 2 * warp_slots * kSlotColumns + line + matrix / 2 * 8;
    column_line = (Shape::rows + column) * Shape::pitch + matrix % 2 * 4;
  }

  static __device__ __forceinline__ void change(Pack<float>& z) {
#pragma unroll
    for (int v = 0; v < Shape::pack; ++v) z.at[v] = round_to_tf32(z.at[v]);
  }

  static __device__ __forceinline__ int panel_step(const Plan&) { return Shape::depth; }

  static __device__ __forceinline__ void fill_columns(const Plan& plan, const BlockView<float>& view, float* stage,
                                                      int packs, const float* panel) {
    float* columns = stage + Shape::rows * Shape::pitch;
#pragma unroll 1
    for (int c = view.thread; c < plan.slots * kSlotColumns * kPacksDeep; c += int(blockDim.x)) {
      const int column = c / kPacksDeep, part = c % kPacksDeep;
      if (part < packs)
        copy_async<16>(columns + column * Shape::pitch + part * Shape::pack,
                       panel + int64_t(column) * plan.depth + part * Shape::pack, 16);
    }
  }

  __device__ __forceinline__ void multiply(const float* stage, int packs, Sum& sum) const {
    SharedLine row = shared_line(stage + row_line), column = shared_line(stage + column_line);
#pragma unroll 1
    for (int part = 0; part < packs; part += 2) {  // the depth is a multiple of 8
      float rows[row_tiles][4];
#pragma unroll
      for (int i = 0; i < row_tiles; ++i) load_matrices(rows[i], row, i * 16 * Shape::pitch);
#pragma unroll
      for (int s = 0; s < warp_slots; s += 2) {
        float columns[4];
        load_matrices(columns, column, s * kSlotColumns * Shape::pitch);
#pragma unroll
        for (int i = 0; i < row_tiles; ++i) {
          multiply_tf32(sum[i * warp_slots + s], rows[i], columns[0], columns[1]);
          multiply_tf32(sum[i * warp_slots + s + 1], rows[i], columns[2], columns[3]);
        }
      }
      row = behind(row, 2 * Shape::pack), column = behind(column, 2 * Shape::pack);
    }
  }
};

// Value v of a lane is half v / 2 of its 8 half tiles of rows and the slot 2 · (lane % 4) + v % 2 of its warp.
struct TensorPairs {
  static constexpr int count = 16, shared_slot = 1;
  static __device__ __forceinline__ int row(int thread, int v) {
    return thread / kWarp % 2 * TensorEngine::warp_rows + v / 2 * 8 + thread % kWarp / 4;
  }
  static __device__ __forceinline__ int slot(int thread, int v) {
    return thread / kWarp / 2 * TensorEngine::warp_slots + thread % 4 * 2 + v % 2;
  }
};

template <class Consumer>
struct TensorValuesEpilogue {
  const Projection<float>& job;
  Consumer& consumer;

  __device__ __forceinline__ void chunk(const BlockView<float>& view, int tile, int chunk,
                                        const TensorEngine::Sum& sum) {
    const Plan& plan = job.product.plan;
    const int t = view.lane % 4;
    float value[TensorPairs::count];
#pragma unroll
    for (int s = 0; s < TensorEngine::warp_slots; ++s) {
      const int slot = view.warp / 2 * TensorEngine::warp_slots + s;
      float low = 1, high = 1;
      if (job.scale && slot < plan.slots) {
        const float* scale =
            job.scale + ((int64_t(tile) * plan.chunks + chunk) * plan.slots + slot) * kSlotColumns + 2 * t;
        low = read(scale), high = read(scale + 1);
      }
#pragma unroll
      for (int i = 0; i < 2 * TensorEngine::row_tiles; ++i) {
        const auto& product = sum[i / 2 * TensorEngine::warp_slots + s];
        const float a = product[i % 2 * 2], b = product[i % 2 * 2 + 1];
        float square = a * a * low + b * b * high;
        square += __shfl_xor_sync(kAllLanes, square, 1);
        square += __shfl_xor_sync(kAllLanes, square, 2);
        if (s / 2 == t) value[i * 2 + s % 2] = square;
      }
    }
    PairValues<TensorPairs, float, Consumer>{job, consumer}.chunk(view, tile, chunk, value);
  }
};

struct TensorWalk {
  template <class Consumer>
  static __device__ __forceinline__ void run(const Projection<float>& job, Consumer& consumer) {
    TensorValuesEpilogue<Consumer> epilogue{job, consumer};
    walk<TensorEngine>(job.product, epilogue);
  }
};

template <int Unused = 0>
__global__ void __launch_bounds__(TensorEngine::threads, 2)
    product_tensor_values(Projection<float> job, float* out, const float* factor) {
  values_block<TensorWalk>(job, out, factor);
}

template <int Unused = 0>
__global__ void __launch_bounds__(TensorEngine::threads, 2)
    product_tensor_nearest(Projection<float> job, int* labels, float* values) {
  nearest_block<TensorWalk>(job, labels, values);
}

template <int Unused = 0>
__global__ void __launch_bounds__(TensorEngine::threads, 2)
    product_tensor_loss(Projection<float> job, const float* weight, double* partial) {
  loss_block<TensorWalk>(job, weight, partial);
}

// Columns [K·d, p] as the tensor engine reads them, rounded to TF32: [tiles][chunks][slots · 8][depth].
template <int Unused = 0>
__global__ void __launch_bounds__(256) pack_tensor_panels(Plan plan, const float* source, float* panels) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= plan.panel_elements()) return;
  const int64_t depth = at % plan.depth, c = at / plan.depth % kSlotColumns,
                slot = at / plan.depth / kSlotColumns % plan.slots;
  const int64_t block = at / plan.depth / kSlotColumns / plan.slots, tile = block / plan.chunks,
                chunk = block % plan.chunks;
  const int64_t k = tile * plan.slots + slot, inside = chunk * plan.width + c;
  const bool stands = c < plan.width && k < plan.count && inside < plan.dim && depth < plan.p;
  write(panels + at, stands ? round_to_tf32(read(source + (k * plan.dim + inside) * plan.p + depth)) : 0.0f);
}

inline Plan plan_tensor(int64_t count, int64_t dim, int64_t p) {
  Plan plan{count, dim, p};
  plan.chunks = int(ceil_div<int64_t>(dim, kSlotColumns));
  plan.width = int(ceil_div<int64_t>(dim, plan.chunks));
  plan.tiles = int(ceil_div<int64_t>(count, kSlots));
  plan.slots = int(ceil_div<int64_t>(count, plan.tiles));
  plan.depth = int(ceil_div<int64_t>(p, 8)) * 8;
  return plan;
}

// Where the tensor cores are worth it, by counting; on an H100 they took .59 to .78 of the lanes' time in such shapes.
// The products outweigh the epilogue (some hundred instructions a pair, beside 2·p·d operations at up to eight times
// the speed of the lanes), and at least half of the columns that a tile computes are in use.
// DESC_EXT_TENSOR_CORES=always overrules it.
inline bool tensor_cores_pay(int64_t count, int64_t dim, int64_t p) {
  const char* asked = std::getenv("DESC_EXT_TENSOR_CORES");
  if (asked && std::string_view(asked) == "always") return true;
  const Plan plan = plan_tensor(count, dim, p);
  const int64_t computed = int64_t(plan.tiles) * plan.chunks * kSlots * kSlotColumns;
  return dim * p >= 256 && 2 * count * dim >= computed;
}

inline cudaError_t run_pack_tensor_panels(const Plan& plan, const float* source, float* panels, cudaStream_t stream) {
  return launch(pack_tensor_panels<>, dim3(unsigned(ceil_div<int64_t>(plan.panel_elements(), 256))), 256, 0, stream,
                plan, source, panels);
}

}  // namespace desc_ext::cuda
