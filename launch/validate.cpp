// `penstock validate`: what a change of weights or settings does to a model's answers. Both models read the
// same tokens; at each position their distributions of the next one are compared.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "launch/commands.h"
#include "launch/job_options.h"
#include "launch/rank_job.h"
#include "runtime/model/weight_source.h"
#include "runtime/requests/text/tokenizer.h"
#include "stages/build_stage.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kTokensAtOnce = 64;  // whose whole distributions are held, of both models

struct Flags {
  JobOptions options;
  fs::path reference;  // empty: the same model
  std::string reference_dtype = "float32";
  std::string reference_kv_dtype = "auto";
  fs::path text, tokens;
  int64_t context = 512;
  int64_t most_tokens = 8192;
};

using Pieces = std::vector<std::vector<int32_t>>;

/// One whole model in this process, for one sequence at a time.
class Scorer {
 public:
  Scorer(const fs::path& model, const std::string& dtype, const std::string& kv_dtype,
         const JobOptions& options, int64_t context)
      : config_(load_model_config(model)),
        device_(options.device == "cuda" ? make_cuda_device(0) : make_cpu_device()),
        ops_(device_->kind() == DeviceKind::cuda
                 ? make_cuda_ops(*device_)
                 : make_cpu_ops(*device_, options.threads > 0 ? options.threads : usable_cores())) {
    dtype_ = resolve_dtype(dtype, config_);
    kv_dtype_ = resolve_kv_dtype(kv_dtype, dtype_);
    const auto weights = open_checkpoint(model);
    stage_ = build_stage(config_, *weights,
                         {default_partition(config_.layer_count(), 1).front(), dtype_, context,
                          options.block_size, kTokensAtOnce, kTokensAtOnce, ExpertLoading::eager, kv_dtype_},
                         *device_, *ops_);
    blocks_ = (context + options.block_size - 1) / options.block_size;
    stage_->allocate_cache(blocks_);
  }

  const ModelConfig& config() const { return config_; }
  /// "bfloat16, weights in FP8, KV cache in int8"
  std::string text() const {
    return std::string(name_of(dtype_)) + (config_.fp8 ? ", weights in FP8" : "") +
           (kv_dtype_ != dtype_ ? std::string(", KV cache in ") + name_of(kv_dtype_) : "");
  }

  /// For each position from `first` on, up to kTokensAtOnce of them: every token's log-probability of coming
  /// next. Positions before `first` must have been scored.
  std::vector<std::vector<float>> next(const std::vector<int32_t>& piece, size_t first) {
    const size_t end = std::min(piece.size() - 1, first + static_cast<size_t>(kTokensAtOnce));
    proto::Plan plan;
    proto::PlannedRow& row = *plan.add_rows();
    row.set_start(static_cast<uint32_t>(first));
    for (size_t i = first; i < end; ++i) {
      row.add_tokens(static_cast<uint32_t>(piece[i]));
      row.add_targets(static_cast<uint32_t>(piece[i + 1]));
    }
    for (int64_t b = 0; b < blocks_; ++b) row.add_blocks(static_cast<uint32_t>(b));
    row.set_score_logprobs(static_cast<uint32_t>(config_.vocab_size));
    std::vector<std::vector<float>> all;
    for (const Sampled& scored : stage_->forward(plan, {}, {})) {
      std::vector<float>& logprobs = all.emplace_back(static_cast<size_t>(config_.vocab_size));
      for (const TokenLogprob& t : scored.top) logprobs.at(static_cast<size_t>(t.token)) = t.logprob;
    }
    return all;
  }

 private:
  ModelConfig config_;
  DType dtype_ = DType::f32;
  DType kv_dtype_ = DType::f32;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Stage> stage_;
  int64_t blocks_ = 0;
};

struct Comparison {
  int64_t tokens = 0;
  double reference_nll = 0;
  double model_nll = 0;
  double difference = 0;  // of the next token's log-probability
  double largest_difference = 0;
  int64_t same_top = 0;
  double kl = 0;

  void add(const std::vector<float>& reference_V, const std::vector<float>& model_V, int32_t next) {
    const auto at = static_cast<size_t>(next);
    const double gap = std::abs(static_cast<double>(reference_V[at]) - static_cast<double>(model_V[at]));
    ++tokens;
    reference_nll -= static_cast<double>(reference_V[at]);
    model_nll -= static_cast<double>(model_V[at]);
    difference += gap;
    largest_difference = std::max(largest_difference, gap);
    const auto best = [](const std::vector<float>& v) {
      return std::max_element(v.begin(), v.end()) - v.begin();
    };
    same_top += best(reference_V) == best(model_V) ? 1 : 0;
    for (size_t v = 0; v < reference_V.size(); ++v) {
      const double p = std::exp(static_cast<double>(reference_V[v]));
      if (p > 0) kl += p * (static_cast<double>(reference_V[v]) - static_cast<double>(model_V[v]));
    }
  }
};

void add_piece(Pieces& pieces, const std::vector<int32_t>& ids, const Flags& flags, int64_t& left) {
  for (size_t first = 0; first + 1 < ids.size() && left > 1; first += static_cast<size_t>(flags.context)) {
    const auto count =
        std::min<size_t>({ids.size() - first, static_cast<size_t>(flags.context), static_cast<size_t>(left)});
    if (count < 2) return;
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(first);
    pieces.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(count));
    left -= static_cast<int64_t>(count);
  }
}

