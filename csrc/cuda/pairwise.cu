// Pairwise family on CUDA; csrc/cpu/pairwise.cpp is its counterpart.
#include "pairwise.cuh"

#include "engine.h"
#include "pair_blocks.h"

namespace desc_ext::cuda {

template <class F>
static void for_block_rows(const PairBlocks& blocks, const F& f) {
  for (int64_t i = 0; i < blocks.row_blocks(); ++i) f(i);
}

// f(block, j) for the blocks of columns of a block of rows.
template <class F>
static void for_columns(const PairBlocks& blocks, int64_t i, const F& f) {
  for (int64_t j = 0; j < blocks.column_blocks(); ++j) f(blocks.at(i, j), j);
}

// ---- collaborative loss -------------------------------------------------------------------------------------------

static ScalarType check_collaboration_on_device(const char* op, const Tensor& prediction, const Tensor& y,
                                                const Tensor& row_max) {
  const auto compute = check_collaboration(op, prediction, y, row_max);
  check_same_device(op, "prediction", prediction, y);
  check_same_device(op, "row_max", row_max, y);
  return compute;
}

template <class T>
struct PreparedCollaboration {
  PairRows<T> y, prediction;
  Leverage<T> leverage;
  Workspace<T> inverse_max;
  PairBlocks blocks;
  ColumnSide<T> y_columns, prediction_columns;
  Workspace<T> products, common;
  const T upper, lower, apart;

  PreparedCollaboration(const char* op, const Tensor& predictions, const Tensor& rows, const Tensor& row_max,
                        double upper, double lower, double apart, const Device& device)
      : y(op, rows, RowChange::none, device), prediction(op, predictions, RowChange::none, device),
        leverage(op, rows, y, device), inverse_max(rows, y.batch * y.n),
        blocks(PairBlocks::of<T>(y.n, 2, device.limits.pairs)),
        y_columns(op, rows, blocks, y.p, PairKind::products, device),
        prediction_columns(op, rows, blocks, prediction.p, PairKind::products, device),
        products(rows, blocks.elements()), common(rows, blocks.elements()), upper(T(upper)), lower(T(lower)),
        apart(T(apart)) {
    check_launch(op, run_collaborate_maxima<T>(data<T>(row_max), y.batch * y.n, inverse_max, device.stream));
  }

  void pack(int64_t b) { y_columns.pack(y[b]), prediction_columns.pack(prediction[b]); }

