// The decoder of tokenizer.json: makes text of tokens, token by token. Decoding at once is the same code, so
// that the pieces of a stream join to exactly the text of the whole.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// One sequence on its way through a decoder; used by one thread.
class DecoderStream {
 public:
  /// A step of the chain. Its input and output are tokens, which may come in parts: `ends` marks a token's
  /// last part.
  class Step {
   public:
    virtual ~Step() = default;
    virtual void push(std::string_view part, bool ends, DecoderStream& next) = 0;
    virtual void finish(DecoderStream& next) = 0;
  };

  explicit DecoderStream(std::vector<std::unique_ptr<Step>> steps) : steps_(std::move(steps)) {}

  /// Appends to `out` the text that no later token can change.
  void push(std::string_view token, std::string& out);
  /// Appends what was held back. Nothing may be pushed afterwards.
  void finish(std::string& out);

  /// For a Step: hands a part on.
  void give(std::string_view part, bool ends);

 private:
  std::vector<std::unique_ptr<Step>> steps_;
  size_t depth_ = 0;
  std::string* out_ = nullptr;
};

/// Immutable; any thread may start a stream.
class Decoder {
 public:
  using MakeStep = std::function<std::unique_ptr<DecoderStream::Step>()>;

  /// `json` is the decoder object or null (tokens are then joined by spaces). Throws UsageError naming a type
  /// that is not known.
  static Decoder parse(const nlohmann::json& json);

  DecoderStream start() const;
  bool joins_with_spaces() const { return steps_.empty(); }

 private:
  std::vector<MakeStep> steps_;
};

}  // namespace penstock
