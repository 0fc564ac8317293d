// Pairwise family on the CPU: sums over pairs of rows, and the sum of squared ℓ1 norms.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "pairs.h"

namespace desc_ext::cpu {

// Adds up [blocks, terms] in order.
template <class S>
static void add_blocks(const S* sums, int64_t blocks, int64_t terms, S* out) {
  std::fill(out, out + terms, S(0));
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t term = 0; term < terms; ++term) out[term] += sums[block * terms + term];
}

// ---- collaborative loss -------------------------------------------------------------------------------------------

template <class T>
struct PreparedCollaboration {
  PackedRows<T> y, prediction;
  LeverageScale<T> leverage;
  RowValues<T> inverse_max;

  PreparedCollaboration(const Tensor& prediction_rows, const Tensor& y_rows, const Tensor& row_max, Keep keep)
      : y(y_rows, keep), prediction(prediction_rows, keep), leverage(y, y_rows.size(0)),
        inverse_max(y_rows.size(0), y.blocks()) {
    const int64_t n = y_rows.size(1);
    for_batch_rows(y_rows.size(0), n, [&](int64_t b, int64_t i) {
      inverse_max[b][i] = 1 / std::max(data<T>(row_max)[b * n + i], std::numeric_limits<T>::min());
    });
  }
  Collaboration<T> job(int64_t b, double upper, double lower, double apart) const {
    return {y[b], prediction[b], leverage.scale[b], inverse_max[b], T(upper), T(lower), T(apart)};
  }
};

static std::tuple<Tensor, Tensor> collaborative_loss(const Tensor& prediction, const Tensor& y, const Tensor& row_max,
                                                     double upper, double lower, double apart,
                                                     bool /*soft_indicator*/) {
  const auto compute = check_collaboration("collaborative_loss", prediction, y, row_max);
  const int64_t batch = y.size(0);
  Tensor losses = empty_of(y, {batch, 3}, compute), counts = empty_of(y, {batch, 3}, ScalarType::Long);
  const Tensor rows = as_contiguous(y), predictions = as_contiguous(prediction), largest = as_contiguous(row_max);
  dispatch(compute, [&]<class T>() {
    const PreparedCollaboration<T> prepared(predictions, rows, largest, Keep::rows);
    const Blocks& blocks = prepared.y.blocks();
    Array<double> sums(batch * blocks.count * 3);
    Array<int64_t> pairs(batch * blocks.count * 3);
    std::fill(sums + 0, sums + batch * blocks.count * 3, 0.0);
    std::fill(pairs + 0, pairs + batch * blocks.count * 3, int64_t(0));
    for_unordered_pairs(batch, blocks, [&](int64_t b, const BlockPair& pair) {
      auto job = prepared.job(b, upper, lower, apart);
      job.sums = sums + b * blocks.count * 3, job.counts = pairs + b * blocks.count * 3;
      pair_table<T>().collaborate(job, pair);
    });
    for (int64_t b = 0; b < batch; ++b) {
      double total[3];
      int64_t* count = mutable_data<int64_t>(counts) + b * 3;
      add_blocks<double>(sums + b * blocks.count * 3, blocks.count, 3, total);
      add_blocks<int64_t>(pairs + b * blocks.count * 3, blocks.count, 3, count);
      for (int term = 0; term < 3; ++term)
        mutable_data<T>(losses)[b * 3 + term] = T(total[term] / double(std::max<int64_t>(1, count[term])));
    }
  });
  return {losses, counts};
}

