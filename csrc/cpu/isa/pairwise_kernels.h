// Pairwise family: sums over pairs of rows of functions of their products or distances, and their gradients, tile by
// tile. Operations, over unordered pairs: 2(p + K) forward and 2(p + K) + 4(p + K) backward for the collaborative loss,
// 3(p + q) and 7(p + q) for the Laplacian energy; over ordered pairs 2p and 6p for InfoNCE; beside those, one or two
// exponentials or logarithms a pair.
#pragma once

#include "pair_tile.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// ---- collaborative loss ------------------------------------------------------------------------------------------

template <class T>
struct CollaborationTile {
  static constexpr int L = kLanes<T>, R = kStrip<T>;
  using V = Vector<T>;
  using M = Mask<T>;
  static constexpr T kLeast = T(1e-6);

  // What a column of a tile adds up, for the rows in its lanes.
  V sums[3] = {};
  M counts[3] = {};

  // Values of pairs (i in lanes, j) where `mask`: affinity a = |y_i·y_j| (s_i + s_j)/2 and class affinity `common`.
  struct Pair {
    V first, second;  // a over either row's maximum
    V common;
    M first_positive, second_positive, negative, first_apart, second_apart;
  };

  static Pair pair(const Collaboration<T>& job, M mask, V affinity, V common, V inverse_first, T inverse_second) {
    Pair x{affinity * inverse_first, affinity * inverse_second, common, {}, {}, {}, {}, {}};
    const V zero{};
    x.first_positive = mask & (x.first > zero + job.upper);
    x.second_positive = mask & (x.second > zero + job.upper);
    x.negative = mask & (common < zero + job.lower);
    x.first_apart = mask & (x.first < zero + job.apart);
    x.second_apart = mask & (x.second < zero + job.apart);
    return x;
  }

  static V clamped_log(V x) { return logarithm(clamp<T>(x, kLeast, T(1))); }
  // log(1 − first) + log(1 − second), each clamped: their product is at least 1e-12.
  static V negative_log(const Pair& x) {
    return logarithm(V(clamp<T>(T(1) - x.first, kLeast, T(1)) * clamp<T>(T(1) - x.second, kLeast, T(1))));
  }
  static V in_range(V x) {  // 1 where the clamp passes a gradient on
    return where<T>((x >= V{} + kLeast) & (x <= V{} + T(1)), V{} + T(1));
  }
  static V times(M first, M second) {  // how many of the two orders are meant
    return where<T>(first, V{} + T(1)) + where<T>(second, V{} + T(1));
  }

  void add(const Pair& x) {
    if (const M positive = x.first_positive | x.second_positive; any<T>(positive)) {
      sums[0] -= (where<T>(x.first_positive, x.first) + where<T>(x.second_positive, x.second)) * clamped_log(x.common);
      counts[0] -= x.first_positive + x.second_positive;
    }
    if (any<T>(x.negative)) {
      sums[1] -= where<T>(x.negative, (T(1) - x.common) * negative_log(x));
      counts[1] -= x.negative + x.negative;
    }
    if (any<T>(x.first_apart | x.second_apart)) {
      sums[2] -= times(x.first_apart, x.second_apart) * clamped_log(T(1) - x.common);
      counts[2] -= x.first_apart + x.second_apart;
    }
  }

  struct Slopes {
    V common, first, second;  // derivatives by A_c, and by A_s in either order
  };

  static Slopes slopes(const Collaboration<T>& job, const Pair& x) {
    Slopes d{};
    const V teacher = where<T>(x.first_positive, x.first) + where<T>(x.second_positive, x.second);
    d.common -= job.grad[0] * teacher * in_range(x.common) / clamp<T>(x.common, kLeast, T(1));
    d.common += job.grad[2] * times(x.first_apart, x.second_apart) * in_range(T(1) - x.common) /
                clamp<T>(T(1) - x.common, kLeast, T(1));
    if (job.grad_y) {
      const V weight = where<T>(x.negative, job.grad[1] * (T(1) - x.common));
      d.first = weight * in_range(T(1) - x.first) / clamp<T>(T(1) - x.first, kLeast, T(1));
      d.second = weight * in_range(T(1) - x.second) / clamp<T>(T(1) - x.second, kLeast, T(1));
    }
    if (job.soft) {
      const V log = clamped_log(x.common) * job.grad[0];
      d.first -= where<T>(x.first_positive, log);
      d.second -= where<T>(x.second_positive, log);
      d.common += where<T>(x.negative, job.grad[1] * negative_log(x));
    }
    return d;
  }
};

