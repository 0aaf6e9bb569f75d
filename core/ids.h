// Strong integer ids. An id of one kind never converts to another or to a bare integer.
#ifndef OCTET_CORE_IDS_H_
#define OCTET_CORE_IDS_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace octet {

template <typename Tag, typename Rep>
class Id {
 public:
  using rep = Rep;
  constexpr Id() = default;
  constexpr explicit Id(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(Id, Id) = default;
  template <typename H>
  friend H AbslHashValue(H h, Id id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  Rep value_ = 0;
};

using ExpertId = Id<struct ExpertTag, uint32_t>;
using LayerId = Id<struct LayerTag, uint32_t>;
// Issued by the coordinator at registration; a process keeps it for life, a restarted one gets
// another.
using WorkerId = Id<struct WorkerTag, uint64_t>;
using RouterId = Id<struct RouterTag, uint64_t>;
// A generation request inside one router process, never reused.
using RequestId = Id<struct RequestTag, uint64_t>;
// Number of a placement; grows with every change and never goes back (core/placement.h).
using Epoch = Id<struct EpochTag, uint64_t>;
// One pass of the step loop of one router incarnation.
using StepId = Id<struct StepTag, uint64_t>;
// Fixed-size run of KV cache positions (core/limits.h: kKvBlockPositions).
using BlockId = Id<struct BlockTag, uint32_t>;

// Vocabulary index. Plain int32 because tokens are bulk data: they live in arrays and files.
using TokenId = int32_t;

}  // namespace octet

template <typename Tag, typename Rep>
struct std::hash<octet::Id<Tag, Rep>> {
  size_t operator()(octet::Id<Tag, Rep> id) const { return std::hash<Rep>()(id.value()); }
};

#endif  // OCTET_CORE_IDS_H_
