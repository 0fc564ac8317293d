// The projection family for float on processors with AMX. What kernels.cpp says of its tables holds for this one.
#include "projection_kernels.h"
#include "tile_products.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// Few products do not pay for the splitting of rows and bases into parts, and of wide rows too few fit in a cache with
// theirs. Measured with n = 256 to 200,000 rows; with 64 the bases alone take what the products save.
static bool worth(int64_t K, int64_t p, int64_t d) { return K * d >= 160 && p >= 128 && p <= 512; }

extern const TileTable tile_kernels;
const TileTable tile_kernels = {worth,
                                tiles_size,
                                back_tiles_size,
                                prepare_tiles,
                                projection_forward<float, TileProducts>,
                                projection_backward<float, TileProducts>};

}  // namespace desc_ext::cpu::DESC_EXT_ISA
