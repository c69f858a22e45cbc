#include "stages/planned_batch.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace penstock {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t most_indices(const StageSpec& spec) {
  const int64_t blocks_a_row = ceil_div(spec.max_model_len, spec.block_size);
  // ids, positions and rows of tokens, and those that score a target; row starts, contexts and sampled tokens
  // of rows; block tables
  return 4 * spec.max_tokens + 3 * spec.max_rows + 1 + spec.max_rows * blocks_a_row;
}

int64_t context_of(const proto::PlannedRow& row) {
  return int64_t{row.start()} + row.tokens_size();
}

[[noreturn]] void refuse(const proto::Plan& plan, const std::string& what) {
  throw Error("the plan of micro-batch " + std::to_string(plan.step()) + " cannot be run: " + what);
}

[[noreturn]] void refuse(const proto::Plan& plan, const proto::PlannedRow& row, const std::string& expected,
                         int64_t found) {
  refuse(plan, "sequence " + std::to_string(row.sequence()) + ": expected " + expected + ", found " +
                   std::to_string(found));
}

SampleParams params_of(const proto::Sampling& s) {
  SampleParams params{s.temperature(), s.top_k(), s.top_p(), s.min_p(), s.key(), s.position(), s.logprobs()};
  // Checked to lie in the vocabulary, whose size is an int32_t.
  params.banned = {reinterpret_cast<const int32_t*>(s.banned().data()), static_cast<size_t>(s.banned_size())};
  return params;
}

}  // namespace

PlannedBatch::PlannedBatch(Device& device, const StageSpec& spec, int64_t vocab_size)
    : device_(device),
      spec_(spec),
      vocab_size_(vocab_size),
      device_indices_(device.tensor(DType::i32, {most_indices(spec)})) {
  host_.reserve(static_cast<size_t>(most_indices(spec)));
  params_R_.reserve(static_cast<size_t>(spec.max_rows));
}

void PlannedBatch::check_scores(const proto::Plan& plan, const proto::PlannedRow& row) const {
  if (int64_t{row.score_from()} + row.targets_size() > row.tokens_size())
    refuse(plan, row, "targets for its own tokens only", row.targets_size());
  for (const uint32_t id : row.targets())
    if (id >= vocab_size_) refuse(plan, row, "targets below " + std::to_string(vocab_size_), id);
  for (const uint32_t id : row.sampling().banned())
    if (id >= vocab_size_) refuse(plan, row, "banned tokens below " + std::to_string(vocab_size_), id);
}

/// The number of tokens.
int64_t PlannedBatch::check(const proto::Plan& plan, int64_t blocks) const {
  if (plan.rows_size() > spec_.max_rows)
    refuse(plan, "expected at most " + std::to_string(spec_.max_rows) + " sequences, found " +
                     std::to_string(plan.rows_size()));
  int64_t tokens = 0;
  for (const proto::PlannedRow& row : plan.rows()) {
    tokens += row.tokens_size();
    if (row.tokens_size() == 0) refuse(plan, row, "at least one token", 0);
    if (context_of(row) > spec_.max_model_len)
      refuse(plan, row, "at most max_model_len " + std::to_string(spec_.max_model_len) + " positions",
             context_of(row));
    for (const uint32_t id : row.tokens())
      if (id >= vocab_size_) refuse(plan, row, "token ids below " + std::to_string(vocab_size_), id);
    const int64_t needed = ceil_div(context_of(row), spec_.block_size);
    if (row.blocks_size() < needed)
      refuse(plan, row,
             std::to_string(needed) + " blocks of " + std::to_string(spec_.block_size) + " for " +
                 std::to_string(context_of(row)) + " positions",
             row.blocks_size());
    for (const uint32_t block : row.blocks())
      if (block >= blocks) refuse(plan, row, "block numbers below " + std::to_string(blocks), block);
    check_scores(plan, row);
    if (row.has_sampling() &&
        !(row.sampling().temperature() >= 0 && std::isfinite(row.sampling().temperature())))
      refuse(plan, "sequence " + std::to_string(row.sequence()) + ": expected a temperature from 0, found " +
                       std::to_string(row.sampling().temperature()));
  }
  if (tokens > spec_.max_tokens)
    refuse(plan, "expected at most " + std::to_string(spec_.max_tokens) + " tokens, found " +
                     std::to_string(tokens));
  return tokens;
}

