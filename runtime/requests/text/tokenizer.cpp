#include "runtime/requests/text/tokenizer.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/requests/text/tokenizer_parts.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

constexpr size_t kKeptSymbols = 1 << 20;  // a workspace that one huge piece has grown is not kept

}  // namespace

std::unique_ptr<Bpe::Workspace> WorkspacePool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto taken = std::move(free_.back());
      free_.pop_back();
      return taken;
    }
  }
  return std::make_unique<Bpe::Workspace>();
}

void WorkspacePool::give_back(std::unique_ptr<Bpe::Workspace> workspace) {
  if (workspace->symbols.capacity() > kKeptSymbols) return;
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(workspace));
}

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (const std::optional<size_t> at = utf8::first_invalid(text)) {
    throw Error("The text is not UTF-8: the byte at offset " + std::to_string(*at) + " of " +
                std::to_string(text.size()) + " begins no valid character.");
  }
  const Parts& parts = *parts_;
  WorkspacePool::Lease workspace(parts.workspaces);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  auto tokenize = [&](std::string_view piece) { parts.model.tokenize(piece, ids, *workspace); };
  const auto put = [&](uint32_t id) { ids.push_back(static_cast<int32_t>(id)); };

  for (const AddedTokens::Stretch& raw : parts.added.cut_raw(text)) {
    if (raw.id) {
      put(*raw.id);
      continue;
    }
    std::string_view plain = text.substr(raw.span.begin, raw.span.end - raw.span.begin);
    bool at_start = raw.span.begin == 0;
    std::string normalized;
    if (!parts.normalizer.changes_nothing()) {
      normalized = plain;
      at_start &= parts.normalizer.run(normalized);
      plain = normalized;
    }
    for (const AddedTokens::Stretch& stretch : parts.added.cut_normalized(plain)) {
      if (stretch.id) {
        put(*stretch.id);
      } else {
        const std::string_view words =
            plain.substr(stretch.span.begin, stretch.span.end - stretch.span.begin);
        parts.pre_tokenizer.split(words, at_start && stretch.span.begin == 0, tokenize);
      }
    }
  }
  if (add_special_tokens) parts.post_processor.run(ids);
  return ids;
}

size_t Tokenizer::vocab_size() const {
  return std::max(parts_->model.vocabulary().id_bound(), parts_->added.id_bound());
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  std::optional<uint32_t> id = parts_->added.id_of(token);
  if (!id) id = parts_->model.vocabulary().id_of(token);
  return id ? std::optional(static_cast<int32_t>(*id)) : std::nullopt;
}

std::optional<std::string> Tokenizer::token_of(int32_t id) const {
  const std::string* token = id < 0 ? nullptr : parts_->spelling_of(static_cast<uint32_t>(id));
  return token == nullptr ? std::nullopt : std::optional(*token);
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && parts_->added.is_special(static_cast<uint32_t>(id));
}

const SpecialTokens& Tokenizer::special_tokens() const {
  return parts_->special_tokens;
}

std::optional<int32_t> Tokenizer::bos_id() const {
  return parts_->special_tokens.bos ? id_of(*parts_->special_tokens.bos) : std::nullopt;
}

std::optional<int32_t> Tokenizer::eos_id() const {
  return parts_->special_tokens.eos ? id_of(*parts_->special_tokens.eos) : std::nullopt;
}

}  // namespace penstock
