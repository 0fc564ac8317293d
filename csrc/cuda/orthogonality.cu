// Block orthogonality on CUDA; csrc/cpu/orthogonality.cpp is its counterpart.
#include "operator.h"
#include "orthogonality.cuh"

namespace desc_ext::cuda {

static const char* kPenalty = "block_orthogonality_penalty";

// The Gram matrix and the diagonal blocks, in workspace of this scope.
struct BlockGram {
  Blocks s;
  Workspace<double> rows, gram, block;

  BlockGram(const Tensor& bases, bool orthonormal, const Device& device)
      : s{bases.size(0), bases.size(1), bases.size(2), bases.size(0) * bases.size(2) <= bases.size(1), orthonormal},
        rows(bases, bases.numel()), gram(bases, s.size() * s.size()), block(bases, s.K * s.d * s.d) {
    s.rows = rows, s.gram = gram, s.block = block;
    auto moments = make_moments<double>(double_rows(s), double_rows(s), s.length());
    Workspace<double> slots(bases, moment_slots(moments));
    moments.symmetric = true, moments.out = gram, moments.slots = slots;
    const Tensor dense = contiguous(bases);
    check_launch(kPenalty, run_block_grams(dense.const_data_ptr(), storage_of(dense), s, moments, device.stream));
  }
};

static Tensor penalty(const Tensor& bases, std::string within) {
  const bool orthonormal = asks_orthonormal(kPenalty, bases, within);
  const auto compute = compute_type(kPenalty, "bases", bases);
  const Device device(bases);
  Tensor out = empty_of(bases, {}, compute);
  BlockGram gram(bases, orthonormal, device);
  Workspace<double> partial(bases, 2 * kPenaltyBlocks);
  dispatch(compute, [&]<class T>() {
    check_launch(kPenalty, run_penalty<T>(gram.s, partial, mutable_data<T>(out), device.stream));
  });
  return out;
}

static Tensor penalty_backward(const Tensor& grad, const Tensor& bases, std::string within) {
  const bool orthonormal = asks_orthonormal(kPenalty, bases, within);
  const auto compute = compute_type(kPenalty, "bases", bases);
  check_shape(kPenalty, "grad", grad, {});
  check_type(kPenalty, "grad", grad, compute);
  check_same_device(kPenalty, "grad", grad, bases);
  const Device device(bases);
  const Tensor upstream = contiguous(grad);
  Tensor out = torch::stable::empty_like(contiguous(bases));
  BlockGram gram(bases, orthonormal, device);
  const int64_t size = gram.s.size();
  Workspace<double> panels(bases, plan_columns<double>(size, size).panel_elements()), product(bases, bases.numel());
  dispatch(compute, [&]<class T>() {
    check_launch(kPenalty, run_penalty_gradient<T>(gram.s, panels, product, data<T>(upstream), out.mutable_data_ptr(),
                                                   storage_of(out), device.stream));
  });
  return out;
}

}  // namespace desc_ext::cuda

DESC_EXT_CUDA_LIBRARY(m) {
  m.impl("block_orthogonality_penalty", TORCH_BOX(&desc_ext::cuda::penalty));
  m.impl("block_orthogonality_penalty_backward", TORCH_BOX(&desc_ext::cuda::penalty_backward));
}