void PlannedBatch::prepare(const proto::Plan& plan, int64_t blocks, const Padding& padding) {
  const int64_t planned = plan.rows_size();
  const int64_t rows = std::max(planned, padding.rows);
  const int64_t tokens = check(plan, blocks) + rows - planned;
  int64_t max_context = 0;
  for (const proto::PlannedRow& row : plan.rows()) max_context = std::max(max_context, context_of(row));
  const int64_t stride = std::max(ceil_div(max_context, spec_.block_size), padding.table_stride);
  if (padding.rows > 0) max_context = stride * spec_.block_size;
  ensure(4 * tokens + 3 * rows + 1 + rows * stride <= most_indices(spec_), "padding stays within the spec");

  // One host array, in the order that the offsets below name; its capacity was reserved, so it never moves.
  const int64_t positions = tokens;
  const int64_t row_of = positions + tokens;
  const int64_t row_start = row_of + tokens;
  const int64_t context = row_start + rows + 1;
  const int64_t sampled = context + rows;
  const int64_t scored = sampled + rows;
  const int64_t table = scored + tokens;
  host_.assign(static_cast<size_t>(table + rows * stride), 0);
  params_R_.clear();
  scores_S_.clear();
  int32_t* const at = host_.data();
  int64_t token = 0;
  for (int64_t r = 0; r < planned; ++r) {
    const proto::PlannedRow& row = plan.rows(static_cast<int>(r));
    at[row_start + r] = static_cast<int32_t>(token);
    at[context + r] = static_cast<int32_t>(context_of(row));
    for (int i = 0; i < row.tokens_size(); ++i, ++token) {
      at[token] = static_cast<int32_t>(row.tokens(i));
      at[positions + token] = static_cast<int32_t>(row.start()) + i;
      at[row_of + token] = static_cast<int32_t>(r);
    }
    // A sequence may own blocks that its context has not reached yet.
    const int64_t needed = ceil_div(context_of(row), spec_.block_size);
    std::copy_n(row.blocks().begin(), needed, at + table + r * stride);
    const int64_t first = token - row.tokens_size() + row.score_from();
    for (int i = 0; i < row.targets_size(); ++i) {
      at[scored + static_cast<int64_t>(scores_S_.size())] = static_cast<int32_t>(first + i);
      scores_S_.push_back({static_cast<int32_t>(row.targets(i)), static_cast<int32_t>(row.score_logprobs())});
    }
    if (row.has_sampling()) {
      at[sampled + static_cast<int64_t>(params_R_.size())] = static_cast<int32_t>(token - 1);
      params_R_.push_back(params_of(row.sampling()));
    }
  }
  for (int64_t r = planned; r < rows; ++r, ++token) {
    at[row_start + r] = static_cast<int32_t>(token);
    at[row_of + token] = static_cast<int32_t>(r);
    at[context + r] = 1;
    at[table + r * stride] = static_cast<int32_t>(padding.block);
  }
  at[row_start + rows] = static_cast<int32_t>(token);

  device_.upload(device_indices_.view.data, at, host_.size() * sizeof(int32_t));
  const auto* d = device_indices_.view.as<const int32_t>();
  ids_T_ = d;
  sampled_rows_R_ = d + sampled;
  scored_rows_S_ = d + scored;
  view_ = {tokens,      rows,      d + positions, d + row_of, d + row_start,
           d + context, d + table, stride,        max_context};
}

}  // namespace penstock
