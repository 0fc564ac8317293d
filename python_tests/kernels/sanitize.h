// Arrays, plain double-precision loops and the choice of cases for sanitize.cpp and sanitize_pairs.cpp.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/assignment.cuh"
#include "cuda/orthogonality.cuh"
#include "cuda/segments.cuh"
#include "cuda/tensor_columns.cuh"
#include "cuda/tensor_moments.cuh"

#ifndef DESC_EXT_ONLY_CASE
#define DESC_EXT_ONLY_CASE ""
#endif

namespace desc_ext::sanitize {

using cuda::Metric;
using cuda::MutableRows;
using cuda::Rows;
using cuda::Storage;
using emulator::BlockOrder;
using emulator::kThreadSanitizer;
using emulator::LaneOrder;
using emulator::set_settings;
using emulator::without_address_randomisation;

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("a launch was refused: ") + cudaGetErrorString(error));
}

// Device memory that nobody has written yet, of the exact size.
template <class T>
std::vector<T> workspace(int64_t elements) {
  std::vector<T> memory{};
  memory.resize(size_t(elements));
  if (elements > 0) std::memset(static_cast<void*>(memory.data()), 0xFF, size_t(elements) * sizeof(T));
  return memory;
}

struct Shape {
  int64_t n, K, p, d;
};

// A row-major matrix as the kernels see it, in memory of the exact size.
template <class T>
class Matrix {
 public:
  Matrix(int64_t rows, int64_t width, Storage storage)
      : storage_(storage), width_(width), bytes_(workspace<unsigned char>(rows * width * element_size())) {}

  static Matrix random(int64_t rows, int64_t width, Storage storage, unsigned seed, double scale = 1) {
    Matrix matrix(rows, width, storage);
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (int64_t at = 0; at < rows * width; ++at) matrix.set(at, scale * normal(generator));
    return matrix;
  }

  double at(int64_t row, int64_t column) const { return get(row * width_ + column); }
  double get(int64_t at) const {
    if (storage_ == Storage::f64) return value<double>(at);
    if (storage_ == Storage::f32) return value<float>(at);
    return cuda::bfloat_to_float(value<uint16_t>(at));
  }
  Storage storage() const { return storage_; }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data()); }
  T* data() { return reinterpret_cast<T*>(bytes_.data()); }
  Rows rows(const int64_t* index = nullptr) const { return {bytes_.data(), storage_, width_, index}; }
  MutableRows mutable_rows() { return {bytes_.data(), storage_, width_}; }

 private:
  int64_t element_size() const { return storage_ == Storage::f64 ? 8 : storage_ == Storage::f32 ? 4 : 2; }
  template <class V>
  V value(int64_t at) const {
    V result;
    std::memcpy(&result, bytes_.data() + size_t(at) * sizeof(V), sizeof(V));
    return result;
  }
  template <class V>
  void put(int64_t at, V value) {
    std::memcpy(bytes_.data() + size_t(at) * sizeof(V), &value, sizeof(V));
  }
  void set(int64_t at, double x) {
    if (storage_ == Storage::f64)
      put(at, x);
    else if (storage_ == Storage::f32)
      put(at, float(x));
    else
      put(at, cuda::float_to_bfloat(float(x)));
  }

  Storage storage_;
  int64_t width_;
  std::vector<unsigned char> bytes_;
};

// A storage type with the type its arithmetic is in.
template <class T, Storage kStored>
struct Precision {
  using Compute = T;
  static constexpr Storage stored = kStored;
  static constexpr Storage computed = sizeof(T) == 8 ? Storage::f64 : Storage::f32;
  static Matrix<T> random(int64_t rows, int64_t width, unsigned seed, double scale = 1) {
    return Matrix<T>::random(rows, width, stored, seed, scale);
  }
  static Matrix<T> random_computed(int64_t rows, int64_t width, unsigned seed, double scale = 1) {
    return Matrix<T>::random(rows, width, computed, seed, scale);
  }
};

inline double tolerance(Storage storage) {
  return storage == Storage::f64 ? 1e-9 : storage == Storage::f32 ? 1e-3 : 3e-2;
}

inline void expect_close(double got, double wanted, Storage storage, const char* what) {
  if (std::abs(got - wanted) <= tolerance(storage) * (1 + std::abs(wanted))) return;
  throw std::runtime_error(std::string(what) + " is " + std::to_string(got) + ", wanted " + std::to_string(wanted));
}

// z [n, p] against bases [K, p, d] in double precision.
template <class T>
struct Truth {
  const Matrix<T>&z, &bases;
  Shape s;

  double basis(int64_t k, int64_t j, int64_t c) const { return bases.get((k * s.p + j) * s.d + c); }
  std::vector<double> row(int64_t i) const {
    std::vector<double> values;
    for (int64_t j = 0; j < s.p; ++j) values.push_back(z.at(i, j));
    return values;
  }
  // S_kᵀ x
  std::vector<double> coefficients(int64_t k, const std::vector<double>& x) const {
    std::vector<double> a(size_t(s.d), 0.0);
    for (int64_t c = 0; c < s.d; ++c)
      for (int64_t j = 0; j < s.p; ++j) a[size_t(c)] += basis(k, j, c) * x[size_t(j)];
    return a;
  }
  // x − S_k S_kᵀ x
  std::vector<double> rest(int64_t k, std::vector<double> x) const {
    const auto a = coefficients(k, x);
    for (int64_t j = 0; j < s.p; ++j)
      for (int64_t c = 0; c < s.d; ++c) x[size_t(j)] -= basis(k, j, c) * a[size_t(c)];
    return x;
  }
  double value(Metric metric, int64_t i, int64_t k) const {
    double sum = 0;
    for (const double x : metric == Metric::energy ? coefficients(k, row(i)) : rest(k, row(i))) sum += x * x;
    return sum;
  }