// Calls visit(column, half, mask, products of y, products of ν) for the vectors of a tile: unordered pairs of rows.
template <class T, class Visit>
static inline void for_pairs(int64_t n, int64_t s, int64_t t, const Visit& visit) {
  constexpr int L = kLanes<T>;
  const int64_t rows = rows_in_strip<T>(n, s), columns = rows_in_strip<T>(n, t);
  Mask<T> there[2] = {lanes_below<T>(rows), lanes_below<T>(rows - L)};
  for (int64_t c = 0; c < columns; ++c)
    for (int h = 0; h < 2; ++h) visit(c, h, s == t ? there[h] & ~lanes_below<T>(c + 1 - h * L) : there[h]);
}

template <class T>
static void collaborate(const Collaboration<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.y, job.y, true);
  const int64_t p = std::max(job.y.p, job.prediction.p), size = strips_at_a_time(range, p) * range.columns() * R * R;
  Buffer<T> products(size), common(size);
  double sums[3] = {};
  int64_t counts[3] = {};
  const auto compute = [&](int64_t from, int64_t to) {
    pair_values<T>(range, job.y, job.y, from, to, products);
    pair_values<T>(range, job.prediction, job.prediction, from, to, common);
  };
  for_tiles<T>(range, p, compute, [&](int64_t s, int64_t t, int64_t at) {
    CollaborationTile<T> tile;
    const T *scale = job.scale + s * R, *inverse = job.inverse_max + s * R;
    for_pairs<T>(job.y.n, s, t, [&](int64_t c, int h, Mask<T> mask) {
      const int64_t here = at + c * R + h * L, j = t * R + c;
      const Vector<T> affinity = magnitude<T>(load(products + here)) * (load(scale + h * L) + job.scale[j]) * T(0.5);
      tile.add(tile.pair(job, mask, affinity, load(common + here), load(inverse + h * L), job.inverse_max[j]));
    });
    for (int term = 0; term < 3; ++term) {
      sums[term] += double(lane_sum<T>(tile.sums[term]));
      for (int lane = 0; lane < L; ++lane) counts[term] += tile.counts[term][lane];
    }
  });
  for (int term = 0; term < 3; ++term) {
    job.sums[pair.first * 3 + term] += sums[term];
    job.counts[pair.first * 3 + term] += counts[term];
  }
}

template <class T>
static void collaborate_backward(const Collaboration<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.y, job.y, true);
  const int64_t p = std::max(job.y.p, job.prediction.p), size = strips_at_a_time(range, p) * range.columns() * R * R;
  Buffer<T> products(size), common(size);
  PairWeights<T> by_y(job.grad_y ? range : PairRange{}, true),
      by_prediction(job.grad_prediction ? range : PairRange{}, true);
  Buffer<T> tile_y(R * R), tile_prediction(R * R);
  const auto compute = [&](int64_t from, int64_t to) {
    pair_values<T>(range, job.y, job.y, from, to, products);
    pair_values<T>(range, job.prediction, job.prediction, from, to, common);
  };
  const auto keep = [&](PairWeights<T>& weights, T* tile, int64_t s, int64_t t) {
    if (s == t) mirror_tile(tile);
    weights.set(s, t, tile);
  };
  for_tiles<T>(range, p, compute, [&](int64_t s, int64_t t, int64_t at) {
    const T *scale = job.scale + s * R, *inverse = job.inverse_max + s * R;
    std::fill(tile_y + 0, tile_y + R * R, T(0));
    std::fill(tile_prediction + 0, tile_prediction + R * R, T(0));
    Vector<T> scale_sum[2] = {}, max_sum[2] = {};
    for_pairs<T>(job.y.n, s, t, [&](int64_t c, int h, Mask<T> mask) {
      using Tile = CollaborationTile<T>;
      const int64_t here = at + c * R + h * L, j = t * R + c;
      const Vector<T> product = load(products + here), mean = (load(scale + h * L) + job.scale[j]) * T(0.5);
      const Vector<T> inverse_first = load(inverse + h * L);
      const T inverse_second = job.inverse_max[j];
      const auto x =
          Tile::pair(job, mask, magnitude<T>(product) * mean, load(common + here), inverse_first, inverse_second);
      if (!any<T>(x.first_positive | x.second_positive | x.negative | x.first_apart | x.second_apart)) return;
      const auto slope = Tile::slopes(job, x);
      store(tile_prediction + c * R + h * L, slope.common);
      if (!job.grad_y) return;
      const Vector<T> by_affinity = slope.first * inverse_first + slope.second * inverse_second;
      // |y_i·y_j| has the slope 0 at 0.
      store(tile_y + c * R + h * L, where<T>(product != Vector<T>{}, with_sign<T>(by_affinity * mean, product)));
      const Vector<T> by_scale = by_affinity * magnitude<T>(product) * T(0.5);
      scale_sum[h] += by_scale;
      max_sum[h] -= slope.first * x.first * inverse_first;
      job.grad_scale[j] += lane_sum<T>(by_scale);
      job.grad_max[j] -= lane_sum<T>(slope.second * x.second) * inverse_second;
    });
    if (job.grad_prediction) keep(by_prediction, tile_prediction, s, t);
    if (!job.grad_y) return;
    keep(by_y, tile_y, s, t);
    for (int64_t r = 0; r < rows_in_strip<T>(job.y.n, s); ++r) {
      job.grad_scale[s * R + r] += scale_sum[r / L][r % L];
      job.grad_max[s * R + r] += max_sum[r / L][r % L];
    }
  });
  if (job.grad_prediction)
    by_prediction.add_products(job.prediction, job.prediction, job.grad_prediction, job.grad_prediction);
  if (job.grad_y) by_y.add_products(job.y, job.y, job.grad_y, job.grad_y);
}