static std::tuple<Tensor, Tensor, Tensor> collaborative_loss_backward(const Tensor& grad, const Tensor& counts,
                                                                      const Tensor& prediction, const Tensor& y,
                                                                      const Tensor& row_max, double upper, double lower,
                                                                      double apart, bool soft_indicator,
                                                                      bool need_prediction, bool need_y) {
  const char* op = "collaborative_loss_backward";
  const auto compute = check_collaboration(op, prediction, y, row_max);
  const int64_t batch = y.size(0), n = y.size(1);
  check_shape(op, "grad", grad, {batch, 3}), check_type(op, "grad", grad, compute);
  check_shape(op, "counts", counts, {batch, 3}), check_type(op, "counts", counts, ScalarType::Long);
  const Tensor rows = as_contiguous(y), predictions = as_contiguous(prediction), largest = as_contiguous(row_max),
               upstream = as_contiguous(grad), pairs = as_contiguous(counts);
  Tensor dprediction = gradient_like(predictions, need_prediction), dy = gradient_like(rows, need_y),
         dmax = gradient_like(largest, need_y);
  dispatch(compute, [&]<class T>() {
    const PreparedCollaboration<T> prepared(predictions, rows, largest, Keep::panels);
    const Blocks& blocks = prepared.y.blocks();
    StripSums<T> prediction_sums, y_sums;
    RowValues<T> scale_sums, max_sums;
    if (need_prediction) prediction_sums = StripSums<T>(batch, blocks, prediction.size(2));
    if (need_y) {
      y_sums = StripSums<T>(batch, blocks, y.size(2));
      scale_sums = RowValues<T>(batch, blocks), max_sums = RowValues<T>(batch, blocks);
    }
    for_unordered_pairs(batch, blocks, [&](int64_t b, const BlockPair& pair) {
      auto job = prepared.job(b, upper, lower, apart);
      for (int term = 0; term < 3; ++term)
        job.grad[term] = data<T>(upstream)[b * 3 + term] / T(std::max<int64_t>(1, data<int64_t>(pairs)[b * 3 + term]));
      job.soft = soft_indicator;
      job.grad_prediction = prediction_sums[b];
      job.grad_y = y_sums[b], job.grad_scale = scale_sums[b], job.grad_max = max_sums[b];
      pair_table<T>().collaborate_backward(job, pair);
    });
    if (need_prediction) prediction_sums.store(batch, dprediction, [](int64_t, int64_t, T*) {});
    if (!need_y) return;
    y_sums.store(batch, dy, [&](int64_t b, int64_t i, T* row) {
      const Strips<T> own = prepared.y[b];
      const T factor = 2 * scale_sums[b][i] * prepared.leverage.slope(b, i);
      for (int64_t c = 0; c < own.p; ++c) row[c] += factor * own.rows[i * own.p + c];
    });
    for_batch_rows(batch, n, [&](int64_t b, int64_t i) { mutable_data<T>(dmax)[b * n + i] = max_sums[b][i]; });
  });
  return {dprediction, dy, dmax};
}

// ---- Laplacian energy ---------------------------------------------------------------------------------------------

// The mean row of every batch element, which distances do not see and differences of long rows would lose digits to.
template <class T>
static Array<T> mean_rows(const Tensor& z) {
  const int64_t batch = z.size(0), n = z.size(1), p = z.size(2);
  Array<T> means(batch * p);
  Array<T> row(p);
  Array<double> sum(p);
  for (int64_t b = 0; b < batch; ++b) {
    std::fill(sum + 0, sum + p, 0.0);
    for (int64_t i = 0; i < n; ++i) {
      table<T>().load_rows(rows_of(z), b * n + i, 1, p, row);
      for (int64_t c = 0; c < p; ++c) sum[c] += double(row[c]);
    }
    for (int64_t c = 0; c < p; ++c) means[b * p + c] = n ? T(sum[c] / double(n)) : T(0);
  }
  return means;
}

template <class T>
struct CentredRows {
  Array<T> means;
  PackedRows<T> rows;
  CentredRows(const Tensor& z, Keep keep) : means(mean_rows<T>(z)), rows(z, keep, means) {}
};

