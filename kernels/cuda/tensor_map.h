// What the tile copies of tile_copy.cuh are told of a matrix in device memory.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace penstock::cuda {

/// A row-major bfloat16 matrix whose tiles have `tile_rows` rows (at most 256) of 64 columns and lie in
/// shared memory as a panel of hopper.cuh. `columns` is a multiple of 8. Throws Error where the driver
/// cannot.
CUtensorMap map_tiles(const void* data, int64_t rows, int64_t columns, int tile_rows);

/// The same matrix as panels of 64 columns, in tiles of `tile_rows` rows of `panels` neighbouring panels.
/// `columns` is a multiple of 64.
CUtensorMap map_panels(const void* data, int64_t rows, int64_t columns, int tile_rows, int panels);

/// A row-major bfloat16 weight of n rows, a multiple of 8 `halves`, whose tiles have `tile_rows` rows of 64
/// columns. With two halves, gate and up, 8 rows of one and 8 of the other take turns in a tile.
CUtensorMap map_weight(const void* data, int64_t n, int64_t k, int halves, int tile_rows);

}  // namespace penstock::cuda
