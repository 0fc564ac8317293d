// Projection family: energies ‖S_kᵀz‖² and residuals ‖z − S_kS_kᵀz‖², what is made of them in one pass over z, and
// their gradients. Nothing of size n×K·d or n×K×p is stored: coefficients live for one block of rows and one chunk
// of bases. Operations: 2·n·p·K·d forward, 6·n·p·K·d backward (coefficients again, rows, bases).
#pragma once

#include <cmath>
#include <limits>

#include "panel_products.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// Below this share of ‖z‖² a residual is computed as ‖z − S a‖², since ‖z‖² − value cancels.
template <class T>
inline constexpr T kDirectShare = T(0.25);

template <class T>
static inline T dot(const T* a, const T* b, int64_t stride) {
  Vector<T> sum{};
  for (int64_t j = 0; j < stride; j += kLanes<T>) sum += load(a + j) * load(b + j);
  return lane_sum<T>(sum);
}

// Columns of the bases, each made when the first of its residuals is to be computed directly: of few bases in a batch
// that is far from all subspaces, of all where each row is near to one.
template <class T>
class DirectResiduals {
 public:
  DirectResiduals(const Bases<T>& bases, bool wanted)
      : bases_(bases), columns_(wanted ? bases.K * bases.d * bases.stride : 0), made_(bases.K), coefficient_(bases.d) {
    std::fill(made_ + 0, made_ + bases.K, false);
  }

  T operator()(const T* z, int64_t k) {
    const int64_t d = bases_.d, stride = bases_.stride;
    T* basis = columns_ + k * d * stride;
    if (!made_[k]) {
      Buffer<T> copy(bases_.p * d);
      rows_to_columns(basis_rows<T>(bases_.source, k, bases_.p * d, copy), bases_.p, d, stride, basis);
      made_[k] = true;
    }
    for (int64_t c = 0; c < d; ++c) coefficient_[c] = dot(z, basis + c * stride, stride);
    Vector<T> sum{};
    for (int64_t j = 0; j < stride; j += kLanes<T>) {
      Vector<T> rest = load(z + j);
      for (int64_t c = 0; c < d; ++c) rest -= load(basis + c * stride + j) * coefficient_[c];
      sum += rest * rest;
    }
    return lane_sum<T>(sum);
  }

 private:
  const Bases<T>& bases_;
  Buffer<T> columns_;
  Buffer<bool> made_;
  Buffer<T> coefficient_;
};

// From values Σ scale a² of basis k to residuals, in place, for one strip.
template <class T>
static inline void values_to_residuals(const Block<T>& block, int64_t s, const T* norms, DirectResiduals<T>& direct,
                                       int64_t k, T* values) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  norms += s * R;
  int small = 0;
  for (int half = 0; half < 2; ++half) {
    const Vector<T> norm = load(norms + half * L), rest = norm - load(values + half * L);
    store(values + half * L, rest);
    const auto mask = rest < norm * kDirectShare<T>;
    for (int i = 0; i < L; ++i) small |= int(mask[i]);
  }
  if (!small) return;
  for (int64_t r = 0; r < block.rows_in(s); ++r)
    if (values[r] < norms[r] * kDirectShare<T>) values[r] = direct(block.rows + (s * R + r) * block.stride, k);
  for (int64_t r = block.rows_in(s); r < R; ++r) values[r] = 0;
}

// Adds Σ_c scale_c a_c² of columns [column, column + width) to values [basis − first][R].
template <class T>
static inline void add_squares(const T* coefficients, const T* scale, int64_t column, int64_t width, int64_t d,
                               int64_t first, T* values) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  Vector<T> low{}, high{};
  int64_t k = column / d, c = column % d;
  if (c > 0) {
    low = load(values + (k - first) * R);
    high = load(values + (k - first) * R + L);
  }
  for (int64_t x = 0; x < width; ++x) {
    const Vector<T> a = load(coefficients + x * R), b = load(coefficients + x * R + L);
    low += a * a * scale[column + x];
    high += b * b * scale[column + x];
    if (++c == d || x + 1 == width) {
      store(values + (k - first) * R, low);
      store(values + (k - first) * R + L, high);
      low = high = Vector<T>{};
      if (c == d) c = 0, ++k;
    }
  }
}

// What one block of rows becomes, chunk of bases by chunk of bases. Products is PanelProducts or TileProducts.
template <class T, class Products>
class ForwardBlock {
 public:
  static constexpr int L = kLanes<T>, R = kStrip<T>;

