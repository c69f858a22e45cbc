// How a call of latent attention on tensor cores is launched, and the fold of split rows.
#include <algorithm>

#include "kernels/cuda/latent_attention.h"
#include "kernels/cuda/latent_work.cuh"

namespace penstock::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634F;
constexpr int kFoldThreads = kLatentDim / 4;

/// The extents of a query row, in order: the arithmetic of LatentFold, four columns a thread. One block a
/// row.
template <int kRows>
__global__ void fold_latent_parts(const __grid_constant__ LatentProblem p) {
  const int block = static_cast<int>(blockIdx.x) / kRows;
  const int row = static_cast<int>(blockIdx.x) % kRows;
  const QueryTile queries = latent_queries<kRows>(p, block);
  const int item = queries.first_item + row;
  if (!queries.mine || item >= queries.items(p)) return;
  const int keys = p.batch.positions_T[queries.token_of(p, item)] + 1;
  const int64_t first = latent_part<kRows>(p, block, row, 0);
  const auto* parts = reinterpret_cast<const float4*>(p.partial_acc) + first * kFoldThreads + threadIdx.x;
  float base = kNothing, sum = 0;
  float4 acc{0, 0, 0, 0};
#pragma unroll 4
  for (int extent = 0; extent < (keys + kLatentExtent - 1) / kLatentExtent; ++extent) {
    const float2 base_sum = p.partial_base_sum[first + extent];
    const float4 part = parts[extent * kFoldThreads];
    if (base_sum.x == kNothing) continue;
    const Fold fold(base, base_sum.x, p.scale_log2);
    base = fold.base;
    sum = fold(sum, base_sum.y);
    acc = {fold(acc.x, part.x), fold(acc.y, part.y), fold(acc.z, part.z), fold(acc.w, part.w)};
  }
  const float inverse = 1.0F / sum;
  const __nv_bfloat162 out[2] = {__floats2bfloat162_rn(acc.x * inverse, acc.y * inverse),
                                 __floats2bfloat162_rn(acc.z * inverse, acc.w * inverse)};
  auto* const to = reinterpret_cast<uint2*>(
      p.out_THd + (static_cast<int64_t>(queries.first_token) * p.heads + item) * kLatentDim);
  to[threadIdx.x] = reinterpret_cast<const uint2&>(out);
}

/// Splits rows whose blocks are fewer than `enough`, where `parts` has room for their extents.
template <int kRows>
void attend(cudaStream_t stream, LatentProblem p, DType cache, Workspace parts, int64_t enough, int grid) {
  p.blocks = static_cast<int>(latent_blocks<kRows>(p));
  const int64_t count = static_cast<int64_t>(p.blocks) * kRows * p.extents;
  const size_t needed = static_cast<size_t>(count) * (kLatentDim * sizeof(float) + sizeof(float2));
  p.split = p.extents > 1 && p.blocks < enough && needed <= parts.bytes;
  if (p.split) {
    p.partial_acc = static_cast<float*>(parts.data);
    p.partial_base_sum = reinterpret_cast<float2*>(p.partial_acc + count * kLatentDim);
  }
  const auto units = static_cast<int64_t>(p.blocks) * (p.split ? p.extents : 1);
  const auto launch = kRows == kShortItems ? attend_short_latent_rows : attend_long_latent_rows;
  launch(stream, p, cache, static_cast<int>(std::min<int64_t>(units, grid)));
  if (!p.split) return;
  fold_latent_parts<kRows><<<static_cast<unsigned>(p.blocks * kRows), kFoldThreads, 0, stream>>>(p);
  check_launch("latent attention: fold");
}

}  // namespace

bool latent_tensor_cores_serve(const LatentCacheView& cache, DType out, const Gpu& gpu) {
  return gpu.is_hopper && cache.latent_dim == kLatentDim && cache.rope_dim == kLatentKey - kLatentDim &&
         out == DType::bf16 && cache.dtype != DType::f32;
}

void latent_attention_tensor_cores(cudaStream_t stream, TensorView out_THL, TensorView q_THd,
                                   const LatentCacheView& cache, const BatchView& batch, float scale,
                                   Workspace workspace, const Gpu& gpu) {
  if (batch.tokens == 0) return;
  LatentProblem p{};
  p.out_THd = out_THL.as<__nv_bfloat16>();
  p.q_THd = q_THd.data;
  p.q_is_f32 = true;
  p.batch = batch;
  p.heads = p.group = static_cast<int>(q_THd.dim(1));
  p.kv_heads = 1;
  p.block_size = static_cast<int>(cache.block_size);
  p.scale_log2 = scale * kLog2E;
  p.extents = static_cast<int>((batch.max_context + kLatentExtent - 1) / kLatentExtent);
  p.latents = static_cast<const char*>(cache.data);
  p.totals = static_cast<float4*>(workspace.data);
  const int grid = gpu.multiprocessors;
  const size_t totals = static_cast<size_t>(grid) * kTotalBytes;
  const Workspace parts{static_cast<char*>(workspace.data) + totals, workspace.bytes - totals};

  // As in attention.cu: with as many rows as tokens there is no long row, unless heads are very many.
  const bool some_short = p.heads <= kShortItems;
  if (batch.tokens > batch.rows || !some_short)
    // Below three quarters of the device the idle part is worth more than what parts cost.
    attend<kLongLatentRows>(stream, p, cache.dtype, parts, grid * 3 / 4, grid);
  if (some_short) {
    // Parts cost an eighth of the traffic, blocks that wait for the longest row more, unless each has many.
    constexpr int kEnoughRounds = 8;
    attend<kShortItems>(stream, p, cache.dtype, parts, int64_t{kEnoughRounds} * grid, grid);
  }
}

}  // namespace penstock::cuda
