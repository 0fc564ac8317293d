// The projection kernels' products on tensor cores, in float16 with float32 sums. A number x, scaled by a power of two,
// is the sum of two float16 parts, h = fp16(x) and l = fp16(x − h), good to 2^-23 of x; a product of two numbers is
// l·h' + h·l' + h·h', three of the tensor cores' products for one:
//
//   parts 3  float32 rows                    l·h' + h·l' + h·h'
//   parts 2  float16 and bfloat16 rows       h·l' + h·h'         their 11 and 8 bits stand in h alone
//   parts 1  where the caller allows TF32    h·h'                which keeps the same 10 bits behind the point
//
// A row has a scale for every 32 of depth, a column one, which bring the largest magnitude into [2^14, 2^15): float16
// reaches 2^16 upwards and 2^-24 downwards, so elements below 2^-17 of the largest lose bits and those below 2^-39 of
// it vanish. The error of a product of row and column is therefore bounded by their norms (docs/tensor-cores.md), not
// element by element. Norms and direct residuals are float32 as ever (pairs.cuh).
//
// Tensor cores cut their sums off towards zero, at 24 or 25 bits of the largest term. So a sum goes over 32 of depth
// only before it is added in float32, and the small products come first: while they are added, what is cut off is small
// too. In the other order the error is two to three times as large, and more than float32 may have.
//
// Tiling. A block of 4 warps holds 128 rows and up to 16 slots of 8 columns, one subspace or chunk of one in each; a
// warp has 64 rows and 8 slots: 128 sums, 32 registers of 32 of depth of half of its rows, and
// for two slots at a time 16 of columns. In shared memory a line of 128 bytes holds 32 of depth of a row or column: h
// and l of 8 elements, 16 bytes each, in turn. Packs of 16 bytes stand at their number, exclusive-or the line's last 3
// bits: 8 lines of ldmatrix touch all banks. Rows arrive as float32 and are split where they lie by the thread that
// copied them, before the barrier; columns are split when they are packed. A step of 32 of depth is 192 HMMA for 48
// ldmatrix and 128 FFMA, which undo the rows' scale. A row's value is added up over the 4 lanes that hold its 8
// columns, and each lane keeps two slots: 16 pairs a lane.
//
// Registers 128 + 32 + 16 + products under way + addresses, so two blocks of 128 threads. Shared memory 2 × (256 × 128
// + 512) bytes + norms + what waits.
// budget: product_tensor_(values|loss).* registers <= 255, shared <= 0, dynamic <= 79360
// budget: product_tensor_nearest.* registers <= 255, shared <= 0, dynamic <= 95744
// budget: pack_tensor_panels.* registers <= 64, shared <= 0, dynamic <= 0
#pragma once

#include <cstdlib>
#include <string_view>

#include "pairs.cuh"

namespace desc_ext::cuda {

struct TensorTile {
  static constexpr int rows = TileShape<float>::rows, depth = 32, threads = 128;
  static constexpr int warp_rows = 64, warp_slots = 8, row_tiles = warp_rows / 16;
  static constexpr int line = depth * int(sizeof(float));             // bytes
  static constexpr int columns = rows * depth, scales = 2 * columns;  // where they stand in a stage, in floats
  static constexpr int stage = scales + rows;
  using Sum = float[row_tiles * warp_slots][4];

  // Where pack `pack` of a line stands.
  static __device__ __forceinline__ int place(int number, int pack) { return number * depth + (pack ^ number % 8) * 4; }
  // Rows' scales stand in the order in which a lane of the products wants them: its 8 rows, 8 apart, side by side.
  static __device__ __forceinline__ int scale_place(int row) {
    return scales + row / warp_rows * warp_rows + row % 8 * 8 + row / 8 % 8;
  }
};

// The power of two that brings magnitudes up to `largest` below 2^15, and its inverse. Where `largest` is infinite, so
// are the scaled elements; below 2^-112 it is taken for that.
struct PowerScale {
  float scale, inverse;

