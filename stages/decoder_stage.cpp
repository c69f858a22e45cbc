// The composition: a plan becomes index arrays, the arrays and the residual stream go through the layers.
#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <span>

#include "runtime/model/kv_cache.h"
#include "stages/decode_graphs.h"
#include "stages/parts.h"
#include "stages/planned_batch.h"
#include "stages/rule_book.h"

namespace penstock {
namespace {

void check_spec(const ModelConfig& config, const StageSpec& spec) {
  ensure(spec.cut.first_half >= 0 && spec.cut.halves >= 0 &&
             spec.cut.first_half + spec.cut.halves <= 2 * config.layer_count(),
         "a stage's half layers lie within the model");
  ensure(spec.dtype == DType::f32 || spec.dtype == DType::bf16, "a stage computes in float32 or bfloat16");
  ensure(is_kv_dtype(spec.kv()), "a KV cache is kept in float32, bfloat16, FP8 or int8");
  ensure(spec.max_model_len > 0 && spec.block_size > 0 && spec.max_tokens > 0 && spec.max_rows > 0,
         "a stage's limits are positive");
}

Tensor rope_tensor(const BuildContext& context) {
  const std::vector<float> table = rope_table(context.config.rope, context.spec.max_model_len);
  Tensor tensor =
      context.device.tensor(DType::f32, {context.spec.max_model_len, context.config.rope.rotary_dim});
  context.device.upload(tensor.view.data, table.data(), tensor.view.bytes());
  return tensor;
}

Tensor identity_rows(Device& device, int64_t count) {
  std::vector<int32_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  Tensor tensor = device.tensor(DType::i32, {count});
  device.upload(tensor.view.data, rows.data(), tensor.view.bytes());
  return tensor;
}

/// Row by row: the scores of its targets, then its sampled token.
std::vector<Sampled> in_order(const proto::Plan& plan, std::vector<Sampled> sampled,
                              std::vector<Sampled> scored) {
  std::vector<Sampled> all;
  size_t next_sampled = 0, next_scored = 0;
  for (const proto::PlannedRow& row : plan.rows()) {
    for (int i = 0; i < row.targets_size(); ++i) all.push_back(std::move(scored[next_scored++]));
    if (row.has_sampling()) all.push_back(std::move(sampled[next_sampled++]));
  }
  return all;
}

class DecoderStage final : public Stage {
 public:
  explicit DecoderStage(const BuildContext& context)
      : ops_(context.ops),
        hidden_size_(context.config.hidden_size),
        cut_(context.spec.cut),
        batch_(context.device, context.spec, context.config.vocab_size),
        graphs_(context.device, context.spec),
        rules_(context.config.vocab_size) {
    const StageSpec& spec = context.spec;
    if (cut_.embedding) embedding_.emplace(context);
    if (!cut_.embedding || graphs_.enabled()) identity_T_ = identity_rows(context.device, spec.max_tokens);
    if (cut_.halves > 0) {
      const Tensor cos_sin_P2r = rope_tensor(context);
      halves_.reserve(static_cast<size_t>(cut_.halves));
      for (int64_t i = 0; i < cut_.halves; ++i)
        halves_.emplace_back(context, cut_.first_half + i, cos_sin_P2r);
    }
    if (cut_.head) head_.emplace(context);
    if (cut_.head || graphs_.enabled())
      residual_TD_ = context.device.tensor(DType::f32,
                                           {cut_.head ? spec.max_tokens : graphs_.most_rows(), hidden_size_});
    size_t scratch = 0;
    for (const HalfLayer& half : halves_) scratch = std::max(scratch, half.scratch_bytes(spec.max_tokens));
    scratch_.emplace(context.device, scratch);
  }

  int64_t hidden_size() const override { return hidden_size_; }
  bool is_first() const override { return embedding_.has_value(); }
  bool is_last() const override { return head_.has_value(); }

  size_t weight_bytes() const override {
    size_t bytes = embedding_ ? embedding_->weight_bytes() : 0;
    for (const HalfLayer& half : halves_) bytes += half.weight_bytes();
    return bytes + (head_ ? head_->weight_bytes() : 0);
  }

  ExpertUse expert_use() const override {
    ExpertUse use;
    for (const HalfLayer& half : halves_) use += half.expert_use();
    return use;
  }

  size_t kv_bytes_per_block() const override {
    size_t bytes = 0;
    for_each_attention([&](Attention& attention) { bytes += attention.kv_bytes_per_block(); });
    return bytes;
  }

  void allocate_cache(int64_t blocks) override {
    ensure(blocks > 0, "a stage's cache has blocks");
    // One block more, which no sequence has, for rows that only fill a step up.
    graphs_.clear();
    for_each_attention(
        [&](Attention& attention) { attention.allocate_cache(blocks + (graphs_.enabled() ? 1 : 0)); });
    blocks_ = blocks;
  }

