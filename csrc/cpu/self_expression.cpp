// Self-expression family on the CPU: the largest coefficients and affinities of every row, and the residual of a
// learned C.
#include <cmath>
#include <tuple>

#include "pairs.h"
#include "segments.h"

namespace desc_ext::cpu {

// ---- the k largest of every row -----------------------------------------------------------------------------------

template <class T>
static void select_largest(const Tensor& y, int64_t k, bool affinity, Tensor& indices, Tensor& values) {
  const int64_t batch = y.size(0), n = y.size(1);
  const PackedRows<T> rows(y, Keep::rows);
  const LeverageScale<T> leverage(rows, batch);
  int64_t* index = mutable_data<int64_t>(indices);
  T* value = mutable_data<T>(values);
  std::fill(index, index + batch * n * k, int64_t(-1));
  std::fill(value, value + batch * n * k, T(0));
  for_unordered_pairs(batch, rows.blocks(), [&](int64_t b, const BlockPair& pair) {
    const PairSelection<T> job{rows[b], affinity ? leverage.scale[b] : nullptr, k, value + b * n * k,
                               index + b * n * k};
    pair_table<T>().select(job, pair);
  });
  for_batch_rows(batch, n, [&](int64_t b, int64_t i) {
    for (int64_t at = (b * n + i) * k, end = at + k, next = 0; at < end; ++at) {
      if (index[at] < 0) {  // NaN is nobody's largest: such a row gets the first others, and NaN
        const int64_t first = (b * n + i) * k;
        while (next == i || std::find(index + first, index + at, next) != index + at) ++next;
        index[at] = next;
        value[at] = std::numeric_limits<T>::quiet_NaN();
      }
      value[at] = affinity ? std::abs(value[at]) : value[at] * leverage.scale[b][i];
    }
  });
}

static std::tuple<Tensor, Tensor> coefficient_topk(const Tensor& y, int64_t k) {
  const char* op = "coefficient_topk";
  const auto compute = check_topk(op, y, k);
  const int64_t n = y.size(1);
  Tensor indices = empty_of(y, {y.size(0), n, k}, ScalarType::Long), values = empty_of(y, {y.size(0), n, k}, compute);
  const Tensor rows = as_contiguous(y);
  if (indices.numel() > 0) dispatch(compute, [&]<class T>() { select_largest<T>(rows, k, false, indices, values); });
  return {indices, values};
}

static std::tuple<Tensor, Tensor> affinity_row_max(const Tensor& y) {
  const char* op = "affinity_row_max";
  const auto compute = check_batch(op, "y", y);
  const int64_t batch = y.size(0), n = y.size(1);
  Tensor indices = empty_of(y, {batch, n}, ScalarType::Long), values = empty_of(y, {batch, n}, compute);
  const Tensor rows = as_contiguous(y);
  dispatch(compute, [&]<class T>() {
    if (n > 1) return select_largest<T>(rows, 1, true, indices, values);
    std::fill(mutable_data<int64_t>(indices), mutable_data<int64_t>(indices) + batch * n, int64_t(0));
    std::fill(mutable_data<T>(values), mutable_data<T>(values) + batch * n, T(0));
  });
  return {values, indices};
}

// dy for upstream gradients of values at (i, indices_ie): each entry adds α y_j + β_i y_i to row i and α y_i + β_j y_j
// to row j. Entries are sorted by j, so that every row collects its own.
template <class T>
static void selected_backward(const char* op, const Tensor& grad, const Tensor& indices, const Tensor& y, int64_t k,
                              bool affinity, Tensor& dy) {
  const int64_t batch = y.size(0), n = y.size(1), p = y.size(2);
  const PackedRows<T> packed(y, Keep::rows);
  const LeverageScale<T> leverage(packed, batch);
  const MutableRows out = mutable_rows_of(dy);
  const Tensor flat = torch::stable::reshape(indices, {batch, n * k});
  for (int64_t b = 0; b < batch; ++b) {
    const T *rows = packed[b].rows, *g = data<T>(grad) + b * n * k, *scale = leverage.scale[b];
    const Tensor own = torch::stable::select(flat, 0, b);
    const int64_t* index = data<int64_t>(own);
    const Segments incoming(op, own, n * k, n);
    Array<T> across(n * k), first(n * k), second(n * k);
    for_batch_rows(1, n * k, [&](int64_t, int64_t e) {
      const int64_t i = e / k, j = index[e];
      double product = 0;
      for (int64_t c = 0; c < p; ++c) product += double(rows[i * p + c]) * rows[j * p + c];
      if (affinity) {
        const T sign = T((product > 0) - (product < 0)), size = T(std::abs(product));
        across[e] = g[e] * sign * (scale[i] + scale[j]) / 2;
        first[e] = g[e] * size * leverage.slope(b, i);
        second[e] = g[e] * size * leverage.slope(b, j);
      } else {
        across[e] = g[e] * scale[i];
        first[e] = 2 * g[e] * T(product) * leverage.slope(b, i);
        second[e] = 0;
      }
      if (i == j) across[e] = first[e] = second[e] = 0;  // a single row has no other
    });
    parallel_for(0, n, 64, [&](int64_t begin, int64_t end) {
      Array<T> sum(p);
      for (int64_t i = begin; i < end; ++i) {
        std::fill(sum + 0, sum + p, T(0));
        const auto add = [&](T factor, int64_t row) {
          for (int64_t c = 0; c < p; ++c) sum[c] += factor * rows[row * p + c];
        };
        T own_factor = 0;
        for (int64_t e = i * k; e < (i + 1) * k; ++e) add(across[e], index[e]), own_factor += first[e];
        for (int64_t at = incoming.begin[i]; at < incoming.begin[i + 1]; ++at) {
          const int64_t e = incoming.order[at];
          add(across[e], e / k), own_factor += second[e];
        }
        add(own_factor, i);
        table<T>().store_row(out, b * n + i, sum);
      }
    });
  }
}

static Tensor coefficient_topk_backward(const Tensor& grad, const Tensor& indices, const Tensor& y) {
  const char* op = "coefficient_topk_backward";
  const auto compute = check_batch(op, "y", y);
  check_selected(op, indices, {y.size(0), y.size(1), -1});
  const int64_t k = indices.size(2);
  check_shape(op, "grad", grad, {y.size(0), y.size(1), k}), check_type(op, "grad", grad, compute);
  const Tensor rows = as_contiguous(y), upstream = as_contiguous(grad), at = as_contiguous(indices);
  Tensor dy = gradient_like(rows, true);
  dispatch(compute, [&]<class T>() { selected_backward<T>(op, upstream, at, rows, k, false, dy); });
  return dy;
}

static Tensor affinity_row_max_backward(const Tensor& grad, const Tensor& indices, const Tensor& y) {
  const char* op = "affinity_row_max_backward";
  const auto compute = check_batch(op, "y", y);
  check_selected(op, indices, {y.size(0), y.size(1)});
  check_shape(op, "grad", grad, {y.size(0), y.size(1)}), check_type(op, "grad", grad, compute);
  const Tensor rows = as_contiguous(y), upstream = as_contiguous(grad), at = as_contiguous(indices);
  Tensor dy = gradient_like(rows, true);
  dispatch(compute, [&]<class T>() { selected_backward<T>(op, upstream, at, rows, 1, true, dy); });
  return dy;
}

// ---- a learned C --------------------------------------------------------------------------------------------------

static std::tuple<Tensor, Tensor, Tensor> self_expression_residual(const Tensor& z, const Tensor& coef,
                                                                   std::string penalty) {
  const char* op = "self_expression_residual";
  const bool absolute = asks_absolute(op, z, coef, penalty);
  const auto compute = compute_type(op, "z", z);
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2);
  Tensor residual = empty_of(z, {batch}, compute), size = empty_of(z, {batch}, compute);
  Tensor difference = empty_of(z, {batch, n, p}, compute);
  const Tensor rows = as_contiguous(z), coefficients = as_contiguous(coef);
  dispatch(compute, [&]<class T>() {
    const PackedRows<T> packed(rows, Keep::rows);
    const int64_t strips = packed.blocks().strips();
    Array<double> squared(strips), sizes(strips);
    for (int64_t b = 0; b < batch; ++b) {
      SelfExpression<T> job{rows_from(rows_of(coefficients), b * n), packed[b].rows, n, p, absolute};
      job.difference = mutable_data<T>(difference) + b * n * p;
      job.squared = squared, job.size = sizes;
      for_each_task(strips, [&](int64_t s) { pair_table<T>().self_expression(job, s, s + 1); });
      double total = 0, total_size = 0;
      for (int64_t s = 0; s < strips; ++s) total += squared[s], total_size += sizes[s];
      mutable_data<T>(residual)[b] = T(total / 2);
      mutable_data<T>(size)[b] = T(total_size);
    }
  });
  return {residual, size, difference};
}

