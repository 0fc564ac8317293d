// Which instruction set the kernels run on: the best of those compiled in that this machine has, or the one that
// DESC_EXT_CPU names.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "pair_kernels.h"

#ifdef DESC_EXT_HAVE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace desc_ext::cpu {

#define DESC_EXT_DECLARE(isa)                         \
  namespace isa {                                     \
  extern const Table<float> float_kernels;            \
  extern const Table<double> double_kernels;          \
  extern const PairTable<float> float_pair_kernels;   \
  extern const PairTable<double> double_pair_kernels; \
  }
DESC_EXT_DECLARE(baseline)
#ifdef DESC_EXT_HAVE_AVX2
DESC_EXT_DECLARE(avx2)
#endif
#ifdef DESC_EXT_HAVE_AVX512
DESC_EXT_DECLARE(avx512)
#endif
#ifdef DESC_EXT_HAVE_AMX
namespace amx {
extern const TileTable tile_kernels;
}
#endif

struct InstructionSet {
  const char* name;
  bool present;
  const Table<float>* float_kernels;
  const Table<double>* double_kernels;
  const PairTable<float>* float_pair_kernels;
  const PairTable<double>* double_pair_kernels;
  const TileTable* tile_kernels = nullptr;
};

#define DESC_EXT_TABLES(isa) \
  &isa::float_kernels, &isa::double_kernels, &isa::float_pair_kernels, &isa::double_pair_kernels

#ifdef DESC_EXT_HAVE_AMX
// Whether the processor has tiles of bfloat16 numbers and the system lets this process use them: Linux wants to be
// asked, since they make the state of a thread larger.
static bool tiles_are_there() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
  if (!(d & kBfloat16) || !(d & kTiles)) return false;
  constexpr long kAskForFeature = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kAskForFeature, kTileData) == 0;
}
#endif

// From the plainest to the widest.
static std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets{{"baseline", true, DESC_EXT_TABLES(baseline)}};
#ifdef DESC_EXT_HAVE_AVX2
  sets.push_back({"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), DESC_EXT_TABLES(avx2)});
#endif
#ifdef DESC_EXT_HAVE_AVX512
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  sets.push_back({"avx512", avx512, DESC_EXT_TABLES(avx512)});
#endif
#ifdef DESC_EXT_HAVE_AMX
  sets.push_back({"amx", avx512 && tiles_are_there(), DESC_EXT_TABLES(avx512), &amx::tile_kernels});
#endif
  return sets;
}

static InstructionSet choose() {
  const auto sets = instruction_sets();
  const char* wanted = std::getenv("DESC_EXT_CPU");
  std::string usable;
  InstructionSet best = sets.front();
  for (const auto& set : sets) {
    if (!set.present) continue;
    best = set;
    usable += (usable.empty() ? "" : ", ") + std::string(set.name);
    if (wanted && std::string(wanted) == set.name) return set;
  }
  STD_TORCH_CHECK(!wanted || !*wanted, "DESC_EXT_CPU=", wanted,
                  " is not an instruction set that can run here; it may be one of: ", usable,
                  ". Unset it to take the best.");
  return best;
}

static const InstructionSet& in_use() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const TileTable* tile_table() { return in_use().tile_kernels; }
const Table<float>& float_table() { return *in_use().float_kernels; }
const Table<double>& double_table() { return *in_use().double_kernels; }
const PairTable<float>& float_pair_table() { return *in_use().float_pair_kernels; }
const PairTable<double>& double_pair_table() { return *in_use().double_pair_kernels; }

#ifndef DESC_EXT_CUDA_ARCHITECTURES
#define DESC_EXT_CUDA_ARCHITECTURES ""
#endif

// JSON: what the library was built with and what it uses here.
static std::string build_info() {
  std::string compiled;
  for (const auto& set : instruction_sets())
    compiled += (compiled.empty() ? "\"" : ", \"") + std::string(set.name) + "\"";
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "g++ " __VERSION__;
#endif
  return "{\"compiler\": \"" + compiler + "\", \"instruction_sets\": [" + compiled + "], \"in_use\": \"" +
         in_use().name + "\", \"cuda_architectures\": [" DESC_EXT_CUDA_ARCHITECTURES "]}";
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&desc_ext::cpu::build_info));
}
