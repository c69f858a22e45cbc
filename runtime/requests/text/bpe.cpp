#include "runtime/requests/text/bpe.h"

#include <algorithm>
#include <functional>

#include "runtime/requests/text/byte_alphabet.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

constexpr uint32_t kNoToken = UINT32_MAX;
constexpr uint32_t kEnd = UINT32_MAX;
constexpr size_t kFewSymbols = 40;  // up to here a scan for the lowest rank beats a heap
constexpr std::string_view kMark = "\u2581";

}  // namespace

MergeTable::MergeTable(size_t merges) {
  size_t slots = 16;
  while (slots < merges * 2 + 2) slots *= 2;
  slots_.resize(slots);
  mask_ = slots - 1;
}

void MergeTable::add(uint32_t left, uint32_t right, Merge merge) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
  size_t at = slot(key);
  while (slots_[at].key != kFree && slots_[at].key != key) at = (at + 1) & mask_;
  slots_[at] = {key, merge};  // a pair that is listed twice has its last rank
}

void Bpe::tokenize(std::string_view piece, std::vector<int32_t>& out, Workspace& workspace) const {
  if (!splits_at_marks_) return tokenize_word(piece, out, workspace);
  for (size_t at = 0; at < piece.size();) {
    size_t end = at;
    while (piece.substr(end, kMark.size()) == kMark) end += kMark.size();
    end = std::min(piece.find(kMark, end), piece.size());
    tokenize_word(piece.substr(at, end - at), out, workspace);
    at = end;
  }
}

void Bpe::tokenize_word(std::string_view word, std::vector<int32_t>& out, Workspace& workspace) const {
  const bool cached = word.size() <= WordCache::kMaxBytes;
  WordCache::Key key{};
  if (cached) {
    key = WordCache::key(word);
    if (workspace.cache.find(key, out)) return;
  }
  std::vector<uint32_t>& symbols = workspace.symbols;
  symbols.clear();
  spell(word, symbols);
  if (symbols.size() <= kFewSymbols) {
    merge_few(workspace);
  } else {
    merge_many(workspace);
  }
  const size_t first = out.size();
  out.insert(out.end(), symbols.begin(), symbols.end());
  if (cached) workspace.cache.insert(key, std::span(out).subspan(first));
}

void Bpe::spell(std::string_view word, std::vector<uint32_t>& symbols) const {
  if (pieces_are_bytes_) {
    spell_bytes(word, symbols);
  } else {
    spell_characters(word, symbols);
  }
}

// Bytes that have a token each need no detour through the alphabet's letters.
void Bpe::spell_bytes(std::string_view word, std::vector<uint32_t>& symbols) const {
  const bool plain = prefix_.empty() && suffix_.empty() && !ignore_merges_ &&
                     std::none_of(word.begin(), word.end(),
                                  [&](char b) { return byte_symbols_[static_cast<uint8_t>(b)] == kNoToken; });
  if (!plain) return spell_characters(to_byte_letters(word), symbols);
  for (const char b : word) symbols.push_back(byte_symbols_[static_cast<uint8_t>(b)]);
}

// The order of Hugging Face's merge_word: an unknown character is held back, to be fused with the next one;
// bytes that stand in for a character do not release it.
void Bpe::spell_characters(std::string_view word, std::vector<uint32_t>& symbols) const {
  if (ignore_merges_) {
    if (const std::optional<uint32_t> whole = vocabulary_.id_of(word)) return symbols.push_back(*whole);
  }
  uint32_t unknown = kNoToken;
  std::string dressed;
  for (const char* p = word.data(); p != word.data() + word.size();) {
    const char* first = p;
    const char32_t c = utf8::next(p);
    std::string_view letter(first, static_cast<size_t>(p - first));
    const bool has_prefix = !prefix_.empty() && first != word.data();
    const bool has_suffix = !suffix_.empty() && p == word.data() + word.size();
    std::optional<uint32_t> id;
    if (has_prefix || has_suffix) {
      dressed = (has_prefix ? prefix_ : "") + std::string(letter) + (has_suffix ? suffix_ : "");
      letter = dressed;
      id = vocabulary_.id_of(letter);
    } else if (const auto known = character_symbols_.find(c); known != character_symbols_.end()) {
      id = known->second;
    }
    if (id) {
      if (unknown != kNoToken) symbols.push_back(unknown);
      unknown = kNoToken;
      symbols.push_back(*id);
      continue;
    }
    if (byte_fallback_ && std::all_of(letter.begin(), letter.end(), [&](char b) {
          return fallback_symbols_[static_cast<uint8_t>(b)] != kNoToken;
        })) {
      for (const char b : letter) symbols.push_back(fallback_symbols_[static_cast<uint8_t>(b)]);
      continue;
    }
    if (!unk_) continue;
    if (unknown != kNoToken && !fuse_unk_) symbols.push_back(unknown);
    unknown = *unk_;
  }
  if (unknown != kNoToken) symbols.push_back(unknown);
}

void Bpe::merge_few(Workspace& workspace) const {
  std::vector<uint32_t>& symbols = workspace.symbols;
  size_t n = symbols.size();
  MergeTable::Merge joins[kFewSymbols];
  for (size_t i = 0; i + 1 < n; ++i) joins[i] = merges_.find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (joins[i].rank < joins[best].rank) best = i;
    }
    if (joins[best].rank == MergeTable::kNone) break;
    symbols[best] = joins[best].result;
    for (size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      joins[i] = joins[i + 1];
    }
    --n;
    if (best > 0) joins[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
    if (best + 1 < n) joins[best] = merges_.find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(n);
}

// The same in time n log n: a heap of (rank, place), entries that no longer hold are skipped.
void Bpe::merge_many(Workspace& workspace) const {
  std::vector<uint32_t>& symbols = workspace.symbols;
  const size_t n = symbols.size();
  auto& joins = workspace.merges;
  auto& next = workspace.next;
  auto& previous = workspace.previous;
  auto& heap = workspace.heap;
  joins.assign(n, {});
  next.resize(n);
  previous.resize(n);
  heap.clear();
  const auto entry = [&](size_t place) { return static_cast<uint64_t>(joins[place].rank) << 32 | place; };
  for (size_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? static_cast<uint32_t>(i + 1) : kEnd;
    previous[i] = i > 0 ? static_cast<uint32_t>(i - 1) : kEnd;
    if (i + 1 == n) break;
    joins[i] = merges_.find(symbols[i], symbols[i + 1]);
    if (joins[i].rank != MergeTable::kNone) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto refresh = [&](uint32_t place) {
    joins[place] =
        next[place] == kEnd ? MergeTable::Merge{} : merges_.find(symbols[place], symbols[next[place]]);
    if (joins[place].rank == MergeTable::kNone) return;
    heap.push_back(entry(place));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto place = static_cast<uint32_t>(heap.back());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    heap.pop_back();
    if (joins[place].rank != rank) continue;
    const uint32_t right = next[place];
    symbols[place] = joins[place].result;
    joins[right].rank = MergeTable::kNone;
    symbols[right] = kNoToken;
    next[place] = next[right];
    if (next[right] != kEnd) previous[next[right]] = place;
    refresh(place);
    if (previous[place] != kEnd) refresh(previous[place]);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kNoToken), symbols.end());
}

}  // namespace penstock
