// Which requests run in the next step, and with which rows: continuous batching with chunked
// prefill over a paged cache. Pure: a function of its state, the events given to it and `now`; no
// clock, no thread, no memory but its own bookkeeping.
#ifndef OCTET_ROUTER_SCHEDULER_H_
#define OCTET_ROUTER_SCHEDULER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/batch.h"
#include "core/clock.h"
#include "core/ids.h"
#include "router/block_pool.h"
#include "router/cost_model.h"
#include "router/kv_tier.h"

namespace octet {

struct SchedulerOptions {
  size_t kv_blocks = 0;
  bool prefix_cache = true;
  std::string compute_digest;  // of the model, for the keys of the prefix cache
  uint32_t running_max = 64;
  uint32_t waiting_max = 256;
  uint32_t step_tokens_max = 512;    // >= running_max
  uint32_t chunk_tokens = 0;         // prefill rows of a step; 0: follows from itl_ms_max
  double itl_ms_max = 100;           // of running requests while prompts arrive
  uint32_t sliding_window = 0;       // of the model; only to predict times
  uint32_t preempt_every_steps = 0;  // test hook of EngineOptions
  bool kv_tier = false;              // full blocks are to be stored, and may be staged
};

// The order in which requests are served: answers that another router began, whose clients were
// being answered before any that wait here had asked, then by arrival.
struct RequestAge {
  bool fresh = true;
  RequestId id;

  friend bool operator==(const RequestAge&, const RequestAge&) = default;
  friend bool operator<(const RequestAge& a, const RequestAge& b) {
    return a.fresh == b.fresh ? a.id < b.id : b.fresh;
  }
};

// A request as the scheduler sees it.
struct ScheduledRequest {
  RequestId id;                 // greater than every earlier one: the order of arrival
  bool resumed = false;         // goes on with an answer that another router began
  std::vector<TokenId> tokens;  // prompt, then output
  uint32_t prompt_tokens = 0;
  uint32_t tokens_max = 0;       // prompt and output together, at most what the cache can hold
  bool prompt_logprobs = false;  // logits are wanted for every prompt position
  MonotonicTime deadline = kNever;

  // Kept by the scheduler.
  uint32_t computed = 0;     // positions whose K and V are in the cache
  uint32_t logits_from = 0;  // prompt positions before it have had their logits
  uint32_t preemptions = 0;
  uint32_t cached_tokens = 0;  // prompt tokens found in the prefix cache when it was first admitted
  bool progressed = false;     // has gained a token since it was admitted
  bool reused = false;         // took over blocks that other requests have computed
  BlockTable table;            // its salt is set by the caller
  // Blocks [staged_begin, ...) of its tokens from the tier, used when it is admitted.
  std::vector<StagedBlock> staged;
  size_t staged_begin = 0;
  size_t stored = 0;  // blocks before it need not be stored: they were, or came from the cache

  size_t pending() const { return tokens.size() - computed; }
  RequestAge age() const { return {!resumed, id}; }
};

// Since the start, in prompt tokens of requests when they were first admitted.
struct PrefixCacheStats {
  uint64_t queries = 0;  // looked for
  uint64_t hits = 0;     // found
};

// A staged block whose bytes go into the cache before the step runs.
struct BlockLoad {
  BlockId block;
  StagedBlock bytes;
};
// A block of the cache that has become full, with its name.
struct FullBlock {
  BlockId block;
  KvTierKey key;
};

// The answer of Plan, valid until the next Plan; the block tables in it only until Remove.
struct StepPlan {
  Batch batch;
  StepShape shape;
  std::vector<RequestId> expired;    // past their deadline: already removed
  std::vector<RequestId> admitted;   // left the queue in this plan (again, after a preemption)
  std::vector<RequestId> preempted;  // back in the queue, to be computed again
  std::vector<BlockLoad> loads;      // to be carried out before the batch
};

// One thread. Rules: rows that decode come before prefill; the oldest request (RequestAge) comes
// first, whether it runs or waits, and for one that is resumed a step may take twice as long, since
// its client's gap is long already; one that waits is admitted when the cache has room for all it
// has to compute, and takes over what the prefix cache has of it, all but one position at most;
// blocks are taken as positions are reached; when there is none left, the youngest running request
// gives its blocks back and is computed again later with the same tokens.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // RESOURCE_EXHAUSTED: the queue is full. INVALID_ARGUMENT: the cache can never hold tokens_max
  // positions. `request.id` must be new and tokens not empty.
  absl::Status Submit(ScheduledRequest request);
  // Ends a request, finished or cancelled, and frees its blocks. Unknown ids are ignored.
  void Remove(RequestId id);

