// Copies between device and shared memory by Hopper's copy engine, one function each: one
// thread asks, a barrier or a wait tells of the end. PTX manual, "cp.async.bulk.tensor". A tile that reaches
// past the matrix reads zeros there and writes nothing.
#pragma once

#include <cuda.h>

#include "kernels/cuda/hopper.cuh"

namespace penstock::cuda {

constexpr int kClusterBlocks = 2;

/// Which of the cluster's blocks this is.
__device__ inline int block_in_cluster() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
/// Waits for all threads of the cluster.
__device__ inline void wait_for_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

/// Reads the tile that begins at this row and column; `full` counts its bytes.
__device__ inline void read_tile(unsigned shared_to, const CUtensorMap& map, int row, int column,
                                 Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_to),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&full.state))
      : "memory");
}
/// The same for all blocks of the cluster: the tile goes to this place, and is counted by this barrier, in
/// each.
__device__ inline void read_tile_for_all(unsigned shared_to, const CUtensorMap& map, int row, int column,
                                         Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(shared_to),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&full.state)),
      "h"(static_cast<uint16_t>((1 << kClusterBlocks) - 1))
      : "memory");
}

/// Reads a tile of a map_panels(): some rows of some panels, the rows of one panel after the other.
__device__ inline void read_panels(unsigned shared_to, const CUtensorMap& map, int row, int panel,
                                   Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared_to),
      "l"(&map), "r"(0), "r"(row), "r"(panel), "r"(shared_address(&full.state))
      : "memory");
}

/// Reads the tile of a weight that begins at row 8 first_eight (of each half) and this column, as map_weight
/// orders its rows.
__device__ inline void read_weight(unsigned shared_to, const CUtensorMap& map, int first_eight, int column,
                                   Barrier& full) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %3, %4}], [%5];" ::"r"(shared_to),
      "l"(&map), "r"(column), "r"(0), "r"(first_eight), "r"(shared_address(&full.state))
      : "memory");
}
/// Before copies by a map in device memory, which is not of the kernel's parameters.
__device__ inline void see_map(const CUtensorMap& map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(&map) : "memory");
}

/// Writes the tile that begins at this row and column from shared memory.
__device__ inline void write_tile(const CUtensorMap& map, int row, int column, unsigned shared_from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
               "r"(column), "r"(row), "r"(shared_from)
               : "memory");
}
/// The tiles that this thread asked to write since the last call can be waited for as one.
__device__ inline void close_tiles() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Waits until shared memory has been read for all of them.
__device__ inline void wait_for_tiles_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// Stores four 8 x 8 matrices of 16-bit values; lane 8 i + r says where row r of matrix i goes.
__device__ inline void store_matrices(unsigned row, const uint32_t (&m)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(m[0]),
               "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}
/// Waits for all threads of this warpgroup; warpgroups differ in `id`, which is not 0.
__device__ inline void wait_for_warpgroup(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kWarpgroup) : "memory");
}

}  // namespace penstock::cuda