  __device__ __forceinline__ explicit PowerScale(float largest) {
    const unsigned found = __float_as_uint(largest) >> 23, power = found < 15 ? 15 : found;
    scale = __uint_as_float((268 - power) << 23), inverse = __uint_as_float((power - 14) << 23);
  }
};

// A thread copies and splits 8 elements, two packs, of every 32nd row: 4 elements and the 4 that are 16 behind them, so
// that 4 threads together read 64 bytes. Columns are packed in the same order.
inline constexpr int kRowStep = TensorTile::threads / 4;

// Copies `Elements` of V at a time. Rows behind the last are the last one again, and nobody takes what becomes of them.
template <int Elements, class V>
__device__ __forceinline__ void copy_rows(const Product<float>& job, const BlockView<float>& view, float* stage,
                                          int first) {
  constexpr int bytes = Elements * int(sizeof(V));
  const int line = view.thread / 4, part = view.thread % 4;
  const int width = int(job.z.width);
  const V* rows = static_cast<const V*>(job.z.data) + view.first * width;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = first + half * 16 + part * 4;
    auto* to = reinterpret_cast<V*>(stage + TensorTile::place(line, 2 * part + half));
#pragma unroll
    for (int v = 0; v < 4; v += Elements) {
      const int left = int(job.plan.p) - column - v, valid = left < 0 ? 0 : left > Elements ? Elements : left;
      const V* from = rows + (valid ? column + v : 0);
#pragma unroll(Elements == 4 ? 4 : 1)
      for (int i = 0; i < TensorTile::rows / kRowStep; ++i) {
        const int row = line + i * kRowStep < view.active_rows ? line + i * kRowStep : view.active_rows - 1;
        copy_async<bytes>(to + i * (kRowStep * TensorTile::line / int(sizeof(V))) + v, from + row * width,
                          valid * int(sizeof(V)));
      }
    }
  }
}

// Whether rows lie so that `bytes` can be copied at once.
__device__ __forceinline__ bool aligned_to(const Rows& rows, int element, int bytes) {
  return (reinterpret_cast<uintptr_t>(rows.data) | uintptr_t(rows.width * element)) % unsigned(bytes) == 0;
}

// Rows in half precision are copied as they are where 8 bytes can be copied at once.
__device__ __forceinline__ bool copied_raw(const Rows& rows) {
  return rows.storage != Storage::f32 && aligned_to(rows, 2, 8);
}

template <int Parts>
__device__ __forceinline__ void fill_tensor_rows(const Product<float>& job, const BlockView<float>& view, float* stage,
                                                 int first) {
  if (Parts != 2) {
    if (aligned_to(job.z, 4, 16)) return copy_rows<4, float>(job, view, stage, first);
    if (aligned_to(job.z, 4, 8)) return copy_rows<2, float>(job, view, stage, first);
    return copy_rows<1, float>(job, view, stage, first);
  }
  if (copied_raw(job.z)) return copy_rows<4, uint16_t>(job, view, stage, first);
  // Else they arrive as float32.
#pragma unroll 1
  for (int c = 0; c < 2 * TensorTile::rows / kRowStep; ++c) {
    const int row = view.thread / 4 + c / 2 * kRowStep, part = view.thread % 4, column = first + c % 2 * 16 + part * 4;
    copy_pack<float>(stage + TensorTile::place(row, 2 * part + c % 2), job.z, CopyMode::converted, view.first + row,
                     column, row < view.active_rows ? int(job.plan.p) - column : 0);
  }
}

// `panel` is that of the tile's chunk.
template <int Parts>
__device__ __forceinline__ void fill_tensor_columns(const Plan& plan, const BlockView<float>& view, float* stage,
                                                    const float* panel, int first) {
  constexpr int packs = Parts == 1 ? 4 : 8;  // of a line; l is left out where nothing needs it
  constexpr int step = TensorTile::threads / packs;
  const int line = view.thread / packs, pack = view.thread % packs * (8 / packs);
  float* to = stage + TensorTile::columns + TensorTile::place(line, pack);
  const float* from = panel + line * plan.depth + first + pack * 4;
#pragma unroll
  for (int i = 0; i < kSlots * kSlotColumns / step; ++i)
    if (line + i * step < plan.slots * kSlotColumns)
      copy_async<16>(to + i * step * TensorTile::depth, from + i * step * plan.depth, 16);
}

struct alignas(16) HalfPack {  // h or l of 8 elements
  __half2 at[4];
};