  ForwardBlock(const ProjectionForward<T>& job)
      : job_(job), bases_(job.bases), block_(job.z, bases_.stride, Products::kStrips),
        products_(bases_, job.z, block_, false), chunk_(chunk_bases(bases_)), values_(block_.capacity * chunk_),
        columns_(chunk_ * R), scratch_(R * (chunk_ + L)), coefficients_(Products::kColumns * R),
        direct_(bases_, job.metric == Metric::residual), norms_(block_.capacity), best_(block_.capacity),
        label_(block_.capacity), total_(block_.capacity) {}

  void run(int64_t begin, int64_t end, double* sum) {
    block_.load(job_.z, begin, end);
    products_.load(end);
    if (job_.metric == Metric::residual) block_.squared_norms(norms_);
    std::fill(total_ + 0, total_ + block_.capacity, T(0));
    for (int64_t k = 0; k < bases_.K; k += chunk_) {
      const int64_t width = std::min(chunk_, bases_.K - k);
      compute(k, width);
      for (int64_t s = 0; s < block_.strips; ++s) consume(s, k, width, values_ + s * chunk_ * R);
    }
    finish(sum);
  }

  int64_t rows() const { return block_.count; }

 private:
  // Bases of one chunk: whole panels, and about 32 so that rows of an [n, K] output are written by cache lines.
  static int64_t chunk_bases(const Bases<T>& bases) {
    const int64_t together = Products::together(bases);
    return (32 + together - 1) / together * together;
  }

  void compute(int64_t first, int64_t width) {
    // The strip stays in the first-level cache, the bases of a chunk in the second-level one.
    for (int64_t s = 0; s < block_.strips; ++s)
      products_.each(s, first * bases_.d, (first + width) * bases_.d, coefficients_, [&](int64_t c, int64_t columns) {
        add_squares<T>(coefficients_, bases_.scale, c, columns, bases_.d, first, values_ + s * chunk_ * R);
      });
    if (job_.metric == Metric::residual)
      for (int64_t s = 0; s < block_.strips; ++s)
        for (int64_t x = 0; x < width; ++x)
          values_to_residuals<T>(block_, s, norms_, direct_, first + x, values_ + (s * chunk_ + x) * R);
  }

  void consume(int64_t s, int64_t k, int64_t width, T* values) {
    if (job_.labels) keep_best(s, k, width, values);
    if (job_.weight) add_weighted(s, k, width, values);
    if (job_.assignment) score(s, width, values);
    if (job_.values) block_.store_columns(values, bases_.K, s, k, width, job_.values);
    if (job_.assignment) block_.store_columns(values, bases_.K, s, k, width, job_.assignment);
  }

  // Strict comparisons keep the lowest index of equal values, and NaN where the first value is NaN.
  void keep_best(int64_t s, int64_t k, int64_t width, const T* values) {
    T* best = best_ + s * R;
    int64_t* label = label_ + s * R;
    for (int64_t x = 0; x < width; ++x)
      for (int r = 0; r < R; ++r) {
        const T value = values[x * R + r];
        const bool better = job_.metric == Metric::residual ? value < best[r] : value > best[r];
        const bool take = better || (k + x == 0);
        best[r] = take ? value : best[r];
        label[r] = take ? k + x : label[r];
      }
  }

  void add_weighted(int64_t s, int64_t k, int64_t width, const T* values) {
    block_.load_columns(job_.weight, bases_.K, s, k, width, scratch_, columns_);
    for (int64_t x = 0; x < width; ++x)
      for (int r = 0; r < R; ++r) total_[s * R + r] += values[x * R + r] * columns_[x * R + r];
  }

  void score(int64_t s, int64_t width, T* values) {
    T weight[R];
    for (int r = 0; r < R; ++r) {
      const int64_t i = s * R + r;
      weight[r] = job_.sample_weight && i < block_.count ? job_.sample_weight[block_.begin + i] : T(1);
    }
    for (int64_t x = 0; x < width; ++x)
      for (int r = 0; r < R; ++r) {
        values[x * R + r] = values[x * R + r] * weight[r] + job_.smoothing;
        total_[s * R + r] += values[x * R + r];
      }
  }

  void finish(double* sum) {
    for (int64_t i = 0; i < block_.count; ++i) {
      const int64_t row = block_.begin + i;
      if (job_.labels) {
        job_.labels[row] = label_[i];
        job_.best[row] = best_[i];
      }
      if (job_.weight) sum[row / kRowsOfASum] += double(total_[i]);
      if (job_.assignment) {
        job_.total[row] = total_[i];
        for (int64_t k = 0; k < bases_.K; ++k) job_.assignment[row * bases_.K + k] /= total_[i];
      }
    }
  }

