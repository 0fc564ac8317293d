// Every operator's schema. Back ends register their kernels beside their code; shapes, meaning and errors are
// documented once, in desc_ext/ops. Backward operators return an empty tensor for a gradient that is not needed.
#include <torch/csrc/stable/library.h>

// A build for tests defines the same operators in a namespace of its own.
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
  m.def("nearest_subspace(Tensor z, Tensor bases, str metric='residual', bool allow_tf32=False) -> (Tensor, Tensor)");
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

  // self_expression; everything from here on takes a leading batch dimension
  m.def("coefficient_topk(Tensor y, int k) -> (Tensor, Tensor)");
  m.def("coefficient_topk_backward(Tensor grad, Tensor indices, Tensor y) -> Tensor");
  m.def("affinity_row_max(Tensor y) -> (Tensor, Tensor)");
  m.def("affinity_row_max_backward(Tensor grad, Tensor indices, Tensor y) -> Tensor");
  m.def("self_expression_residual(Tensor z, Tensor coef, str penalty='l2') -> (Tensor, Tensor, Tensor)");
  m.def(
      "self_expression_residual_backward(Tensor grad, Tensor grad_size, Tensor difference, Tensor z, Tensor coef,"
      " str penalty, bool need_z, bool need_coef) -> (Tensor, Tensor)");

  // pairwise
  m.def(
      "collaborative_loss(Tensor prediction, Tensor y, Tensor row_max, float upper, float lower, float apart,"
      " bool soft_indicator) -> (Tensor, Tensor)");
  m.def(
      "collaborative_loss_backward(Tensor grad, Tensor counts, Tensor prediction, Tensor y, Tensor row_max,"
      " float upper, float lower, float apart, bool soft_indicator, bool need_prediction, bool need_y)"
      " -> (Tensor, Tensor, Tensor)");
  m.def("laplacian_energy(Tensor z, Tensor features, float bandwidth) -> Tensor");
  m.def(
      "laplacian_energy_backward(Tensor grad, Tensor z, Tensor features, float bandwidth, bool need_z,"
      " bool need_features) -> (Tensor, Tensor)");
  m.def("info_nce(Tensor z, Tensor g, float temperature) -> (Tensor, Tensor)");
  m.def(
      "info_nce_backward(Tensor grad, Tensor log_sums, Tensor z, Tensor g, float temperature, bool need_z, bool need_g)"
      " -> (Tensor, Tensor)");
  m.def("squared_l12_norm(Tensor z) -> Tensor");
  m.def("squared_l12_norm_backward(Tensor grad, Tensor z) -> Tensor");
}
