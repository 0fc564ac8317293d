// Self-expression family on CUDA; csrc/cpu/self_expression.cpp is its counterpart.
#include "self_expression.cuh"

#include "gradients.h"
#include "pair_blocks.h"

namespace desc_ext::cuda {

// ---- the k largest of every row -----------------------------------------------------------------------------------

template <class T>
static void select_all(const char* op, const Tensor& rows, int64_t k, bool affinity, Tensor& indices, Tensor& values,
                       const Device& device) {
  const PairRows<T> y(op, rows, RowChange::none, device);
  Leverage<T> leverage(op, rows, y, device);
  const auto blocks = PairBlocks::of<T>(y.n, 1, device.limits.pairs);
  ColumnSide<T> others(op, rows, blocks, y.p, PairKind::products, device);
  Workspace<T> products(rows, blocks.elements());
  T* value = mutable_data<T>(values);
  int64_t* index = mutable_data<int64_t>(indices);
  for (int64_t b = 0; b < y.batch; ++b) {
    others.pack(y[b]);
    const int64_t at = b * y.n;
    for (int64_t i = 0; i < blocks.row_blocks(); ++i)
      for (int64_t j = 0; j < blocks.column_blocks(); ++j) {
        const PairBlock block = blocks.at(i, j);
        others.values(y[b], block, j, products);
        check_launch(op, run_select<T>({block, products, affinity ? leverage.scale + at : nullptr, k, value + at * k,
                                        index + at * k},
                                       device.stream));
      }
  }
  check_launch(op, run_select_finish<T>(value, index, leverage.scale, affinity, y.batch * y.n, y.n, k, device.stream));
}

static std::tuple<Tensor, Tensor> coefficient_topk(const Tensor& y, int64_t k) {
  const char* op = "coefficient_topk";
  const auto compute = check_topk(op, y, k);
  const Device device(y);
  Tensor indices = empty_of(y, {y.size(0), y.size(1), k}, ScalarType::Long),
         values = empty_of(y, {y.size(0), y.size(1), k}, compute);
  const Tensor rows = contiguous(y);
  if (indices.numel() > 0)
    dispatch(compute, [&]<class T>() { select_all<T>(op, rows, k, false, indices, values, device); });
  return {indices, values};
}

static std::tuple<Tensor, Tensor> affinity_row_max(const Tensor& y) {
  const char* op = "affinity_row_max";
  const auto compute = check_batch(op, "y", y);
  const Device device(y);
  Tensor indices = empty_of(y, {y.size(0), y.size(1)}, ScalarType::Long),
         values = empty_of(y, {y.size(0), y.size(1)}, compute);
  if (y.size(1) < 2) return {torch::stable::zero_(values), torch::stable::zero_(indices)};
  const Tensor rows = contiguous(y);
  if (indices.numel() > 0)
    dispatch(compute, [&]<class T>() { select_all<T>(op, rows, 1, true, indices, values, device); });
  return {values, indices};
}

// Entries are sorted by the row that they chose, so that every row collects its own.
static Tensor selected_backward(const char* op, const Tensor& grad, const Tensor& indices, const Tensor& y, int64_t k,
                                bool affinity, ScalarType compute) {
  check_same_device(op, "grad", grad, y);
  check_same_device(op, "indices", indices, y);
  const Device device(y);
  const Tensor rows = contiguous(y), upstream = contiguous(grad), chosen = contiguous(indices);
  Tensor dy = gradient_like(rows, true);
  const int64_t n = y.size(1), entries = n * k;
  if (dy.numel() == 0) return dy;
  if (k == 0) return torch::stable::zero_(dy);
  dispatch(compute, [&]<class T>() {
    const PairRows<T> own(op, rows, RowChange::none, device);
    Leverage<T> leverage(op, rows, own, device);
    Workspace<T> across(rows, entries), first(rows, entries), second(rows, entries);
    for (int64_t b = 0; b < own.batch; ++b) {
      SortedLabels sorted(op, chosen, b * entries, entries, n, device);  // which stops at an index out of range
      const Selected<T> job{own[b],
                            n,
                            own.p,
                            k,
                            affinity,
                            data<int64_t>(chosen) + b * entries,
                            data<T>(upstream) + b * entries,
                            leverage.scale + b * n,
                            leverage.slope + b * n,
                            across,
                            first,
                            second};
      check_launch(op, run_selected<T>(job, sorted.begin(), sorted.order(), batch_rows(dy, b), device.stream));
    }
  });
  return dy;
}

static Tensor coefficient_topk_backward(const Tensor& grad, const Tensor& indices, const Tensor& y) {
  const char* op = "coefficient_topk_backward";
  const auto compute = check_batch(op, "y", y);
  check_selected(op, indices, {y.size(0), y.size(1), -1});
  check_shape(op, "grad", grad, {y.size(0), y.size(1), indices.size(2)}), check_type(op, "grad", grad, compute);
  return selected_backward(op, grad, indices, y, indices.size(2), false, compute);
}

static Tensor affinity_row_max_backward(const Tensor& grad, const Tensor& indices, const Tensor& y) {
  const char* op = "affinity_row_max_backward";
  const auto compute = check_batch(op, "y", y);
  check_selected(op, indices, {y.size(0), y.size(1)});
  check_shape(op, "grad", grad, {y.size(0), y.size(1)}), check_type(op, "grad", grad, compute);
  return selected_backward(op, grad, indices, y, 1, true, compute);
}

// ---- a learned C --------------------------------------------------------------------------------------------------

static std::tuple<Tensor, Tensor, Tensor> self_expression_residual(const Tensor& z, const Tensor& coef,
                                                                   std::string penalty) {
  const char* op = "self_expression_residual";
  const bool absolute = asks_absolute(op, z, coef, penalty);
  check_same_device(op, "coef", coef, z);
  const auto compute = compute_type(op, "z", z);
  const Device device(z);
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2);
  Tensor residual = empty_of(z, {batch}, compute), size = empty_of(z, {batch}, compute);
  Tensor difference = empty_of(z, {batch, n, p}, compute);
  const Tensor rows = contiguous(z), coefficients = contiguous(coef);
  const auto check = [&](cudaError_t error) { check_launch(op, error); };
  dispatch(compute, [&]<class T>() {
    const PairRows<T> own(op, rows, RowChange::none, device);
    const auto blocks = PairBlocks::of<T>(n, 1, device.limits.pairs);
    WeightedSums<T> sums(op, z, blocks, p, device);
    Workspace<T> coef_block(z, blocks.elements());
    Workspace<double> squared(z, batch * n), sizes(z, batch * n);
    for (int64_t b = 0; b < batch; ++b) {
      sums.pack(own[b]);
      for (int64_t i = 0; i < blocks.row_blocks(); ++i) {
        for (int64_t j = 0; j < blocks.column_blocks(); ++j) {
          const PairBlock block = blocks.at(i, j);
          check(run_expression_block<T>({block, rows_of(coefficients, b * n), absolute, coef_block, sizes + b * n},
                                        device.stream));
          sums.add(coef_block, block);
        }
        const PairBlock block = blocks.at(i, 0);
        sums.store(block, own[b] + block.row * p, nullptr, T(-1), batch_rows(difference, b, block.row));
      }
    }
    check(run_pair_sizes<T>(rows_of(difference), batch * n, RowSize::squares, squared, device.stream));
    check(run_pair_totals<T>({squared, n, 1, 0.5, mutable_data<T>(residual)}, batch, device.stream));
    check(run_pair_totals<T>({sizes, n, 1, 1.0, mutable_data<T>(size)}, batch, device.stream));
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
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"coef", coef},
                                     {"grad", grad},
                                     {"grad_size", grad_size},
                                     {"difference", difference}})
    check_same_device(op, name, tensor, z);
  const Device device(z);
  const Tensor rows = contiguous(z), coefficients = contiguous(coef), differences = contiguous(difference),
               upstream = contiguous(grad), upstream_size = contiguous(grad_size);
  Tensor dz = gradient_like(rows, need_z), dcoef = gradient_like(coefficients, need_coef);
  if (n == 0) return {dz, dcoef};
  const auto check = [&](cudaError_t error) { check_launch(op, error); };
  dispatch(compute, [&]<class T>() {
    const PairRows<T> own(op, rows, RowChange::none, device);
    const auto blocks = PairBlocks::of<T>(n, 1, device.limits.pairs);
    for (int64_t b = 0; b < batch && need_coef; ++b) {
      ColumnSide<T> others(op, z, blocks, p, PairKind::products, device);
      Workspace<T> products(z, blocks.elements());
      others.pack(own[b]);
      for (int64_t i = 0; i < blocks.row_blocks(); ++i)
        for (int64_t j = 0; j < blocks.column_blocks(); ++j) {
          const PairBlock block = blocks.at(i, j);
          others.values(data<T>(differences) + b * n * p, block, j, products);
          check(run_expression_coef<T>({block, products, rows_of(coefficients, b * n), absolute, data<T>(upstream) + b,
                                        data<T>(upstream_size) + b, batch_rows(dcoef, b)},
                                       device.stream));
        }
    }
    if (!need_z || p == 0) return;
    Workspace<T> moments(z, n * p), coef_block(z, blocks.elements());
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t i = 0; i < blocks.row_blocks(); ++i)
        for (int64_t j = 0; j < blocks.column_blocks(); ++j) {
          PairBlock block = blocks.at(i, j);
          block.pitch = block.columns;  // what a moment's rows have to be
          check(run_expression_block<T>({block, rows_of(coefficients, b * n), absolute, coef_block}, device.stream));
          auto job = make_moments<T>({coef_block.get(), kStorage<T>, block.columns, nullptr},
                                     rows_of(differences, b * n + block.row), block.rows);
          job.out = moments + block.column * p, job.accumulate = i > 0;
          moments_to_out(op, job, z, device);
        }
      check(run_expression_rows<T>(
          {data<T>(differences) + b * n * p, moments, data<T>(upstream) + b, n, batch_rows(dz, b)}, device.stream));
    }
  });
  return {dz, dcoef};
}

}  // namespace desc_ext::cuda

DESC_EXT_CUDA_LIBRARY(m) {
  using namespace desc_ext::cuda;
  m.impl("coefficient_topk", TORCH_BOX(&coefficient_topk));
  m.impl("coefficient_topk_backward", TORCH_BOX(&coefficient_topk_backward));
  m.impl("affinity_row_max", TORCH_BOX(&affinity_row_max));
  m.impl("affinity_row_max_backward", TORCH_BOX(&affinity_row_max_backward));
  m.impl("self_expression_residual", TORCH_BOX(&self_expression_residual));
  m.impl("self_expression_residual_backward", TORCH_BOX(&self_expression_residual_backward));
}