// ---- Laplacian energy ---------------------------------------------------------------------------------------------

// Squared distances are summed as (x_i − x_j)², which does not cancel.
template <class T>
static void laplacian(const LaplacianEnergy<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.z, job.z, true);
  const int64_t p = std::max(job.z.p, job.features.p), size = strips_at_a_time(range, p) * range.columns() * R * R;
  Buffer<T> distances(size), far(size);
  double total = 0;
  const auto compute = [&](int64_t from, int64_t to) {
    pair_values<T, true>(range, job.z, job.z, from, to, distances);
    pair_values<T, true>(range, job.features, job.features, from, to, far);
  };
  for_tiles<T>(range, p, compute, [&](int64_t s, int64_t t, int64_t at) {
    Vector<T> sum{};
    for_pairs<T>(job.z.n, s, t, [&](int64_t c, int h, Mask<T> mask) {
      const int64_t here = at + c * R + h * L;
      sum += where<T>(mask, exponential(Vector<T>(load(far + here) * -job.rate)) * load(distances + here));
    });
    total += double(lane_sum<T>(sum));
  });
  job.sums[pair.first] += total;
}

template <class T>
static void laplacian_backward(const LaplacianEnergy<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.z, job.z, true);
  const int64_t p = std::max(job.z.p, job.features.p), size = strips_at_a_time(range, p) * range.columns() * R * R;
  Buffer<T> distances(size), far(size), tile_z(R * R), tile_features(R * R);
  PairWeights<T> by_z(job.grad_z ? range : PairRange{}, true),
      by_features(job.grad_features ? range : PairRange{}, true);
  const auto compute = [&](int64_t from, int64_t to) {
    if (job.grad_features) pair_values<T, true>(range, job.z, job.z, from, to, distances);
    pair_values<T, true>(range, job.features, job.features, from, to, far);
  };
  // Row sums of both sides beside the weights themselves: Σ_j w_ij (x_i − x_j) = x_i Σ_j w_ij − Σ_j w_ij x_j.
  const auto keep = [&](PairWeights<T>& weights, T* tile, T* sums, int64_t s, int64_t t) {
    if (s == t) mirror_tile(tile);
    weights.set(s, t, tile);
    Vector<T> low{}, high{};
    for (int c = 0; c < R; ++c) {
      const Vector<T> a = load(tile + c * R), b = load(tile + c * R + L);
      low += a, high += b;
      if (s != t && t * R + c < job.z.n) sums[t * R + c] += lane_sum<T>(a + b);
    }
    for (int64_t r = 0; r < rows_in_strip<T>(job.z.n, s); ++r) sums[s * R + r] += r < L ? low[r] : high[r - L];
  };
  for_tiles<T>(range, p, compute, [&](int64_t s, int64_t t, int64_t at) {
    std::fill(tile_z + 0, tile_z + R * R, T(0));
    std::fill(tile_features + 0, tile_features + R * R, T(0));
    for_pairs<T>(job.z.n, s, t, [&](int64_t c, int h, Mask<T> mask) {
      const int64_t here = at + c * R + h * L, in_tile = c * R + h * L;
      const Vector<T> weight = where<T>(mask, 2 * job.grad * exponential(Vector<T>(load(far + here) * -job.rate)));
      store(tile_z + in_tile, weight);
      if (job.grad_features) store(tile_features + in_tile, Vector<T>(weight * -job.rate * load(distances + here)));
    });
    if (job.grad_z) keep(by_z, tile_z, job.weight_z, s, t);
    if (job.grad_features) keep(by_features, tile_features, job.weight_features, s, t);
  });
  if (job.grad_z) by_z.add_products(job.z, job.z, job.grad_z, job.grad_z);
  if (job.grad_features) by_features.add_products(job.features, job.features, job.grad_features, job.grad_features);
}

// ---- InfoNCE ------------------------------------------------------------------------------------------------------