  Collaboration<T> job(int64_t b, const PairBlock& block, int64_t j) {
    y_columns.values(y[b], block, j, products);
    prediction_columns.values(prediction[b], block, j, common);
    const int64_t at = b * y.n;
    return {block, products, common, leverage.scale + at, inverse_max + at, upper, lower, apart};
  }
};

static std::tuple<Tensor, Tensor> collaborative_loss(const Tensor& prediction, const Tensor& y, const Tensor& row_max,
                                                     double upper, double lower, double apart,
                                                     bool /*soft_indicator*/) {
  const char* op = "collaborative_loss";
  const auto compute = check_collaboration_on_device(op, prediction, y, row_max);
  const Device device(y);
  const int64_t batch = y.size(0), n = y.size(1);
  Tensor losses = empty_of(y, {batch, 3}, compute), counts = empty_of(y, {batch, 3}, ScalarType::Long);
  const Tensor rows = contiguous(y), predictions = contiguous(prediction), largest = contiguous(row_max);
  dispatch(compute, [&]<class T>() {
    PreparedCollaboration<T> prepared(op, predictions, rows, largest, upper, lower, apart, device);
    Workspace<double> sums(y, batch * n * 3);
    Workspace<int64_t> pairs(y, batch * n * 3);
    for (int64_t b = 0; b < batch; ++b) {
      prepared.pack(b);
      for_block_rows(prepared.blocks, [&](int64_t i) {
        for_columns(prepared.blocks, i, [&](const PairBlock& block, int64_t j) {
          auto job = prepared.job(b, block, j);
          job.sums = sums + b * n * 3, job.counts = pairs + b * n * 3;
          check_launch(op, run_collaborate(job, device.stream));
        });
      });
    }
    const PairTotals<T> totals{sums, n, 3, 1.0, mutable_data<T>(losses), pairs, mutable_data<int64_t>(counts)};
    check_launch(op, run_pair_totals(totals, batch, device.stream));
  });
  return {losses, counts};
}

static std::tuple<Tensor, Tensor, Tensor> collaborative_loss_backward(const Tensor& grad, const Tensor& counts,
                                                                      const Tensor& prediction, const Tensor& y,
                                                                      const Tensor& row_max, double upper, double lower,
                                                                      double apart, bool soft_indicator,
                                                                      bool need_prediction, bool need_y) {
  const char* op = "collaborative_loss_backward";
  const auto compute = check_collaboration_on_device(op, prediction, y, row_max);
  const int64_t batch = y.size(0), n = y.size(1);
  check_shape(op, "grad", grad, {batch, 3}), check_type(op, "grad", grad, compute);
  check_shape(op, "counts", counts, {batch, 3}), check_type(op, "counts", counts, ScalarType::Long);
  check_same_device(op, "grad", grad, y), check_same_device(op, "counts", counts, y);
  const Device device(y);
  const Tensor rows = contiguous(y), predictions = contiguous(prediction), largest = contiguous(row_max),
               upstream = contiguous(grad), pairs = contiguous(counts);
  Tensor dprediction = gradient_like(predictions, need_prediction), dy = gradient_like(rows, need_y),
         dmax = gradient_like(largest, need_y);
  dispatch(compute, [&]<class T>() {
    PreparedCollaboration<T> prepared(op, predictions, rows, largest, upper, lower, apart, device);
    const PairBlocks& blocks = prepared.blocks;
    std::optional<WeightedSums<T>> y_sums, prediction_sums;
    if (need_y) y_sums.emplace(op, y, blocks, y.size(2), device);
    if (need_prediction) prediction_sums.emplace(op, y, blocks, prediction.size(2), device);
    Workspace<T> grad_norm(y, need_y ? n : 0);
    for (int64_t b = 0; b < batch; ++b) {
      prepared.pack(b);
      if (need_y) y_sums->pack(prepared.y[b]);
      if (need_prediction) prediction_sums->pack(prepared.prediction[b]);
      for_block_rows(blocks, [&](int64_t i) {
        for_columns(blocks, i, [&](const PairBlock& block, int64_t j) {
          auto job = prepared.job(b, block, j);
          job.grad = data<T>(upstream) + b * 3, job.grad_counts = data<int64_t>(pairs) + b * 3;
          job.slope = prepared.leverage.slope + b * n, job.soft = soft_indicator;
          if (need_y) job.grad_norm = grad_norm, job.grad_max = mutable_data<T>(dmax) + b * n;
          check_launch(op, run_collaborate_weights(job, device.stream));
          if (need_y) y_sums->add(prepared.products, block);
          if (need_prediction) prediction_sums->add(prepared.common, block);
        });
        const PairBlock block = blocks.at(i, 0);
        if (need_prediction)
          prediction_sums->store(block, nullptr, nullptr, T(1), batch_rows(dprediction, b, block.row));
        if (need_y)
          y_sums->store(block, prepared.y[b] + block.row * y.size(2), grad_norm + block.row, T(1),
                        batch_rows(dy, b, block.row));
      });
    }
  });
  return {dprediction, dy, dmax};
}

// ---- Laplacian energy ---------------------------------------------------------------------------------------------

static ScalarType check_energy_on_device(const char* op, const Tensor& z, const Tensor& features, double bandwidth) {
  const auto compute = check_energy(op, z, features, bandwidth);
  check_same_device(op, "features", features, z);
  return compute;
}

// Rows of z and features about their means, and their squared distances.
template <class T>
struct PreparedEnergy {
  PairRows<T> z, features;
  PairBlocks blocks;
  ColumnSide<T> z_columns, feature_columns;
  Workspace<T> distances, far;
  const T rate;

