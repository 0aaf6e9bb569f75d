#include "transport/shm/arena_allocator.h"

#include <algorithm>

#include "core/check.h"

namespace octet {

std::optional<uint64_t> ArenaAllocator::Take(uint64_t bytes) {
  uint64_t begin = 0;
  auto at = used_.begin();
  for (; at != used_.end(); ++at) {
    if (at->offset - begin >= bytes) break;
    begin = at->offset + at->bytes;
  }
  if (at == used_.end() && bytes_ - begin < bytes) return std::nullopt;
  used_.insert(at, {begin, bytes});
  return begin;
}

void ArenaAllocator::Give(uint64_t offset) {
  const auto at = std::find_if(used_.begin(), used_.end(),
                               [&](const Piece& piece) { return piece.offset == offset; });
  OCTET_CHECK(at != used_.end());
  used_.erase(at);
}

}  // namespace octet