static Tensor laplacian_energy(const Tensor& z, const Tensor& features, double bandwidth) {
  const auto compute = check_energy("laplacian_energy", z, features, bandwidth);
  const int64_t batch = z.size(0);
  Tensor out = empty_of(z, {batch}, compute);
  const Tensor rows = as_contiguous(z), feature_rows = as_contiguous(features);
  dispatch(compute, [&]<class T>() {
    const CentredRows<T> own(rows, Keep::strips), other(feature_rows, Keep::strips);
    const Blocks& blocks = own.rows.blocks();
    Array<double> sums(batch * blocks.count);
    std::fill(sums + 0, sums + batch * blocks.count, 0.0);
    for_unordered_pairs(batch, blocks, [&](int64_t b, const BlockPair& pair) {
      LaplacianEnergy<T> job{own.rows[b], other.rows[b], T(1 / bandwidth)};
      job.sums = sums + b * blocks.count;
      pair_table<T>().laplacian(job, pair);
    });
    for (int64_t b = 0; b < batch; ++b) {
      double total;
      add_blocks<double>(sums + b * blocks.count, blocks.count, 1, &total);
      mutable_data<T>(out)[b] = T(total);
    }
  });
  return out;
}

static std::tuple<Tensor, Tensor> laplacian_energy_backward(const Tensor& grad, const Tensor& z, const Tensor& features,
                                                            double bandwidth, bool need_z, bool need_features) {
  const char* op = "laplacian_energy_backward";
  const auto compute = check_energy(op, z, features, bandwidth);
  const int64_t batch = z.size(0);
  check_shape(op, "grad", grad, {batch}), check_type(op, "grad", grad, compute);
  const Tensor rows = as_contiguous(z), feature_rows = as_contiguous(features), upstream = as_contiguous(grad);
  Tensor dz = gradient_like(rows, need_z), dfeatures = gradient_like(feature_rows, need_features);
  dispatch(compute, [&]<class T>() {
    const CentredRows<T> own(rows, Keep::panels), other(feature_rows, Keep::panels);
    const Blocks& blocks = own.rows.blocks();
    StripSums<T> z_sums, feature_sums;
    RowValues<T> z_weights, feature_weights;
    if (need_z) z_sums = StripSums<T>(batch, blocks, z.size(2)), z_weights = RowValues<T>(batch, blocks);
    if (need_features)
      feature_sums = StripSums<T>(batch, blocks, features.size(2)), feature_weights = RowValues<T>(batch, blocks);
    for_unordered_pairs(batch, blocks, [&](int64_t b, const BlockPair& pair) {
      LaplacianEnergy<T> job{own.rows[b], other.rows[b], T(1 / bandwidth)};
      job.grad = data<T>(upstream)[b];
      job.grad_z = z_sums[b], job.weight_z = z_weights[b];
      job.grad_features = feature_sums[b], job.weight_features = feature_weights[b];
      pair_table<T>().laplacian_backward(job, pair);
    });
    const auto finish = [&](const CentredRows<T>& x, const RowValues<T>& weights) {
      return [&](int64_t b, int64_t i, T* row) {
        const Strips<T> strips = x.rows[b];
        for (int64_t c = 0; c < strips.p; ++c) row[c] = weights[b][i] * strips.rows[i * strips.p + c] - row[c];
      };
    };
    if (need_z) z_sums.store(batch, dz, finish(own, z_weights));
    if (need_features) feature_sums.store(batch, dfeatures, finish(other, feature_weights));
  });
  return {dz, dfeatures};
}

// ---- InfoNCE ------------------------------------------------------------------------------------------------------

// Rows over their norms, whatever they are; a row of zeros stays.
template <class T>
struct UnitRows {
  Array<T> inverse_norm;
  PackedRows<T> rows;
  UnitRows(const Tensor& z, Keep keep) : inverse_norm(inverse_norms(z)), rows(z, keep, nullptr, inverse_norm) {}