// Two numbers in two parts.
__device__ __forceinline__ void split(float x, float y, __half2& h, __half2& l) {
  h = __floats2half2_rn(x, y);
  const float2 kept = __half22float2(h);
  l = __floats2half2_rn(x - kept.x, y - kept.y);
}

struct alignas(8) RawPack {  // 4 elements of a row in half precision
  uint16_t at[4];
};

// Splits the rows that this thread has copied, and adds them to ‖z‖².
template <int Parts>
__device__ __forceinline__ void split_rows(const Rows& rows, const BlockView<float>& view, float* stage, bool norms,
                                           bool begin) {
  const int part = view.thread % 4;
#pragma unroll 1
  for (int row = view.thread / 4; row < TensorTile::rows; row += kRowStep) {
    float *first = stage + TensorTile::place(row, 2 * part), *second = stage + TensorTile::place(row, 2 * part + 1);
    float z[8];
    if (Parts == 2 && copied_raw(rows)) {
#pragma unroll
      for (int v = 0; v < 8; ++v) {
        const uint16_t bits = reinterpret_cast<const RawPack*>(v < 4 ? first : second)->at[v % 4];
        z[v] = rows.storage == Storage::f16 ? half_to_float(bits) : bfloat_to_float(bits);
      }
    } else {
#pragma unroll
      for (int v = 0; v < 8; ++v) z[v] = reinterpret_cast<const Pack<float>*>(v < 4 ? first : second)->at[v % 4];
    }
    float largest = 0;
#pragma unroll
    for (int v = 0; v < 8; ++v) largest = fmaxf(largest, fabsf(z[v]));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    const PowerScale power(largest);
    HalfPack h, l;
#pragma unroll
    for (int v = 0; v < 4; ++v) split(z[2 * v] * power.scale, z[2 * v + 1] * power.scale, h.at[v], l.at[v]);
    *reinterpret_cast<HalfPack*>(first) = h;
    if (Parts == 3) *reinterpret_cast<HalfPack*>(second) = l;
    if (part == 0) stage[TensorTile::scale_place(row)] = power.inverse;
    if (!norms) continue;
    float square = 0;
#pragma unroll
    for (int v = 0; v < 8; ++v) square += z[v] * z[v];
    square += __shfl_xor_sync(kAllLanes, square, 1);
    square += __shfl_xor_sync(kAllLanes, square, 2);
    if (part == 0) view.norms[row] = begin ? square : view.norms[row] + square;
  }
}

// A warp's fragments of a stage: of tile `tile` of 16 rows and of slots `slot` and the next, 16 of depth from 16 · k
// on, h (part 0) or l (part 1). `scales` are those of the lane's 8 rows.
struct StageFragments {
  SharedLine row, column;  // of the lane
  const float* scales;

  __device__ __forceinline__ explicit StageFragments(const float* stage) {
    const int thread = thread_index(), warp = thread / kWarp, line = thread % 8, matrix = thread % kWarp / 8;
    const int first_row = warp % 2 * TensorTile::warp_rows,
              first_column = warp / 2 * TensorTile::warp_slots * kSlotColumns;
    row = shared_line(stage + TensorTile::place(first_row + matrix % 2 * 8 + line, matrix / 2 * 2));
    column = shared_line(stage + TensorTile::columns +
                         TensorTile::place(first_column + matrix / 2 * 8 + line, matrix % 2 * 2));
    scales = stage + TensorTile::scale_place(first_row + thread % kWarp / 4);
  }
  __device__ __forceinline__ void rows(uint32_t (&out)[4], int tile, int k, int part) const {
    load_matrices(out, across(row, 64 * k + 16 * part), tile * 16 * TensorTile::line);
  }
  __device__ __forceinline__ void columns(uint32_t (&out)[4], int slot, int k, int part) const {
    load_matrices(out, across(column, 64 * k + 16 * part), slot * kSlotColumns * TensorTile::line);
  }
};

