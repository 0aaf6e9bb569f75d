// The merge loop that byte-pair encoding and SentencePiece BPE share.
#ifndef OCTET_MODEL_TOKENIZER_BPE_MERGE_H_
#define OCTET_MODEL_TOKENIZER_BPE_MERGE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "core/ids.h"

namespace octet {

// A run of text during merging. Symbols form a doubly linked list over their vector.
struct BpeSymbol {
  uint32_t begin = 0;   // offset in the text
  uint32_t length = 0;  // 0: merged into its left neighbour
  TokenId id = -1;      // -1: no piece of the vocabulary
  int32_t previous = -1;
  int32_t next = -1;
};

struct BpeMergeResult {
  uint32_t rank;  // lower merges first; equal ranks from left to right
  TokenId id;
};

// Buffers kept from call to call by the caller, to save allocations.
struct BpeScratch {
  struct Candidate {
    uint32_t rank;
    uint32_t left;
    uint32_t length;  // of both sides together when found: stale once they have grown
    TokenId id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  std::vector<BpeSymbol> symbols;
  std::vector<Candidate> heap;
};

// Merges scratch->symbols (begin, length and id set, in text order, lengths > 0) until no pair has
// a merge; dead symbols then have length 0. merge_of(left, right) gives an optional BpeMergeResult.
// O(n log n) time, O(n) memory.
template <typename MergeOf>
void MergeSymbols(BpeScratch* scratch, const MergeOf& merge_of) {
  std::vector<BpeSymbol>& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  heap.clear();
  const int32_t count = static_cast<int32_t>(symbols.size());
  const auto add = [&](int32_t left) {
    const BpeSymbol& a = symbols[left];
    const BpeSymbol& b = symbols[a.next];
    const std::optional<BpeMergeResult> merge = merge_of(a, b);
    if (!merge.has_value()) return;
    heap.push_back({merge->rank, static_cast<uint32_t>(left), a.length + b.length, merge->id});
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : -1;
  }
  for (int32_t i = 0; i + 1 < count; ++i) add(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    BpeSymbol& left = symbols[top.left];
    if (left.length == 0 || left.next < 0) continue;
    BpeSymbol& right = symbols[left.next];
    if (left.length + right.length != top.length) continue;
    left.length = top.length;
    left.id = top.id;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) {
      symbols[left.next].previous = static_cast<int32_t>(top.left);
      add(static_cast<int32_t>(top.left));
    }
    if (left.previous >= 0) add(left.previous);
  }
}

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_BPE_MERGE_H_
