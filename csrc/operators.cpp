// Every operator's schema. Back ends register their kernels beside their code; shapes, meaning and errors are
// documented once, in desc_ext/ops. Backward operators return an empty tensor for a gradient that is not needed.
#include <torch/csrc/stable/library.h>

// The tests' build (csrc/host_cuda) defines the same operators in a namespace of its own.
#ifndef DESC_EXT_NAMESPACE
#define DESC_EXT_NAMESPACE desc_ext
#endif
#define DESC_EXT_OPERATORS(name, m) STABLE_TORCH_LIBRARY(name, m)  // lets the preprocessor put the name in first

DESC_EXT_OPERATORS(DESC_EXT_NAMESPACE, m) {
  m.def("build_info() -> str");

  // projection
  m.def("projection_energy(Tensor z, Tensor bases, bool allow_tf32=False) -> Tensor");
  m.def(
      "projection_energy_backward(Tensor grad, Tensor z, Tensor bases, bool need_z, bool need_bases)"
      " -> (Tensor, Tensor)");
  m.def("projection_residual(Tensor z, Tensor bases, bool allow_tf32=False) -> Tensor");
  m.def(
      "projection_residual_backward(Tensor grad, Tensor z, Tensor bases, bool need_z, bool need_bases)"
      " -> (Tensor, Tensor)");
  m.def(
      "nearest_subspace(Tensor z, Tensor bases, str metric='residual', bool allow_tf32=False) -> (Tensor, Tensor)");
  m.def(
      "nearest_subspace_backward(Tensor grad, Tensor labels, Tensor z, Tensor bases, str metric, bool need_z,"
      " bool need_bases) -> (Tensor, Tensor)");
  m.def("weighted_projection_loss(Tensor z, Tensor bases, Tensor weight, bool allow_tf32=False) -> Tensor");
  m.def(
      "weighted_projection_loss_backward(Tensor grad, Tensor z, Tensor bases, Tensor weight, bool need_z,"
      " bool need_bases, bool need_weight) -> (Tensor, Tensor, Tensor)");

  // assignment
  m.def(
      "subspace_soft_assignment(Tensor z, Tensor bases, float smoothing, Tensor? sample_weight=None,"
      " bool allow_tf32=False) -> (Tensor, Tensor)");
  m.def(
      "subspace_soft_assignment_backward(Tensor grad, Tensor assignment, Tensor total, Tensor z, Tensor bases,"
      " Tensor? sample_weight, bool need_z, bool need_bases) -> (Tensor, Tensor)");
  m.def("student_t_assignment(Tensor z, Tensor centroids, float dof=1.0) -> Tensor");
  m.def(
      "student_t_assignment_backward(Tensor grad, Tensor assignment, Tensor z, Tensor centroids, float dof,"
      " bool need_z, bool need_centroids) -> (Tensor, Tensor)");
  m.def("target_distribution(Tensor q, Tensor? frequency=None) -> Tensor");

  // orthogonality
  m.def("block_orthogonality_penalty(Tensor bases, str within='unit') -> Tensor");
  m.def("block_orthogonality_penalty_backward(Tensor grad, Tensor bases, str within) -> Tensor");

  // segments
  m.def("segment_gram(Tensor z, Tensor labels, int n_segments, Tensor? weight=None) -> Tensor");
  m.def(
      "segment_gram_backward(Tensor grad, Tensor z, Tensor labels, Tensor? weight, bool need_z, bool need_weight)"
      " -> (Tensor, Tensor)");
}
