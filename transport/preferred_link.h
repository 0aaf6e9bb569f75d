// Two paths to one worker: the better one while it is connected, else the other.
#ifndef OCTET_TRANSPORT_PREFERRED_LINK_H_
#define OCTET_TRANSPORT_PREFERRED_LINK_H_

#include <memory>
#include <utility>

#include "transport/expert_link.h"

namespace octet {

// Thread-safe. A dispatch stays on the path it was sent on: where that breaks, it fails.
class PreferredLink final : public ExpertLink {
 public:
  PreferredLink(std::shared_ptr<ExpertLink> better, std::shared_ptr<ExpertLink> other)
      : better_(std::move(better)), other_(std::move(other)) {}

  void Send(const ExpertDispatch& dispatch, ReplyFn done) override {
    (better_->connected() ? better_ : other_)->Send(dispatch, std::move(done));
  }
  void Cancel(const DispatchKey& key) override {
    better_->Cancel(key);
    other_->Cancel(key);
  }
  bool connected() const override { return better_->connected() || other_->connected(); }
  void Poll() override {
    better_->Poll();
    other_->Poll();
  }

 private:
  const std::shared_ptr<ExpertLink> better_;
  const std::shared_ptr<ExpertLink> other_;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_PREFERRED_LINK_H_
