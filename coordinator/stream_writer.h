// A server stream that any thread may feed and that never holds more than a few messages: a newer
// message replaces the unsent ones it outdates.
#ifndef OCTET_COORDINATOR_STREAM_WRITER_H_
#define OCTET_COORDINATOR_STREAM_WRITER_H_

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "core/mutex.h"

namespace octet {

// Thread-safe; nothing blocks. Lives until gRPC is done with it, whoever else holds a pointer.
template <typename Message>
class NewestWinsWriter final : public grpc::ServerWriteReactor<Message> {
 public:
  // `outdates(newer, older)`: the unsent `older` need not be sent. `on_done` runs once, on a gRPC
  // thread, when the stream is over; it must not block.
  using Outdates = bool (*)(const Message& newer, const Message& older);
  static std::shared_ptr<NewestWinsWriter> Make(Outdates outdates, std::function<void()> on_done) {
    auto writer =
        std::shared_ptr<NewestWinsWriter>(new NewestWinsWriter(outdates, std::move(on_done)));
    writer->self_ = writer;
    return writer;
  }

  void Send(Message message) {
    MutexLock lock(mu_);
    if (finished_ || final_.has_value()) return;
    queue_.erase(std::remove_if(queue_.begin(), queue_.end(),
                                [&](const Message& old) { return outdates_(message, old); }),
                 queue_.end());
    queue_.push_back(std::move(message));
    Advance();
  }
  // Ends the stream after what is queued.
  void End(grpc::Status status) {
    MutexLock lock(mu_);
    if (finished_ || final_.has_value()) return;
    final_ = std::move(status);
    Advance();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    if (!ok) {
      queue_.clear();
      final_ = grpc::Status(grpc::StatusCode::CANCELLED, "stream broken");
    }
    Advance();
  }
  void OnCancel() override {
    MutexLock lock(mu_);
    queue_.clear();
    final_ = grpc::Status::CANCELLED;
    Advance();
  }
  void OnDone() override {
    on_done_();
    const std::shared_ptr<NewestWinsWriter> last = std::move(self_);
  }

 private:
  NewestWinsWriter(Outdates outdates, std::function<void()> on_done)
      : outdates_(outdates), on_done_(std::move(on_done)) {}

  // One write at a time. gRPC never runs a reaction inside StartWrite or Finish, so holding the
  // lock over them is safe.
  void Advance() OCTET_REQUIRES(mu_) {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      current_ = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
      this->StartWrite(&current_);
    } else if (final_.has_value()) {
      finished_ = true;
      this->Finish(*final_);
    }
  }

  const Outdates outdates_;
  const std::function<void()> on_done_;
  std::shared_ptr<NewestWinsWriter> self_;  // until OnDone
  Mutex mu_;
  std::deque<Message> queue_ OCTET_GUARDED_BY(mu_);
  Message current_;  // being written
  bool writing_ OCTET_GUARDED_BY(mu_) = false;
  bool finished_ OCTET_GUARDED_BY(mu_) = false;
  std::optional<grpc::Status> final_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_COORDINATOR_STREAM_WRITER_H_
