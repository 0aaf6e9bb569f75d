// In how many parts a step is computed: learned from the times of the steps that ran. Two parts
// hide the way to the experts behind the attention of the other part, and cost twice the messages
// and, in decode, the experts' weights read twice; which of it weighs more depends on the network,
// the model and the batch. Changes time, never tokens.
#ifndef OCTET_ROUTER_MICRO_BATCH_POLICY_H_
#define OCTET_ROUTER_MICRO_BATCH_POLICY_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace octet {

// Pure; one thread. Steps are told apart by kind (decode, with prefill) and by the power of two of
// their rows. A kind first tries one part and two, a few steps each; then it takes the faster one
// and from time to time looks at the other again.
class MicroBatchPolicy {
 public:
  // `fixed`: that number of parts always; 0: learn.
  explicit MicroBatchPolicy(uint32_t fixed) : fixed_(fixed) {}

  // Parts of the next step, 1 or 2.
  uint32_t Choose(bool prefill, size_t rows);
  // The step that was last chosen for took so long. 0 (time stands still) teaches nothing.
  void Observe(double ms);

 private:
  static constexpr size_t kRowClasses = 16;
  struct Mode {
    uint32_t seen = 0;
    double ms_per_row = 0;  // exponentially forgotten
  };
  struct Kind {
    std::array<Mode, 2> modes;  // of one part and of two
    uint32_t best = 0;          // index of the faster mode
    uint32_t steps = 0;         // since the other mode was last tried
  };

  const uint32_t fixed_;
  std::array<std::array<Kind, kRowClasses>, 2> kinds_{};
  Kind* chosen_ = nullptr;
  uint32_t mode_ = 0;
  size_t rows_ = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_MICRO_BATCH_POLICY_H_
