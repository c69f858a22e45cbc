#include "runtime/pipeline/partition.h"

#include <algorithm>
#include <charconv>
#include <compare>
#include <limits>
#include <numeric>
#include <string_view>

#include "runtime/base/error.h"

namespace penstock {
namespace {

Partition from_halves(const std::vector<int64_t>& halves) {
  Partition partition;
  int64_t first = 0;
  for (size_t s = 0; s < halves.size(); ++s) {
    partition.push_back({s == 0, first, halves[s], s + 1 == halves.size()});
    first += halves[s];
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
  const auto first = cost.halves.begin() + static_cast<std::ptrdiff_t>(cut.first_half);
  return (cut.embedding ? cost.embedding : 0) + (cut.head ? cost.head : 0) +
         std::accumulate(first, first + static_cast<std::ptrdiff_t>(cut.halves), 0.0);
}

std::string StageCut::text() const {
  std::string s = embedding ? "embedding" : "";
  auto join = [&s](const std::string& part) { s += (s.empty() ? "" : " + ") + part; };
  const int64_t end = first_half + halves;
  if (halves > 0 && first_half % 2 == 1) join("MLP " + std::to_string(first_half / 2));
  const int64_t first = (first_half + 1) / 2;
  const int64_t last = end / 2 - 1;
  if (first == last) join("layer " + std::to_string(first));
  if (first < last) join("layers " + std::to_string(first) + "-" + std::to_string(last));
  if (halves > 0 && end % 2 == 1) join("attention " + std::to_string(end / 2));
  if (head) join("head");
  return s.empty() ? "nothing" : s;
}

Partition default_partition(int64_t layers, int stages) {
  check_stage_count(layers, stages);
  std::vector<int64_t> counts(static_cast<size_t>(stages), 0);
  const size_t first = stages >= 3 ? 1 : 0;
  const auto holders = static_cast<int64_t>(counts.size() - first);
  for (size_t s = first; s < counts.size(); ++s)
    counts[s] = 2 * (layers / holders + (static_cast<int64_t>(s - first) < layers % holders ? 1 : 0));
  return from_halves(counts);
}

Partition partition_by_halves(int64_t layers, int stages, const std::vector<int64_t>& halves) {
  check_stage_count(layers, stages);
  const int64_t sum = std::accumulate(halves.begin(), halves.end(), int64_t{0});
  const bool negative = std::any_of(halves.begin(), halves.end(), [](int64_t c) { return c < 0; });
  if (halves.size() != static_cast<size_t>(stages) || sum != 2 * layers || negative)
    throw UsageError("--layer-partition: expected " + std::to_string(stages) + " counts that add up to " +
                     std::to_string(layers) + " layers, found " + std::to_string(halves.size()) +
                     " that add up to " + std::to_string(sum / 2) + (sum % 2 != 0 ? ".5" : ""));
  return from_halves(halves);
}

Partition partition_by_cost(int stages, const CutCost& cost, const std::vector<double>& slowness) {
  const size_t L = cost.halves.size();
  check_stage_count(static_cast<int64_t>(L / 2), stages);
  const auto S = static_cast<size_t>(stages);
  // The first s stages hold the first l halves: the least possible dearest stage, then the fewest layers cut.
  struct Best {
    double dearest = std::numeric_limits<double>::infinity();
    int cut_layers = 0;
    size_t taken = 0;  // by stage s - 1
    auto operator<=>(const Best&) const = default;
  };
  std::vector<std::vector<Best>> best(S + 1, std::vector<Best>(L + 1));
  best[0][0].dearest = 0;
  for (size_t s = 1; s <= S; ++s) {
    const double unit = slowness.empty() ? 1 : slowness.at(s - 1);
    for (size_t l = 0; l <= L; ++l)
      for (size_t n = 0; n <= l; ++n) {
        const StageCut cut{s == 1, static_cast<int64_t>(l - n), static_cast<int64_t>(n), s == S};
        const Best& before = best[s - 1][l - n];
        best[s][l] = std::min(best[s][l], Best{std::max(before.dearest, unit * stage_cost(cut, cost)),
                                               before.cut_layers + static_cast<int>(l % 2), n});
      }
  }
  std::vector<int64_t> halves(S);
  for (size_t s = S, l = L; s > 0; --s) {
    halves[s - 1] = static_cast<int64_t>(best[s][l].taken);
    l -= best[s][l].taken;
  }
  return from_halves(halves);
}

std::string flag_text(const Partition& partition) {
  std::string text;
  for (const StageCut& cut : partition)
    text += (text.empty() ? "" : ",") + std::to_string(cut.halves / 2) + (cut.halves % 2 != 0 ? ".5" : "");
  return text;
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

Partition parse_partition(const std::string& flag, int stages, const CutCost& cost,
                          const std::vector<double>& slowness) {
  const auto layers = static_cast<int64_t>(cost.halves.size() / 2);
  if (flag.empty()) return default_partition(layers, stages);
  if (flag == "auto") return partition_by_cost(stages, cost, slowness);
  std::vector<int64_t> halves;
  const char* at = flag.data();
  const char* const end = at + flag.size();
  while (true) {
    int64_t value = 0;
    auto [stopped, error] = std::from_chars(at, end, value);
    const bool and_a_half = error == std::errc{} && std::string_view(stopped, end).starts_with(".5");
    if (and_a_half) stopped += 2;
    if (error != std::errc{} || (stopped != end && *stopped != ',') || value < 0 || value > layers)
      throw UsageError(
          "--layer-partition: expected 'auto' or counts such as 0,6,6,6 or 6.5,6,5.5 of at most " +
          std::to_string(layers) + " each, found '" + flag + "'");
    halves.push_back(2 * value + (and_a_half ? 1 : 0));
    if (stopped == end) break;
    at = stopped + 1;
  }
  return partition_by_halves(layers, stages, halves);
}

}  // namespace penstock
