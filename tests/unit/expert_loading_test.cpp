// Experts that are read when a row is first routed to them.
#include "launch/expert_memory.h"
#include "tests/unit/stage_fixtures.h"

namespace penstock {
namespace {

using test::Chain;

/// A CPU with a given amount of free memory.
class TightDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override { return "tight"; }
  MemoryInfo memory() const override { return {free, free}; }
  DeviceMemory allocate(size_t bytes) override { return real_->allocate(bytes); }
  void upload(void* to, const void* from, size_t bytes) override { real_->upload(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { real_->download(to, from, bytes); }
  void synchronize() override {}
  std::unique_ptr<Moment> mark() override { return nullptr; }
  std::unique_ptr<Recording> record(const std::function<void()>&) override { return nullptr; }
  std::optional<MemoryUse> memory_use() const override { return std::nullopt; }

  size_t free = size_t{1} << 40;

 private:
  std::unique_ptr<Device> real_ = make_cpu_device();
};

/// One model in one stage, with all that must outlive it.
class Model {
 public:
  Model(const std::filesystem::path& dir, ExpertLoading experts)
      : Model(load_model_config(dir), dir, experts) {}
  Model(ModelConfig config, const std::filesystem::path& dir, ExpertLoading experts)
      : source(open_checkpoint(dir)), ops(make_cpu_ops(device, 2)) {
    const test::Limits limits{.experts = experts};
    chain.emplace(config, *source, test::uncut(config), limits, device, *ops);
  }

  std::vector<std::vector<Sampled>> answers(const std::vector<std::vector<int32_t>>& prompts, size_t steps) {
    return test::generate(*chain, prompts, steps, 7);
  }
  ExpertUse use() { return chain->stage(0).expert_use(); }

  TightDevice device;
  std::unique_ptr<WeightSource> source;
  std::unique_ptr<Ops> ops;
  std::optional<Chain> chain;
};

const std::vector<std::vector<int32_t>> kPrompts{{2, 45, 3, 9, 77}, {5}, {100, 101, 7, 8, 9, 10, 11, 12, 13}};

class LazyExperts : public testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path dir() const { return test::own_models() / GetParam(); }
};

TEST_P(LazyExperts, GiveTheBitsOfEagerOnes) {
  Model eager(dir(), ExpertLoading::eager);
  Model lazy(dir(), ExpertLoading::lazy);
  const auto expected = eager.answers(kPrompts, 6);
  const auto found = lazy.answers(kPrompts, 6);
  for (size_t r = 0; r < expected.size(); ++r)
    for (size_t s = 0; s < expected[r].size(); ++s) {
      ASSERT_EQ(found[r][s].token, expected[r][s].token) << "row " << r << " step " << s;
      ASSERT_EQ(found[r][s].logprob, expected[r][s].logprob) << "row " << r << " step " << s;
    }
  EXPECT_EQ(lazy.use().hit_bytes, eager.use().hit_bytes);
}

TEST_P(LazyExperts, AreReadOnceAndOnlyWhenRoutedTo) {
  Model eager(dir(), ExpertLoading::eager);
  Model lazy(dir(), ExpertLoading::lazy);
  EXPECT_EQ(lazy.use().held, 0U);
  EXPECT_EQ(lazy.use().bytes, eager.use().held_bytes) << "what all would take is known before one is read";
  const int64_t at_start = lazy.source->bytes_read();

  const auto first = lazy.answers({{2, 45}}, 1);
  const ExpertUse touched = lazy.use();
  const int64_t read = lazy.source->bytes_read();
  EXPECT_GT(touched.held, 0U);
  EXPECT_LT(touched.held, touched.experts);
  EXPECT_GT(read, at_start);
  EXPECT_LT(read, eager.source->bytes_read());
  EXPECT_EQ(eager.use().bytes - touched.held_bytes,
            eager.chain->stage(0).weight_bytes() - lazy.chain->stage(0).weight_bytes());

  const auto again = lazy.answers({{2, 45}}, 1);
  EXPECT_EQ(again[0][0].logprob, first[0][0].logprob);
  EXPECT_EQ(lazy.source->bytes_read(), read);
}

INSTANTIATE_TEST_SUITE_P(Stage, LazyExperts,
                         testing::Values("tiny-deepseek-v2-groups", "tiny-deepseek-v2-greedy",
                                         "tiny-deepseek-v3-halves", "tiny-deepseek-v3-plain"));

constexpr const char* kModel = "tiny-deepseek-v3-halves";

TEST(LazyExpert, OfAnotherShapeIsRefusedBeforeTheJobRuns) {
  ModelConfig config = load_model_config(test::own_models() / kModel);
  std::get<MoeConfig>(config.layers.back().mlp).intermediate_size = 13;
  EXPECT_CONTAINS(test::usage_error([&] { Model(config, test::own_models() / kModel, ExpertLoading::lazy); }),
                  "model.layers.2.mlp.experts.0.gate_proj.weight: expected [13, 32], found [12, 32]");
}

TEST(LazyExpert, WhoseFileBecameShorterStopsTheForward) {
  const test::TempDir dir;
  for (const char* name : {"config.json", "model.safetensors"})
    std::filesystem::copy_file(test::own_models() / kModel / name, dir.path() / name);
  Model model(dir.path(), ExpertLoading::lazy);
  std::filesystem::resize_file(dir.path() / "model.safetensors", 20000);
  try {
    model.answers(kPrompts, 1);
    FAIL() << "experts came from nowhere";
  } catch (const Error& e) {
    EXPECT_CONTAINS(std::string(e.what()), "model.safetensors: expected");
    EXPECT_CONTAINS(std::string(e.what()), "the file has become shorter");
  }
}

TEST(LazyExpert, IsNotReadIntoMemoryThatIsNotThere) {
  Model model(test::own_models() / kModel, ExpertLoading::lazy);
  const auto expected = Model(test::own_models() / kModel, ExpertLoading::eager).answers(kPrompts, 1);
  const size_t all = model.device.free;
  model.device.free = 1 << 20;
  try {
    model.answers(kPrompts, 1);
    FAIL() << "experts took memory that others need";
  } catch (const OutOfMemory&) {
    FAIL() << "would be tried again with fewer rows, which need the same experts in the end";
  } catch (const Error& e) {
    EXPECT_CONTAINS(std::string(e.what()), "model.layers.1.mlp.experts.*: rows are routed to");
    EXPECT_CONTAINS(std::string(e.what()), "found 1 MiB");
  }
  model.device.free = all;
  EXPECT_EQ(model.answers(kPrompts, 1)[0][0].logprob, expected[0][0].logprob);
}

TEST(ExpertMemory, ACacheIsAsLargeAsIfAllExpertsWereThere) {
  EXPECT_EQ(free_beside_experts(1000, 0), 1000U);
  EXPECT_EQ(free_beside_experts(1000, 600), 400U);
  EXPECT_EQ(free_beside_experts(1000, 751), 250U) << "a quarter where they never all fit";
  EXPECT_EQ(free_beside_experts(1000, 100000), 250U);
}

TEST(ExpertMemory, TheClosingTableCountsByStageAndSums) {
  std::vector<proto::StageReport> reports(3);
  for (size_t s : {1, 2}) {
    reports[s].set_experts(64);
    reports[s].set_experts_held(10 * s);
    reports[s].set_expert_bytes(64 << 20);
    reports[s].set_expert_held_bytes(10 * s << 20);
    reports[s].set_expert_read_seconds(0.5);
  }
  EXPECT_EQ(experts_text(reports, {1, 3}, true),
            "experts touched: 30 of 128 (stage 1: 10 of 64, stage 2: 20 of 64), 30.0 MiB of 128.0 MiB in "
            "memory, read in 1.0 s\n");
  EXPECT_EQ(experts_text(reports, {1, 3}, false), "");
}

}  // namespace
}  // namespace penstock
