// What the tile copies of tile_copy.cuh are told of a matrix in device memory.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace penstock::cuda {

/// A row-major bfloat16 matrix whose tiles have `tile_rows` rows (at most 256) of 64 columns and lie in
/// shared memory as a panel of hopper.cuh. `columns` is a multiple of 8. Throws Error where the driver
/// cannot.
CUtensorMap map_tiles(const void* data, int64_t rows, int64_t columns, int tile_rows);

}  // namespace penstock::cuda