// sum += the products of 32 of depth, of a warp's first `slots` slots.
template <int Parts, class Fragments>
__device__ __forceinline__ void multiply_fragments(const Fragments& from, int slots, TensorTile::Sum& sum) {
  constexpr int row_tiles = TensorTile::row_tiles, warp_slots = TensorTile::warp_slots;
  constexpr int together = 2;  // row tiles whose parts are in registers
#pragma unroll
  for (int first = 0; first < row_tiles; first += together) {
    uint32_t h[together][2][4], l[together][2][4];
    float scale[2 * together];
#pragma unroll
    for (int i = 0; i < together; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        from.rows(h[i][k], first + i, k, 0);
        if (Parts == 3) from.rows(l[i][k], first + i, k, 1);
      }
#pragma unroll
    for (int i = 0; i < 2 * together; i += 4) {
      const auto four = *reinterpret_cast<const Pack<float>*>(from.scales + 2 * first + i);
#pragma unroll
      for (int v = 0; v < 4; ++v) scale[i + v] = four.at[v];
    }
#pragma unroll
    for (int s = 0; s < warp_slots; s += 2) {
      if (s >= slots) break;
      uint32_t column_h[2][4], column_l[2][4];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        from.columns(column_h[k], s, k, 0);
        if (Parts > 1) from.columns(column_l[k], s, k, 1);
      }
#pragma unroll
      for (int i = 0; i < together; ++i)
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          float part[4] = {0, 0, 0, 0};
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            if (Parts == 3) multiply_f16(part, l[i][k], column_h[k][2 * u], column_h[k][2 * u + 1], part);
            if (Parts > 1) multiply_f16(part, h[i][k], column_l[k][2 * u], column_l[k][2 * u + 1], part);
          }
#pragma unroll
          for (int k = 0; k < 2; ++k) multiply_f16(part, h[i][k], column_h[k][2 * u], column_h[k][2 * u + 1], part);
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[(first + i) * warp_slots + s + u][j] += part[j] * scale[2 * i + j / 2];
        }
    }
  }
}

// Walks over the block's tiles, as walk() of product.cuh does.
template <int Parts, class Epilogue>
__device__ __forceinline__ void walk_tensor(const Product<float>& job, Epilogue& epilogue) {
  const Plan& plan = job.plan;
  float* shared = static_cast<float*>(dynamic_shared());
  const int first_tile = int(blockIdx.y) * job.tiles_per_block;
  const int end_tile = plan.tiles - first_tile < job.tiles_per_block ? plan.tiles : first_tile + job.tiles_per_block;
  const int blocks = (end_tile - first_tile) * plan.chunks, chunk_columns = plan.depth * kSlotColumns * plan.slots;
  const float* panel = job.panels + int64_t(first_tile) * plan.chunks * chunk_columns;
  int buffer = 0;
  const auto fill = [&](int to, int block, int first) {
    const BlockView<float> view = block_view(job);
    float* stage = shared + to * TensorTile::stage;
    fill_tensor_rows<Parts>(job, view, stage, first);
    fill_tensor_columns<Parts>(plan, view, stage, panel + int64_t(block) * chunk_columns, first);
    commit_copies();
  };
  fill(0, 0, 0);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    TensorTile::Sum sum;
    set_zero(sum);
#pragma unroll 1
    for (int first = 0; first < plan.depth; first += TensorTile::depth) {
      float* now = shared + buffer * TensorTile::stage;
      wait_copies<0>();
      split_rows<Parts>(job.z, block_view(job), now, job.norms && block == 0, first == 0);
      __syncthreads();  // this stage is whole, and nobody reads the other buffer any more
      buffer ^= 1;
      if (first + TensorTile::depth < plan.depth)
        fill(buffer, block, first + TensorTile::depth);
      else if (block + 1 < blocks)
        fill(buffer, block + 1, 0);
      const int slots = plan.slots - thread_index() / kWarp / 2 * TensorTile::warp_slots;  // of this warp
      if (slots > 0) multiply_fragments<Parts>(StageFragments(now), slots, sum);
    }
    epilogue.chunk(block_view(job), first_tile + block / plan.chunks, block % plan.chunks, sum);
  }
}

// Value v of a lane is half v / 2 of its 8 half tiles of rows and the slot 2 · (lane % 4) + v % 2 of its warp.
struct TensorPairs {
  static constexpr int count = 16, shared_slot = 1;
  static constexpr bool can_fail = true;
  static __device__ __forceinline__ int row(int thread, int v) {
    return thread / kWarp % 2 * TensorTile::warp_rows + v / 2 * 8 + thread % kWarp / 4;
  }
  static __device__ __forceinline__ int slot(int thread, int v) {
    return thread / kWarp / 2 * TensorTile::warp_slots + thread % 4 * 2 + v % 2;
  }
};