static std::tuple<Tensor, Tensor> self_expression_residual_backward(const Tensor& grad, const Tensor& grad_size,
                                                                    const Tensor& difference, const Tensor& z,
                                                                    const Tensor& coef, std::string penalty,
                                                                    bool need_z, bool need_coef) {
  const char* op = "self_expression_residual_backward";
  const bool absolute = asks_absolute(op, z, coef, penalty);
  const auto compute = compute_type(op, "z", z);
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2);
  check_shape(op, "grad", grad, {batch}), check_type(op, "grad", grad, compute);
  check_shape(op, "grad_size", grad_size, {batch}), check_type(op, "grad_size", grad_size, compute);
  check_shape(op, "difference", difference, {batch, n, p}), check_type(op, "difference", difference, compute);
  const Tensor rows = as_contiguous(z), coefficients = as_contiguous(coef), differences = as_contiguous(difference),
               upstream = as_contiguous(grad), upstream_size = as_contiguous(grad_size);
  Tensor dz = gradient_like(rows, need_z), dcoef = gradient_like(coefficients, need_coef);
  dispatch(compute, [&]<class T>() {
    const PackedRows<T> packed(rows, Keep::strips), packed_difference(differences, Keep::rows);
    const int64_t strips = packed.blocks().strips();
    for (int64_t b = 0; b < batch; ++b) {
      SelfExpression<T> job{rows_from(rows_of(coefficients), b * n), nullptr, n, p, absolute};
      job.z_strips = packed[b], job.difference_strips = packed_difference[b];
      job.grad = data<T>(upstream)[b], job.grad_size = data<T>(upstream_size)[b];
      if (need_coef) {
        job.grad_coef = mutable_rows_of(dcoef);
        job.grad_coef.data = static_cast<char*>(job.grad_coef.data) + b * n * n * dcoef.element_size();
        for_each_task(strips, [&](int64_t s) { pair_table<T>().self_expression_coef(job, s, s + 1); });
      }
      if (need_z) {
        job.grad_z = mutable_rows_of(dz);
        job.grad_z.data = static_cast<char*>(job.grad_z.data) + b * n * p * dz.element_size();
        for_each_task(strips, [&](int64_t s) { pair_table<T>().self_expression_rows(job, s, s + 1); });
      }
    }
  });
  return {dz, dcoef};
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  m.impl("coefficient_topk", TORCH_BOX(&desc_ext::cpu::coefficient_topk));
  m.impl("coefficient_topk_backward", TORCH_BOX(&desc_ext::cpu::coefficient_topk_backward));
  m.impl("affinity_row_max", TORCH_BOX(&desc_ext::cpu::affinity_row_max));
  m.impl("affinity_row_max_backward", TORCH_BOX(&desc_ext::cpu::affinity_row_max_backward));
  m.impl("self_expression_residual", TORCH_BOX(&desc_ext::cpu::self_expression_residual));
  m.impl("self_expression_residual_backward", TORCH_BOX(&desc_ext::cpu::self_expression_residual_backward));
}
