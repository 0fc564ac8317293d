// Runs CUDA kernels on the CPU. csrc/cuda/*.cuh and *.cu are compiled as plain C++20 against this header, so that tests
// execute the very source that nvcc compiles, on machines without a GPU.
//
// One block at a time runs on an operating-system thread; its CUDA threads are fibers that change over only where CUDA
// threads may meet: barriers and warp collectives. Between those a thread runs alone, in an order that tests choose
// (settings.h). What CUDA leaves undefined and the emulator can see (a barrier in divergent code, a lane outside the
// mask, a deadlock, a misaligned asynchronous copy) is an exception out of launch() that names block, thread and line.
//
//   keywords.h    __global__ and its like, vector types, error codes
//   intrinsics.h  bits, reinterpretation, arithmetic
//   thread.h      threadIdx and its like, barriers of a block           thread.cpp
//   warp.h        shuffles, votes, exchange                             warp.cpp
//   memory.h      dynamic shared memory, asynchronous copies, atomics   memory.cpp
//   launch.h      launch()                                              launch.cpp
//   settings.h    order, OS threads, counters: for tests                settings.cpp
//   fiber.h       change of stacks                                    fiber.cpp
//   sanitizer.h   what the sanitizers are told                        sanitizer.cpp
// control.cpp is the tests' Python module; selftest.cpp (with selftest_kernels.h) tries the emulator, sanitize.cpp and
// sanitize_pairs.cpp (with sanitize.h) the kernels, all without torch or Python.
//
// Not offered: blocks that wait for one another (they run one after the other), __activemask and everything else that
// depends on which lanes happen to run together, thread block clusters, mbarriers, textures, device-side launches.
#pragma once

#include "intrinsics.h"
#include "keywords.h"
#include "launch.h"
#include "memory.h"
#include "settings.h"
#include "thread.h"
#include "warp.h"
