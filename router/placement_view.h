// What the router makes of placements that come from the coordinator: checked against its model,
// then handed to the dispatcher.
#ifndef OCTET_ROUTER_PLACEMENT_VIEW_H_
#define OCTET_ROUTER_PLACEMENT_VIEW_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "core/placement.h"
#include "transport/token_dispatcher.h"

namespace octet {

// Thread-safe: immutable but for the dispatcher, which is.
class PlacementView {
 public:
  // `dispatcher` outlives the view.
  PlacementView(TokenDispatcher* dispatcher, std::string compute_digest, uint32_t experts)
      : dispatcher_(dispatcher), compute_digest_(std::move(compute_digest)), experts_(experts) {}

  // FAILED_PRECONDITION: the placement is of another model or compute digest (both are named).
  // INVALID_ARGUMENT: it does not fit this model's experts, or names a worker it does not list. A
  // placement older than the present one is OK and without effect.
  absl::Status Apply(std::shared_ptr<const Placement> placement);

  // Every expert has a live replica: requests can be served now.
  bool Ready() const { return dispatcher_->Ready(); }

 private:
  TokenDispatcher* const dispatcher_;
  const std::string compute_digest_;
  const uint32_t experts_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_PLACEMENT_VIEW_H_
