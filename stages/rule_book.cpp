#include "stages/rule_book.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/base/error.h"

namespace penstock {
namespace {

[[noreturn]] void refuse(const proto::PlannedRow& row, const std::string& expected,
                         const std::string& found) {
  throw Error("the logit rules of sequence " + std::to_string(row.sequence()) + ": expected " + expected +
              ", found " + found);
}

}  // namespace

/// Its place; a new one changes nothing yet.
size_t RuleBook::edit_of(Rules& rules, uint32_t token) const {
  const auto id = static_cast<int32_t>(token);
  const auto at = std::lower_bound(rules.edits.begin(), rules.edits.end(), id,
                                   [](const LogitEdit& edit, int32_t t) { return edit.token < t; });
  const auto place = at - rules.edits.begin();
  if (at == rules.edits.end() || at->token != id) {
    rules.edits.insert(at, {id, 0, 1, 0});
    rules.counts.insert(rules.counts.begin() + place, 0);
  }
  return static_cast<size_t>(place);
}

void RuleBook::count(Rules& rules, uint32_t token) const {
  ++rules.generated;
  const size_t place = edit_of(rules, token);
  LogitEdit& edit = rules.edits[place];
  const int32_t count = ++rules.counts[place];
  edit.repeat = rules.repetition_penalty;
  edit.less = rules.frequency_penalty * static_cast<float>(count) + rules.presence_penalty;
}

RuleBook::Rules RuleBook::learn(const proto::PlannedRow& row) const {
  const proto::LogitRules& told = row.sampling().rules();
  for (const auto* ids : {&told.prompt(), &told.generated(), &told.biased(), &told.allowed()})
    for (const uint32_t id : *ids)
      if (id >= vocab_size_) refuse(row, "tokens below " + std::to_string(vocab_size_), std::to_string(id));
  if (told.bias_size() != told.biased_size())
    refuse(row, std::to_string(told.biased_size()) + " biases", std::to_string(told.bias_size()));
  if (!(told.repetition_penalty() > 0) || !std::isfinite(told.repetition_penalty()))
    refuse(row, "a repetition penalty above 0", std::to_string(told.repetition_penalty()));
  Rules rules;
  rules.repetition_penalty = told.repetition_penalty();
  rules.frequency_penalty = told.frequency_penalty();
  rules.presence_penalty = told.presence_penalty();
  rules.allowed.assign(told.allowed().begin(), told.allowed().end());
  // All places at once: putting tokens in one by one would move the others each time.
  std::vector<uint32_t> ids;
  for (const auto* some : {&told.prompt(), &told.generated(), &told.biased()})
    ids.insert(ids.end(), some->begin(), some->end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const uint32_t id : ids) rules.edits.push_back({static_cast<int32_t>(id), 0, 1, 0});
  rules.counts.resize(ids.size());
  for (int i = 0; i < told.bias_size(); ++i) rules.edits[edit_of(rules, told.biased(i))].add = told.bias(i);
  for (const uint32_t id : told.prompt()) rules.edits[edit_of(rules, id)].repeat = rules.repetition_penalty;
  for (const uint32_t id : told.generated()) count(rules, id);
  return rules;
}

void RuleBook::apply(const proto::Plan& plan, std::vector<SampleParams>& params_R) {
  for (const uint64_t sequence : plan.forgotten()) rules_.erase(sequence);
  size_t r = 0;
  for (const proto::PlannedRow& row : plan.rows()) {
    if (!row.has_sampling()) continue;
    SampleParams& params = params_R.at(r++);
    const proto::Sampling& sampling = row.sampling();
    if (!sampling.ruled()) continue;
    if (sampling.has_rules()) rules_[row.sequence()] = learn(row);
    const auto found = rules_.find(row.sequence());
    if (found == rules_.end()) refuse(row, "rules told before", "none");
    Rules& rules = found->second;
    // A decode's tokens are those generated since the last sampling.
    if (rules.generated + static_cast<uint32_t>(row.tokens_size()) == sampling.position() &&
        !sampling.has_rules())
      for (const uint32_t token : row.tokens()) count(rules, token);
    if (rules.generated != sampling.position())
      refuse(row, std::to_string(sampling.position()) + " tokens counted", std::to_string(rules.generated));
    params.allowed = rules.allowed;
    params.edits = rules.edits;
  }
}

}  // namespace penstock
