// Text to token ids and back, exactly as a model's own tokenizer.json says and Hugging Face's tokenizers does
// it. A Tokenizer is immutable: any number of threads may call it at once; each call in progress uses about 2
// MiB, which the Tokenizer keeps for later calls. A Detokenizer belongs to one sequence and one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// The tokens that a model's folder gives a role, from tokenizer_config.json and special_tokens_map.json.
struct SpecialTokens {
  std::optional<std::string> bos, eos, pad, unk;
};

class Tokenizer {
 public:
  /// `path` is a model's folder with tokenizer.json in it, or that file. Throws UsageError naming the file
  /// and what is missing, wrong or not supported in it.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& path);
  /// The same from the text of a tokenizer.json alone; `name` stands for it in messages.
  static std::shared_ptr<const Tokenizer> parse(const std::string& json, const std::string& name);
  ~Tokenizer();

  /// The ids of a text. Special tokens in the text itself are always found; `add_special_tokens` puts those
  /// of the post-processor (BOS ...) around it. Throws Error naming the byte offset if `text` is not UTF-8,
  /// and when a split pattern backtracks without end.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;

  /// The text of ids. Ids that have no token are passed over. Bytes that do not make UTF-8 become U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  /// One more than the highest id of any token.
  size_t vocab_size() const;
  std::optional<int32_t> id_of(std::string_view token) const;
  /// The token as tokenizer.json spells it (Ġ for a space); nothing for an id without a token.
  std::optional<std::string> token_of(int32_t id) const;
  /// Left out by skip_special_tokens?
  bool is_special(int32_t id) const;

  const SpecialTokens& special_tokens() const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;

 private:
  friend class Detokenizer;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  static std::shared_ptr<const Tokenizer> assemble(const std::string& json, const std::string& name,
                                                   const std::optional<std::filesystem::path>& folder);
  std::unique_ptr<Parts> parts_;
};

struct DetokenizeOptions {
  bool skip_special_tokens = true;
  /// vLLM's field: with false, neighbouring added tokens are joined without the space that a tokenizer
  /// without a decoder puts between tokens.
  bool spaces_between_special_tokens = true;
};

/// Text of one sequence as its ids arrive. What push and flush return joins to Tokenizer::decode of all ids;
/// text is given out when no later id can change it, so never half a character.
class Detokenizer {
 public:
  Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, DetokenizeOptions options);
  Detokenizer(Detokenizer&&) noexcept;
  Detokenizer& operator=(Detokenizer&&) noexcept;
  ~Detokenizer();

  std::string push(int32_t id);
  /// What was held back; nothing may be pushed afterwards.
  std::string flush();

 private:
  struct State;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<State> state_;
};

}  // namespace penstock