  const ProjectionForward<T>& job_;
  const Bases<T>& bases_;
  Block<T> block_;
  Products products_;
  const int64_t chunk_;
  Buffer<T> values_, columns_, scratch_, coefficients_;
  DirectResiduals<T> direct_;
  Buffer<T> norms_, best_;
  Buffer<int64_t> label_;
  Buffer<T> total_;
};

template <class T, class Products = PanelProducts<T>>
static void projection_forward(const ProjectionForward<T>& job, int64_t begin, int64_t end, double* sum) {
  ForwardBlock<T, Products> block(job);
  while (begin < end) {
    block.run(begin, end, sum);
    begin += block.rows();
  }
}

// With a = S̃ᵀz and upstream g: dz = 2 Σ_k g_k S̃_k(scale∘a_k) for the energy, 2 (Σ_k g_k) z minus that for the
// residual; B̃_k = Σ_i g_ik z_i a_ikᵀ is summed for the bases.
template <class T, class Products>
class BackwardBlock {
 public:
  static constexpr int L = kLanes<T>, R = kStrip<T>;

  BackwardBlock(const ProjectionBackward<T>& job)
      : job_(job), bases_(job.bases), block_(job.z, bases_.stride, Products::kStrips),
        products_(bases_, job.z, block_, true), chunk_(Products::backward_chunk(bases_)),
        coefficients_(block_.capacity * chunk_ * bases_.d + Products::kBehind * R), grads_(chunk_ * R),
        values_(chunk_ * R), scratch_(R * std::max(bases_.stride, chunk_ + L)), direct_(bases_, job.values != nullptr),
        dz_(block_.capacity * bases_.p), norms_(block_.capacity), grad_sum_(block_.capacity), shift_(block_.capacity),
        factor_(block_.capacity) {}

  // Sums for the bases are added to basis_sum, or put there by the first block.
  void run(int64_t begin, int64_t end, T* basis_sum, bool first) {
    block_.load(job_.z, begin, end);
    products_.load(end);
    if (basis_sum) products_.load_rows();
    if (job_.values) block_.squared_norms(norms_);
    prepare_rows();
    for (int64_t k = 0; k < bases_.K; k += chunk_) {
      const int64_t width = std::min(chunk_, bases_.K - k), columns = width * bases_.d, c = k * bases_.d;
      for (int64_t s = 0; s < block_.strips; ++s) {
        T* coefficients = coefficients_ + s * chunk_ * bases_.d * R;
        products_.coefficients(s, c, columns, coefficients);
        weigh(s, k, width, coefficients);
      }
      if (job_.dz.data) products_.add_rows(coefficients_, chunk_ * bases_.d * R, c, columns, dz_);
      if (basis_sum)
        products_.add_bases(coefficients_, chunk_ * bases_.d * R, columns, basis_sum + c * bases_.stride, !first);
    }
    if (job_.dz.data) finish();
  }

  int64_t rows() const { return block_.count; }

 private:
  void prepare_rows() {
    std::fill(dz_ + 0, dz_ + block_.strips * R * bases_.p, T(0));
    std::fill(grad_sum_ + 0, grad_sum_ + block_.capacity, T(0));
    std::fill(shift_ + 0, shift_ + block_.capacity, T(0));
    std::fill(factor_ + 0, factor_ + block_.capacity, job_.grad_factor);
    if (!job_.assignment) return;
    for (int64_t i = 0; i < block_.count; ++i) {
      const int64_t row = block_.begin + i;
      T shift = 0;
      for (int64_t k = 0; k < bases_.K; ++k)
        shift += job_.grad[row * bases_.K + k] * job_.assignment[row * bases_.K + k];
      shift_[i] = shift;
      factor_[i] = (job_.sample_weight ? job_.sample_weight[row] : T(1)) / job_.total[row];
    }
  }

  void weigh(int64_t s, int64_t k, int64_t width, T* coefficients) {
    block_.load_columns(job_.grad, bases_.K, s, k, width, scratch_, grads_);
    T *shift = shift_ + s * R, *factor = factor_ + s * R, *grad_sum = grad_sum_ + s * R;
    for (int64_t x = 0; x < width; ++x) {
      T* a = coefficients + x * bases_.d * R;
      T* grad = grads_ + x * R;
      if (job_.values) {
        add_squares<T>(a, bases_.scale, (k + x) * bases_.d, bases_.d, bases_.d, k, values_);
        if (job_.metric == Metric::residual) values_to_residuals<T>(block_, s, norms_, direct_, k + x, values_ + x * R);
        for (int r = 0; r < R; ++r) values_[x * R + r] *= job_.grad_factor;
      }
      for (int r = 0; r < R; ++r) {
        grad[r] = (grad[r] - shift[r]) * factor[r];
        grad_sum[r] += grad[r];
      }
      for (int64_t c = 0; c < bases_.d; ++c)
        for (int r = 0; r < R; ++r) a[c * R + r] *= grad[r];
    }
    if (job_.values) block_.store_columns(values_, bases_.K, s, k, width, job_.values);
  }

