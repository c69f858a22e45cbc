// The pre_tokenizer of tokenizer.json: cuts a normalized text into the pieces that the model tokenizes one by one.
// Immutable after construction; any thread may call.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// Text on its way to the model. The bytes belong to whoever gave the piece on, for the length of the call.
struct Piece {
  std::string_view text;
  bool at_start;  // the first of the whole input: Metaspace's prepend_scheme "first" asks
};

class PreTokenizer {
 public:
  /// One step; gives its pieces on through the walk it is called with.
  class Walk;
  class Step {
   public:
    virtual ~Step() = default;
    virtual void run(Piece piece, Walk& next) const = 0;
  };

  /// `json` is the pre_tokenizer object or null. Throws UsageError naming a type that is not known.
  static PreTokenizer parse(const nlohmann::json& json);

  /// True when the last step is ByteLevel: pieces then come as plain bytes, and the model maps each byte to
  /// its letter of the byte alphabet itself.
  bool ends_in_bytes() const { return ends_in_bytes_; }

  /// Calls `sink` for every piece, left to right; none is empty.
  template <typename Sink>
  void split(Piece text, Sink&& sink) const;

  class Walk {
   public:
    using Sink = void (*)(void* context, std::string_view piece);
    Walk(const std::vector<std::unique_ptr<Step>>& steps, Sink sink, void* context)
        : steps_(steps), sink_(sink), context_(context) {}
    void give(Piece piece) {
      if (piece.text.empty()) return;
      if (depth_ == steps_.size()) return sink_(context_, piece.text);
      const Step& step = *steps_[depth_++];
      step.run(piece, *this);
      --depth_;
    }

   private:
    const std::vector<std::unique_ptr<Step>>& steps_;
    Sink sink_;
    void* context_;
    size_t depth_ = 0;
  };

 private:
  std::vector<std::unique_ptr<Step>> steps_;
  bool ends_in_bytes_ = false;
};

template <typename Sink>
void PreTokenizer::split(Piece text, Sink&& sink) const {
  Walk walk(steps_, [](void* context, std::string_view piece) { (*static_cast<std::remove_reference_t<Sink>*>(context))(piece); },
            &sink);
  walk.give(text);
}

}  // namespace penstock