  // From the gradient of a unit row to that of the row.
  void through_norm(int64_t b, int64_t i, T* row) const {
    const Strips<T> unit = rows[b];
    const T inverse = inverse_norm[b * unit.n + i];
    double along = 0;
    for (int64_t c = 0; c < unit.p; ++c) along += double(row[c]) * unit.rows[i * unit.p + c];
    for (int64_t c = 0; c < unit.p; ++c) row[c] = inverse * (row[c] - T(along) * unit.rows[i * unit.p + c]);
  }

 private:
  static Array<T> inverse_norms(const Tensor& z) {
    const int64_t n = z.size(0) * z.size(1), p = z.size(2);
    Array<T> out(n);
    parallel_for(0, n, 256, [&](int64_t begin, int64_t end) {
      Array<T> row(p);
      for (int64_t i = begin; i < end; ++i) {
        table<T>().load_rows(rows_of(z), i, 1, p, row);
        double squared = 0;
        for (int64_t c = 0; c < p; ++c) squared += double(row[c]) * row[c];
        // 1 over a subnormal norm would overflow float
        out[i] = squared > 0 ? T(std::min(1 / std::sqrt(squared), double(std::numeric_limits<T>::max()))) : T(1);
      }
    });
    return out;
  }
};

static std::tuple<Tensor, Tensor> info_nce(const Tensor& z, const Tensor& g, double temperature) {
  const auto compute = check_info_nce("info_nce", z, g, temperature);
  const int64_t batch = z.size(0), n = z.size(1);
  Tensor out = empty_of(z, {batch}, compute), log_sums = empty_of(z, {batch, n}, compute);
  const Tensor rows = as_contiguous(z), others = as_contiguous(g);
  dispatch(compute, [&]<class T>() {
    const UnitRows<T> own(rows, Keep::strips), other(others, Keep::strips);
    const Blocks& blocks = own.rows.blocks();
    const RowValues<T> largest(batch, blocks, -std::numeric_limits<T>::infinity()), sum(batch, blocks),
        matched(batch, blocks);
    for_ordered_pairs(batch, blocks, [&](int64_t b, const BlockPair& pair) {
      InfoNce<T> job{own.rows[b], other.rows[b], T(1 / temperature)};
      job.largest = largest[b], job.sum = sum[b], job.matched = matched[b];
      pair_table<T>().info_nce(job, pair);
    });
    for (int64_t b = 0; b < batch; ++b) {
      double total = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double log_sum = std::log(double(sum[b][i]));
        mutable_data<T>(log_sums)[b * n + i] = T(log_sum + double(largest[b][i]) / temperature);
        total += log_sum + double(largest[b][i] - matched[b][i]) / temperature;
      }
      mutable_data<T>(out)[b] = T(total / double(n));  // NaN without rows, as every mean
    }
  });
  return {out, log_sums};
}

static std::tuple<Tensor, Tensor> info_nce_backward(const Tensor& grad, const Tensor& log_sums, const Tensor& z,
                                                    const Tensor& g, double temperature, bool need_z, bool need_g) {
  const char* op = "info_nce_backward";
  const auto compute = check_info_nce(op, z, g, temperature);
  const int64_t batch = z.size(0), n = z.size(1);
  check_shape(op, "grad", grad, {batch}), check_type(op, "grad", grad, compute);
  check_shape(op, "log_sums", log_sums, {batch, n}), check_type(op, "log_sums", log_sums, compute);
  const Tensor rows = as_contiguous(z), others = as_contiguous(g), upstream = as_contiguous(grad),
               saved = as_contiguous(log_sums);
  Tensor dz = gradient_like(rows, need_z), dg = gradient_like(others, need_g);
  dispatch(compute, [&]<class T>() {
    const UnitRows<T> own(rows, Keep::panels), other(others, Keep::panels);
    const Blocks& blocks = own.rows.blocks();
    const RowValues<T> log_sum(batch, blocks);
    for_batch_rows(batch, n, [&](int64_t b, int64_t i) { log_sum[b][i] = data<T>(saved)[b * n + i]; });
    StripSums<T> z_sums, g_sums;
    if (need_z) z_sums = StripSums<T>(batch, blocks, z.size(2));
    if (need_g) g_sums = StripSums<T>(batch, blocks, z.size(2));
    for_ordered_pairs(batch, blocks, [&](int64_t b, const BlockPair& pair) {
      InfoNce<T> job{own.rows[b], other.rows[b], T(1 / temperature)};
      job.log_sum = log_sum[b], job.grad = data<T>(upstream)[b] / T(n);
      job.grad_z = z_sums[b], job.grad_g = g_sums[b];
      pair_table<T>().info_nce_backward(job, pair);
    });
    if (need_z) z_sums.store(batch, dz, [&](int64_t b, int64_t i, T* row) { own.through_norm(b, i, row); });
    if (need_g) g_sums.store(batch, dg, [&](int64_t b, int64_t i, T* row) { other.through_norm(b, i, row); });
  });
  return {dz, dg};
}