Pieces read_pieces(const Flags& flags, int64_t vocab_size) {
  const fs::path& path = flags.text.empty() ? flags.tokens : flags.text;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw UsageError(path.string() + ": cannot be read");
  Pieces pieces;
  int64_t left = flags.most_tokens;
  if (!flags.text.empty()) {
    std::stringstream text;
    text << file.rdbuf();
    const fs::path& folder = flags.options.tokenizer.empty() ? flags.options.model : flags.options.tokenizer;
    add_piece(pieces, Tokenizer::load(folder)->encode(text.str(), true), flags, left);
  } else {
    int64_t number = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      std::istringstream ids(line);
      std::vector<int32_t> piece;
      for (int64_t id = 0; ids >> id;) {
        if (id < 0 || id >= vocab_size) ids.setstate(std::ios::badbit);
        piece.push_back(static_cast<int32_t>(id));
      }
      if (!ids.eof() || ids.bad())
        throw UsageError(path.string() + ": line " + std::to_string(number) + ": expected token ids below " +
                         std::to_string(vocab_size) + " with blanks between");
      add_piece(pieces, piece, flags, left);
    }
  }
  if (pieces.empty()) throw UsageError(path.string() + ": expected at least two tokens in a row, found none");
  return pieces;
}

void print(const Comparison& c, const Scorer& model, const Scorer& reference, const Flags& flags,
           const fs::path& reference_path) {
  const auto n = static_cast<double>(c.tokens);
  std::printf("model      %s in %s\nreference  %s in %s\n\n", flags.options.model.c_str(),
              model.text().c_str(), reference_path.c_str(), reference.text().c_str());
  std::printf("tokens compared                     %12lld\n", static_cast<long long>(c.tokens));
  std::printf("perplexity of the reference         %12.4f\n", std::exp(c.reference_nll / n));
  std::printf("perplexity of the model             %12.4f\n", std::exp(c.model_nll / n));
  std::printf("log-probability difference, mean    %12.6f\n", c.difference / n);
  std::printf("log-probability difference, largest %12.6f\n", c.largest_difference);
  std::printf("same most likely token              %12.3f %%\n", 100 * static_cast<double>(c.same_top) / n);
  std::printf("KL(reference || model), mean        %12.6f\n", c.kl / n);
}

int validate(const Flags& flags) {
  const fs::path& reference_path = flags.reference.empty() ? flags.options.model : flags.reference;
  Scorer model(flags.options.model, flags.options.dtype, flags.options.kv_cache_dtype, flags.options,
               flags.context);
  Scorer reference(reference_path, flags.reference_dtype, flags.reference_kv_dtype, flags.options,
                   flags.context);
  const int64_t vocabulary = reference.config().vocab_size;
  if (model.config().vocab_size != vocabulary)
    throw UsageError("--reference " + reference_path.string() + ": expected a vocabulary of " +
                     std::to_string(model.config().vocab_size) + " tokens, found " +
                     std::to_string(vocabulary));
  Comparison comparison;
  for (const std::vector<int32_t>& piece : read_pieces(flags, vocabulary))
    for (size_t first = 0; first + 1 < piece.size(); first += static_cast<size_t>(kTokensAtOnce)) {
      const auto expected = reference.next(piece, first);
      const auto found = model.next(piece, first);
      for (size_t i = 0; i < found.size(); ++i) comparison.add(expected[i], found[i], piece[first + i + 1]);
    }
  print(comparison, model, reference, flags, reference_path);
  return 0;
}

}  // namespace

void add_validate(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand(
      "validate",
      "Compare two checkpoints or settings: perplexity, log-probabilities, most likely token, KL");
  auto flags = std::make_shared<Flags>();
  sub->add_option("--model,-m", flags->options.model, "Folder of the model in question")->required();
  sub->add_option("--dtype", flags->options.dtype, "auto, float32 or bfloat16")->capture_default_str();
  sub->add_option("--reference", flags->reference, "Folder to compare with [the same model]");
  sub->add_option("--reference-dtype", flags->reference_dtype, "Of the reference: auto, float32 or bfloat16")
      ->capture_default_str();
  sub->add_option("--kv-cache-dtype", flags->options.kv_cache_dtype, "auto (--dtype's), fp8 or int8")
      ->check(CLI::IsMember({"auto", "fp8", "int8"}))
      ->capture_default_str();
  sub->add_option("--reference-kv-cache-dtype", flags->reference_kv_dtype,
                  "Of the reference: auto, fp8 or int8")
      ->check(CLI::IsMember({"auto", "fp8", "int8"}))
      ->capture_default_str();
  sub->add_option("--device", flags->options.device, "Of both: cpu, or cuda, the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  sub->add_option("--tokenizer", flags->options.tokenizer, "Folder with tokenizer.json [the model's]");
  auto* text = sub->add_option("--text", flags->text, "UTF-8 text");
  auto* tokens =
      sub->add_option("--tokens", flags->tokens, "Token ids with blanks between, one sequence a line");
  text->excludes(tokens);
  sub->add_option("--context", flags->context, "Longer sequences are cut into pieces of so many tokens")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  sub->add_option("--max-tokens", flags->most_tokens, "Read no more tokens than these")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  sub->add_option("--threads", flags->options.threads, "CPU threads [all cores]")->check(CLI::Range(1, 1024));
  sub->callback([flags, &chosen] {
    if (flags->text.empty() == flags->tokens.empty())
      throw CLI::ValidationError("--text or --tokens", "expected one of them");
    chosen = [flags] { return validate(*flags); };
  });
}

}  // namespace penstock