  void allocate_full_precision_cache(int64_t blocks) override {
    for_each_attention([](Attention& attention) { attention.use_full_precision(); });
    allocate_cache(blocks);
  }

  CacheRounding take_cache_rounding() override { return ops_.take_cache_rounding(); }

  DrawingPtr start(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) override {
    if (plan.rows().empty()) return nullptr;
    const std::span<HalfLayer> halves = halves_in(plan);
    std::optional<StepSize> size = graphs_.size_for(plan);
    if (size) {
      size->halves_begin = static_cast<size_t>(halves.data() - halves_.data());
      size->halves_end = size->halves_begin + halves.size();
    }
    const Padding padding = size ? Padding{size->rows, size->table_stride, blocks_} : Padding{};
    batch_.prepare(plan, halves_.empty() ? std::numeric_limits<int64_t>::max() : blocks_, padding);
    const BatchView& batch = batch_.view();
    std::vector<SampleParams> params_R(batch_.params_R().begin(), batch_.params_R().end());
    if (head_) rules_.apply(plan, params_R);

    // The residual stream is worked on in place: in the caller's output, or in memory of the stage's own.
    const int64_t tokens = size ? plan.rows_size() : batch.tokens;
    const Shape shape{tokens, hidden_size_};
    const bool own = head_ || size;
    const TensorView x_TD = own ? residual_TD_.view.first(batch.tokens) : out_TD;
    ensure(embedding_ || (in_TD.dtype == DType::f32 && in_TD.shape == shape),
           "in_TD is float32 [tokens, hidden_size]");
    ensure(head_ || (out_TD.dtype == DType::f32 && out_TD.shape == shape),
           "out_TD is float32 [tokens, hidden_size]");
    if (!embedding_) copy(x_TD.first(tokens), in_TD);
    const int64_t sampled = size ? batch.rows : static_cast<int64_t>(params_R.size());
    const auto ask = [&] { ask_for_everything(x_TD, halves, batch, sampled); };
    if (size)
      graphs_.run(*size, ask);
    else
      ask();
    if (head_) {
      DrawingPtr drawing = head_->start_sample(params_R);
      if (batch_.scores_S().empty()) return drawing;
      // Taken before score, which makes logits in the same place.
      std::vector<Sampled> drawn = drawing ? drawing->take() : std::vector<Sampled>{};
      return std::make_unique<Drawn>(
          in_order(plan, std::move(drawn), head_->score(x_TD, batch_.scored_rows_S(), batch_.scores_S())));
    }
    if (own) copy(out_TD, x_TD.first(tokens));
    return nullptr;
  }

 private:
  template <class Each>
  void for_each_attention(const Each& each) const {
    for (const HalfLayer& half : halves_)
      if (half.attention() != nullptr) each(*half.attention());
  }

  /// Those that are this stage's in this micro-batch: all but an MLP in which it is a neighbour's turn.
  std::span<HalfLayer> halves_in(const proto::Plan& plan) {
    const auto run_by_earlier = [&plan](int64_t half) {
      return std::count(plan.run_by_earlier().begin(), plan.run_by_earlier().end(), half) > 0;
    };
    std::span<HalfLayer> halves = halves_;
    if (cut_.first_in_turns && run_by_earlier(cut_.first_half)) halves = halves.subspan(1);
    if (cut_.last_in_turns && !run_by_earlier(cut_.last_half())) halves = halves.first(halves.size() - 1);
    return halves;
  }

  void copy(TensorView to_TD, TensorView from_TD) {
    ops_.gather_rows(to_TD, from_TD, identity_T_.view.as<const int32_t>());
  }

  /// From token ids, or what is in x_TD, to what the next stage gets in x_TD, or to logits.
  void ask_for_everything(TensorView x_TD, std::span<HalfLayer> halves, const BatchView& batch,
                          int64_t sampled) {
    if (embedding_) embedding_->forward(x_TD, batch_.ids_T());
    for (HalfLayer& half : halves) half.forward(x_TD, batch, *scratch_);
    if (head_) head_->compute_logits(x_TD, batch_.sampled_rows_R(), sampled);
  }

  Ops& ops_;
  int64_t hidden_size_;
  StageCut cut_;
  int64_t blocks_ = 0;
  PlannedBatch batch_;
  DecodeGraphs graphs_;
  RuleBook rules_;  // of the sequences that run: if is_last
  std::optional<Embedding> embedding_;
  std::vector<HalfLayer> halves_;
  std::optional<Head> head_;
  std::optional<Scratch> scratch_;
  Tensor identity_T_;   // 0, 1, 2, ...: where rows are copied
  Tensor residual_TD_;  // where the stream is the stage's own
};

}  // namespace

std::unique_ptr<Stage> build_stage(const ModelConfig& config, WeightSource& source, const StageSpec& spec,
                                   Device& device, Ops& ops) {
  check_spec(config, spec);
  return std::make_unique<DecoderStage>(BuildContext{config, source, spec, device, ops});
}

}  // namespace penstock
