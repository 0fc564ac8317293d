// From tensors to the kernels' plain arrays, and how work is cut for threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "../checks.h"
#include "../tensors.h"
#include "kernels.h"

namespace desc_ext::cpu {

using torch::stable::parallel_for;

// Scratch that ends with its scope.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t size) : data_(static_cast<T*>(take_scratch(size_t(std::max<int64_t>(size, 1)) * sizeof(T)))) {}
  T* get() const { return data_.get(); }
  operator T*() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* pointer) const { give_scratch(pointer); }
  };
  std::unique_ptr<T, Free> data_;
};

inline Storage storage_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Storage::f64;
    case ScalarType::Half: return Storage::f16;
    case ScalarType::BFloat16: return Storage::bf16;
    default: return Storage::f32;
  }
}

// The tensor must be contiguous; its last dimension is the row.
inline Rows rows_of(const Tensor& tensor, const int64_t* index = nullptr) {
  return {tensor.const_data_ptr(), storage_of(tensor), tensor.size(tensor.dim() - 1), index};
}

inline MutableRows mutable_rows_of(Tensor& tensor, const int64_t* index = nullptr) {
  return {tensor.mutable_data_ptr(), storage_of(tensor), tensor.size(tensor.dim() - 1), index};
}

template <class T>
inline constexpr ScalarType kScalarType = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

template <class T>
int64_t padded(int64_t columns) {
  const int64_t lanes = table<T>().lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

// Operations below which another thread costs more to wake than it takes over.
inline constexpr double kWorthAThread = 4e5;

// f(begin, end) over rows, each row's result independent of where the cuts are; `operations` is the work of one row.
// The cuts are between strips of the kernels.
template <class F>
void for_rows(int64_t n, double operations, const F& f) {
  constexpr int64_t kRows = 32;
  const int64_t grain = int64_t(1 + kWorthAThread / std::max(1.0, operations * kRows));
  parallel_for(0, (n + kRows - 1) / kRows, grain,
               [&](int64_t begin, int64_t end) { f(begin * kRows, std::min(n, end * kRows)); });
}

// f(begin, end) over tasks of `operations` each, on as many threads as there is work for.
template <class F>
void for_tasks(int64_t tasks, double operations, const F& f) {
  parallel_for(0, tasks, int64_t(1 + kWorthAThread / std::max(1.0, operations)), f);
}

template <class F>
void for_each_task(int64_t tasks, const F& f) {
  parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task);
  });
}

// How rows are cut where sums over rows are kept apart until the end: by shape alone, never by the number of threads,
// so the result does not depend on it. `elements` is the size of one partial sum.
struct Chunks {
  int64_t n, count;
  Chunks(int64_t rows, int64_t elements, size_t element_size) : n(rows) {
    const int64_t budget = (int64_t(4) << 20) / std::max<int64_t>(1, elements * int64_t(element_size));
    const int64_t least = std::clamp<int64_t>(n / 32, 1, 2);  // two threads share a small batch
    count = std::clamp<int64_t>((n + 127) / 128, least, std::clamp<int64_t>(budget, 8, 64));
  }
  int64_t begin(int64_t chunk) const { return n * chunk / count; }
  int64_t end(int64_t chunk) const { return n * (chunk + 1) / count; }
};

// f(chunk) for all; `operations` is the work of one row.
template <class F>
void for_chunks(const Chunks& chunks, double operations, const F& f) {
  for_tasks(chunks.count, operations * double(chunks.n) / double(chunks.count), [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) f(chunk);
  });
}

// Adds up `count` partial sums of `elements` each, in order, into the first.
template <class T>
void add_partial_sums(T* sums, int64_t count, int64_t elements) {
  parallel_for(0, elements, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = begin; i < end; ++i) sums[i] += sums[part * elements + i];
  });
}

// What a gradient pass wants of the bases beside the values.
struct Wanted {
  bool rows = false, bases = false;  // gradients of z, of the bases
};

