// Remembers the ids of short pieces: most pieces of a text have been seen before. A fixed 2 MiB, used by one
// thread at a time, and never wrong: the whole piece is compared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace penstock {

class WordCache {
 public:
  static constexpr size_t kMaxBytes = 24;
  static constexpr size_t kMaxIds = 9;

  /// A piece of at most kMaxBytes, with what finding it needs.
  struct Key {
    uint64_t words[3];  // the bytes, padded with zeros
    uint32_t size;
    uint32_t slot;
  };

  WordCache() : entries_(kSlots) {}

  static Key key(std::string_view piece) {
    Key k{{0, 0, 0}, static_cast<uint32_t>(piece.size()), 0};
    k.words[0] = load(piece.data(), piece.size());
    if (piece.size() > 8) k.words[1] = load(piece.data() + 8, piece.size() - 8);
    if (piece.size() > 16) k.words[2] = load(piece.data() + 16, piece.size() - 16);
    uint64_t h = (k.words[0] ^ k.size) * 0x9E3779B97F4A7C15ULL;
    h = (h ^ (h >> 32) ^ k.words[1]) * 0xD6E8FEB86659FD93ULL;
    h = (h ^ (h >> 32) ^ k.words[2]) * 0xC2B2AE3D27D4EB4FULL;
    k.slot = static_cast<uint32_t>(h >> (64 - kSlotBits));
    return k;
  }

  /// Appends the ids of the piece and returns true when it is known.
  bool find(const Key& k, std::vector<int32_t>& out) const {
    for (const uint32_t slot : {k.slot, k.slot ^ 1U}) {
      const Entry& e = entries_[slot];
      const uint64_t differs =
          (e.words[0] ^ k.words[0]) | (e.words[1] ^ k.words[1]) | (e.words[2] ^ k.words[2]);
      if (differs == 0 && e.size == k.size) {
        if (e.count == 1) {
          out.push_back(e.ids[0]);
        } else {
          out.insert(out.end(), e.ids, e.ids + e.count);
        }
        return true;
      }
    }
    return false;
  }

  /// Takes a free place of the two, or the first.
  void insert(const Key& k, std::span<const int32_t> ids) {
    if (ids.size() > kMaxIds || k.size == 0) return;
    Entry& second = entries_[k.slot ^ 1U];
    Entry& e = entries_[k.slot].size != 0 && second.size == 0 ? second : entries_[k.slot];
    std::memcpy(e.words, k.words, sizeof(e.words));
    std::copy(ids.begin(), ids.end(), e.ids);
    e.size = static_cast<uint8_t>(k.size);
    e.count = static_cast<uint8_t>(ids.size());
  }

 private:
  static constexpr unsigned kSlotBits = 15;
  static constexpr size_t kSlots = size_t{1} << kSlotBits;

  struct alignas(64) Entry {  // one cache line
    uint64_t words[3] = {0, 0, 0};
    int32_t ids[kMaxIds] = {};
    uint8_t size = 0;  // 0: free
    uint8_t count = 0;
  };

  // The first min(left, 8) bytes at p, padded with zeros, without reading past them.
  static uint64_t load(const char* p, size_t left) {
    uint64_t word = 0;
    if (left >= 8) {
      std::memcpy(&word, p, 8);
    } else if (left >= 4) {
      uint32_t low = 0;
      uint32_t high = 0;
      std::memcpy(&low, p, 4);
      std::memcpy(&high, p + left - 4, 4);
      word = low | static_cast<uint64_t>(high) << (8 * (left - 4));
    } else {
      for (size_t i = 0; i < left; ++i) word |= static_cast<uint64_t>(static_cast<uint8_t>(p[i])) << (8 * i);
    }
    return word;
  }

  std::vector<Entry> entries_;
};

}  // namespace penstock