  PreparedEnergy(const char* op, const Tensor& rows, const Tensor& feature_rows, double bandwidth, const Device& device)
      : z(op, rows, RowChange::centred, device), features(op, feature_rows, RowChange::centred, device),
        blocks(PairBlocks::of<T>(z.n, 2, device.limits.pairs)),
        z_columns(op, rows, blocks, z.p, PairKind::distances, device),
        feature_columns(op, rows, blocks, features.p, PairKind::distances, device), distances(rows, blocks.elements()),
        far(rows, blocks.elements()), rate(T(1 / bandwidth)) {}

  void pack(int64_t b) { z_columns.pack(z[b]), feature_columns.pack(features[b]); }

  LaplacianEnergy<T> job(int64_t b, const PairBlock& block, int64_t j, bool need_distances) {
    if (need_distances) z_columns.values(z[b], block, j, distances);
    feature_columns.values(features[b], block, j, far);
    return {block, need_distances ? distances.get() : nullptr, far, rate};
  }
};

static Tensor laplacian_energy(const Tensor& z, const Tensor& features, double bandwidth) {
  const char* op = "laplacian_energy";
  const auto compute = check_energy_on_device(op, z, features, bandwidth);
  const Device device(z);
  const int64_t batch = z.size(0), n = z.size(1);
  Tensor out = empty_of(z, {batch}, compute);
  const Tensor rows = contiguous(z), feature_rows = contiguous(features);
  dispatch(compute, [&]<class T>() {
    PreparedEnergy<T> prepared(op, rows, feature_rows, bandwidth, device);
    Workspace<double> sums(z, batch * n);
    for (int64_t b = 0; b < batch; ++b) {
      prepared.pack(b);
      for_block_rows(prepared.blocks, [&](int64_t i) {
        for_columns(prepared.blocks, i, [&](const PairBlock& block, int64_t j) {
          auto job = prepared.job(b, block, j, true);
          job.sums = sums + b * n;
          check_launch(op, run_laplacian(job, device.stream));
        });
      });
    }
    check_launch(op, run_pair_totals<T>({sums, n, 1, 0.5, mutable_data<T>(out)}, batch, device.stream));
  });
  return out;
}

static std::tuple<Tensor, Tensor> laplacian_energy_backward(const Tensor& grad, const Tensor& z, const Tensor& features,
                                                            double bandwidth, bool need_z, bool need_features) {
  const char* op = "laplacian_energy_backward";
  const auto compute = check_energy_on_device(op, z, features, bandwidth);
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2), q = features.size(2);
  check_shape(op, "grad", grad, {batch}), check_type(op, "grad", grad, compute);
  check_same_device(op, "grad", grad, z);
  const Device device(z);
  const Tensor rows = contiguous(z), feature_rows = contiguous(features), upstream = contiguous(grad);
  Tensor dz = gradient_like(rows, need_z), dfeatures = gradient_like(feature_rows, need_features);
  dispatch(compute, [&]<class T>() {
    PreparedEnergy<T> prepared(op, rows, feature_rows, bandwidth, device);
    const PairBlocks& blocks = prepared.blocks;
    std::optional<WeightedSums<T>> z_sums, feature_sums;
    if (need_z) z_sums.emplace(op, z, blocks, p, device);
    if (need_features) feature_sums.emplace(op, z, blocks, q, device);
    Workspace<T> weight_z(z, n), weight_features(z, n);
    for (int64_t b = 0; b < batch; ++b) {
      prepared.pack(b);
      if (need_z) z_sums->pack(prepared.z[b]);
      if (need_features) feature_sums->pack(prepared.features[b]);
      for_block_rows(blocks, [&](int64_t i) {
        for_columns(blocks, i, [&](const PairBlock& block, int64_t j) {
          auto job = prepared.job(b, block, j, need_features);
          job.grad = data<T>(upstream) + b, job.weight_z = weight_z, job.weight_features = weight_features;
          check_launch(op, run_laplacian_weights(job, device.stream));
          if (need_z) z_sums->add(prepared.far, block);
          if (need_features) feature_sums->add(prepared.distances, block);
        });
        // Σ_j w_ij (x_i − x_j) = x_i Σ_j w_ij − Σ_j w_ij x_j.
        const PairBlock block = blocks.at(i, 0);
        if (need_z)
          z_sums->store(block, prepared.z[b] + block.row * p, weight_z + block.row, T(-1),
                        batch_rows(dz, b, block.row));
        if (need_features)
          feature_sums->store(block, prepared.features[b] + block.row * q, weight_features + block.row, T(-1),
                              batch_rows(dfeatures, b, block.row));
      });
    }
  });
  return {dz, dfeatures};
}

