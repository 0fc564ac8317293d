// The projection family for float on processors with AMX. What kernels.cpp says of its tables holds for this one.
#include "projection_kernels.h"
#include "tile_products.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// Few products do not pay for the splitting of rows into parts.
static bool worth(int64_t K, int64_t p, int64_t d) { return K * d >= 128 && p >= 96; }

extern const TileTable tile_kernels;
const TileTable tile_kernels = {worth,
                                tiles_size,
                                back_tiles_size,
                                prepare_tiles,
                                projection_forward<float, TileProducts>,
                                projection_backward<float, TileProducts>};

}  // namespace desc_ext::cpu::DESC_EXT_ISA
