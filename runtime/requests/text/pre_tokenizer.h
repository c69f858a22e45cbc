// The pre_tokenizer of tokenizer.json: cuts a normalized text into the pieces that the model tokenizes one by
// one. Immutable after construction; any thread may call.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

class PreTokenizer {
 public:
  /// One step; gives its pieces on through the walk it is called with.
  class Walk;
  class Step {
   public:
    virtual ~Step() = default;
    virtual void run(std::string_view text, bool at_start, Walk& next) const = 0;
    /// May this step do anything but give a piece on that has this byte, and only such bytes, in it? A piece
    /// in which no byte concerns a step goes past it.
    virtual bool concerns(uint8_t /*byte*/) const { return true; }
    /// A second, closer look at a piece that concerns the step: false if it would be given on as it is.
    virtual bool may_cut(std::string_view /*text*/) const { return true; }
  };
  static constexpr size_t kMaxSteps = 64;

  /// `json` is the pre_tokenizer object or null. Throws UsageError naming a type that is not known.
  static PreTokenizer parse(const nlohmann::json& json);

  /// True when the last step is ByteLevel: pieces then come as plain bytes, and the model maps each byte to
  /// its letter of the byte alphabet itself.
  bool ends_in_bytes() const { return ends_in_bytes_; }

  /// Calls `sink` for every piece, left to right; none is empty.
  template <typename Sink>
  void split(std::string_view text, bool at_start, Sink&& sink) const;

  class Walk {
   public:
    using Sink = void (*)(void* context, std::string_view piece);
    Walk(const PreTokenizer& all, Sink sink, void* context) : all_(all), sink_(sink), context_(context) {}
    /// `text` need only live as long as the call. `at_start`: it is the first of the whole input, which
    /// Metaspace's prepend_scheme "first" asks.
    void give(std::string_view text, bool at_start) {
      if (text.empty()) return;
      uint64_t concerned = 0;
      for (const char c : text) concerned |= all_.concerned_by_[static_cast<uint8_t>(c)];
      concerned &= ahead_;
      while (concerned != 0 && !all_.steps_[static_cast<size_t>(__builtin_ctzll(concerned))]->may_cut(text)) {
        concerned &= concerned - 1;
      }
      if (concerned == 0) return sink_(context_, text);
      const uint64_t here = ahead_;
      ahead_ = ~((concerned & -concerned) * 2 - 1);  // the steps behind the first one concerned
      all_.steps_[static_cast<size_t>(__builtin_ctzll(concerned))]->run(text, at_start, *this);
      ahead_ = here;
    }

   private:
    const PreTokenizer& all_;
    Sink sink_;
    void* context_;
    uint64_t ahead_ = ~uint64_t{0};  // bit i: step i is still to come
  };

 private:
  std::vector<std::unique_ptr<Step>> steps_;
  std::array<uint64_t, 256> concerned_by_{};  // by byte: the steps it concerns
  bool ends_in_bytes_ = false;
};

template <typename Sink>
void PreTokenizer::split(std::string_view text, bool at_start, Sink&& sink) const {
  Walk walk(
      *this,
      [](void* context, std::string_view piece) {
        (*static_cast<std::remove_reference_t<Sink>*>(context))(piece);
      },
      &sink);
  walk.give(text, at_start);
}

}  // namespace penstock
