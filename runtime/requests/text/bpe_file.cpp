// How Bpe is read from tokenizer.json's model object.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/bpe.h"
#include "runtime/requests/text/byte_alphabet.h"
#include "runtime/requests/text/json_fields.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

using nlohmann::json;

constexpr uint32_t kNoToken = UINT32_MAX;
constexpr std::string_view kMark = "\u2581";

std::pair<std::string, std::string> merge_pair(const json& merge, size_t rank) {
  const auto wrong = [&]() {
    return UsageError("tokenizer.json: model.merges[" + std::to_string(rank) +
                      "] must be \"left right\" or [\"left\", \"right\"], found " +
                      merge.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 80) + ".");
  };
  if (merge.is_array()) {
    if (merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) throw wrong();
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (!merge.is_string()) throw wrong();
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) throw wrong();
  return {text.substr(0, space), text.substr(space + 1)};
}

}  // namespace

Bpe Bpe::parse(const json& model, bool pieces_are_bytes) {
  if (!model.is_object()) throw UsageError("tokenizer.json: 'model' must be an object.");
  const std::string type = json_fields::text(model, "type", model.contains("merges") ? "BPE" : "none");
  if (type != "BPE") {
    throw UsageError("tokenizer.json: the model '" + type + "' is not supported; expected BPE.");
  }
  if (model.contains("dropout") && model["dropout"].is_number() && model["dropout"].get<double>() > 0) {
    throw UsageError("tokenizer.json: model.dropout is not 0; random merges are not supported.");
  }
  Bpe made;
  made.pieces_are_bytes_ = pieces_are_bytes;
  made.byte_fallback_ = json_fields::boolean(model, "byte_fallback", false);
  made.fuse_unk_ = json_fields::boolean(model, "fuse_unk", false);
  made.ignore_merges_ = json_fields::boolean(model, "ignore_merges", false);
  made.prefix_ = json_fields::text(model, "continuing_subword_prefix", "");
  made.suffix_ = json_fields::text(model, "end_of_word_suffix", "");
  made.read_vocabulary(model);
  made.read_merges(model);
  if (const std::string unk = json_fields::text(model, "unk_token", ""); !unk.empty()) {
    made.unk_ = made.vocabulary_.id_of(unk);
    if (!made.unk_) throw UsageError("tokenizer.json: model.unk_token '" + unk + "' is not in model.vocab.");
  }
  made.read_first_symbols();
  made.splits_at_marks_ = made.words_are_independent();
  made.merge_pairs_ = {};
  return made;
}

void Bpe::read_vocabulary(const json& model) {
  if (!model.contains("vocab") || !model["vocab"].is_object()) {
    throw UsageError("tokenizer.json: model.vocab must be an object of token to id.");
  }
  for (const auto& [token, id] : model["vocab"].items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > Vocabulary::kMaxId) {
      throw UsageError("tokenizer.json: model.vocab['" + token + "'] must be an id of 0 to " +
                       std::to_string(Vocabulary::kMaxId) + ", found " + id.dump().substr(0, 40) + ".");
    }
    vocabulary_.add(token, id.get<uint32_t>());
  }
}

void Bpe::read_merges(const json& model) {
  const json& merges = json_fields::required_array(model, "merges");
  merges_ = MergeTable(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merge_pair(merges[rank], rank);
    const auto id = [&, rank](const std::string& token) {
      const std::optional<uint32_t> found = vocabulary_.id_of(token);
      if (!found) {
        throw UsageError("tokenizer.json: model.merges[" + std::to_string(rank) + "] needs the token '" +
                         token + "', which is not in model.vocab.");
      }
      return *found;
    };
    if (right.size() < prefix_.size()) {
      throw UsageError("tokenizer.json: the right side of model.merges[" + std::to_string(rank) +
                       "] is shorter than continuing_subword_prefix '" + prefix_ + "'.");
    }
    const uint32_t result = id(left + right.substr(prefix_.size()));
    merges_.add(id(left), id(right), {static_cast<uint32_t>(rank), result});
    merge_pairs_.emplace_back(id(left), id(right));
  }
}

void Bpe::read_first_symbols() {
  for (uint32_t id = 0; id < vocabulary_.id_bound(); ++id) {
    const std::string* token = vocabulary_.token_of(id);
    if (token == nullptr || token->empty() || utf8::length(token->front()) != token->size()) continue;
    const char* p = token->data();
    character_symbols_[utf8::next(p)] = *vocabulary_.id_of(*token);
  }
  fallback_symbols_.assign(256, kNoToken);
  byte_symbols_.assign(256, kNoToken);
  constexpr char kHex[] = "0123456789ABCDEF";
  for (size_t b = 0; b < 256; ++b) {
    const std::string name = std::string("<0x") + kHex[b >> 4] + kHex[b & 15] + '>';
    fallback_symbols_[b] = vocabulary_.id_of(name).value_or(kNoToken);
    const auto letter = character_symbols_.find(letter_of_byte(static_cast<uint8_t>(b)));
    if (letter != character_symbols_.end()) byte_symbols_[b] = letter->second;
  }
}

// In a SentencePiece vocabulary every word begins with ▁ and nothing joins across that border, so that a text
// which no pre-tokenizer cuts can be cut there. True only if no merge and no option could see the difference.
bool Bpe::words_are_independent() const {
  if (pieces_are_bytes_ || ignore_merges_ || !prefix_.empty() || !suffix_.empty() ||
      !vocabulary_.id_of(kMark))
    return false;
  // A character that leaves nothing behind lets marks on both sides of it meet.
  const bool leaves_nothing = !unk_ && (!byte_fallback_ || std::count(fallback_symbols_.begin(),
                                                                      fallback_symbols_.end(), kNoToken) > 0);
  if (leaves_nothing) return false;
  return std::none_of(merge_pairs_.begin(), merge_pairs_.end(), [&](const auto& pair) {
    return !vocabulary_.token_of(pair.first)->ends_with(kMark) &&
           vocabulary_.token_of(pair.second)->starts_with(kMark);
  });
}

}  // namespace penstock