  void finish() {
    for (int64_t s = 0; s < block_.strips; ++s) {
      T* dz = dz_ + s * bases_.p * R;
      const T *z = block_.strip(s), *grad_sum = grad_sum_ + s * R;
      for (int64_t j = 0; j < bases_.p; ++j)
        for (int r = 0; r < R; ++r) {
          T& x = dz[j * R + r];
          x = job_.metric == Metric::residual ? 2 * (grad_sum[r] * z[j * R + r] - x) : 2 * x;
        }
      block_.store_strip(dz, s, scratch_, job_.dz);
    }
  }

  const ProjectionBackward<T>& job_;
  const Bases<T>& bases_;
  Block<T> block_;
  Products products_;
  const int64_t chunk_;
  Buffer<T> coefficients_, grads_, values_, scratch_;
  DirectResiduals<T> direct_;
  Buffer<T> dz_, norms_, grad_sum_, shift_, factor_;
};

// ---- each row against its own basis alone -----------------------------------------------------------------------------

// y += factor · x.
template <class T>
static inline void add_multiple(const T* x, T factor, int64_t stride, T* y) {
  for (int64_t j = 0; j < stride; j += kLanes<T>) store(y + j, Vector<T>(load(y + j) + load(x + j) * factor));
}

// With a = Sᵀz and, for the residual, e = z − S a and b = Sᵀe: dz = 2g S a and dS = 2g z aᵀ for the energy, dz = 2g (e
// − S b) and dS = −2g (e aᵀ + z bᵀ) for the residual. Row by row, since few rows share a basis in a small batch, and
// from e itself, so that a residual near 0 loses no digits.
template <class T>
static void own_basis_backward(const OwnBasisBackward<T>& job, int64_t k, int64_t begin, int64_t end, T* basis_sum) {
  const int64_t p = job.z.columns, d = job.d, stride = (p + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  const T* basis = job.columns + k * d * stride;
  const bool residual = job.metric == Metric::residual;
  constexpr int64_t kRows = 128;  // long sums are made of short ones, see kReductionPiece
  Buffer<T> z(stride), rest(stride), dz(stride), sum(d * stride), a(d), b(d);
  for (; begin < end; begin += kRows) {
    std::fill(sum + 0, sum + d * stride, T(0));
    for (int64_t position = begin; position < std::min(end, begin + kRows); ++position) {
      load_rows<T>(job.z, position, 1, stride, z);
      const T g = 2 * job.grad[job.z.index[position]];
      for (int64_t c = 0; c < d; ++c) a[c] = dot<T>(z, basis + c * stride, stride);
      std::copy(z + 0, z + stride, rest + 0);
      for (int64_t c = 0; residual && c < d; ++c) add_multiple<T>(basis + c * stride, -a[c], stride, rest);
      for (int64_t c = 0; residual && c < d; ++c) b[c] = dot<T>(rest, basis + c * stride, stride);
      if (job.dz.data) {
        for (int64_t j = 0; j < stride; ++j) dz[j] = residual ? g * rest[j] : T(0);
        for (int64_t c = 0; c < d; ++c)
          add_multiple<T>(basis + c * stride, residual ? -g * b[c] : g * a[c], stride, dz);
        store_row<T>(job.dz, position, dz);
      }
      for (int64_t c = 0; basis_sum && c < d; ++c) {
        add_multiple<T>(rest, residual ? -g * a[c] : g * a[c], stride, sum + c * stride);
        if (residual) add_multiple<T>(z, -g * b[c], stride, sum + c * stride);
      }
    }
    for (int64_t i = 0; basis_sum && i < d * stride; ++i) basis_sum[i] += sum[i];
  }
}

template <class T, class Products = PanelProducts<T>>
static void projection_backward(const ProjectionBackward<T>& job, int64_t begin, int64_t end, T* basis_sum) {
  BackwardBlock<T, Products> block(job);
  if (basis_sum && begin >= end) std::fill(basis_sum, basis_sum + job.bases.K * job.bases.d * job.bases.stride, T(0));
  for (bool first = true; begin < end; first = false) {
    block.run(begin, end, basis_sum, first);
    begin += block.rows();
  }
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
