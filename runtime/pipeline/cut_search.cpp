// partition_by_cost (cut_cost.h).
#include <algorithm>
#include <cmath>
#include <compare>
#include <limits>
#include <numeric>

#include "runtime/pipeline/cut_cost.h"

namespace penstock {
namespace {

/// Where a cut may lie: between halves, and with `shared` within those that may be.
std::vector<Share> places(const CutCost& cost, bool shared) {
  std::vector<Share> places;
  for (size_t half = 0; half <= cost.halves.size(); ++half) {
    places.push_back(kHalf * static_cast<Share>(half));
    if (shared && half < cost.may_be_shared.size() && cost.may_be_shared[half])
      places.push_back(places.back() + 1);
  }
  return places;
}

/// Of the cuts at `places`, the one whose dearest stage over all phases is cheapest, when an MLP that is
/// shared is shared evenly; and of those one that cuts few layers.
std::vector<Share> cheapest_at(const std::vector<Share>& places, size_t stages, const CutCost& cost,
                               const std::vector<double>& slowness) {
  Load all{0, 0, 0};
  for (const Load& phase : cost.phases) {
    all.tokens += phase.tokens;
    all.rows += phase.rows;
    all.positions += phase.positions;
  }
  std::vector<double> before;  // a place
  double whole = 0;
  size_t next = 0;  // half
  for (const Share place : places) {
    const auto of = [&](size_t h) {
      return cost.halves[h] * all.tokens + (cost.cache.empty() ? 0 : cost.cache[h] * all.positions);
    };
    while (kHalf * static_cast<Share>(next + 1) <= place) whole += of(next++);
    before.push_back(whole + (place % kHalf != 0 ? of(next) / 2 : 0));
  }
  // The first s stages end at place l.
  struct Best {
    double dearest = std::numeric_limits<double>::infinity();
    int cut_layers = 0;
    size_t taken = 0;  // places, by stage s - 1
    auto operator<=>(const Best&) const = default;
  };
  std::vector<std::vector<Best>> best(stages + 1, std::vector<Best>(places.size()));
  best[0][0].dearest = 0;
  for (size_t s = 1; s <= stages; ++s) {
    const double unit = slowness.empty() ? 1 : slowness.at(s - 1);
    const double ends = (s == 1 ? cost.embedding * all.tokens : 0) + (s == stages ? cost.head * all.rows : 0);
    for (size_t l = 0; l < places.size(); ++l)
      for (size_t n = 0; n <= l; ++n) {
        if (n == 0 && places[l] % kHalf != 0) continue;  // two cuts within one MLP
        const Best& earlier = best[s - 1][l - n];
        const double stage = unit * (ends + before[l] - before[l - n]);
        best[s][l] =
            std::min(best[s][l], Best{std::max(earlier.dearest, stage),
                                      earlier.cut_layers + (places[l] % (2 * kHalf) != 0 ? 1 : 0), n});
      }
  }
  std::vector<Share> shares(stages);
  for (size_t s = stages, l = places.size() - 1; s > 0; --s) {
    const size_t from = l - best[s][l].taken;
    shares[s - 1] = places[l] - places[from];
    l = from;
  }
  return shares;
}

/// Looks for a cheaper cut around one.
class Search {
 public:
  Search(const CutCost& cost, const std::vector<double>& slowness, const std::vector<Share>& start)
      : cost_(cost),
        slowness_(slowness),
        end_(std::accumulate(start.begin(), start.end(), Share{0})),
        cuts_(cuts_of(start)),
        worth_(worth_of(cuts_)) {}

  void run() {
    const size_t together = cuts_.size() <= kFew ? 3 : 2;  // neighbouring cuts
    bool better = true;
    for (int round = 0; better && round < kMostRounds; ++round) {
      better = false;
      for (size_t first = 0; first < cuts_.size(); ++first)
        better = try_around(first, std::min(together, cuts_.size() - first), cuts_) || better;
    }
  }

  bool is_better_than(const Search& other) const { return worth_ < other.worth_; }
  Partition found() const { return partition_by_shares(shares(cuts_)); }

 private:
  static constexpr size_t kFew = 8;
  static constexpr int kMostRounds = 50;
  static constexpr Share kFar = 4;