  // Adds the gradients of g · value(metric, i, k).
  void add_gradient(Metric metric, int64_t i, int64_t k, double g, std::vector<double>& dz,
                    std::vector<double>& dbases) const {
    const auto x = row(i), a = coefficients(k, x), u = rest(k, x), b = coefficients(k, u), v = rest(k, u);
    for (int64_t j = 0; j < s.p; ++j) {
      double projected = 0;
      for (int64_t c = 0; c < s.d; ++c) {
        projected += basis(k, j, c) * a[size_t(c)];
        dbases[size_t((k * s.p + j) * s.d + c)] +=
            g * (metric == Metric::energy ? 2 * x[size_t(j)] * a[size_t(c)]
                                          : -2 * (u[size_t(j)] * a[size_t(c)] + x[size_t(j)] * b[size_t(c)]));
      }
      dz[size_t(i * s.p + j)] += 2 * g * (metric == Metric::energy ? projected : v[size_t(j)]);
    }
  }
};

inline void expect_all_close(const auto& got, const std::vector<double>& wanted, Storage storage, const char* what) {
  for (size_t at = 0; at < wanted.size(); ++at) expect_close(got.get(int64_t(at)), wanted[at], storage, what);
}

struct SortedLabels {
  std::vector<int64_t> labels, begin, order;

  SortedLabels(int64_t n, int64_t segments) : SortedLabels(random(n, segments), segments) {}

  SortedLabels(std::vector<int64_t> given, int64_t segments)
      : labels(std::move(given)), begin(workspace<int64_t>(segments + 1)),
        order(workspace<int64_t>(int64_t(labels.size()))) {
    const auto n = int64_t(labels.size());
    const int chunks = cuda::label_chunks(n, segments);
    std::vector<int64_t> counts(size_t(chunks * segments), 0);
    check(cuda::run_sort_labels({labels.data(), n, segments, chunks, begin.data(), order.data(), counts.data()},
                                nullptr));
    for (int64_t k = 0, at = 0; k < segments; ++k) {
      if (begin[size_t(k)] != at)
        throw std::runtime_error("the sort of the labels: a segment begins at the wrong place");
      for (int64_t i = 0; i < n; ++i)
        if (labels[size_t(i)] == k && order[size_t(at++)] != i)
          throw std::runtime_error("the sort of the labels: a wrong row");
    }
  }

  static std::vector<int64_t> random(int64_t n, int64_t segments) {
    std::vector<int64_t> labels(size_t(n), 0);
    std::mt19937 generator(6);
    for (auto& label : labels) label = int64_t(generator() % unsigned(segments)) / 2 * 2;  // odd segments stay empty
    return labels;
  }
};

constexpr bool compiled(std::string_view name) {
  return std::string_view(DESC_EXT_ONLY_CASE).empty() || name == DESC_EXT_ONLY_CASE;
}

// 1, odd sizes, tails of tiles and packs, several chunks of a subspace, K·d below and above p, several row blocks.
constexpr Shape kShapes[] = {{33, 3, 20, 5}, {5, 5, 24, 11},  {1, 1, 1, 1},
                             {3, 2, 5, 2},   {131, 19, 7, 1}, {70, 4, 33, 3}};

using F32 = Precision<float, Storage::f32>;
using F64 = Precision<double, Storage::f64>;
using BF16 = Precision<float, Storage::bf16>;

// All shapes in float32, the first two in the other types, whose kernels differ in the size of a tile or in the copies.
// Races do not depend on the order, and ThreadSanitizer is slow: it sees two shapes in reverse.
template <class Case>
void over(Case f32, Case f64, Case bf16) {
  for (const LaneOrder lanes : {LaneOrder::forward, LaneOrder::reverse}) {
    set_settings({lanes, lanes == LaneOrder::forward ? BlockOrder::forward : BlockOrder::reverse, 0, 1});
    for (const Shape shape :
         std::span(kShapes).first(kThreadSanitizer && lanes == LaneOrder::reverse ? 2 : std::size(kShapes)))
      f32(shape);
    for (const Shape shape : {kShapes[0], kShapes[1]}) f64(shape), bf16(shape);
  }
}

using Cases = std::map<std::string, std::function<void()>>;

// What a program does: `cases` all or the one named.
inline int run_cases(int count, char** arguments, const Cases& cases) {
  without_address_randomisation(arguments);
  const std::string only = count > 1 ? arguments[1] : "";
  if (count > 2 || (!only.empty() && !cases.count(only))) {
    for (const auto& [name, run] : cases) std::printf("%s\n", name.c_str());
    return 2;
  }
  bool failed = false;
  for (const auto& [name, run] : cases) {
    if (!only.empty() && only != name) continue;
    try {
      run();
      std::printf("%s: ok\n", name.c_str());
    } catch (const std::exception& error) {
      failed = true;
      std::printf("%s: %s\n", name.c_str(), error.what());
    }
    std::fflush(stdout);
  }
  return failed;
}

}  // namespace desc_ext::sanitize
