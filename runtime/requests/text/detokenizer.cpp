#include <algorithm>

#include "runtime/requests/text/tokenizer.h"
#include "runtime/requests/text/tokenizer_parts.h"

namespace penstock {

struct Detokenizer::State {
  DetokenizeOptions options;
  DecoderStream stream;
  bool any = false;         // a token has come before
  bool last_added = false;  // and it was an added one
};

namespace {

/// Sends one id's token through the stream; `state` is a Detokenizer::State.
template <typename Parts, typename State>
void push_id(const Parts& parts, State& state, int32_t id, std::string& out) {
  const std::string* token = id < 0 ? nullptr : parts.spelling_of(static_cast<uint32_t>(id));
  if (token == nullptr) return;
  if (state.options.skip_special_tokens && parts.added.is_special(static_cast<uint32_t>(id))) return;
  const bool is_added = parts.added.token_of(static_cast<uint32_t>(id)) != nullptr;
  const bool close = !state.options.spaces_between_special_tokens && is_added && state.last_added;
  if (parts.decoder.joins_with_spaces() && state.any && !close) out += ' ';
  state.any = true;
  state.last_added = is_added;
  state.stream.push(*token, out);
}

}  // namespace

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, DetokenizeOptions options)
    : tokenizer_(std::move(tokenizer)),
      state_(std::make_unique<State>(State{options, tokenizer_->parts_->decoder.start()})) {}

Detokenizer::Detokenizer(Detokenizer&&) noexcept = default;
Detokenizer& Detokenizer::operator=(Detokenizer&&) noexcept = default;
Detokenizer::~Detokenizer() = default;

std::string Detokenizer::push(int32_t id) {
  std::string out;
  push_id(*tokenizer_->parts_, *state_, id, out);
  return out;
}

std::string Detokenizer::flush() {
  std::string out;
  state_->stream.finish(out);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  struct {
    DetokenizeOptions options;
    DecoderStream stream;
    bool any = false;
    bool last_added = false;
  } state{{skip_special_tokens, true}, parts_->decoder.start()};
  std::string out;
  for (const int32_t id : ids) push_id(*parts_, state, id, out);
  state.stream.finish(out);
  return out;
}

}  // namespace penstock
