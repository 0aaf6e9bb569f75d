// Recycles the buffers of expert replies, so that a decode step allocates none.
#ifndef OCTET_TRANSPORT_REPLY_POOL_H_
#define OCTET_TRANSPORT_REPLY_POOL_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "core/limits.h"
#include "core/mutex.h"

namespace octet {

// Thread-safe.
class ReplyPool {
 public:
  // A buffer of exactly `floats` elements with unspecified contents.
  std::vector<float> Take(size_t floats) {
    std::vector<float> buffer;
    {
      MutexLock lock(mu_);
      if (!free_.empty()) {
        buffer = std::move(free_.back());
        free_.pop_back();
      }
    }
    buffer.resize(floats);
    return buffer;
  }
  void Give(std::vector<float> buffer) {
    MutexLock lock(mu_);
    if (buffer.capacity() > 0 && free_.size() < kReplyPoolBuffersMax) {
      free_.push_back(std::move(buffer));
    }
  }

 private:
  Mutex mu_;
  std::vector<std::vector<float>> free_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_REPLY_POOL_H_
