// Tokens that are found in the text itself, before any model sees it: <|im_end|> and the like. Hugging Face's
// AddedVocabulary. Built once, then read by any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runtime/requests/text/normalizer.h"
#include "runtime/requests/text/regex.h"
#include "runtime/requests/text/vocabulary.h"

namespace penstock {

struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = true;    // looked for in the normalized text
  bool special = false;      // left out by skip_special_tokens, unless normalizing gave it another spelling
};

/// {"content": ..., "lstrip": ..., ...}; the id is not read. Throws UsageError naming what does not fit.
AddedToken read_added_token(const nlohmann::json& object);

class AddedTokens {
 public:
  /// `array` is tokenizer.json's added_tokens or null, `later` what is added over them. A token that the
  /// model knows keeps the model's id; another gets the next free one, as in Hugging Face's own loading.
  /// Throws UsageError naming an entry that does not fit.
  static AddedTokens parse(const nlohmann::json& array, const std::vector<AddedToken>& later,
                           const Vocabulary& model, const Normalizer& normalizer);

  /// Nothing when the token is not an added one.
  std::optional<uint32_t> id_of(std::string_view content) const { return names_.id_of(content); }
  const std::string* token_of(uint32_t id) const { return names_.token_of(id); }
  /// What a decoder gets for the token. As of version 0.23 of Hugging Face's library that is its normalized
  /// text where it is `normalized`, and tokens are special by that spelling too.
  const std::string* spelling_of(uint32_t id) const {
    const auto normalized = spellings_.find(id);
    return normalized != spellings_.end() ? &normalized->second : names_.token_of(id);
  }
  bool is_special(uint32_t id) const {
    const std::string* spelling = spelling_of(id);
    return spelling != nullptr && special_.contains(*spelling);
  }
  size_t id_bound() const { return names_.id_bound(); }

  /// One stretch of a text: an added token, or (no id) text between them.
  struct Stretch {
    Span span;
    std::optional<uint32_t> id;
  };
  /// Cuts raw text at the tokens that are not `normalized`, normalized text at those that are.
  std::vector<Stretch> cut_raw(std::string_view text) const { return cut(raw_, text); }
  std::vector<Stretch> cut_normalized(std::string_view text) const { return cut(normalized_, text); }

 private:
  // The leftmost, then longest, of a set of strings.
  struct Trie {
    struct Node {
      std::vector<std::pair<uint8_t, uint32_t>> children;  // sorted by byte
      std::optional<size_t> token;                         // index into tokens_
    };
    std::vector<Node> nodes{1};
    bool first_bytes[256] = {};
    bool holds_any = false;
    void add(std::string_view content, size_t token);
  };
  struct Match {
    Span span;
    size_t token;
  };
  std::optional<Match> find(const Trie& trie, std::string_view text, size_t from) const;
  std::vector<Stretch> cut(const Trie& trie, std::string_view text) const;

  std::vector<AddedToken> tokens_;
  Vocabulary names_;
  std::unordered_map<uint32_t, std::string> spellings_;  // of normalized tokens
  std::unordered_set<std::string> special_;              // contents
  Trie raw_;
  Trie normalized_;
  CodePointRanges spaces_;
  CodePointRanges word_characters_;
};

}  // namespace penstock
