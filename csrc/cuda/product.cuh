// The product of rows z [n, p] with many columns, reduced where it is made: the engine under every operator whose work
// is 2·n·p·C operations (C = K·d columns, K centroids, or p columns of a gradient).
//
// Operations 2·n·p·C; bytes read n·p·w once from memory (w the width of a stored element; a block's rows stay in the
// caches while it walks over the columns) and C·p·4 by each block from L2; written: the epilogue's output only. A block
// of 128 rows does 64 operations for each byte it takes from L2 with 128 columns in a tile.
//
// Tiling. A block holds 128 rows (64 in float64) and walks over tiles of up to 16 slots of 8 columns. Thread (ty, tx),
// ty < 16, tx < slots, computes rows ty, ty + 16, ... and the columns of slot tx: 8 × 8 accumulators in registers. The
// number of slots follows the number of columns (see Plan), so 10 subspaces of dimension 5 run as 10 slots of 5 used
// columns and not as 16 of 8. Rows and columns come through shared memory 64 bytes of depth at a time, in two buffers:
// asynchronous copies (16 bytes where rows are aligned, else element by element; half types are converted on the way)
// fill one while the other is used. Rows lie 80 bytes apart, so that the 8 lanes that load 16 bytes together touch all
// 32 banks; columns lie as [depth][8 / pack][16 slots][pack], which needs no padding. A step of the inner loop is
// 16 bytes of depth: 256 FFMA for 16 shared loads of 128 bits.
//
// Registers: 64 accumulators + 32 rows + 8 columns + addresses: within 128, so two blocks of 256 threads stand on a
// multiprocessor; nothing else lives through the inner loop, since addresses are made anew outside it. Float64 holds
// 4 × 8 accumulators of two registers and stands alone, as does the gradient of unaligned or half-precision rows.
// Shared memory: 2 × (128 × 80 + 8192) bytes + norms.
#pragma once

#include "device.h"

namespace desc_ext::cuda {

inline constexpr int kSlots = 16;       // of a tile at most
inline constexpr int kSlotColumns = 8;  // of a slot at most
inline constexpr int kRowThreads = 16;
inline constexpr int kPacksDeep = 4;  // 16-byte packs of depth in a stage

template <class T>
struct TileShape {
  static constexpr int thread_rows = sizeof(T) == 8 ? 4 : 8;
  static constexpr int rows = thread_rows * kRowThreads;
  static constexpr int pack = 16 / sizeof(T);
  static constexpr int depth = kPacksDeep * pack;
  static constexpr int pitch = (kPacksDeep + 1) * pack;
  static constexpr int pieces = kSlotColumns / pack;
  static constexpr int rows_size = rows * pitch;
  static constexpr int columns_size = depth * kSlotColumns * kSlots;
  static constexpr int stage = rows_size + columns_size;
  static constexpr int blocks = sizeof(T) == 8 ? 1 : 2;  // wanted on a multiprocessor
};

// How columns are laid out over slots. Two subspaces of dimension up to 3 share a slot; wider ones than 8 are walked in
// chunks of equal width. In memory: [tiles][chunks][depth][pieces][slots][pack], zero where nothing stands.
struct Plan {
  int64_t count, dim, p;                      // subspaces, their dimension, length of a row
  int shared_slot = 1, width = kSlotColumns;  // subspaces in a slot; columns of a slot in use
  int chunks = 1, slots = 1, tiles = 1;
  int depth = 0;  // p rounded up to whole packs