// What undoes the scale of a column, and what its square is multiplied by: [tiles][chunks][slots][8] of them.
struct alignas(8) ColumnScale {
  float inverse, weight;
};

template <class Consumer>
struct TensorValuesEpilogue {
  const Projection<float>& job;
  Consumer& consumer;

  __device__ __forceinline__ void chunk(const BlockView<float>& view, int tile, int chunk, const TensorTile::Sum& sum) {
    const Plan& plan = job.product.plan;
    const int t = view.lane % 4;
    float value[TensorPairs::count];
#pragma unroll
    for (int s = 0; s < TensorTile::warp_slots; ++s) {
      const int slot = view.warp / 2 * TensorTile::warp_slots + s;
      Pack<float> scale = {1, 0, 1, 0};
      if (slot < plan.slots)
        scale = read(reinterpret_cast<const Pack<float>*>(
            job.scale + (((int64_t(tile) * plan.chunks + chunk) * plan.slots + slot) * kSlotColumns + 2 * t) * 2));
#pragma unroll
      for (int i = 0; i < 2 * TensorTile::row_tiles; ++i) {
        const auto& product = sum[i / 2 * TensorTile::warp_slots + s];
        const float a = product[i % 2 * 2] * scale.at[0], b = product[i % 2 * 2 + 1] * scale.at[2];
        float square = a * a * scale.at[1] + b * b * scale.at[3];
        square += __shfl_xor_sync(kAllLanes, square, 1);
        square += __shfl_xor_sync(kAllLanes, square, 2);
        if (s / 2 == t) value[i * 2 + s % 2] = square;
      }
    }
    PairValues<TensorPairs, float, Consumer>{job, consumer}.chunk(view, tile, chunk, value);
  }
};

template <int Parts>
struct TensorWalk {
  template <class Consumer>
  static __device__ __forceinline__ void run(const Projection<float>& job, Consumer& consumer) {
    TensorValuesEpilogue<Consumer> epilogue{job, consumer};
    walk_tensor<Parts>(job.product, epilogue);
  }
};

template <int Parts>
__global__ void __launch_bounds__(TensorTile::threads, 2)
    product_tensor_values(Projection<float> job, float* out, const float* factor) {
  values_block<TensorWalk<Parts>>(job, out, factor);
}

template <int Parts>
__global__ void __launch_bounds__(TensorTile::threads, 2)
    product_tensor_nearest(Projection<float> job, int* labels, float* values) {
  nearest_block<TensorWalk<Parts>>(job, labels, values);
}

template <int Parts>
__global__ void __launch_bounds__(TensorTile::threads, 2)
    product_tensor_loss(Projection<float> job, const float* weight, double* partial) {
  loss_block<TensorWalk<Parts>>(job, weight, partial);
}

// Columns in global memory: element k < depth of column j < count. Rows of a gradient read bases [depth, count] across.
struct Columns {
  const float* at;
  int64_t count, depth;
  bool across = false;
  const float* factor = nullptr;  // [depth] or null

  __device__ __forceinline__ float element(int64_t j, int64_t k) const {
    const float x = read(at + (across ? k * count + j : j * depth + k));
    return factor ? x * read(factor + k) : x;
  }
};

