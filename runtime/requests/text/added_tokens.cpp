#include "runtime/requests/text/added_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/json_fields.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {

using nlohmann::json;

AddedToken read_added_token(const json& object) {
  AddedToken token;
  token.content = json_fields::required_text(object, "content");
  token.single_word = json_fields::boolean(object, "single_word", false);
  token.lstrip = json_fields::boolean(object, "lstrip", false);
  token.rstrip = json_fields::boolean(object, "rstrip", false);
  token.special = json_fields::boolean(object, "special", false);
  token.normalized = json_fields::boolean(object, "normalized", !token.special);
  return token;
}

AddedTokens AddedTokens::parse(const json& array, const std::vector<AddedToken>& later,
                               const Vocabulary& model, const Normalizer& normalizer) {
  AddedTokens made;
  made.spaces_ = code_points_named("Space");
  made.word_characters_ = rust_word_code_points();
  if (!array.is_null() && !array.is_array())
    throw UsageError("tokenizer.json: 'added_tokens' must be an array.");
  const auto add = [&](AddedToken token) {
    const size_t next_free = std::max(model.size(), made.names_.id_bound());
    token.id = model.id_of(token.content).value_or(static_cast<uint32_t>(next_free));
    if (token.id > Vocabulary::kMaxId) throw UsageError("tokenizer.json: too many added tokens.");
    made.names_.add(token.content, token.id);
    if (token.special) made.special_.insert(token.content);
    made.tokens_.push_back(std::move(token));
  };
  for (const json& object : array) {
    AddedToken token = read_added_token(object);
    if (!token.content.empty() && !made.names_.id_of(token.content)) add(std::move(token));
  }
  for (const AddedToken& token : later) {
    if (token.content.empty()) continue;
    const auto before = std::find_if(made.tokens_.begin(), made.tokens_.end(),
                                     [&](const AddedToken& t) { return t.content == token.content; });
    if (before == made.tokens_.end()) {
      add(token);
      continue;
    }
    const uint32_t id = before->id;
    *before = token;
    before->id = id;
    if (token.special) made.special_.insert(token.content);
  }
  // Where two tokens normalize to the same text the special one is found, then the earlier one.
  for (const bool special : {true, false}) {
    for (size_t i = 0; i < made.tokens_.size(); ++i) {
      const AddedToken& token = made.tokens_[i];
      if (token.special != special) continue;
      std::string content = token.content;
      if (token.normalized) {
        normalizer.run(content);
        made.spellings_[token.id] = content;
      }
      if (!content.empty()) (token.normalized ? made.normalized_ : made.raw_).add(content, i);
    }
  }
  return made;
}

void AddedTokens::Trie::add(std::string_view content, size_t token) {
  holds_any = true;
  first_bytes[static_cast<uint8_t>(content.front())] = true;
  uint32_t at = 0;
  for (const char c : content) {
    const auto byte = static_cast<uint8_t>(c);
    auto& children = nodes[at].children;
    const auto place = std::lower_bound(children.begin(), children.end(), std::pair(byte, 0U));
    if (place != children.end() && place->first == byte) {
      at = place->second;
    } else {
      const auto fresh = static_cast<uint32_t>(nodes.size());
      children.insert(place, {byte, fresh});
      nodes.emplace_back();
      at = fresh;
    }
  }
  if (!nodes[at].token) nodes[at].token = token;
}

std::optional<AddedTokens::Match> AddedTokens::find(const Trie& trie, std::string_view text,
                                                    size_t from) const {
  for (size_t start = from; start < text.size(); ++start) {
    if (!trie.first_bytes[static_cast<uint8_t>(text[start])]) continue;
    std::optional<Match> longest;
    uint32_t at = 0;
    for (size_t end = start; end < text.size(); ++end) {
      const auto& children = trie.nodes[at].children;
      const auto byte = static_cast<uint8_t>(text[end]);
      const auto child = std::lower_bound(children.begin(), children.end(), std::pair(byte, 0U));
      if (child == children.end() || child->first != byte) break;
      at = child->second;
      if (trie.nodes[at].token) longest = Match{{start, end + 1}, *trie.nodes[at].token};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

std::vector<AddedTokens::Stretch> AddedTokens::cut(const Trie& trie, std::string_view text) const {
  std::vector<Stretch> out;
  size_t done = 0;
  const char* begin = text.data();
  const char* text_end = begin + text.size();
  const auto is_in = [](const CodePointRanges& set, const char* p) { return contains(set, utf8::next(p)); };
  std::optional<Match> match;
  for (size_t from = 0; trie.holds_any && (match = find(trie, text, from)); from = match->span.end) {
    const AddedToken& token = tokens_[match->token];
    const char* first = begin + match->span.begin;
    const char* last = begin + match->span.end;
    if (token.single_word && ((first != begin && is_in(word_characters_, utf8::previous(first))) ||
                              (last != text_end && is_in(word_characters_, last)))) {
      continue;
    }
    if (token.lstrip) {
      while (first > begin + done && is_in(spaces_, utf8::previous(first))) first = utf8::previous(first);
      first = std::max(first, begin + done);
    }
    if (token.rstrip) {
      while (last != text_end && is_in(spaces_, last)) last += utf8::length(*last);
    }
    if (first >= last) continue;  // all of it went with the token before
    const auto start = static_cast<size_t>(first - begin);
    if (done < start) out.push_back({{done, start}, std::nullopt});
    done = static_cast<size_t>(last - begin);
    out.push_back({{std::min(start, done), done}, token.id});
  }
  if (done < text.size()) out.push_back({{done, text.size()}, std::nullopt});
  return out;
}

}  // namespace penstock
