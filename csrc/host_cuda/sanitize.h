// Arrays and plain double-precision loops for sanitize.cpp.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cuda/assignment.cuh"
#include "../cuda/orthogonality.cuh"
#include "../cuda/segments.cuh"

namespace desc_ext::host_cuda::sanitize {

using cuda::Metric;
using cuda::MutableRows;
using cuda::Rows;
using cuda::Storage;

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
    if (storage_ == Storage::f64) put(at, x);
    else if (storage_ == Storage::f32) put(at, float(x));
    else put(at, cuda::float_to_bfloat(float(x)));
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

inline double tolerance(Storage storage) { return storage == Storage::f64 ? 1e-9 : storage == Storage::f32 ? 1e-3 : 3e-2; }

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
  void add_gradient(Metric metric, int64_t i, int64_t k, double g, std::vector<double>& dz, std::vector<double>& dbases) const {
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

}  // namespace desc_ext::host_cuda::sanitize