// ---- ℓ1,2 ---------------------------------------------------------------------------------------------------------

static Tensor squared_l12_norm(const Tensor& z) {
  const char* op = "squared_l12_norm";
  const auto compute = check_batch(op, "z", z);
  const int64_t batch = z.size(0), n = z.size(1);
  Tensor out = empty_of(z, {batch}, compute);
  const Tensor rows = as_contiguous(z);
  dispatch(compute, [&]<class T>() {
    Array<T> sums(batch * n);
    for_rows(batch * n, double(z.size(2)),
             [&](int64_t begin, int64_t end) { pair_table<T>().absolute_sums(rows_of(rows), begin, end, sums); });
    for (int64_t b = 0; b < batch; ++b) {
      double total = 0;
      for (int64_t i = b * n; i < (b + 1) * n; ++i) total += double(sums[i]) * sums[i];
      mutable_data<T>(out)[b] = T(total);
    }
  });
  return out;
}

static Tensor squared_l12_norm_backward(const Tensor& grad, const Tensor& z) {
  const char* op = "squared_l12_norm_backward";
  const auto compute = check_batch(op, "z", z);
  check_shape(op, "grad", grad, {z.size(0)}), check_type(op, "grad", grad, compute);
  const int64_t batch = z.size(0), n = z.size(1);
  const Tensor rows = as_contiguous(z), upstream = as_contiguous(grad);
  Tensor dz = gradient_like(rows, true);
  dispatch(compute, [&]<class T>() {
    for_rows(batch * n, 4.0 * double(z.size(2)), [&](int64_t begin, int64_t end) {
      for (int64_t stop; begin < end; begin = stop) {
        stop = std::min(end, (begin / n + 1) * n);
        pair_table<T>().signed_sums(rows_of(rows), 2 * data<T>(upstream)[begin / n], begin, stop, mutable_rows_of(dz));
      }
    });
  });
  return dz;
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  m.impl("collaborative_loss", TORCH_BOX(&desc_ext::cpu::collaborative_loss));
  m.impl("collaborative_loss_backward", TORCH_BOX(&desc_ext::cpu::collaborative_loss_backward));
  m.impl("laplacian_energy", TORCH_BOX(&desc_ext::cpu::laplacian_energy));
  m.impl("laplacian_energy_backward", TORCH_BOX(&desc_ext::cpu::laplacian_energy_backward));
  m.impl("info_nce", TORCH_BOX(&desc_ext::cpu::info_nce));
  m.impl("info_nce_backward", TORCH_BOX(&desc_ext::cpu::info_nce_backward));
  m.impl("squared_l12_norm", TORCH_BOX(&desc_ext::cpu::squared_l12_norm));
  m.impl("squared_l12_norm_backward", TORCH_BOX(&desc_ext::cpu::squared_l12_norm_backward));
}
