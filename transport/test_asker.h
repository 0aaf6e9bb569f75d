// Asks a link, for tests of links.
#ifndef OCTET_TRANSPORT_TEST_ASKER_H_
#define OCTET_TRANSPORT_TEST_ASKER_H_

#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/mutex.h"
#include "transport/expert_link.h"

namespace octet {

// A dispatch of two f32 rows to expert 1 and one of them to expert 3. One thread asks; replies may
// come on any. Outlives the links it asks, which answer at their end.
class TestAsker {
 public:
  static constexpr uint32_t kHidden = 4;

  TestAsker() : x_(2 * kHidden, 1.5f) {
    share_.rows = {0, 1};
    share_.groups = {{ExpertId(1), {0, 1}, {0, 2}}, {ExpertId(3), {1}, {3}}};
    share_.local_rows = {{0, 1}, {1}};
  }
  ExpertDispatch Make(uint32_t attempt) {
    ExpertDispatch d;
    d.key.router = RouterId(1);
    d.key.attempt = attempt;
    d.compute_digest = &digest_;
    d.model_version = &digest_;
    d.rows.format.hidden = kHidden;
    d.rows.rows = 2;
    d.rows.f32 = ConstTensorF32(x_.data(), 2, kHidden);
    d.share = &share_;
    return d;
  }
  // Sends and waits for the callback.
  ExpertReply Ask(ExpertLink& link, uint32_t attempt) { return Ask(link, Make(attempt)); }
  ExpertReply Ask(ExpertLink& link, const ExpertDispatch& dispatch) {
    Send(link, dispatch);
    return Wait(&link);
  }
  void Send(ExpertLink& link, uint32_t attempt) { Send(link, Make(attempt)); }
  void Send(ExpertLink& link, const ExpertDispatch& dispatch) {
    link.Send(dispatch, [this](ExpertReply reply) {
      MutexLock lock(mu_);
      replies_.push_back(std::move(reply));
      changed_.NotifyAll();
    });
  }
  // The oldest reply; `link` may be null where it has been delivered already.
  ExpertReply Wait(ExpertLink* link) {
    for (;;) {
      if (link != nullptr) link->Poll();
      MutexLock lock(mu_);
      if (replies_.empty()) changed_.WaitFor(mu_, std::chrono::milliseconds(1));
      if (replies_.empty()) continue;
      ExpertReply reply = std::move(replies_.front());
      replies_.erase(replies_.begin());
      return reply;
    }
  }
  size_t replies() {
    MutexLock lock(mu_);
    return replies_.size();
  }

 private:
  const std::string digest_ = std::string(64, 'a');
  std::vector<float> x_;
  WorkerShare share_;
  Mutex mu_;
  CondVar changed_;
  std::vector<ExpertReply> replies_;
};

// False when the link is not connected within 20 s.
inline bool WaitConnected(const ExpertLink& link) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!link.connected() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return link.connected();
}

}  // namespace octet

#endif  // OCTET_TRANSPORT_TEST_ASKER_H_
