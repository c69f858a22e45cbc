// Byte-pair encoding as Hugging Face's BPE model defines it: a piece is spelled in single characters (or
// bytes), then the neighbouring pair of the lowest rank is joined, leftmost first, until no pair has a rank.
// Immutable; any thread may call tokenize with a workspace of its own.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/requests/text/vocabulary.h"
#include "runtime/requests/text/word_cache.h"

namespace penstock {

/// Joins of neighbouring tokens: (left, right) -> rank and resulting token. Open addressing.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Merge {
    uint32_t rank = kNone;
    uint32_t result = 0;
  };

  explicit MergeTable(size_t merges = 0);
  void add(uint32_t left, uint32_t right, Merge merge);
  /// rank kNone when the two do not join.
  Merge find(uint32_t left, uint32_t right) const {
    const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
    for (size_t at = slot(key);; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].merge;
      if (slots_[at].key == kFree) return {};
    }
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;
  struct Slot {
    uint64_t key = kFree;
    Merge merge;
  };
  size_t slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ULL >> 20) & mask_; }

  std::vector<Slot> slots_;
  size_t mask_;
};

class Bpe {
 public:
  /// What one tokenizing thread needs at a time.
  struct Workspace {
    WordCache cache;
    std::vector<uint32_t> symbols;
    std::vector<MergeTable::Merge> merges;  // merges[i] joins symbol i and its right neighbour
    std::vector<uint32_t> next, previous;
    std::vector<uint64_t> heap;
  };

  /// `model` is tokenizer.json's model object. `pieces_are_bytes`: pieces arrive before the byte alphabet is
  /// applied. Throws UsageError naming what is not known, or the entry that does not fit.
  static Bpe parse(const nlohmann::json& model, bool pieces_are_bytes);

  /// Appends the ids of one piece.
  void tokenize(std::string_view piece, std::vector<int32_t>& out, Workspace& workspace) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  void read_vocabulary(const nlohmann::json& model);
  void read_merges(const nlohmann::json& model);
  void read_first_symbols();
  bool words_are_independent() const;
  void tokenize_word(std::string_view word, std::vector<int32_t>& out, Workspace& workspace) const;
  void spell(std::string_view word, std::vector<uint32_t>& symbols) const;
  void spell_bytes(std::string_view word, std::vector<uint32_t>& symbols) const;
  void spell_characters(std::string_view word, std::vector<uint32_t>& symbols) const;
  void merge_few(Workspace& workspace) const;
  void merge_many(Workspace& workspace) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  bool pieces_are_bytes_ = false;
  bool byte_fallback_ = false;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;
  bool splits_at_marks_ = false;  // a ▁ behind another character never joins to the left
  std::optional<uint32_t> unk_;
  std::string prefix_, suffix_;             // continuing_subword_prefix, end_of_word_suffix
  std::vector<uint32_t> byte_symbols_;      // pieces_are_bytes: by byte; kNoToken for a byte without a token
  std::vector<uint32_t> fallback_symbols_;  // <0x00> ... <0xFF>; kNoToken for one that is missing
  std::unordered_map<char32_t, uint32_t> character_symbols_;
  std::vector<std::pair<uint32_t, uint32_t>> merge_pairs_;  // by rank; only while loading
};

}  // namespace penstock
