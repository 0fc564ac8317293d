// The kernels that operators of several families launch.
#define DESC_EXT_ENGINE_HERE
#include "engine.h"

namespace desc_ext::cuda {

DESC_EXT_ENGINE(, float)
DESC_EXT_ENGINE(, double)

cudaError_t run_tensor_coefficients(int parts, const Product<float>& job, const Columns& columns, const float* scales,
                                    const Upstream<float>& upstream, int64_t d, float* out, cudaStream_t stream) {
  return launch_tensor_coefficients(parts, job, columns, scales, upstream, d, out, stream);
}

cudaError_t run_tensor_rows(const Product<float>& job, const Columns& columns, const float* scales,
                            const RowsOut<float>& out, cudaStream_t stream) {
  return launch_tensor_rows(job, columns, scales, out, stream);
}

cudaError_t run_tensor_moments(const Moments<float>& job, cudaStream_t stream) {
  return launch_tensor_moments(job, stream);
}

}  // namespace desc_ext::cuda
