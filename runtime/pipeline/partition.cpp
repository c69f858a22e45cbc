#include "runtime/pipeline/partition.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/pipeline/cut_cost.h"

namespace penstock {
namespace {

bool lies_within_half(Share place) {
  return place % kHalf != 0;
}

/// 33 -> "8.25"
std::string in_layers(Share share) {
  constexpr const char* kQuarters[] = {"", ".25", ".5", ".75"};
  return std::to_string(share / 4) + kQuarters[share % 4];
}

/// "8.25" -> 33, and where it ends; below 0 where there is no such number.
std::pair<Share, const char*> read_share(const char* at, const char* end) {
  constexpr int64_t kMost = 1'000'000;
  int64_t whole = 0;
  const auto [stopped, error] = std::from_chars(at, end, whole);
  if (error != std::errc{} || whole < 0 || whole > kMost) return {-1, stopped};
  for (const auto& [text, quarters] :
       {std::pair{std::string_view(".25"), 1}, {std::string_view(".75"), 3}, {std::string_view(".5"), 2}})
    if (std::string_view(stopped, end).starts_with(text))
      return {4 * whole + quarters, stopped + text.size()};
  return {4 * whole, stopped};
}

/// Throws UsageError where a cut lies within what only one stage can hold.
void check_cuts(const CutCost& cost, const std::vector<Share>& shares) {
  const std::vector<Share> cuts = cuts_of(shares);
  for (size_t s = 0; s < cuts.size(); ++s) {
    if (!lies_within_half(cuts[s])) continue;
    const auto half = static_cast<size_t>(cuts[s] / kHalf);
    const std::string where = "--layer-partition: the cut behind stage " + std::to_string(s) + ", after " +
                              in_layers(cuts[s]) + " layers, lies within the ";
    const std::string layer = std::to_string(half / 2);
    if (half % 2 == 0)
      throw UsageError(where + "attention of layer " + layer +
                       ", whose cache only one stage can hold: expected it at a whole number, .5 (behind the "
                       "attention) or .75 (within the MLP, which two stages then run in turns)");
    if (half >= cost.may_be_shared.size() || !cost.may_be_shared[half])
      throw UsageError(
          where + "MLP of layer " + layer +
          ", which has experts: expected it at a whole number or .5, as they are not held twice");
    if (s > 0 && cuts[s - 1] == cuts[s])
      throw UsageError(where + "MLP of layer " + layer +
                       ", as the cut before it does: expected at most two stages to share it");
  }
}

Partition partition_by_flag(const std::vector<Share>& shares, int stages, const CutCost& cost) {
  const auto layers = static_cast<int64_t>(cost.halves.size() / 2);
  check_stage_count(layers, stages);
  const Share sum = std::accumulate(shares.begin(), shares.end(), Share{0});
  if (shares.size() != static_cast<size_t>(stages) || sum != 2 * kHalf * layers)
    throw UsageError("--layer-partition: expected " + std::to_string(stages) + " counts that add up to " +
                     std::to_string(layers) + " layers, found " + std::to_string(shares.size()) +
                     " that add up to " + in_layers(sum));
  check_cuts(cost, shares);
  return partition_by_shares(shares);
}

}  // namespace

std::string StageCut::text() const {
  std::string s = embedding ? "embedding" : "";
  auto join = [&s](const std::string& part) { s += (s.empty() ? "" : " + ") + part; };
  const auto mlp = [](int64_t half, bool in_turns) {
    return "MLP " + std::to_string(half / 2) + (in_turns ? " in turns" : "");
  };
  const int64_t end = first_half + halves - (last_in_turns ? 1 : 0);
  int64_t begin = first_half;
  if (begin < end && begin % 2 == 1) join(mlp(begin++, first_in_turns));
  const int64_t first = (begin + 1) / 2;
  const int64_t last = end / 2 - 1;
  if (first == last) join("layer " + std::to_string(first));
  if (first < last) join("layers " + std::to_string(first) + "-" + std::to_string(last));
  if (end > begin && end % 2 == 1) join("attention " + std::to_string(end / 2));
  if (last_in_turns) join(mlp(end, true));
  if (head) join("head");
  return s.empty() ? "nothing" : s;
}

void check_stage_count(int64_t layers, int stages) {
  if (stages < 1 || stages > layers + 2)
    throw UsageError("cannot cut " + std::to_string(layers) + " layers into " + std::to_string(stages) +
                     " stages: expected 1 to " + std::to_string(layers + 2) +
                     " (one stage for the embedding, one a layer, one for the head); start fewer ranks");
}

Partition default_partition(int64_t layers, int stages) {
  check_stage_count(layers, stages);
  std::vector<Share> shares(static_cast<size_t>(stages), 0);
  const size_t first = stages >= 3 ? 1 : 0;
  const auto holders = static_cast<int64_t>(shares.size() - first);
  for (size_t s = first; s < shares.size(); ++s)
    shares[s] = 2 * kHalf * (layers / holders + (static_cast<int64_t>(s - first) < layers % holders ? 1 : 0));
  return partition_by_shares(shares);
}

Partition partition_by_shares(const std::vector<Share>& shares) {
  Partition partition;
  Share begin = 0;
  for (size_t s = 0; s < shares.size(); ++s) {
    const Share end = begin + shares[s];
    const int64_t first_half = begin / kHalf;
    partition.push_back({s == 0, first_half, (end + kHalf - 1) / kHalf - first_half, s + 1 == shares.size(),
                         lies_within_half(begin), lies_within_half(end)});
    begin = end;
  }
  return partition;
}

std::vector<Share> shares_of(const Partition& partition) {
  std::vector<Share> shares;
  for (const StageCut& cut : partition)
    shares.push_back(kHalf * cut.halves - (cut.first_in_turns ? 1 : 0) - (cut.last_in_turns ? 1 : 0));
  return shares;
}

std::vector<Share> cuts_of(const std::vector<Share>& shares) {
  std::vector<Share> cuts(shares.size());
  std::partial_sum(shares.begin(), shares.end(), cuts.begin());
  cuts.pop_back();
  return cuts;
}

bool any_shared(const Partition& partition) {
  return std::any_of(partition.begin(), partition.end(), [](const StageCut& c) { return c.last_in_turns; });
}

std::string flag_text(const Partition& partition) {
  std::string text;
  for (const Share share : shares_of(partition)) text += (text.empty() ? "" : ",") + in_layers(share);
  return text;
}

Partition parse_partition(const std::string& flag, int stages, const CutCost& cost,
                          const std::vector<double>& slowness) {
  const auto layers = static_cast<int64_t>(cost.halves.size() / 2);
  if (flag.empty()) return default_partition(layers, stages);
  if (flag == "auto") return partition_by_cost(stages, cost, slowness);
  std::vector<Share> shares;
  const char* at = flag.data();
  const char* const end = at + flag.size();
  while (true) {
    const auto [share, stopped] = read_share(at, end);
    if (share < 0 || (stopped != end && *stopped != ',') || share > 2 * kHalf * layers)
      throw UsageError(
          "--layer-partition: expected 'auto' or counts such as 0,6,6,6 or 6.5,5.25,6.25 of at most " +
          std::to_string(layers) + " each, found '" + flag + "'");
    shares.push_back(share);
    if (stopped == end) break;
    at = stopped + 1;
  }
  return partition_by_flag(shares, stages, cost);
}

}  // namespace penstock