// Columns as the tensor cores read them, [tiles][chunks][slots · 8][depth] with h and l of 8 elements in turn, in the
// order of fill_tensor_rows(), and their scales; `weight` or null is what squares are multiplied by. A warp takes one.
template <int Unused = 0>
__global__ void __launch_bounds__(256)
    pack_tensor_panels(Plan plan, Columns columns, const float* weight, float* panels, float* scales) {
  const int64_t at = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (at >= plan.scale_elements()) return;
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t c = at % kSlotColumns, slot = at / kSlotColumns % plan.slots, block = at / kSlotColumns / plan.slots;
  const int64_t tile = block / plan.chunks, inside = block % plan.chunks * plan.width + c;
  const int64_t k = tile * plan.slots + slot, column = k * plan.dim + inside;
  const bool stands = c < plan.width && k < plan.count && inside < plan.dim && column < columns.count;
  const int64_t depth = stands ? columns.depth : 0;
  float largest = 0;
  for (int64_t j = lane; j < depth; j += kWarp) largest = fmaxf(largest, fabsf(columns.element(column, j)));
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  const PowerScale power(largest);
  auto* line = reinterpret_cast<uint16_t*>(panels + at * plan.depth);
  for (int64_t j = lane; j < plan.depth; j += kWarp) {
    const float x = j < depth ? columns.element(column, j) * power.scale : 0.0f;
    const uint16_t h = float_to_half(x);
    const int64_t to = j / 32 * 64 + j % 16 / 4 * 16 + j % 32 / 16 * 4 + j % 4;
    write(line + to, h);
    write(line + to + 8, float_to_half(x - half_to_float(h)));
  }
  if (lane == 0)
    write(reinterpret_cast<ColumnScale*>(scales) + at,
          ColumnScale{power.inverse, stands && weight ? read(weight + column) : 1.0f});
}

inline Plan plan_tensor(int64_t count, int64_t dim, int64_t p) {
  Plan plan{count, dim, p};
  plan.chunks = int(ceil_div<int64_t>(dim, kSlotColumns));
  plan.width = int(ceil_div<int64_t>(dim, plan.chunks));
  plan.tiles = int(ceil_div<int64_t>(count, kSlots));
  plan.slots = int(ceil_div<int64_t>(count, plan.tiles));
  plan.depth = int(ceil_div<int64_t>(p, TensorTile::depth)) * TensorTile::depth;
  return plan;
}

// Where tensor cores are worth it, by counting. The products in use are at least a third of those computed, since three
// of the tensor cores' at their full rate take a fifth of the lanes' time; and there are 32 columns, which outweigh the
// splitting of the rows, 7 instructions an element. Offsets within a block of rows are 32 bits wide.
inline bool tensor_cores_pay(int64_t count, int64_t dim, int64_t p) {
  const Plan plan = plan_tensor(count, dim, p);
  const int64_t slots = ceil_div(plan.slots, 2) * 2;  // two at a time
  const int64_t computed = int64_t(plan.tiles) * plan.chunks * slots * kSlotColumns * plan.depth;
  return count * dim >= 32 && 3 * count * dim * p >= computed && p < (1 << 20);
}

// What DESC_EXT_TENSOR_CORES asks for: 0 forbids tensor cores, always takes them in every shape and on every card.
enum class TensorCores { never, where_they_pay, always };

inline TensorCores tensor_cores_asked() {
  const char* variable = std::getenv("DESC_EXT_TENSOR_CORES");
  const std::string_view asked = variable ? variable : "";
  return asked == "0" ? TensorCores::never : asked == "always" ? TensorCores::always : TensorCores::where_they_pay;
}

// How many of the tensor cores' products one product of these rows and columns takes; 0 where the lanes' FFMA does it.
// It depends on shape and card, never on the number of rows: a row's values do not depend on those beside it.
//
// Two and three products are for cards whose tensor cores add in float32 at the full rate; A10, RTX and L4, which take
// half of it, keep FFMA until they are measured, and so does Blackwell.
inline int tensor_parts(Storage storage, bool allow_tf32, int64_t count, int64_t dim, int64_t p) {
  const TensorCores asked = tensor_cores_asked();
  if (asked == TensorCores::never || p >= (1 << 20)) return 0;
  const int parts = storage != Storage::f32 ? 2 : allow_tf32 ? 1 : 3;
  if (asked == TensorCores::always) return parts;
  return tensor_cores_pay(count, dim, p) && (parts == 1 || full_rate_tensor_cores()) ? parts : 0;
}

inline cudaError_t run_pack_tensor_panels(const Plan& plan, const Columns& columns, const float* weight, float* panels,
                                          float* scales, cudaStream_t stream) {
  constexpr int warps = 8;
  return launch(pack_tensor_panels<>, dim3(unsigned(ceil_div<int64_t>(plan.scale_elements(), warps))), warps * kWarp, 0,
                stream, plan, columns, weight, panels, scales);
}

// Calls f.template operator()<Parts>().
template <class F>
cudaError_t with_parts(int parts, const F& f) {
  switch (parts) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    default: return f.template operator()<3>();
  }
}

}  // namespace desc_ext::cuda
