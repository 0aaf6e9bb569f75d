// Places in the arena of a shared segment. The bookkeeping is the router's own memory: nothing that
// a worker writes can damage it.
#ifndef OCTET_TRANSPORT_SHM_ARENA_ALLOCATOR_H_
#define OCTET_TRANSPORT_SHM_ARENA_ALLOCATOR_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace octet {

// First fit from the lowest place, so that a small load uses the same few pages again and again.
class ArenaAllocator {
 public:
  explicit ArenaAllocator(uint64_t bytes) : bytes_(bytes) {}

  // Of `bytes` > 0 bytes; none where no gap is large enough.
  std::optional<uint64_t> Take(uint64_t bytes);
  // `offset` came from Take.
  void Give(uint64_t offset);
  bool empty() const { return used_.empty(); }

 private:
  struct Piece {
    uint64_t offset;
    uint64_t bytes;
  };
  const uint64_t bytes_;
  std::vector<Piece> used_;  // ascending, disjoint
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_SHM_ARENA_ALLOCATOR_H_
