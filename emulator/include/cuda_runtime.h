// The CUDA runtime and the device language under CUDA's names, for a C++20 compiler: kernels that include
// <cuda_runtime.h> are compiled as plain C++ where this folder comes first in the include path. README.md says how they
// run and what is not offered.
#pragma once

#include "emulator/intrinsics.h"
#include "emulator/keywords.h"
#include "emulator/launch.h"
#include "emulator/memory.h"
#include "emulator/settings.h"
#include "emulator/tensor_core.h"
#include "emulator/thread.h"
#include "emulator/warp.h"
