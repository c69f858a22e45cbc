#include "runtime/requests/text/decoder.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/base/error.h"
#include "runtime/requests/text/byte_alphabet.h"
#include "runtime/requests/text/json_fields.h"
#include "runtime/requests/text/splitter.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

using nlohmann::json;
using Step = DecoderStream::Step;

constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxReplaced = size_t{16} << 20;  // bytes that Replace may make of one token

/// A step that needs whole tokens: gathers the parts of one.
class WholeTokenStep : public Step {
 public:
  void push(std::string_view part, bool ends, DecoderStream& next) final {
    if (ends && held_.empty()) return token(part, next);
    held_ += part;
    if (!ends) return;
    const std::string whole = std::move(held_);
    held_.clear();
    token(whole, next);
  }
  void finish(DecoderStream& next) override {
    if (!held_.empty()) push({}, true, next);
  }

 protected:
  virtual void token(std::string_view whole, DecoderStream& next) = 0;

 private:
  std::string held_;
};

/// Letters of the byte alphabet become bytes; all tokens become one. A token that holds anything else stays
/// as it is.
class ByteLevelStep : public WholeTokenStep {
 public:
  void finish(DecoderStream& next) override {
    WholeTokenStep::finish(next);
    std::string rest;
    utf8_.finish(rest);
    next.give(rest, true);
  }

 protected:
  void token(std::string_view whole, DecoderStream& next) override {
    const std::optional<std::string> bytes = from_byte_letters(whole);
    std::string text;
    utf8_.push(bytes ? std::string_view(*bytes) : whole, text);
    if (!text.empty()) next.give(text, false);
  }

 private:
  utf8::LossyDecoder utf8_;
};

/// A run of <0xE2> tokens becomes one token if its bytes are UTF-8 as a whole, else one U+FFFD for each: so a
/// run is held back until it ends.
class ByteFallbackStep : public WholeTokenStep {
 public:
  void finish(DecoderStream& next) override {
    WholeTokenStep::finish(next);
    release(next);
  }

 protected:
  void token(std::string_view whole, DecoderStream& next) override {
    if (const std::optional<char> byte = byte_of(whole)) {
      bytes_ += *byte;
      return;
    }
    release(next);
    next.give(whole, true);
  }

 private:
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
    int value = 0;
    for (const char c : token.substr(3, 2)) {
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                               : -1;
      if (digit < 0) return std::nullopt;
      value = value * 16 + digit;
    }
    return static_cast<char>(value);
  }
  void release(DecoderStream& next) {
    if (bytes_.empty()) return;
    if (!utf8::first_invalid(bytes_)) {
      next.give(bytes_, true);
    } else {
      for (size_t i = 0; i < bytes_.size(); ++i) next.give("\uFFFD", true);
    }
    bytes_.clear();
  }
  std::string bytes_;
};

class FuseStep : public Step {
 public:
  void push(std::string_view part, bool /*ends*/, DecoderStream& next) override {
    if (!part.empty()) next.give(part, false);
  }
  void finish(DecoderStream& next) override { next.give({}, true); }
};

/// Takes up to `start` of a character from the front of each token and up to `stop` from its end.
class StripStep : public Step {
 public:
  StripStep(std::string character, size_t start, size_t stop)
      : character_(std::move(character)), start_(start), stop_(stop) {}
  void push(std::string_view part, bool ends, DecoderStream& next) override {
    std::string text;
    while (!part.empty()) {
      const bool is_it = part.starts_with(character_);
      const size_t size = is_it ? character_.size() : utf8::length(part.front());
      if (is_it && at_front_ && cut_ < start_) {
        ++cut_;
      } else if (is_it && held_ < stop_) {
        at_front_ = false;
        ++held_;
      } else if (is_it) {
        at_front_ = false;
        text += character_;
      } else {
        at_front_ = false;
        for (; held_ > 0; --held_) text += character_;
        text += part.substr(0, size);
      }
      part.remove_prefix(size);
    }
    if (ends) {
      at_front_ = true;
      cut_ = 0;
      held_ = 0;
    }
    if (ends || !text.empty()) next.give(text, ends);
  }
  void finish(DecoderStream& /*next*/) override {}