// ---- InfoNCE ------------------------------------------------------------------------------------------------------

static std::tuple<Tensor, Tensor> info_nce(const Tensor& z, const Tensor& g, double temperature) {
  const char* op = "info_nce";
  const auto compute = check_info_nce(op, z, g, temperature);
  check_same_device(op, "g", g, z);
  const Device device(z);
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2);
  Tensor out = empty_of(z, {batch}, compute), log_sums = empty_of(z, {batch, n}, compute);
  const Tensor rows = contiguous(z), others = contiguous(g);
  dispatch(compute, [&]<class T>() {
    const PairRows<T> own(op, rows, RowChange::unit, device), other(op, others, RowChange::unit, device);
    const auto blocks = PairBlocks::of<T>(n, 1, device.limits.pairs);
    ColumnSide<T> columns(op, z, blocks, p, PairKind::products, device);
    Workspace<T> cosines(z, blocks.elements()), largest(z, batch * n), sum(z, batch * n), matched(z, batch * n);
    Workspace<double> losses(z, batch * n);
    for (int64_t b = 0; b < batch; ++b) {
      columns.pack(other[b]);
      for_block_rows(blocks, [&](int64_t i) {
        for_columns(blocks, i, [&](const PairBlock& block, int64_t j) {
          columns.values(own[b], block, j, cosines);
          InfoNce<T> job{block, cosines, T(1 / temperature)};
          job.largest = largest + b * n, job.sum = sum + b * n, job.matched = matched + b * n;
          check_launch(op, run_info_nce(job, device.stream));
        });
      });
    }
    check_launch(op, run_info_nce_finish<T>(largest, sum, matched, batch * n, temperature, mutable_data<T>(log_sums),
                                            losses, device.stream));
    // NaN without rows, as every mean: 0 · ∞
    check_launch(op, run_pair_totals<T>({losses, n, 1, 1 / double(n), mutable_data<T>(out)}, batch, device.stream));
  });
  return {out, log_sums};
}

