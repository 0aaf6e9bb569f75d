// One step after another: schedule, forward, sample, commit. Without a thread of its own, so that a
// test can drive it by hand; Engine gives it one.
#ifndef OCTET_ROUTER_STEP_LOOP_H_
#define OCTET_ROUTER_STEP_LOOP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "core/clock.h"
#include "core/ids.h"
#include "model/tokenizer/tokenizer.h"
#include "router/engine.h"
#include "router/forward_pass.h"
#include "router/generation.h"
#include "router/kv_cache.h"
#include "router/kv_tier.h"
#include "router/micro_batch_policy.h"
#include "router/request_output.h"
#include "router/sampler.h"
#include "router/scheduler.h"

namespace octet {

// A checked request on its way into the loop.
struct IncomingRequest {
  RequestId id;
  GenerationRequest request;
  std::shared_ptr<GenerationSink> sink;
  MonotonicTime submitted;
  uint32_t tokens_max = 0;  // to generate
  uint64_t cost = 0;        // tokens of the prompt and of the longest answer
};

// The tier of the cache in files, where there is one: the loop copies its blocks in and out.
struct TierAccess {
  KvTier* tier = nullptr;
  KvCache* cache = nullptr;
  // Called on the tier's thread with what it read for a request; it reaches Fetched on the loop's.
  std::function<void(RequestId, std::vector<StagedBlock>)> on_fetched;
};

// One thread. Sinks are called from it.
class StepLoop {
 public:
  // `transformer`, `tokenizer` and `clock` outlive the loop. `micro_batches` as in EngineOptions.
  // The scheduler's queue is bounded by whoever calls Add.
  StepLoop(ForwardPass* transformer, const Tokenizer* tokenizer, const Clock* clock,
           const SchedulerOptions& options, uint32_t micro_batches = 1, TierAccess tier = {});

  void Add(IncomingRequest incoming);
  // What the tier had for a request that was added. Unknown ids are ignored.
  void Fetched(RequestId id, std::vector<StagedBlock> blocks);
  // Ends a request with `status`. Unknown ids are ignored.
  void Fail(RequestId id, const absl::Status& status);
  void FailAll(const absl::Status& status);
  // A worker found its weights damaged: requests for which it may have computed end with DATA_LOSS,
  // and what the cache and the tier hold is forgotten. False where it was told before.
  bool WorkerDamaged(WorkerId worker);
  // Runs one step. False when there was nothing to run.
  bool Step();

  // Requests that left the queue for the first time, or ended, since the last call.
  struct Flow {
    uint32_t admitted = 0;  // first admissions, and ends of requests never admitted
    uint32_t ended = 0;
    uint64_t admitted_tokens = 0;  // what those admitted cost (IncomingRequest::cost)
  };
  Flow TakeFlow();
  // All but `rejections`.
  EngineStats stats() const;

 private:
  struct Active {
    GenerationRequest request;  // its prompt lives in the scheduler
    std::shared_ptr<GenerationSink> sink;
    std::unique_ptr<RequestOutput> output;
    uint32_t prompt_tokens = 0;
    uint64_t cost = 0;
    MonotonicTime submitted;
    std::optional<MonotonicTime> admitted;
    std::optional<MonotonicTime> first_token;
    std::vector<TokenLogprob> prompt_logprobs;  // of this step, not yet sent
    std::optional<TokenId> redrawn;             // what the next token has to be: the client has it
    std::vector<WorkerId> workers;              // that have computed for it
  };

  // A request that waits for the tier.
  struct Fetching {
    ScheduledRequest scheduled;
    std::unique_ptr<Active> active;
    bool stale = false;  // what the tier had when it was asked may be wrong
  };

  // What a row of logits gives.
  struct RowOutcome {
    bool finite = false;
    TokenId token = 0;                    // the next one
    std::optional<TokenLogprob> logprob;  // its own, where wanted
  };
  struct LogitRow {
    RequestId request;
    uint32_t position;
    bool last;    // of its sequence in this step
    bool sample;  // else the next token is the prompt's
    absl::Span<const float> logits;
    RowOutcome outcome;
  };

  // Takes the tokens of a resumed answer, but the last one, as if they had been drawn, and appends
  // them to `tokens`.
  static absl::Status Replay(const std::vector<TokenId>& resumed, Active* active,
                             std::vector<TokenId>* tokens);
  void Refuse(const Active& active, const absl::Status& status);
  void Submit(ScheduledRequest scheduled, std::unique_ptr<Active> active);
  // Blocks of the tier into the cache, and full blocks of the cache to the tier.
  void LoadBlocks(const StepPlan& plan);
  void StoreBlocks();
  void NotePlan(const StepPlan& plan, MonotonicTime now);
  // Which workers the batch has used. False where one of them is damaged: the step is given up.
  bool NoteWorkers(const Batch& batch);
  absl::Status Forward(const Batch& batch, MonotonicTime now);
  void SampleBatch(const Batch& batch);
  void ExamineRows();
  // Reads only; runs on several threads.
  void Examine(LogitRow* row, Sampler* sampler) const;
  void HandleRow(LogitRow* row);
  void TakeToken(RequestId id, Active* active, RowOutcome* outcome);
  void Finish(RequestId id, Active* active, FinishReason reason);
  void End(RequestId id);
  // A request has waited for the last time.
  void NoteAdmitted(uint64_t cost);
  absl::Status ExpiryStatus() const;

  ForwardPass* const transformer_;
  const Tokenizer* const tokenizer_;
  const Clock* const clock_;
  Scheduler scheduler_;
  MicroBatchPolicy micro_batches_;
  std::vector<Sampler> samplers_;  // [share of ExamineRows]
  std::vector<LogitRow> rows_;     // of one call of Logits
  absl::flat_hash_map<RequestId, std::unique_ptr<Active>> active_;
  const TierAccess tier_;
  absl::flat_hash_map<RequestId, Fetching> fetching_;
  // Not OK while steps cannot be finished for want of a replica.
  absl::Status stalled_;
  std::deque<WorkerId> workers_damaged_;  // the latest kWorkersMax
  Flow flow_;
  EngineStats stats_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_STEP_LOOP_H_
