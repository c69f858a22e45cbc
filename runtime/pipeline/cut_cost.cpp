#include "runtime/pipeline/cut_cost.h"

#include <algorithm>
#include <numeric>

namespace penstock {

std::vector<StageWork> work_by_stage(const Partition& partition, const CutCost& cost, const Load& load,
                                     const std::vector<double>& slowness) {
  const auto of_half = [&](int64_t half) {
    const auto h = static_cast<size_t>(half);
    return cost.halves.at(h) * load.tokens + (cost.cache.empty() ? 0 : cost.cache.at(h) * load.positions);
  };
  std::vector<StageWork> work;
  for (size_t s = 0; s < partition.size(); ++s) {
    const StageCut& cut = partition[s];
    const double unit = slowness.empty() ? 1 : slowness.at(s);
    const int64_t begin = cut.first_half + (cut.first_in_turns ? 1 : 0);
    const int64_t end = cut.first_half + cut.halves - (cut.last_in_turns ? 1 : 0);
    StageWork stage;
    if (cut.embedding) stage.own += unit * cost.embedding * load.tokens;
    if (cut.head) stage.own += unit * cost.head * load.rows;
    for (int64_t half = begin; half < end; ++half) stage.own += unit * of_half(half);
    if (cut.first_in_turns) stage.first_in_turns = unit * of_half(cut.first_half);
    if (cut.last_in_turns) stage.last_in_turns = unit * of_half(end);
    work.push_back(stage);
  }
  return work;
}

EvenTurns even_turns(const std::vector<StageWork>& work) {
  constexpr int kHalvings = 30;
  EvenTurns turns;
  turns.of_earlier.resize(work.size(), 0);
  // Whether no stage costs more than `most`: each takes of the MLP that it shares with the next one as much
  // as it can.
  const auto suffices = [&](double most) {
    double left = 0;  // of the turns with the stage before
    for (size_t s = 0; s < work.size(); ++s) {
      const double load = work[s].own + left * work[s].first_in_turns;
      if (load > most) return false;
      const double last = work[s].last_in_turns;
      turns.of_earlier[s] = last > 0 ? std::min(1.0, (most - load) / last) : 0;
      left = 1 - turns.of_earlier[s];
    }
    return true;
  };
  double low = 0, high = 0;
  for (const StageWork& w : work) {
    low = std::max(low, w.own);
    high = std::max(high, w.own + w.first_in_turns + w.last_in_turns);
  }
  const bool shared =
      std::any_of(work.begin(), work.end(), [](const StageWork& w) { return w.last_in_turns > 0; });
  for (int i = 0; shared && i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (suffices(middle) ? high : low) = middle;
  }
  suffices(high);
  turns.dearest = high;
  return turns;
}

JobCost job_cost(const Partition& partition, const CutCost& cost, const std::vector<double>& slowness) {
  JobCost job{0, std::vector<double>(partition.size(), 0)};
  for (const Load& load : cost.phases) {
    const std::vector<StageWork> work = work_by_stage(partition, cost, load, slowness);
    const EvenTurns turns = even_turns(work);
    job.together += turns.dearest;
    for (size_t s = 0; s < work.size(); ++s) {
      job.by_stage[s] += work[s].own + turns.of_earlier[s] * work[s].last_in_turns;
      if (s > 0) job.by_stage[s] += (1 - turns.of_earlier[s - 1]) * work[s].first_in_turns;
    }
  }
  return job;
}

double imbalance(const Partition& partition, const CutCost& cost) {
  const JobCost job = job_cost(partition, cost);
  const double all = std::accumulate(job.by_stage.begin(), job.by_stage.end(), 0.0);
  return all > 0 ? job.together * static_cast<double>(partition.size()) / all : 1;
}

}  // namespace penstock