 private:
  std::string character_;
  size_t start_;
  size_t stop_;
  bool at_front_ = true;
  size_t cut_ = 0;
  size_t held_ = 0;  // of the character, at the end so far
};

class ReplaceStep : public WholeTokenStep {
 public:
  ReplaceStep(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

 protected:
  void token(std::string_view whole, DecoderStream& next) override {
    next.give(replaced(pattern_, whole, content_, kMaxReplaced).text, true);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

/// Marks become spaces; those of the first token go, unless the pre-tokenizer puts none there.
class MetaspaceStep : public Step {
 public:
  MetaspaceStep(std::string mark, bool drops_first) : mark_(std::move(mark)), drops_(drops_first) {}
  void push(std::string_view part, bool ends, DecoderStream& next) override {
    std::string text;
    while (!part.empty()) {
      const bool is_mark = part.starts_with(mark_);
      const size_t size = is_mark ? mark_.size() : utf8::length(part.front());
      if (!is_mark) {
        text += part.substr(0, size);
      } else if (!drops_) {
        text += ' ';
      }
      part.remove_prefix(size);
    }
    if (ends) drops_ = false;
    next.give(text, ends);
  }
  void finish(DecoderStream& /*next*/) override {}

 private:
  std::string mark_;
  bool drops_;
};

void add_steps(const json& object, std::vector<Decoder::MakeStep>& out, int depth) {
  const std::string type = json_fields::type_of(object, "decoder");
  if (depth > 8 || out.size() >= kMaxSteps) throw UsageError("tokenizer.json: decoder has too many steps.");
  if (type == "Sequence") {
    for (const json& inner : json_fields::required_array(object, "decoders"))
      add_steps(inner, out, depth + 1);
  } else if (type == "ByteLevel") {
    out.emplace_back([] { return std::make_unique<ByteLevelStep>(); });
  } else if (type == "ByteFallback") {
    out.emplace_back([] { return std::make_unique<ByteFallbackStep>(); });
  } else if (type == "Fuse") {
    out.emplace_back([] { return std::make_unique<FuseStep>(); });
  } else if (type == "Strip") {
    out.emplace_back([character = json_fields::one_character(object, "content", " "),
                      start = json_fields::count(object, "start", 0),
                      stop = json_fields::count(object, "stop", 0)] {
      return std::make_unique<StripStep>(character, start, stop);
    });
  } else if (type == "Replace") {
    out.emplace_back(
        [pattern = json_fields::pattern(object), content = json_fields::required_text(object, "content")] {
          return std::make_unique<ReplaceStep>(pattern, content);
        });
  } else if (type == "Metaspace") {
    out.emplace_back([mark = json_fields::one_character(object, "replacement", "\u2581"),
                      drops = json_fields::prepend_scheme(object) != json_fields::PrependScheme::never] {
      return std::make_unique<MetaspaceStep>(mark, drops);
    });
  } else {
    throw UsageError(
        "tokenizer.json: the decoder '" + type +
        "' is not supported; expected ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace or Sequence.");
  }
}

}  // namespace

void DecoderStream::give(std::string_view part, bool ends) {
  if (depth_ == steps_.size()) {
    *out_ += part;
    return;
  }
  Step& step = *steps_[depth_++];
  step.push(part, ends, *this);
  --depth_;
}

void DecoderStream::push(std::string_view token, std::string& out) {
  out_ = &out;
  depth_ = 0;
  give(token, true);
}

void DecoderStream::finish(std::string& out) {
  out_ = &out;
  for (size_t i = 0; i < steps_.size(); ++i) {
    depth_ = i + 1;
    steps_[i]->finish(*this);
  }
}

Decoder Decoder::parse(const json& object) {
  Decoder made;
  if (!object.is_null()) add_steps(object, made.steps_, 0);
  return made;
}

DecoderStream Decoder::start() const {
  std::vector<std::unique_ptr<Step>> steps;
  steps.reserve(steps_.size());
  for (const MakeStep& make : steps_) steps.push_back(make());
  return DecoderStream(std::move(steps));
}

}  // namespace penstock
