// Rows by label, and their Gram matrices.
#pragma once

#include <vector>

#include "operator.h"

namespace desc_ext::cpu {

// Positions of the rows of each label, in ascending order: order[begin[k] .. begin[k+1]) have label k.
struct Segments {
  std::vector<int64_t> begin;
  Array<int64_t> order;

  Segments(const char* op, const Tensor& labels, int64_t n, int64_t count) : begin(count + 1, 0), order(n) {
    check_shape(op, "labels", labels, {n});
    STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long, op, ": labels must be int64");
    const Tensor dense = as_contiguous(labels);
    const int64_t* label = data<int64_t>(dense);
    for (int64_t i = 0; i < n; ++i) {
      STD_TORCH_CHECK(label[i] >= 0 && label[i] < count, op, ": labels[", i, "] is ", label[i],
                      "; wanted 0 <= label < ", count);
      ++begin[label[i] + 1];
    }
    for (int64_t k = 0; k < count; ++k) begin[k + 1] += begin[k];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < n; ++i) order[next[label[i]]++] = i;
  }

  // All rows, in place, as one segment.
  explicit Segments(int64_t n) : begin{0, n}, order(n) {
    for (int64_t i = 0; i < n; ++i) order[i] = i;
  }

  int64_t count() const { return int64_t(begin.size()) - 1; }
};

// out [K, p, p] = Σ weight_i z_i z_iᵀ over each segment. Sorted positions are cut into chunks; a segment inside one
// chunk is written at once, one that reaches over chunks is added up from its pieces, in order.
template <class T>
void segment_grams(const Tensor& z, const T* weight, const Segments& segments, T* out) {
  const int64_t n = z.size(0), p = z.size(1), stride = padded<T>(p), elements = p * stride;
  const Chunks chunks(n, 2 * elements, sizeof(T));
  // A chunk's pieces that other chunks share: at most its first and its last.
  Array<T> shared(2 * chunks.count * elements);
  auto write = [&](const T* upper, int64_t k) {
    T* to = out + k * p * p;
    for (int64_t a = 0; a < p; ++a)
      for (int64_t b = a; b < p; ++b) to[a * p + b] = to[b * p + a] = upper[a * stride + b];
  };
  std::vector<int64_t> first(chunks.count);
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk)
    first[chunk] = std::upper_bound(segments.begin.begin(), segments.begin.end(), chunks.begin(chunk)) -
                   segments.begin.begin() - 1;
  for_each_task(chunks.count, [&](int64_t chunk) {
    const int64_t begin = chunks.begin(chunk), end = chunks.end(chunk);
    Array<T> own(elements);
    for (int64_t k = first[chunk]; k < segments.count() && segments.begin[k] < end; ++k) {
      const int64_t from = std::max(begin, segments.begin[k]), to = std::min(end, segments.begin[k + 1]);
      if (from >= to) continue;
      const bool starts_before = segments.begin[k] < begin;
      const bool ends_after = segments.begin[k + 1] > end;
      T* sums = starts_before ? shared + 2 * chunk * elements
                : ends_after  ? shared + (2 * chunk + 1) * elements
                              : own.get();
      std::fill(sums, sums + elements, T(0));
      table<T>().gram(rows_of(z, segments.order), weight, from, to, stride, sums);
      if (!starts_before && !ends_after) write(sums, k);
    }
  });
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const int64_t end = chunks.end(chunk);
    // The segment that starts in this chunk and goes on after it.
    const int64_t k =
        std::upper_bound(segments.begin.begin(), segments.begin.end(), end - 1) - segments.begin.begin() - 1;
    if (end == n || segments.begin[k] < chunks.begin(chunk) || segments.begin[k + 1] <= end) continue;
    T* sums = shared + (2 * chunk + 1) * elements;
    for (int64_t next = chunk + 1; next < chunks.count && chunks.begin(next) < segments.begin[k + 1]; ++next)
      for (int64_t i = 0; i < elements; ++i) sums[i] += shared[2 * next * elements + i];
    write(sums, k);
  }
  for (int64_t k = 0; k < segments.count(); ++k)
    if (segments.begin[k] == segments.begin[k + 1]) std::fill(out + k * p * p, out + (k + 1) * p * p, T(0));
}

// out_i = weight_i · matrix z_i and dot_i = z_iᵀ matrix z_i for rows at positions [begin, end) of the segments' order;
// `matrix` [p, p] is symmetric.
template <class T>
void rows_times(const Tensor& z, const int64_t* order, int64_t count, const T* weight, const T* matrix, Tensor* out,
                T* dots) {
  const int64_t p = z.size(1);
  Array<T> panels(p * p);
  table<T>().pack_panels(matrix, p, p, p, p, panels);
  const MutableRows rows = out ? mutable_rows_of(*out, order) : MutableRows{nullptr, Storage::f32, 0};
  for_rows(count, 2.0 * p * p, [&](int64_t begin, int64_t end) {
    table<T>().rows_times(rows_of(z, order), weight, panels, begin, end, rows, dots);
  });
}

}  // namespace desc_ext::cpu
