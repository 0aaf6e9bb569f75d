// The experts of this very process: no copy of rows, no thread, no wire.
#ifndef OCTET_TRANSPORT_LOCAL_LOCAL_LINK_H_
#define OCTET_TRANSPORT_LOCAL_LOCAL_LINK_H_

#include "transport/expert_fn.h"
#include "transport/expert_link.h"

namespace octet {

// Send computes on the caller's thread and answers before it returns. Belongs to one thread, as the
// kernels behind `fn` do. Applies the reply type's rounding, so that its bits equal the wire's.
class LocalLink final : public ExpertLink {
 public:
  explicit LocalLink(ExpertFn fn) : fn_(std::move(fn)) {}

  void Send(const ExpertDispatch& dispatch, ReplyFn done) override;
  void Cancel(const DispatchKey&) override {}
  bool connected() const override { return true; }

 private:
  ExpertFn fn_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_LOCAL_LOCAL_LINK_H_