  __host__ __device__ int64_t panel_elements() const { return int64_t(tiles) * chunks * depth * kSlotColumns * slots; }
  __host__ __device__ int64_t scale_elements() const { return int64_t(tiles) * chunks * slots * kSlotColumns; }
  int threads() const { return ceil_div(slots * kRowThreads, kWarp) * kWarp; }
};

template <class T>
Plan plan_subspaces(int64_t count, int64_t dim, int64_t p) {
  Plan plan{count, dim, p};
  plan.shared_slot = sizeof(T) == 8 || dim > 3 ? 1 : 2;
  plan.chunks = int(ceil_div<int64_t>(dim, kSlotColumns));
  plan.width =
      sizeof(T) == 8 ? kSlotColumns : plan.shared_slot * int(ceil_div<int64_t>(dim < 2 ? 2 : dim, plan.chunks));
  const int64_t all = ceil_div<int64_t>(count, plan.shared_slot);
  plan.tiles = int(ceil_div<int64_t>(all, kSlots));
  plan.slots = int(ceil_div<int64_t>(all, plan.tiles));
  constexpr int pack = 16 / sizeof(T);
  plan.depth = int(ceil_div<int64_t>(p, pack)) * pack;
  return plan;
}

// Columns on their own, `width` in a slot.
template <class T>
Plan plan_columns(int64_t count, int64_t p, int width = kSlotColumns) {
  Plan plan{count, 1, p};
  plan.shared_slot = plan.width = width;
  plan.chunks = 1;
  const int64_t all = ceil_div<int64_t>(count, width);
  plan.tiles = int(ceil_div<int64_t>(all, kSlots));
  plan.slots = int(ceil_div<int64_t>(all, plan.tiles));
  constexpr int pack = 16 / sizeof(T);
  plan.depth = int(ceil_div<int64_t>(p, pack)) * pack;
  return plan;
}

enum class CopyMode : int32_t { packs, elements, converted };

template <class T>
CopyMode copy_mode(const Rows& rows) {
  if (sizeof(T) == 4 && rows.storage != Storage::f32) return CopyMode::converted;
  const bool aligned = reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.width * sizeof(T) % 16 == 0;
  return aligned ? CopyMode::packs : CopyMode::elements;
}

// Puts the elements [column, column + pack) of a row into shared memory; zero beyond `valid`.
template <class T>
__device__ __forceinline__ void copy_pack(T* to, const Rows& rows, CopyMode mode, int64_t row, int64_t column,
                                          int valid) {
  constexpr int pack = 16 / sizeof(T);
  valid = valid < 0 ? 0 : valid > pack ? pack : valid;
  const int64_t at = valid > 0 ? (rows.index ? read(rows.index + row) : row) * rows.width + column : 0;
  if (mode == CopyMode::packs) {
    copy_async<16>(to, static_cast<const T*>(rows.data) + at, valid * int(sizeof(T)));
  } else if (mode == CopyMode::elements) {
#pragma unroll
    for (int v = 0; v < pack; ++v)
      copy_async<sizeof(T)>(to + v, static_cast<const T*>(rows.data) + at + (v < valid ? v : 0),
                            v < valid ? int(sizeof(T)) : 0);
  } else {
    Pack<T> values;
#pragma unroll
    for (int v = 0; v < pack; ++v) values.at[v] = v < valid ? load_element<T>(rows.data, rows.storage, at + v) : T(0);
    *reinterpret_cast<Pack<T>*>(to) = values;
  }
}

template <class T>
struct Product {
  Rows z;
  int64_t n;
  CopyMode mode;
  Plan plan;
  const T* panels;
  bool norms;           // whether the epilogue wants ‖z‖²
  int threads;          // of a block
  int stage;            // elements of the engine's stage
  int tiles_per_block;  // blockIdx.y takes its share of the tiles
  int packs;            // of depth in a row: all of the panels', but where sets share it out
  // Sets of blocks share the depth out, plan.p columns of the rows for each: a set takes up the panels where the one
  // before it ends, `set_elements` on, and its results stand `set_rows` rows on.
  int sets = 1;
  int64_t set_rows = 0, set_elements = 0;
};

template <class T>
struct BlockView {
  int thread, warp, lane, ty, tx, active_rows;
  int64_t first;  // row of the block
  T* norms;       // ‖z‖² of its rows, in shared memory
  T* free;        // shared memory behind the norms, of the epilogue

