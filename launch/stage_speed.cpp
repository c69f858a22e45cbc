#include "launch/stage_speed.h"

#include <algorithm>
#include <chrono>
#include <sstream>

#include "launch/agree.h"
#include "launch/placement.h"
#include "launch/warm_up.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRuns = 4;
constexpr int64_t kPrompt = 512;
constexpr int64_t kContext = 256;

/// A forward's, when the next is asked for before it is done.
double seconds_of(Stage& stage, Device& device, const proto::Plan& plan, TensorView in_TD,
                  TensorView out_TD) {
  std::vector<DrawingPtr> drawings;
  stage.forward(plan, in_TD, out_TD);
  device.synchronize();
  const Clock::time_point begin = Clock::now();
  for (int run = 0; run < kRuns; ++run) drawings.push_back(stage.start(plan, in_TD, out_TD));
  device.synchronize();
  return std::chrono::duration<double>(Clock::now() - begin).count() / kRuns;
}

/// "prompts 1, 1.02; answers 1.1, 1": of the fastest.
std::string relative_text(const std::vector<Slowness>& all) {
  std::ostringstream text;
  text.precision(3);
  const auto add = [&](const char* what, double Slowness::*of) {
    double fastest = 0;
    for (const Slowness& s : all)
      if (s.*of > 0 && (fastest == 0 || s.*of < fastest)) fastest = s.*of;
    text << what;
    for (size_t s = 0; s < all.size(); ++s)
      text << (s > 0 ? ", " : " ") << (fastest > 0 ? all[s].*of / fastest : 0);
  };
  add("prompts", &Slowness::prompts);
  add("; answers", &Slowness::answers);
  return text.str();
}

}  // namespace

Slowness measure_slowness(Stage& stage, Device& device, const StageSpec& spec, const JobShape& shape,
                          int64_t blocks, int rank) {
  const auto s = static_cast<size_t>(shape.layout.stage_of(rank));
  const auto unit = [&](int64_t rows, int64_t start, int64_t tokens) {
    const int64_t all = rows * tokens;
    const double answers = tokens == 1 ? static_cast<double>(rows) : 0;
    const StageWork work = work_by_stage(
        shape.partition, shape.cost,
        {static_cast<double>(all), static_cast<double>(rows), answers * static_cast<double>(start + 1)})[s];
    const double cost = work.own + work.first_in_turns + work.last_in_turns;
    if (cost <= 0) return 0.0;  // times nothing
    proto::Plan plan = empty_made_up_plan(spec);
    const int64_t blocks_a_row = (start + tokens + spec.block_size - 1) / spec.block_size;
    for (int64_t r = 0; r < rows; ++r)
      add_made_up_row(plan, spec, shape.config.vocab_size, start, tokens, r * blocks_a_row, blocks);
    Tensor in, out;
    if (!stage.is_first()) in = made_up_hidden(device, all, stage.hidden_size());
    if (!stage.is_last()) out = device.tensor(DType::f32, {all, stage.hidden_size()});
    return seconds_of(stage, device, plan, in, out) / cost;
  };
  const int64_t prompt = std::min({kPrompt, spec.max_model_len, spec.max_tokens});
  const int64_t prompts = std::max<int64_t>(1, std::min(spec.max_tokens / prompt, spec.max_rows));
  const int64_t context = std::min(kContext, spec.max_model_len);
  const int64_t answers = std::max<int64_t>(
      1, std::min({shape.max_num_seqs / shape.schedule.micro_batches, spec.max_rows, spec.max_tokens}));
  return {unit(prompts, 0, prompt), unit(answers, context - 1, 1)};
}

std::vector<Slowness> agree_on_slowness(World& world, const ReadyRank& ready, const StageSpec& spec,
                                        bool gpus_are_shared) {
  const std::vector<DeviceKind> devices = ready.shape.devices_by_rank();
  if (!any_gpu(devices) || gpus_are_shared || !any_shared(ready.shape.partition))
    return std::vector<Slowness>(devices.size());
  std::vector<Slowness> all;
  for (const std::string& text : agree(world, [&]() -> std::string {
         const Slowness mine =
             measure_slowness(*ready.stage, *ready.device, spec, ready.shape, ready.blocks, world.rank());
         std::ostringstream out;
         out << mine.prompts << " " << mine.answers;
         return out.str();
       })) {
    std::istringstream in(text);
    in >> all.emplace_back().prompts >> all.back().answers;
  }
  if (world.rank() == 0) log::info("time of stages for a unit of work: " + relative_text(all));
  return all;
}

std::vector<Slowness> slowness_of_replica(const ReadyRank& ready, int rank) {
  const Layout& layout = ready.shape.layout;
  const auto first = ready.slowness.begin() + layout.first_rank(layout.replica_of(rank));
  return {first, first + layout.stages};
}

}  // namespace penstock
