// Reads the weights that a worker holds again and again and compares them with their digests, so
// that memory or files that have changed under it are found.
#ifndef OCTET_EXPERT_WORKER_SCRUBBER_H_
#define OCTET_EXPERT_WORKER_SCRUBBER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "core/clock.h"
#include "expert_worker/expert_store.h"

namespace octet {

// DATA_LOSS where the expert's file, as it is mapped now, has another digest than its manifest
// says; OK also for an expert whose weights are not a mapped file (on a device). `pace` is called
// after each kDigestLeafBytes; CANCELLED as soon as it returns false.
absl::Status VerifyExpert(ExpertId id, const MappedExpert& expert, absl::FunctionRef<bool()> pace);

struct ScrubOptions {
  // Of one pass over all held experts. A pass takes longer where it would need more than
  // `core_share` of a core's time.
  Duration period = Duration::Millis(60'000);
  double core_share = 0.01;
};

struct ScrubStats {
  uint64_t passes = 0;  // that found nothing
  Duration last_pass;   // how long the latest of them took
  uint64_t last_bytes = 0;
};

// Has a thread of its own until it is destroyed.
class Scrubber {
 public:
  // `on_damage` is called at most once, on the scrubber's thread, which then ends. `store` outlives
  // this.
  Scrubber(const ExpertStore* store, const ScrubOptions& options,
           std::function<void(const absl::Status&)> on_damage);
  ~Scrubber();
  Scrubber(const Scrubber&) = delete;
  Scrubber& operator=(const Scrubber&) = delete;

  // Thread-safe.
  ScrubStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_SCRUBBER_H_
