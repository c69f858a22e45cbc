// Which stage holds what. Plain judgement: no device, no thread, no clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// One stage's share: `halves` half layers from `first_half`, and perhaps the embedding or the head. Half 2 l
/// is the attention of decoder layer l, half 2 l + 1 its MLP: each adds to the residual stream, so a cut may
/// lie between them as well as between layers.
///
/// Two stages may also share an MLP, which keeps nothing from one micro-batch to the next: both hold it, and
/// run it in turns (turn_taker.h).
struct StageCut {
  bool embedding = false;
  int64_t first_half = 0;
  int64_t halves = 0;
  bool head = false;
  bool first_in_turns = false;  ///< its first half is also the stage before's last
  bool last_in_turns = false;   ///< its last half is also the stage behind's first
  bool operator==(const StageCut&) const = default;
  int64_t last_half() const { return first_half + halves - 1; }
  /// "embedding", "layers 0-5", "layers 12-17 + head", "layers 0-7 + attention 8", "MLP 8 + layers 9-16",
  /// "layer 0 + attention 1 + MLP 1 in turns"
  std::string text() const;
};
using Partition = std::vector<StageCut>;

/// A part of a model in quarters of layers: an attention is 2, so is an MLP, and half an MLP is one that two
/// stages share.
using Share = int64_t;
constexpr Share kHalf = 2;

/// Three stages or more: the first holds the embedding alone, so that the rank which also tokenizes and
/// schedules needs no accelerator, and the layers are spread evenly over the others, the remainder over the
/// earlier ones. Two stages share the layers. Throws UsageError when there are more stages than layers + 2.
Partition default_partition(int64_t layers, int stages);

/// As much to each stage as `shares` says; the embedding goes to the first stage and the head to the last. A
/// cut within a half makes it shared. The shares must be possible.
Partition partition_by_shares(const std::vector<Share>& shares);
std::vector<Share> shares_of(const Partition& partition);
/// Where the stages but the last end; by these a cut within a half is odd.
std::vector<Share> cuts_of(const std::vector<Share>& shares);

/// Whether any two stages share an MLP.
bool any_shared(const Partition& partition);

/// Throws UsageError when there are more stages than layers + 2.
void check_stage_count(int64_t layers, int stages);

/// As --layer-partition takes it: "8.5,8,8.75,6.75".
std::string flag_text(const Partition& partition);

struct CutCost;
/// Reads --layer-partition: "" (the default cut), "auto", or counts of layers such as "0,6,6,6" or
/// "6.5,6,5.5": a layer's attention is the first half of it, its MLP the second, and .75 ends within the MLP,
/// which is shared then. Two of `cost.halves` for each layer; `slowness` is for "auto". Throws UsageError
/// unless there is one count a stage, they add up to all layers, and no cut lies within what may not be
/// shared, nor two within one MLP.
Partition parse_partition(const std::string& flag, int stages, const CutCost& cost,
                          const std::vector<double>& slowness = {});

}  // namespace penstock