  struct Worth {
    double cost = 0;
    double unevenness = 0;  // so that stages other than the dearest are made even, and give it room
    bool operator<(const Worth& other) const {
      constexpr double kSame = 1e-9;
      if (std::abs(cost - other.cost) > kSame * other.cost) return cost < other.cost;
      return unevenness < other.unevenness * (1 - kSame);
    }
  };

  std::vector<Share> shares(const std::vector<Share>& cuts) const {
    std::vector<Share> shares;
    Share begin = 0;
    for (const Share cut : cuts) {
      shares.push_back(cut - begin);
      begin = cut;
    }
    shares.push_back(end_ - begin);
    return shares;
  }

  Worth worth_of(const std::vector<Share>& cuts) const {
    constexpr double kShared = 0.003;
    constexpr double kLayerCut = 0.0002;
    // The stage with most of a short cache has room for the fewest sequences. Fewer of them by a percent cost
    // about half of one: what does not read the cache takes about as long for fewer.
    constexpr double kRoom = 0.5;
    const Partition partition = partition_by_shares(shares(cuts));
    double factor = 1;
    for (const Share cut : cuts)
      factor += cut % kHalf != 0 ? kShared : cut % (2 * kHalf) != 0 ? kLayerCut : 0;
    if (cost_.cache_is_short) factor += kRoom * (unevenness_of_cache(partition) - 1);
    const JobCost job = job_cost(partition, cost_, slowness_);
    Worth worth{factor * job.together, 0};
    for (const double stage : job.by_stage) worth.unevenness += stage * stage;
    return worth;
  }

  /// The largest part of the cache on one stage, over the mean.
  double unevenness_of_cache(const Partition& partition) const {
    if (cost_.cache.empty()) return 1;
    double most = 0, all = 0;
    for (const StageCut& cut : partition) {
      const auto first = cost_.cache.begin() + cut.first_half;
      const double here = std::accumulate(first, first + cut.halves, 0.0);
      most = std::max(most, here);
      all += here;
    }
    return all > 0 ? most * static_cast<double>(partition.size()) / all : 1;
  }

  bool possible(const std::vector<Share>& cuts) const {
    for (size_t s = 0; s < cuts.size(); ++s) {
      if (cuts[s] < (s > 0 ? cuts[s - 1] : 0) || cuts[s] > end_) return false;
      if (cuts[s] % kHalf == 0) continue;
      const auto half = static_cast<size_t>(cuts[s] / kHalf);
      if (half >= cost_.may_be_shared.size() || !cost_.may_be_shared[half]) return false;
      if (s > 0 && cuts[s] == cuts[s - 1]) return false;
    }
    return true;
  }

  /// Moves `count` cuts from `first` on; the others are those of `cuts`.
  bool try_around(size_t first, size_t count, std::vector<Share> cuts) {
    if (count == 0) {
      if (!possible(cuts)) return false;
      const Worth worth = worth_of(cuts);
      if (!(worth < worth_)) return false;
      worth_ = worth;
      cuts_ = std::move(cuts);
      return true;
    }
    bool better = false;
    const Share middle = cuts[first];
    for (Share by = -kFar; by <= kFar; ++by) {
      cuts[first] = middle + by;
      better = try_around(first + 1, count - 1, cuts) || better;
    }
    return better;
  }

  const CutCost& cost_;
  const std::vector<double>& slowness_;
  Share end_;
  std::vector<Share> cuts_;
  Worth worth_;
};

}  // namespace

Partition partition_by_cost(int stages, const CutCost& cost, const std::vector<double>& slowness) {
  check_stage_count(static_cast<int64_t>(cost.halves.size() / 2), stages);
  const auto S = static_cast<size_t>(stages);
  const std::vector<Share> unshared = cheapest_at(places(cost, false), S, cost, slowness);
  const bool any_shared =
      std::find(cost.may_be_shared.begin(), cost.may_be_shared.end(), true) != cost.may_be_shared.end();
  if (cost.phases.size() == 1 && !any_shared) return partition_by_shares(unshared);
  Search from_unshared(cost, slowness, unshared);
  from_unshared.run();
  Search from_shared(cost, slowness, cheapest_at(places(cost, true), S, cost, slowness));
  from_shared.run();
  return (from_shared.is_better_than(from_unshared) ? from_shared : from_unshared).found();
}

}  // namespace penstock