static std::tuple<Tensor, Tensor> info_nce_backward(const Tensor& grad, const Tensor& log_sums, const Tensor& z,
                                                    const Tensor& g, double temperature, bool need_z, bool need_g) {
  const char* op = "info_nce_backward";
  const auto compute = check_info_nce(op, z, g, temperature);
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2);
  check_shape(op, "grad", grad, {batch}), check_type(op, "grad", grad, compute);
  check_shape(op, "log_sums", log_sums, {batch, n}), check_type(op, "log_sums", log_sums, compute);
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor&>{"g", g}, {"grad", grad}, {"log_sums", log_sums}})
    check_same_device(op, name, tensor, z);
  const Device device(z);
  const Tensor rows = contiguous(z), others = contiguous(g), upstream = contiguous(grad), saved = contiguous(log_sums);
  Tensor dz = gradient_like(rows, need_z), dg = gradient_like(others, need_g);
  dispatch(compute, [&]<class T>() {
    PairRows<T> own(op, rows, RowChange::unit, device), other(op, others, RowChange::unit, device);
    const auto blocks = PairBlocks::of<T>(n, 1, device.limits.pairs);
    ColumnSide<T> columns(op, z, blocks, p, PairKind::products, device);
    WeightedSums<T> sums(op, z, blocks, p, device);
    Workspace<T> cosines(z, blocks.elements());
    // The gradient of `first`, whose rows are visited with those of `second`: once for either side.
    const auto walk = [&](int64_t b, PairRows<T>& first, PairRows<T>& second, bool by_column, Tensor& out) {
      columns.pack(second[b]), sums.pack(second[b]);
      for_block_rows(blocks, [&](int64_t i) {
        for_columns(blocks, i, [&](const PairBlock& block, int64_t j) {
          columns.values(first[b], block, j, cosines);
          InfoNce<T> job{block, cosines, T(1 / temperature)};
          job.log_sum = data<T>(saved) + b * n, job.grad = data<T>(upstream) + b;
          job.factor = T(1 / (double(n) * temperature)), job.by_column = by_column;
          check_launch(op, run_info_nce_weights(job, device.stream));
          sums.add(cosines, block);
        });
        const PairBlock block = blocks.at(i, 0);
        const ThroughNorm<T> rest{sums.total(block), first[b] + block.row * p, first.inverse_norm(b) + block.row,
                                  block.rows, batch_rows(out, b, block.row)};
        check_launch(op, run_info_nce_rows(rest, device.stream));
      });
    };
    for (int64_t b = 0; b < batch; ++b) {
      if (need_z) walk(b, own, other, false, dz);
      if (need_g) walk(b, other, own, true, dg);
    }
  });
  return {dz, dg};
}

// ---- ℓ1,2 ---------------------------------------------------------------------------------------------------------

static Tensor squared_l12_norm(const Tensor& z) {
  const char* op = "squared_l12_norm";
  const auto compute = check_batch(op, "z", z);
  const Device device(z);
  const int64_t batch = z.size(0), n = z.size(1);
  Tensor out = empty_of(z, {batch}, compute);
  const Tensor rows = contiguous(z);
  dispatch(compute, [&]<class T>() {
    Workspace<double> squares(z, batch * n);
    check_launch(op, run_pair_sizes<T>(rows_of(rows), batch * n, RowSize::absolute_squared, squares, device.stream));
    check_launch(op, run_pair_totals<T>({squares, n, 1, 1.0, mutable_data<T>(out)}, batch, device.stream));
  });
  return out;
}

static Tensor squared_l12_norm_backward(const Tensor& grad, const Tensor& z) {
  const char* op = "squared_l12_norm_backward";
  const auto compute = check_batch(op, "z", z);
  check_shape(op, "grad", grad, {z.size(0)}), check_type(op, "grad", grad, compute);
  check_same_device(op, "grad", grad, z);
  const Device device(z);
  const int64_t batch = z.size(0), n = z.size(1);
  const Tensor rows = contiguous(z), upstream = contiguous(grad);
  Tensor dz = gradient_like(rows, true);
  dispatch(compute, [&]<class T>() {
    check_launch(op, run_signs<T>(rows_of(rows), data<T>(upstream), batch * n, n, mutable_rows_of(dz), device.stream));
  });
  return dz;
}

}  // namespace desc_ext::cuda

DESC_EXT_CUDA_LIBRARY(m) {
  using namespace desc_ext::cuda;
  m.impl("collaborative_loss", TORCH_BOX(&collaborative_loss));
  m.impl("collaborative_loss_backward", TORCH_BOX(&collaborative_loss_backward));
  m.impl("laplacian_energy", TORCH_BOX(&laplacian_energy));
  m.impl("laplacian_energy_backward", TORCH_BOX(&laplacian_energy_backward));
  m.impl("info_nce", TORCH_BOX(&info_nce));
  m.impl("info_nce_backward", TORCH_BOX(&info_nce_backward));
  m.impl("squared_l12_norm", TORCH_BOX(&squared_l12_norm));
  m.impl("squared_l12_norm_backward", TORCH_BOX(&squared_l12_norm_backward));
}