  __device__ __forceinline__ int row(int i) const { return i * kRowThreads + ty; }
};

// Made anew wherever it is used inside the walk, so that no address made of it is kept through the inner loop.
template <class T>
__device__ __forceinline__ BlockView<T> block_view(const Product<T>& job) {
  using Shape = TileShape<T>;
  BlockView<T> view;
  view.thread = thread_index(), view.warp = view.thread / kWarp, view.lane = view.thread % kWarp;
  view.ty = view.thread % kRowThreads, view.tx = view.thread / kRowThreads;
  view.first = int64_t(blockIdx.x) * Shape::rows;
  view.active_rows = int(job.n - view.first < Shape::rows ? job.n - view.first : Shape::rows);
  view.norms = static_cast<T*>(dynamic_shared()) + 2 * job.stage;
  view.free = view.norms + Shape::rows;
  return view;
}

// The rows' depth [k0, k0 + packs) of a stage.
template <bool Sets, class T>
__device__ __forceinline__ void fill_rows(const Product<T>& job, const BlockView<T>& view, T* stage, int k0,
                                          int packs) {
  using Shape = TileShape<T>;
  const int64_t set_column = Sets ? int64_t(blockIdx.z) * job.plan.p : 0;
#pragma unroll 1
  for (int c = view.thread; c < Shape::rows * kPacksDeep; c += int(blockDim.x)) {
    const int row = c / kPacksDeep, part = c % kPacksDeep, column = k0 + part * Shape::pack;
    if (part >= packs) continue;
    T* to = stage + row * Shape::pitch + part * Shape::pack;
    const int left = row < view.active_rows ? int(job.plan.p) - column : 0;
    if (job.mode != CopyMode::packs) {
      copy_pack<T>(to, job.z, job.mode, view.first + row, column + set_column, left);
      continue;
    }
    // What copy_pack would do, without an index.
    const int valid = left < 0 ? 0 : left > Shape::pack ? Shape::pack : left;
    const int64_t at = valid > 0 ? (view.first + row) * job.z.width + column + set_column : 0;
    copy_async<16>(to, static_cast<const T*>(job.z.data) + at, valid * int(sizeof(T)));
  }
}

// Adds the stage's depth to ‖z‖². Each thread takes the packs that it has copied itself, so this needs no barrier
// before it.
template <class T>
__device__ __forceinline__ void add_norms(const BlockView<T>& view, const T* stage, int packs, bool begin) {
  using Shape = TileShape<T>;
  static_assert(kPacksDeep == 4, "the shuffles add up four lanes");
#pragma unroll 1
  for (int c = view.thread; c < Shape::rows * kPacksDeep; c += int(blockDim.x)) {
    const int row = c / kPacksDeep, part = c % kPacksDeep;
    T sum = 0;
    if (part < packs) {
      const auto z = *reinterpret_cast<const Pack<T>*>(stage + row * Shape::pitch + part * Shape::pack);
#pragma unroll
      for (int v = 0; v < Shape::pack; ++v) sum += z.at[v] * z.at[v];
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (part == 0) view.norms[row] = begin ? sum : view.norms[row] + sum;
  }
}

template <class T, int Rows, int Width>
__device__ __forceinline__ void set_zero(T (&values)[Rows][Width]) {
#pragma unroll
  for (int i = 0; i < Rows; ++i)
#pragma unroll
    for (int c = 0; c < Width; ++c) values[i][c] = T(0);
}

// The tile in the registers of the lanes, multiplied by FFMA.
template <class T, int Width, bool Distance>
struct LaneEngine {
  using Shape = TileShape<T>;
  using Sum = T[Shape::thread_rows][Width];
  static constexpr int stage = Shape::stage;

  int rows, columns;  // of the thread, in a stage

  __device__ __forceinline__ explicit LaneEngine(const BlockView<T>& view)
      : rows(view.ty * Shape::pitch), columns(Shape::rows_size + view.tx * Shape::pack) {}

  // From a stage's panel to the next, of the same columns.
  static __device__ __forceinline__ int panel_step(const Plan& plan) {
    return Shape::depth * kSlotColumns * plan.slots;
  }

  static __device__ __forceinline__ void fill_columns(const Plan& plan, const BlockView<T>& view, T* stage, int packs,
                                                      const T* panel) {
    // A line holds all slots; 16 threads take one, so that no division by the number of slots is needed.
    const int lines = packs * Shape::pack * Shape::pieces, slot = view.thread % kSlots, step = int(blockDim.x) / kSlots;
    if (slot >= plan.slots) return;
    const int line = view.thread / kSlots;
    T* to = stage + Shape::rows_size + (line * kSlots + slot) * Shape::pack;
    const T* from = panel + (line * plan.slots + slot) * Shape::pack;
#pragma unroll 1
    for (int left = lines - line; left > 0; left -= step) {
      copy_async<16>(to, from, 16);
      to += step * kSlots * Shape::pack, from += step * plan.slots * Shape::pack;
    }
  }

  __device__ __forceinline__ void multiply(const T* stage, int packs, Sum& sum) const {
    if constexpr (!Distance) {
      add_products(stage, packs, sum);
    } else {
      Sum part;
      set_zero(part);
      add_products(stage, packs, part);
#pragma unroll
      for (int i = 0; i < Shape::thread_rows; ++i)
#pragma unroll
        for (int c = 0; c < Width; ++c) sum[i][c] += part[i][c];
    }
  }

 private:
  __device__ __forceinline__ void add_products(const T* stage, int packs, Sum& sum) const {
#pragma unroll 1
    for (int part = 0; part < packs; ++part) {
      Pack<T> z[Shape::thread_rows];
#pragma unroll
      for (int i = 0; i < Shape::thread_rows; ++i)
        z[i] = *reinterpret_cast<const Pack<T>*>(stage + rows + i * kRowThreads * Shape::pitch + part * Shape::pack);
#pragma unroll
      for (int v = 0; v < Shape::pack; ++v) {
        T b[kSlotColumns];
#pragma unroll
        for (int h = 0; h < Shape::pieces; ++h) {
          if (h * Shape::pack >= Width) continue;
          const auto piece = *reinterpret_cast<const Pack<T>*>(
              stage + columns + ((part * Shape::pack + v) * Shape::pieces + h) * kSlots * Shape::pack);
#pragma unroll
          for (int u = 0; u < Shape::pack; ++u) b[h * Shape::pack + u] = piece.at[u];
        }
#pragma unroll
        for (int i = 0; i < Shape::thread_rows; ++i)
#pragma unroll
          for (int step = 0; step < Width; ++step) {
            // Back and forth: an operand that two instructions share is not fetched twice, and fewer meet in a register
            // bank.
            const int c = i % 2 ? Width - 1 - step : step;
            const T factor = Distance ? z[i].at[v] - b[c] : z[i].at[v];
            sum[i][c] += factor * (Distance ? factor : b[c]);
          }
      }
    }
  }
};

inline constexpr int kDistanceColumns = 4;  // of a slot, where distances are summed

// Walks over the block's tiles; epilogue.chunk(view, tile, chunk, sum) gets the products of each chunk of columns.
// Sets of blocks are for kernels compiled with `Sets`: elsewhere they would cost registers.
template <class Engine, bool Sets = false, class T, class Epilogue>
__device__ __forceinline__ void walk(const Product<T>& job, Epilogue& epilogue) {
  using Shape = TileShape<T>;
  const Engine engine(block_view(job));
  T* shared = static_cast<T*>(dynamic_shared());
  const Plan& plan = job.plan;
  const int first_tile = int(blockIdx.y) * job.tiles_per_block;
  const int end_tile = plan.tiles - first_tile < job.tiles_per_block ? plan.tiles : first_tile + job.tiles_per_block;
  const int all_packs = Sets ? job.packs : plan.depth / Shape::pack, stages = (all_packs + kPacksDeep - 1) / kPacksDeep;
  const int panel_step = Engine::panel_step(plan), chunk_columns = plan.depth * kSlotColumns * plan.slots;
  const T* panel = job.panels + int64_t(first_tile) * plan.chunks * chunk_columns;  // of the next stage to be filled
  if (Sets) panel += int64_t(blockIdx.z) * job.set_elements;
  auto packs_at = [&](int stage) {
    const int left = all_packs - stage * kPacksDeep;
    return left < kPacksDeep ? left : kPacksDeep;
  };
  auto fill = [&](int buffer, int stage) {
    const int packs = packs_at(stage);
    const BlockView<T> view = block_view(job);
    T* to = shared + buffer * Engine::stage;
    fill_rows<Sets>(job, view, to, stage * Shape::depth, packs);
    Engine::fill_columns(plan, view, to, packs, panel);
    commit_copies();
    panel += stage + 1 == stages ? chunk_columns - (stages - 1) * panel_step : panel_step;
  };

  // Few variables live through this loop, because the accumulators leave few registers.
  typename Engine::Sum sum;
  fill(0, 0);
  for (int tile = first_tile, chunk = 0, stage = 0, buffer = 0;; buffer ^= 1) {
    T* now = shared + buffer * Engine::stage;
    wait_copies<0>();
    if (job.norms && tile == first_tile && chunk == 0) add_norms(block_view(job), now, packs_at(stage), stage == 0);
    __syncthreads();  // this stage is whole, and nobody reads the other buffer any more
    const bool last_stage = stage + 1 == stages, last = last_stage && chunk + 1 == plan.chunks && tile + 1 == end_tile;
    if (!last) fill(buffer ^ 1, last_stage ? 0 : stage + 1);
    if (stage == 0) set_zero(sum);
    engine.multiply(now, packs_at(stage), sum);
    stage = last_stage ? 0 : stage + 1;
    if (!last_stage) continue;
    epilogue.chunk(block_view(job), tile, chunk, sum);
    if (last) break;
    if (++chunk == plan.chunks) chunk = 0, ++tile;
  }
}

// Shared memory of a launch; `extra` elements stand free for the epilogue.
template <class T>
size_t product_shared_bytes(const Product<T>& job, int64_t extra = 0) {
  return size_t(2 * job.stage + TileShape<T>::rows + extra) * sizeof(T);
}

// The grid: blocks of rows, and the tiles cut among several blocks where rows alone would leave the device idle.
template <class T>
dim3 product_grid(Product<T>& job) {
  const int64_t row_blocks = ceil_div<int64_t>(job.n, TileShape<T>::rows);
  const int64_t wanted = ceil_div<int64_t>(2 * TileShape<T>::blocks * multiprocessors(), row_blocks * job.sets);
  const int64_t cuts = wanted < job.plan.tiles ? wanted : job.plan.tiles;
  job.tiles_per_block = int(ceil_div<int64_t>(job.plan.tiles, cuts));
  return dim3(unsigned(row_blocks), unsigned(ceil_div(job.plan.tiles, job.tiles_per_block)), unsigned(job.sets));
}

template <class T>
Product<T> make_product(const Rows& z, int64_t n, const Plan& plan, const T* panels) {
  return {z,
          n,
          copy_mode<T>(z),
          plan,
          panels,
          false,
          plan.threads(),
          LaneEngine<T, 1, false>::stage,
          0,
          plan.depth / TileShape<T>::pack};
}

}  // namespace desc_ext::cuda
