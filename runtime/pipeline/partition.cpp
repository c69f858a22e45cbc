#include "runtime/pipeline/partition.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>

#include "runtime/base/error.h"

namespace penstock {
namespace {

Partition from_counts(const std::vector<int64_t>& counts) {
  Partition partition;
  int64_t first = 0;
  for (size_t s = 0; s < counts.size(); ++s) {
    partition.push_back({s == 0, first, counts[s], s + 1 == counts.size()});
    first += counts[s];
  }
  return partition;
}

void check_stage_count(int64_t layers, int stages) {
  if (stages < 1 || stages > layers + 2)
    throw UsageError("cannot cut " + std::to_string(layers) + " layers into " + std::to_string(stages) +
                     " stages: expected 1 to " + std::to_string(layers + 2) +
                     " (one stage for the embedding, one a layer, one for the head); start fewer ranks");
}

}  // namespace

double stage_cost(const StageCut& cut, const CutCost& cost) {
  const auto first = cost.layers.begin() + static_cast<std::ptrdiff_t>(cut.first_layer);
  return (cut.embedding ? cost.embedding : 0) + (cut.head ? cost.head : 0) +
         std::accumulate(first, first + static_cast<std::ptrdiff_t>(cut.layers), 0.0);
}

std::string StageCut::text() const {
  std::string s = embedding ? "embedding" : "";
  auto join = [&s](const std::string& part) { s += (s.empty() ? "" : " + ") + part; };
  if (layers == 1) join("layer " + std::to_string(first_layer));
  if (layers > 1)
    join("layers " + std::to_string(first_layer) + "-" + std::to_string(first_layer + layers - 1));
  if (head) join("head");
  return s.empty() ? "nothing" : s;
}

Partition default_partition(int64_t layers, int stages) {
  check_stage_count(layers, stages);
  std::vector<int64_t> counts(static_cast<size_t>(stages), 0);
  const size_t first = stages >= 3 ? 1 : 0;
  const auto holders = static_cast<int64_t>(counts.size() - first);
  for (size_t s = first; s < counts.size(); ++s)
    counts[s] = layers / holders + (static_cast<int64_t>(s - first) < layers % holders ? 1 : 0);
  return from_counts(counts);
}

Partition partition_by_counts(int64_t layers, int stages, const std::vector<int64_t>& counts) {
  check_stage_count(layers, stages);
  const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const bool negative = std::any_of(counts.begin(), counts.end(), [](int64_t c) { return c < 0; });
  if (counts.size() != static_cast<size_t>(stages) || sum != layers || negative)
    throw UsageError("--layer-partition: expected " + std::to_string(stages) + " counts that add up to " +
                     std::to_string(layers) + " layers, found " + std::to_string(counts.size()) +
                     " that add up to " + std::to_string(sum));
  return from_counts(counts);
}

Partition partition_by_cost(int stages, const CutCost& cost) {
  check_stage_count(static_cast<int64_t>(cost.layers.size()), stages);
  const size_t L = cost.layers.size();
  const auto S = static_cast<size_t>(stages);
  // best[s][l]: least possible dearest stage when the first s stages hold the first l layers.
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(S + 1, std::vector<double>(L + 1, kNever));
  std::vector<std::vector<size_t>> taken(S + 1, std::vector<size_t>(L + 1, 0));
  best[0][0] = 0;
  for (size_t s = 1; s <= S; ++s)
    for (size_t l = 0; l <= L; ++l)
      for (size_t n = 0; n <= l; ++n) {
        const StageCut cut{s == 1, static_cast<int64_t>(l - n), static_cast<int64_t>(n), s == S};
        const double dearest = std::max(best[s - 1][l - n], stage_cost(cut, cost));
        if (dearest < best[s][l]) {
          best[s][l] = dearest;
          taken[s][l] = n;
        }
      }
  std::vector<int64_t> counts(S);
  for (size_t s = S, l = L; s > 0; --s) {
    counts[s - 1] = static_cast<int64_t>(taken[s][l]);
    l -= taken[s][l];
  }
  return from_counts(counts);
}

double imbalance(const Partition& partition, const CutCost& cost) {
  double dearest = 0;
  double sum = 0;
  for (const StageCut& cut : partition) {
    dearest = std::max(dearest, stage_cost(cut, cost));
    sum += stage_cost(cut, cost);
  }
  return sum > 0 ? dearest * static_cast<double>(partition.size()) / sum : 1;
}

Partition parse_partition(const std::string& flag, int stages, const CutCost& cost) {
  const auto layers = static_cast<int64_t>(cost.layers.size());
  if (flag.empty()) return default_partition(layers, stages);
  if (flag == "auto") return partition_by_cost(stages, cost);
  std::vector<int64_t> counts;
  const char* at = flag.data();
  const char* const end = at + flag.size();
  while (true) {
    int64_t value = 0;
    const auto [stopped, error] = std::from_chars(at, end, value);
    if (error != std::errc{} || (stopped != end && *stopped != ',') || value > layers)
      throw UsageError("--layer-partition: expected 'auto' or counts such as 0,6,6,6 of at most " +
                       std::to_string(layers) + " each, found '" + flag + "'");
    counts.push_back(value);
    if (stopped == end) break;
    at = stopped + 1;
  }
  return partition_by_counts(layers, stages, counts);
}

}  // namespace penstock