// Bases in the layouts of the kernels, and the kernels that take them. Four copies of the bases at most, none that
// grows with n.
template <class T>
class PreparedBases {
 public:
  PreparedBases(const Tensor& bases, Metric metric, Wanted wanted = {})
      : forward(table<T>().projection_forward), backward(table<T>().projection_backward), dense_(as_contiguous(bases)) {
    const int64_t K = bases.size(0), p = bases.size(1), d = bases.size(2), columns = K * d, wide = padded<double>(d);
    const bool residual = metric == Metric::residual;
    BasisLayouts<T> to{K, p, d, padded<T>(p), rows_of(dense_), metric};
    to.scale = own(scale_, true, columns);
    to.factor = own(factor_, residual && wanted.bases, columns * wide);
    to.inverse = own(inverse_, residual && wanted.bases, columns * wide);
    view = {K, p, d, to.stride, to.source, nullptr, nullptr, to.scale, to.factor, to.inverse};
    if constexpr (std::is_same_v<T, float>)
      if (as_tiles(to, wanted)) return;
    const bool as_they_are = !residual && bases.scalar_type() == kScalarType<T> && table<T>().one_basis_a_panel(K, d);
    to.panels = own(panels_, !as_they_are, columns * p);
    to.back_panels = own(back_panels_, wanted.rows, columns * p);
    for_bases(to, table<T>().prepare_bases);
    view.panels = as_they_are ? data<T>(dense_) : to.panels;
    view.back_panels = to.back_panels;
  }

  Bases<T> view;
  void (*forward)(const ProjectionForward<T>&, int64_t begin, int64_t end, double* sum);
  void (*backward)(const ProjectionBackward<T>&, int64_t begin, int64_t end, T* basis_sum);

 private:
  template <class Element>
  static Element* own(Array<Element>& array, bool needed, int64_t size) {
    if (needed) array = Array<Element>(size);
    return array.get();
  }

  static void for_bases(const BasisLayouts<T>& to, void (*prepare)(const BasisLayouts<T>&, int64_t, int64_t)) {
    for_tasks(to.K, double(to.p * to.d) * (to.metric == Metric::residual ? 6.0 * double(to.d) : 4.0),
              [&](int64_t begin, int64_t end) { prepare(to, begin, end); });
  }

  // Whether there are kernels by tiles for bases of this shape and these numbers. Parts of a number that is infinite,
  // NaN or huge would not be the number, so such bases are for the other kernels, which then decide what becomes of
  // them.
  bool as_tiles(BasisLayouts<float>& to, Wanted wanted) {
    const TileTable* kernels = tile_table();
    if (!kernels || !kernels->worth(to.K, to.p, to.d)) return false;
    BasisLayouts<float> tiles = to;
    tiles.parts = to.metric == Metric::energy && to.source.storage == Storage::bf16 ? 1 : 3;
    tiles.tiles = own(tiles_, true, kernels->tiles_size(to.K, to.p, to.d, tiles.parts));
    tiles.back_tiles =
        own(back_tiles_, wanted.rows, wanted.rows ? kernels->back_tiles_size(to.K, to.p, to.d, tiles.parts) : 0);
    const Array<bool> in_range(to.K);
    tiles.in_range = in_range;
    for_bases(tiles, kernels->prepare_bases);
    if (!std::all_of(in_range + 0, in_range + to.K, [](bool x) { return x; })) return false;
    view.parts = tiles.parts;
    view.tiles = tiles.tiles;
    view.back_tiles = tiles.back_tiles;
    forward = kernels->projection_forward;
    backward = kernels->projection_backward;
    return true;
  }

  Tensor dense_;
  Array<T> panels_, back_panels_, scale_;
  Array<double> factor_, inverse_;
  Array<uint32_t> tiles_, back_tiles_;
};

inline Metric metric_of(const char* op, const std::string& name) {
  return asks_residual(op, name) ? Metric::residual : Metric::energy;
}

// Runs the job over all rows and fills the gradients asked for; grad_bases may be null.
template <class T>
void run_projection_backward(const PreparedBases<T>& prepared, const ProjectionBackward<T>& job, int64_t n,
                             Tensor* grad_bases) {
  const auto& bases = job.bases;
  if (!grad_bases) {
    for_rows(n, 4.0 * bases.K * bases.d * bases.p,
             [&](int64_t begin, int64_t end) { prepared.backward(job, begin, end, nullptr); });
    return;
  }
  const int64_t elements = bases.K * bases.d * bases.stride;
  const Chunks chunks(n, elements, sizeof(T));
  Array<T> sums(chunks.count * elements);
  for_chunks(chunks, 6.0 * bases.K * bases.d * bases.p, [&](int64_t chunk) {
    prepared.backward(job, chunks.begin(chunk), chunks.end(chunk), sums + chunk * elements);
  });
  add_partial_sums<T>(sums, chunks.count, elements);
  const MutableRows out = mutable_rows_of(*grad_bases);
  for_tasks(bases.K, double(bases.d * bases.p) * (job.metric == Metric::residual ? 10.0 * bases.d : 4.0),
            [&](int64_t begin, int64_t end) {
              for (int64_t k = begin; k < end; ++k)
                table<T>().basis_gradient(bases, job.metric, k, sums + k * bases.d * bases.stride, out);
            });
}

}  // namespace desc_ext::cpu