  // Names of the blocks that `request`, not submitted yet, could take from the tier: those of its
  // tokens that the cache lacks, from block *begin on.
  std::vector<KvTierKey> MissingBlocks(ScheduledRequest* request, size_t* begin);

  // Chooses the rows of the next step. The batch is empty when nothing can run.
  const StepPlan& Plan(MonotonicTime now);
  // The step of the last plan was computed: its positions are in the cache.
  void CommitStep();
  // The blocks that CommitStep found full for the first time, where `kv_tier` is set. Valid until
  // the next Plan.
  const std::vector<FullBlock>& full_blocks() const { return full_blocks_; }
  // The next token of a request that was sampled in the last plan. Call after CommitStep, before
  // the next Plan, and only for requests that go on.
  void CommitToken(RequestId id, TokenId token);
  // How long the step of the last plan took in all, to size the next chunks. 0 where time stands
  // still.
  void ObserveStep(double ms);

  // What the cache holds may be wrong: it is emptied, and running requests wait to be computed
  // again from their tokens. Blocks that were staged are dropped. Not between Plan and CommitStep,
  // unless the step is given up.
  void ForgetCache();
  const ScheduledRequest* Find(RequestId id) const;
  size_t running() const { return running_.size(); }
  size_t waiting() const { return waiting_.size(); }
  size_t blocks_total() const { return pool_.total(); }
  size_t blocks_used() const { return pool_.total() - pool_.available(); }
  // Kept for requests to come; given away when running ones need them.
  size_t blocks_idle() const { return pool_.idle(); }
  const PrefixCacheStats& prefix_cache_stats() const { return prefix_stats_; }

 private:
  void Expire(MonotonicTime now);
  void PreemptByHook();
  void PreemptYoungest();
  void PlanDecode();
  void PlanPrefill();
  // Rows that a step still has for prefill.
  struct PrefillBudget {
    size_t fresh;
    size_t resumed;  // not less
    size_t For(const ScheduledRequest& request) const { return request.resumed ? resumed : fresh; }
    void Take(size_t rows) {
      fresh -= std::min(fresh, rows);
      resumed -= rows;
    }
  };
  PrefillBudget RowsForPrefill() const;
  // Rows of a running request's prefill, within the budget and the blocks there are.
  void PrefillRunning(ScheduledRequest* request, PrefillBudget* budget);
  // The oldest one that waits, where the budget and the cache have room for it.
  bool AdmitAndPrefill(PrefillBudget* budget);
  void Admit(ScheduledRequest* request, const PrefixMatch& match);
  void TakeStaged(ScheduledRequest* request);
  KvTierKey NameOf(ScheduledRequest* request, size_t block);
  void NoteFull(ScheduledRequest* request);
  size_t BlocksPromised() const;
  void AddRows(ScheduledRequest* request, size_t rows);

  const SchedulerOptions options_;
  BlockPool pool_;
  PrefixCacheStats prefix_stats_;
  StepCostModel cost_;
  // Shrinks after a step that took longer than itl_ms_max, recovers slowly.
  double trim_ = 1.0;
  std::map<RequestId, std::unique_ptr<ScheduledRequest>> requests_;
  std::vector<ScheduledRequest*> running_;           // oldest first
  std::map<RequestAge, ScheduledRequest*> waiting_;  // oldest first
  StepPlan plan_;
  std::vector<FullBlock> full_blocks_;
  uint64_t step_ = 0;
};

}  // namespace octet

#endif  // OCTET_ROUTER_SCHEDULER_H_
