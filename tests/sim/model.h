// A mixture-of-experts model small enough to simulate millions of tokens with: a pure function of
// the tokens before, in which every expert's output of every layer changes everything after it. It
// keeps its "keys and values" in the blocks that the scheduler gives it, like the real one.
#ifndef OCTET_TESTS_SIM_MODEL_H_
#define OCTET_TESTS_SIM_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/model_config.h"
#include "core/wire_format.h"
#include "router/forward_pass.h"
#include "transport/token_dispatcher.h"

namespace octet::sim {

inline constexpr uint32_t kSimHidden = 4;
inline constexpr uint32_t kSimVocab = 61;
inline constexpr uint32_t kSimTopK = 2;

struct SimModel {
  uint32_t layers = 2;
  uint32_t experts = 8;  // at least kSimTopK
  ModelConfig Config() const;
  WireFormat Format() const;
  std::string Digest() const;  // of its own for each shape

  // One row of one expert: exact in f32.
  static void Expert(LayerId layer, ExpertId expert, const float* row, float* out);
  // The tokens that follow `prompt`, computed one by one without any of Octet's code.
  std::vector<TokenId> Reference(const std::vector<TokenId>& prompt, size_t count) const;
};

// The forward pass of the model over a dispatcher, in one or two micro-batches as the real
// transformer does it. `dispatcher` outlives it.
class SimForwardPass final : public ForwardPass {
 public:
  SimForwardPass(const SimModel& model, TokenDispatcher* dispatcher, size_t blocks);

  absl::Status Forward(const Batch& batch, size_t micro_batches, MonotonicTime give_up) override;
  absl::StatusOr<ConstTensorF32> Logits(const Batch& batch, size_t begin, size_t count) override;
  WorkerUse TakeWorkerUse() override { return dispatcher_->TakeUse(); }
  const ModelConfig& config() const override { return config_; }
  size_t logit_rows_max() const override { return 16; }
  const ExecContext& context() const override { return context_; }

 private:
  struct Part {
    size_t begin = 0, end = 0;  // rows of the batch
    std::vector<float> rows;
    std::vector<uint32_t> experts;
    std::vector<float> weights;
    std::vector<const float*> replies;
    std::unique_ptr<DispatchHandle> handle;
  };
  void Attend(const Batch& batch, uint32_t layer, const Part& part);
  void Dispatch(const Batch& batch, uint32_t layer, uint32_t index, Part* part);
  absl::Status Combine(Part* part, MonotonicTime give_up);
  uint64_t& KeyValue(const BatchSequence& sequence, uint32_t layer, uint32_t position);

  const SimModel model_;
  const ModelConfig config_;
  TokenDispatcher* const dispatcher_;
  ExecContext context_;
  std::vector<uint64_t> cache_;  // [block][layer][position in the block]
  std::vector<uint64_t> state_;  // [row]
  std::vector<float> logits_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_MODEL_H_