template <class T>
static void info_nce(const InfoNce<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.z, job.g, false);
  Buffer<T> values(strips_at_a_time(range, job.z.p) * range.columns() * R * R);
  const auto compute = [&](int64_t from, int64_t to) { pair_values<T>(range, job.z, job.g, from, to, values); };
  for_tiles<T>(range, job.z.p, compute, [&](int64_t s, int64_t t, int64_t at) {
    const int64_t columns = rows_in_strip<T>(job.g.n, t);
    const T* tile = values + at;
    for (int h = 0; h < R; h += L) {
      T *largest = job.largest + s * R + h, *sum = job.sum + s * R + h;  // padded to whole strips
      const Vector<T> before = load(largest);
      Vector<T> now = before, total{};
      for (int64_t c = 0; c < columns; ++c) now = larger<T>(now, load(tile + c * R + h));
      for (int64_t c = 0; c < columns; ++c)
        total += exponential(Vector<T>((load(tile + c * R + h) - now) * job.inverse_temperature));
      store(largest, now);
      store(sum, Vector<T>(load(sum) * exponential(Vector<T>((before - now) * job.inverse_temperature)) + total));
    }
    if (s == t)
      for (int64_t r = 0; r < rows_in_strip<T>(job.z.n, s); ++r) job.matched[s * R + r] = tile[r * R + r];
  });
}

template <class T>
static void info_nce_backward(const InfoNce<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.z, job.g, false);
  Buffer<T> values(strips_at_a_time(range, job.z.p) * range.columns() * R * R);
  PairWeights<T> weights(range, job.grad_g != nullptr);
  const T factor = job.grad * job.inverse_temperature;
  const auto compute = [&](int64_t from, int64_t to) { pair_values<T>(range, job.z, job.g, from, to, values); };
  for_tiles<T>(range, job.z.p, compute, [&](int64_t s, int64_t t, int64_t at) {
    T* tile = values + at;
    for (int h = 0; h < R; h += L) {
      const Vector<T> log_sum = load(job.log_sum + s * R + h);
      for (int64_t c = 0; c < R; ++c) {
        T* to = tile + c * R + h;
        store(to, Vector<T>(factor * exponential(Vector<T>(load(to) * job.inverse_temperature - log_sum))));
      }
    }
    for (int64_t r = 0; s == t && r < rows_in_strip<T>(job.z.n, s); ++r) tile[r * R + r] -= factor;
    weights.set(s, t, tile);
  });
  weights.add_products(job.z, job.g, job.grad_z, job.grad_g);
}

// ---- ℓ1,2 ---------------------------------------------------------------------------------------------------------

// Row i of z, where it lies if it is stored in T.
template <class T>
static inline const T* row_of(const Rows& z, int64_t i, T* buffer) {
  constexpr Storage own = sizeof(T) == 8 ? Storage::f64 : Storage::f32;
  if (z.storage == own) return static_cast<const T*>(z.data) + i * z.columns;
  load_row(z, i, buffer);
  return buffer;
}

template <class T>
static inline T absolute_sum(const T* row, int64_t p) {
  constexpr int L = kLanes<T>;
  Vector<T> sum{};
  int64_t j = 0;
  for (; j + L <= p; j += L) sum += magnitude<T>(load(row + j));
  if (j < p) sum += magnitude<T>(load_first(row + j, p - j));
  return lane_sum<T>(sum);
}

// Σ_j |z_ij| of rows [begin, end).
template <class T>
static void absolute_sums(const Rows& z, int64_t begin, int64_t end, T* sums) {
  Buffer<T> buffer(z.columns);
  for (int64_t i = begin; i < end; ++i) sums[i] = absolute_sum(row_of<T>(z, i, buffer), z.columns);
}

// factor Σ_j |z_ij| sign(z_ij) of rows [begin, end).
template <class T>
static void signed_sums(const Rows& z, T factor, int64_t begin, int64_t end, MutableRows out) {
  constexpr int64_t L = kLanes<T>;
  const int64_t p = z.columns;
  const bool in_place = out.storage == (sizeof(T) == 8 ? Storage::f64 : Storage::f32);
  Buffer<T> buffer(p), result(p);
  for (int64_t i = begin; i < end; ++i) {
    const T* row = row_of<T>(z, i, buffer);
    const Vector<T> size = Vector<T>{} + factor * absolute_sum(row, p);
    T* to = in_place ? static_cast<T*>(out.data) + i * p : result;
    for (int64_t j = 0; j < p; j += L) {
      const int64_t here = std::min(L, p - j);
      const Vector<T> x = load_first(row + j, here);
      store_first(to + j, where<T>(x != Vector<T>{}, with_sign<T>(size, x)), here);
    }
    if (!in_place) store_row<T>(out, i, result);
  }
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
