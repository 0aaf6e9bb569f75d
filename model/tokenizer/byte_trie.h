// A map from byte strings to small integers that finds the keys a text begins with.
#ifndef OCTET_MODEL_TOKENIZER_BYTE_TRIE_H_
#define OCTET_MODEL_TOKENIZER_BYTE_TRIE_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace octet {

// Thread-safe once built. Nodes are numbered from the root, 0.
class ByteTrie {
 public:
  static constexpr int64_t kNone = -1;

  // key must not be empty. A key inserted again takes the new value.
  void Insert(std::string_view key, int32_t value) {
    uint32_t node = 0;
    for (const char c : key) {
      auto [it, inserted] = edges_.try_emplace(Key(node, c), static_cast<uint32_t>(values_.size()));
      node = it->second;
      if (inserted) values_.push_back(-1);
    }
    starts_[static_cast<uint8_t>(key.front())] = true;
    values_[node] = value;
  }

  // The child of node under byte, or kNone.
  int64_t Step(int64_t node, char byte) const {
    if (node == 0 && !starts_[static_cast<uint8_t>(byte)]) return kNone;
    auto it = edges_.find(Key(static_cast<uint32_t>(node), byte));
    return it == edges_.end() ? kNone : static_cast<int64_t>(it->second);
  }

  // The value of the key that ends at node, or -1.
  int32_t ValueAt(int64_t node) const { return values_[static_cast<size_t>(node)]; }

  // Value of the longest key that text begins with; -1: none.
  int32_t Longest(std::string_view text) const {
    int32_t found = -1;
    int64_t node = 0;
    for (const char c : text) {
      node = Step(node, c);
      if (node == kNone) break;
      if (ValueAt(node) >= 0) found = ValueAt(node);
    }
    return found;
  }

 private:
  static uint64_t Key(uint32_t node, char byte) {
    return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
  }

  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> values_ = {-1};
  bool starts_[256] = {};
};

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_BYTE_TRIE_H_
