// The kernels that operators of several families launch.
#define DESC_EXT_ENGINE_HERE
#include "engine.h"

namespace desc_ext::cuda {

DESC_EXT_ENGINE(, float)
DESC_EXT_ENGINE(, double)

}  // namespace desc_ext::cuda
